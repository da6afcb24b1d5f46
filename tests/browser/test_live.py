"""The Live page and its microphone as a person uses them, with Chromium's fake microphone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Page, expect

from qmoe_core import bundles
from qmoe_core.audio import decode, synth
from tests.browser.server import served
from tests.browser.test_menu import go
from tests.live.recordings import in_order, ten_clips

pytestmark = pytest.mark.browser

Browse = Callable[..., Page]
RATE = 44_100
LAPTOP = {"viewport": {"width": 1366, "height": 900}}

SPY = """
// Remembers every microphone that the page opens.
window.tracks = [];
const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = async (wanted) => {
  window.wanted = wanted;
  const media = await open(wanted);
  window.tracks.push(...media.getAudioTracks());
  return media;
};
"""
EAVESDROPPER = """
// Remembers every sample that the audio thread gives.
window.given = [];
window.AudioWorkletNode = class extends AudioWorkletNode {
  constructor(...given) {
    super(...given);
    this.port.addEventListener("message", ({data}) => window.given.push(...new Int16Array(data.pcm)));
  }
};
"""
STOPWATCH = """
// How long after a window's end its answer is on the screen, milliseconds.
window.lags = [];
let last = "";
setInterval(() => {
  const end = document.querySelector(".qm-live")?.dataset.end;
  if (end && end !== last) {
    last = end;
    requestAnimationFrame(() => window.lags.push(Date.now() - Number(end)));
  }
}, 4);
"""


def wav(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


@pytest.fixture
def rain(tmp_path: Path) -> Path:
    """Rain that a microphone can hear for ever."""
    return wav(tmp_path / "rain.wav", decode.resample(synth.render("rain"), decode.SAMPLE_RATE, RATE))


def opened(
    browse: Browse, url: str, microphone: Path | None = None, *scripts: str, loop: bool = True
) -> Page:
    page = browse("about:blank", microphone, loop=loop, **LAPTOP)
    for script in scripts:
        page.add_init_script(script)
    page.goto(url)
    return page


def start(page: Page) -> None:
    page.get_by_role("button", name="Start").click()


def headline(page: Page):
    return page.locator(".qm-live h2")


# The page


@pytest.mark.recordings
@pytest.mark.slow
def test_ten_recordings_in_order(dashboard: str, browse: Browse, shared_data: Path, tmp_path: Path) -> None:
    labels, samples = ten_clips(shared_data, bundles.load(), seed=5, pause_s=0.5)
    microphone = wav(tmp_path / "ten.wav", decode.resample(samples, decode.SAMPLE_RATE, RATE))
    page = opened(browse, f"{dashboard}/live", microphone, STOPWATCH, loop=False)
    start(page)
    length_ms = 1000 * len(samples) / decode.SAMPLE_RATE
    expect(page.locator(".qm-live p")).to_contain_text("It is silent.", timeout=2 * length_ms + 60_000)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Start")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON").click()
    found = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    accepted = [line["label"] for line in found if line["accepted"]][::-1]  # the newest is first
    lags = np.array(page.evaluate("window.lags"))
    health = page.get_by_text(re.compile("windows? judged")).inner_text()
    print(f"\nplayed {labels}\nheard  {accepted}")
    print(f"sound to screen: median {np.median(lags):.0f} ms, 95 % within {np.percentile(lags, 95):.0f} ms, "
          f"n = {len(lags)}\n{health}")  # fmt: skip
    # An overloaded machine's browser drops sound; it says so, and what it dropped cannot be heard.
    gaps = int(re.search(r"in ([\d,]+) gaps?", health)[1].replace(",", ""))
    assert in_order(accepted, labels) >= 9 - min(gaps, 4)


def test_what_it_shows_and_logs(dashboard: str, browse: Browse, rain: Path) -> None:
    page = opened(browse, f"{dashboard}/live", rain, SPY)
    start(page)
    expect(headline(page)).to_have_text(re.compile(r"Rain, .*%"))
    expect(page.get_by_text(re.compile(r"44,100 Hz, mono, no filters"))).to_be_visible()
    expect(page.get_by_role("meter", name="Level")).to_have_attribute("aria-valuenow", re.compile("-[1-4]"))
    picture = page.get_by_role("img", name=re.compile("Newest: rain"))
    expect(picture).to_be_visible()
    wanted = page.evaluate("window.wanted.audio")
    filters = ("echoCancellation", "noiseSuppression", "autoGainControl")
    assert [wanted[name] for name in filters] == [False] * 3
    granted = page.evaluate("window.tracks[0].getSettings()")
    assert [granted[name] for name in filters] == [False] * 3

    page.get_by_role("slider", name="Probability of at least").focus()
    page.keyboard.press("End")
    expect(headline(page)).to_have_text("No answer")
    expect(page.get_by_text("Listening.", exact=True)).to_be_visible()  # and was not interrupted

    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Paused: nothing leaves the browser.")).to_be_visible()
    expect(page.get_by_role("cell", name="rain").first).to_be_visible()  # what was open is logged
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("Listening.", exact=True)).to_be_visible()

    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("The microphone is off.")).to_be_visible()
    assert page.evaluate("window.tracks.map((track) => track.readyState)") == ["ended"]
    page.get_by_role("radio", name="wrong").click()
    expect(page.get_by_role("cell", name="wrong")).to_be_visible()
    expect(page.get_by_test_id("stAudio")).to_be_visible()


def test_leaving_the_page_frees_the_microphone(dashboard: str, browse: Browse, rain: Path) -> None:
    page = opened(browse, f"{dashboard}/live", rain, SPY)
    start(page)
    expect(page.get_by_text("Listening.", exact=True)).to_be_visible()
    go(page, "Method")
    expect(page.get_by_role("heading", level=1)).not_to_have_text("The microphone, judged live")
    page.wait_for_function("window.tracks.every((track) => track.readyState === 'ended')")
    go(page, "Live")
    expect(page.get_by_role("button", name="Start")).to_be_visible()


def test_three_at_once(dashboard: str, browse: Browse, rain: Path) -> None:
    pages = [opened(browse, f"{dashboard}/live", rain) for _ in range(3)]
    for page in pages:
        start(page)
    for page in pages:
        expect(headline(page)).to_have_text(re.compile(r"Rain, .*%"))


def _refusing(name: str) -> str:
    return f"navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('no', '{name}'); }}"


def test_no_microphone(dashboard: str, browse: Browse) -> None:
    page = opened(browse, f"{dashboard}/live")
    for script, sentence in (
        (_refusing("NotAllowedError"), "may not use the microphone"),
        (_refusing("NotFoundError"), "finds no microphone"),
        (_refusing("NotReadableError"), "Another program holds the microphone"),
        (_refusing("TypeError"), "could not be started"),
        ("delete window.AudioWorkletNode", "it has no AudioWorklet"),
        (
            "Object.defineProperty(window, 'isSecureContext', {value: false})",
            "only to localhost and to https",
        ),
    ):
        page.get_by_role("button", name="Start").wait_for()
        page.evaluate(f"{script}; null")
        start(page)
        expect(page.get_by_role("alert").filter(has_text=sentence)).to_be_visible()
        expect(page.get_by_test_id("stException")).to_have_count(0)


def test_a_microphone_that_vanishes(dashboard: str, browse: Browse, rain: Path) -> None:
    page = opened(browse, f"{dashboard}/live", rain, SPY)
    start(page)
    expect(page.get_by_text("Listening.", exact=True)).to_be_visible()
    page.evaluate("window.tracks[0].dispatchEvent(new Event('ended'))")
    expect(page.get_by_text("The microphone is gone; plug it in, then start again.").first).to_be_visible()
    start(page)
    expect(page.get_by_text("Listening.", exact=True)).to_be_visible()


# The component by itself


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A page with nothing but the microphone, and the file that it saves what it heard in."""
    out, script = tmp_path / "heard.npz", Path(__file__).with_name("microphone_app.py")
    with served("-m", "streamlit", "run", str(script), QMOE_TEST_OUT=str(out)) as address:
        yield address, out


