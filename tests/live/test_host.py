"""A microphone of this machine, end to end: PulseAudio plays real recordings into PortAudio."""

from __future__ import annotations

import ctypes.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

from qmoe_core.audio import decode
from qmoe_core.bundles import Bundle
from tests.live.recordings import in_order, ten_clips

pytestmark = [pytest.mark.recordings, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "alsa-lib/libasound_module_pcm_pulse.so"
ALSA = "</usr/share/alsa/alsa.conf>\npcm.!default { type pulse }\nctl.!default { type pulse }\n"


def _missing() -> list[str]:
    """The Debian packages that this test needs and that are not there."""
    plugin = any(Path("/usr/lib").glob(f"*/{PLUGIN}")) or Path("/usr/lib", PLUGIN).exists()
    needed = {
        "pulseaudio": shutil.which("pulseaudio"),
        "pulseaudio-utils": shutil.which("paplay"),
        "libasound2-plugins": plugin,
        "libportaudio2": ctypes.util.find_library("portaudio"),
    }
    return [package for package, found in needed.items() if not found]


@pytest.fixture
def loudspeaker(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A PulseAudio of its own, whose microphone hears its loudspeaker; the environment in which to use it."""
    if missing := _missing():
        message = f"apt-get install {' '.join(missing)}: the test of host microphones is skipped without"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    socket, alsa = tmp_path / "socket", tmp_path / "asound.conf"
    alsa.write_text(ALSA)
    environment = os.environ | {
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path),
        "PULSE_SERVER": f"unix:{socket}",
        "ALSA_CONFIG_PATH": str(alsa),
    }
    modules = [
        "module-null-sink sink_name=loudspeaker",
        f"module-native-protocol-unix socket={socket} auth-anonymous=1",
    ]
    command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"]
    with (tmp_path / "pulse.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, *(f"--load={module}" for module in modules)],
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 30
            while not socket.exists():
                assert server.poll() is None, (tmp_path / "pulse.log").read_text()
                assert time.monotonic() < deadline, "PulseAudio did not start within 30 s"
                time.sleep(0.05)
            yield environment
        finally:
            server.terminate()
            server.wait(timeout=20)


def test_ten_recordings_through_the_sound_card(
    loudspeaker: dict[str, str], shared_data: Path, bundle: Bundle, tmp_path: Path
) -> None:
    labels, samples = ten_clips(shared_data, bundle, seed=5, pause_s=0.5)
    recording = tmp_path / "sequence.wav"
    soundfile.write(recording, samples, decode.SAMPLE_RATE)
    length_s = len(samples) / decode.SAMPLE_RATE
    command = [sys.executable, "-W", "error", "-m", "qmoe_core", "listen", "--device", "default", "--json"]
    command += ["--seconds", f"{length_s + 30:.0f}"]
    found = []
    with subprocess.Popen(
        command, cwd=ROOT, env=loudspeaker, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as listening:
        assert listening.stdout is not None
        assert listening.stderr is not None
        assert "Listening to default" in listening.stderr.readline()
        subprocess.run(
            ["paplay", "--device=loudspeaker", str(recording)], env=loudspeaker, check=True, timeout=200
        )
        for line in listening.stdout:
            found.append(json.loads(line))
            if found[-1]["label"] == labels[-1] and found[-1]["end_s"] > length_s - decode.WINDOW_S:
                listening.send_signal(signal.SIGINT)  # the last one was heard: there is no need to wait
                break
        rest, remarks = listening.communicate(timeout=60)
    assert listening.returncode in (0, 130), remarks
    found += [json.loads(line) for line in rest.splitlines()]
    accepted = [line["label"] for line in found if line["accepted"]]
    print(f"\nplayed {labels}\nheard  {accepted}\n{remarks.strip()}")
    assert in_order(accepted, labels) >= 9


def test_it_is_listed(loudspeaker: dict[str, str]) -> None:
    command = [sys.executable, "-m", "qmoe_core", "listen", "--devices"]
    said = subprocess.run(command, cwd=ROOT, env=loudspeaker, capture_output=True, text=True, timeout=60)
    assert "default" in said.stdout
