"""Starting: what the first page needs is loaded ahead of it, and a broken bundle does not break the start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dashboard import launch, watchdog
from qmoe_core import bundles, serve
from qmoe_core.errors import BundleError
from tests.browser.server import _answers


def test_warming_judges_a_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = []
    monkeypatch.setattr(serve, "classify", lambda clip, bundle: judged.append((clip.name, bundle.name)))
    launch.warm()
    assert judged == [("Helicopter over a fire", bundles.load().name)]


def test_a_broken_bundle_is_left_to_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged() -> None:
        raise BundleError("damaged")

    monkeypatch.setattr(bundles, "load", damaged)
    launch.warm()


def test_it_runs_the_app_with_the_arguments_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_warm_beside", lambda: None)
    monkeypatch.setattr(launch.cli, "main", lambda: 0)
    monkeypatch.setattr(launch.guard, "install", lambda **_: None)
    monkeypatch.setattr(sys, "argv", ["qmoe"])
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    with pytest.raises(SystemExit):
        launch.main(["--server.port", "8501"])
    assert sys.argv == [
        "streamlit",
        "run",
        str(launch.APP),
        "--server.port",
        "8501",
        "--server.headless",
        "true",
    ]


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="systemd and SIGTERM are Unix's")
def test_it_ends_on_sigterm_when_nobody_reads_its_output(tmp_path: Path) -> None:
    systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    systemd.bind(str(tmp_path / "notify"))
    systemd.settimeout(60)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lab = subprocess.Popen(
        [sys.executable, "-m", "qmoe_core", "app", "--no-browser", "--port", str(port)],
        cwd=launch.APP.parent.parent,
        env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert lab.stdout is not None
    try:
        # Once it has printed its address and answers, it listens and hears signals.
        while line := lab.stdout.readline():
            if str(port) in line:
                break
        assert _answers(lab, f"http://127.0.0.1:{port}")
        assert systemd.recv(100) == b"READY=1"
        assert systemd.recv(100) == b"WATCHDOG=1"  # it has judged a sound
        lab.stdout.close()
        lab.terminate()
        assert lab.wait(timeout=30) == 0
    finally:
        lab.kill()
        lab.wait()
        systemd.close()


def test_the_watchdog_hears_of_a_lab_that_judges_only(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(watchdog, "notify", told.append)

    def damaged() -> None:
        raise BundleError("damaged")

    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # nobody listens there
        watchdog.beat(f"http://127.0.0.1:{unheard.getsockname()[1]}/_stcore/health", lambda: None)
    monkeypatch.setattr(watchdog, "answers", lambda health: True)
    watchdog.beat("http://localhost", damaged)
    assert told == []
    watchdog.beat("http://localhost", lambda: None)
    assert told == ["WATCHDOG=1"]