def told(page: Page) -> dict[str, Any]:
    return json.loads(page.locator("#told").inner_text())


def recorded(page: Page, seconds: float, out: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Listen until so much has come: what the page says then, and what it heard, cut where it says a gap is.

    The browser itself loses sound when its machine is overloaded. That is allowed, if it is said.
    """
    start(page)
    page.wait_for_function(
        "least => JSON.parse(document.querySelector('#told')?.innerText ?? '{}').samples >= least",
        arg=seconds * RATE,
    )
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#saved")).to_be_visible()
    said = told(page)
    with np.load(out) as file:
        first, heard, gaps = int(file["first"]), file["heard"], file["gaps"]
    assert (said["rate"], said["dropped"], said["samples"]) == (RATE, 0, first + len(heard))
    assert said["lost"] == (gaps[:, 1] - gaps[:, 0]).sum()
    assert said["notes"] or not said["lost"]
    edges = [0, *np.clip(gaps.ravel() - first, 0, None).tolist(), len(heard)]
    return said, [heard[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]


def test_white_noise_stays_white(bare: tuple[str, Path], browse: Browse, tmp_path: Path) -> None:
    """Flat within 1 dB from 100 Hz to 10 kHz against the file that the fake microphone plays."""
    address, out = bare
    played = (np.random.default_rng(0).standard_normal(10 * RATE) * 0.1).astype(np.float32)
    page = opened(browse, address, wav(tmp_path / "noise.wav", played))
    _, stretches = recorded(page, 6.0, out)
    response = _response(played, stretches)
    print("\n" + ", ".join(f"{hz:.0f} Hz {db:+.2f}" for hz, db in response))
    assert max(abs(db) for _, db in response) <= 1.0


BLOCK, FRAME = 32_768, 8192


def _response(played: np.ndarray, stretches: list[np.ndarray]) -> list[tuple[float, float]]:
    """What came of each third of an octave, dB: the transfer function from what was played, in a loop.

    Each block of three quarters of a second finds its own place in what was played, and one that lies over a
    slip of an overloaded browser, and so has no place of its own, is left out.
    """
    window = np.hanning(FRAME)
    cross, power, found = np.zeros(FRAME // 2 + 1, complex), np.zeros(FRAME // 2 + 1), 0
    spectrum = np.fft.rfft(played)
    blocks = [s[i : i + BLOCK] for s in stretches for i in range(0, len(s) - BLOCK + 1, BLOCK)]
    for block in blocks:
        likeness = np.fft.irfft(spectrum * np.conj(np.fft.rfft(block, len(played))), len(played))
        at = int(np.argmax(likeness))
        source = np.take(played, range(at, at + BLOCK), mode="wrap")
        if np.corrcoef(source, block)[0, 1] < 0.95:
            continue
        found += 1
        for i in range(0, BLOCK - FRAME + 1, FRAME // 2):
            x, y = (np.fft.rfft(part[i : i + FRAME] * window) for part in (source, block))
            cross += np.conj(x) * y
            power += np.abs(x) ** 2
    print(f"\n{found} of {len(blocks)} blocks are whole")
    assert found >= 3
    gain = np.abs(cross / power)
    hz = np.fft.rfftfreq(FRAME, 1 / RATE)
    centres = 100.0 * 2 ** (np.arange(21) / 3)
    bands = [(hz >= c * 2 ** (-1 / 6)) & (hz < c * 2 ** (1 / 6)) for c in centres]
    return [(c, 20 * np.log10(np.sqrt(np.mean(gain[b] ** 2)))) for c, b in zip(centres, bands, strict=True)]


def test_a_slow_handler_loses_nothing_unreported(
    bare: tuple[str, Path], browse: Browse, tmp_path: Path
) -> None:
    """Sample by sample, the server has what the browser's audio thread gave."""
    address, out = bare
    played = (np.random.default_rng(1).standard_normal(10 * RATE) * 0.1).astype(np.float32)
    page = opened(browse, f"{address}/?slow=0.8", wav(tmp_path / "noise.wav", played), EAVESDROPPER)
    said, stretches = recorded(page, 7.0, out)
    print(f"\n{said}")
    heard = np.rint(np.concatenate(stretches) * 32767).astype(int)
    given = np.array(page.evaluate("window.given"))[: said["samples"] - said["lost"]]
    np.testing.assert_array_equal(heard, given[-len(heard) :])


def test_a_clip_is_recorded(bare: tuple[str, Path], browse: Browse, rain: Path) -> None:
    page = opened(browse, f"{bare[0]}/?use=clip", rain)
    page.get_by_role("button", name="Record").click()
    expect(page.locator("#told")).to_be_visible()
    said = told(page)
    assert said["rate"] == RATE
    assert 2.0 <= said["duration_s"] < 2.2
    assert said["warnings"] == []
    expect(page.get_by_test_id("stAudio")).to_be_visible()


def test_without_audio_worklets_the_browsers_own_recorder_is_there(
    bare: tuple[str, Path], browse: Browse
) -> None:
    page = opened(browse, f"{bare[0]}/?use=clip", None, "delete window.AudioWorkletNode;")
    expect(page.get_by_test_id("stAudioInput")).to_be_visible()


def test_filters_that_stay_on_are_said(bare: tuple[str, Path], browse: Browse, rain: Path) -> None:
    page = opened(
        browse,
        bare[0],
        rain,
        """
        const settings = MediaStreamTrack.prototype.getSettings;
        MediaStreamTrack.prototype.getSettings = function () {
          return {...settings.call(this), noiseSuppression: true, autoGainControl: true};
        };
        """,
    )
    start(page)
    expect(page.locator("#told")).to_contain_text("The browser left noise suppression and gain control on")
