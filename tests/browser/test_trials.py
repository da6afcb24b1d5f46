"""What people come for, from the first page on, by what is visible."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from playwright.sync_api import Page, expect

from qmoe_core import bundles, numbers
from qmoe_core.audio import decode, synth
from qmoe_core.evaluation import boards
from qmoe_core.evaluation.boards import Board
from qmoe_core.measure import machines
from tests.browser.conftest import Lab
from tests.browser.test_menu import PHONE, go, settled
from tests.pages.test_sounds import archive

pytestmark = pytest.mark.browser

Browse = Callable[..., Page]
LAPTOP = {"viewport": {"width": 1440, "height": 900}}
SMALL = {"width": 1280, "height": 720}
MOST_MOVED = 0.02
"""Cumulative layout shift of the first page: of Google's “good” up to 0.1, a fifth."""
KINDS = {"whistle": 2500.0, "hum": 120.0, "chirp": 5000.0, "drone": 400.0}
"""Classes of somebody's own recordings, and their pitch in Hz."""
PER_KIND = 50
RATE = 16_000


MOVED = """() => new Promise((told) => new PerformanceObserver((list) => told(list.getEntries().reduce(
    (sum, entry) => sum + entry.value, 0))).observe({type: "layout-shift", buffered: true}))"""


def test_a_lecturer_turns_the_verdict_and_passes_the_link_on(dashboard: str, browse: Browse) -> None:
    page = browse(dashboard, permissions=["clipboard-read", "clipboard-write"], **LAPTOP)
    expect(page.locator(".qm-tile").first).to_be_visible()
    expect(page.get_by_text(re.compile("At α = 30 the answer is helicopter"))).to_be_visible()
    settled(page, "Listen")
    moved = page.evaluate(MOVED)
    assert moved < MOST_MOVED
    for view in (LAPTOP["viewport"], SMALL):  # what hooks is seen without scrolling
        page.set_viewport_size(view)  # type: ignore[arg-type]
        for what in ("audio", ".st-key-alpha", ".qm-verdict", ".qm-tiles"):
            expect(page.locator(what).first).to_be_in_viewport(ratio=1)
    page.get_by_role("combobox", name="Curiosity α").click()
    page.get_by_role("option", name="α = 30", exact=True).click()
    expect(page.get_by_text(re.compile("The best guess is helicopter|^Helicopter, ")).first).to_be_visible()
    expect(page).to_have_url(re.compile("alpha=30"))
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_text("This address works only on the machine that runs the lab")).to_be_visible()
    other = browse(page.evaluate("navigator.clipboard.readText()"), **LAPTOP)
    expect(other.get_by_text(re.compile("The best guess is helicopter|^Helicopter, ")).first).to_be_visible()


def test_a_reader_of_the_paper_finds_what_does_not_hold(dashboard: str, browse: Browse) -> None:
    page = browse(dashboard, **LAPTOP)
    go(page, "Claims")
    expect(page.locator("article.qm-claim").first).to_be_visible()
    page.get_by_role("button", name="Words").click()
    expect(page.get_by_text(re.compile("KL\\(q‖q̄\\): how far"))).to_be_visible()


def test_an_engineer_takes_a_format_of_300_kb_and_5_ms_along(dashboard: str, browse: Browse) -> None:
    page = browse(dashboard, **LAPTOP)
    page.get_by_role("link", name="Choose a format").click()
    for label, value in (("Flash, kB", "300"), ("Time a clip, ms", "5"), ("Speed of the board", "0.25")):
        page.get_by_role("spinbutton", name=label).fill(value)
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile(f"={value}"))
    fit = boards.fits(boards.shipped(), Board(300e3, None, 5e3, 0.25), machines.reference())[0]
    assert not fit.misses
    said = page.locator(".qm-verdict").first
    expect(said.locator("h2")).to_have_text(fit.path.name)
    expect(said).to_contain_text(f"{fit.path.bytes / 1e3:.0f} kB of flash")
    expect(said).to_contain_text(f"{fit.us / 1e3:.2f} ms a clip")
    assert len(fit.path.f1) == 2
    for name, score in fit.path.f1.items():
        expect(said).to_contain_text(f"{score.mean:.3f} ± {score.std:.3f} on {name} (n = {score.n})")
    with page.expect_download() as started:
        page.get_by_role("button", name=f"Download {fit.path.file}").click()
    given = Path(started.value.path()).read_bytes()
    assert given == (bundles.shipped() / boards.FOLDER / str(fit.path.file)).read_bytes()
    page.get_by_role("spinbutton", name="Flash, kB").fill("10")
    page.keyboard.press("Enter")
    expect(said).to_contain_text("Nearest is ")


def field_recordings() -> bytes:
    """A ZIP with a folder a class: tones of four pitches, no two alike."""
    rng = np.random.default_rng(0)
    files = {}
    for kind, hz in KINDS.items():
        for i in range(PER_KIND):
            sound = rng.uniform(0.1, 0.4) * tone(hz * rng.uniform(0.9, 1.1))
            files[f"{kind}__{kind}{i:02}"] = written(sound + 0.02 * rng.normal(size=RATE))
    return archive(**files)


def tone(hz: float) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hz * np.arange(RATE) / RATE)


def written(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV")
    return file.getvalue()


def test_200_field_recordings_of_four_classes_become_the_bundle_of_all_pages(
    own: Lab, browse: Browse, tmp_path: Path
) -> None:
    """A ZIP with a folder a class, and a take from the microphone: trained, judged and used."""
    given = tmp_path / "field.zip"
    given.write_bytes(field_recordings())
    page = browse(own.address, **LAPTOP)
    go(page, "Your sounds")
    page.get_by_role("combobox", name="Class of what comes next").fill("beep")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.get_by_role("group", name="Microphone")).to_contain_text(re.compile("Recording in [123] …"))
    expect(page.get_by_role("radio", name="beep · 1")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("tab", name="Files").click()
    page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(given)
    for kind in KINDS:
        expect(page.get_by_role("radio", name=f"{kind} · {PER_KIND}")).to_be_visible()
    page.get_by_role("button", name="Train all formats").click()
    page.get_by_role("button", name="Use it on all pages").click()
    said = "3 folds, no recording on both sides; 40 epochs, set beforehand; ds-cnn as it is."
    expect(page.get_by_text(said)).to_be_visible()
    page.get_by_role("link", name="Try it on Listen").click()
    expect(page.get_by_text(f"It knows four sounds: {numbers.listed(sorted(KINDS))}").first).to_be_visible()
    expect(page).to_have_url(re.compile("bundle=my-sounds"))
    page.get_by_role("tab", name="Upload").click()
    mine = {"name": "new.wav", "mimeType": "audio/wav", "buffer": written(tone(KINDS["chirp"]))}
    page.locator("input[type=file]").set_input_files([mine])  # type: ignore[list-item]
    expect(page.locator(".qm-verdict").first).to_contain_text(re.compile("chirp", re.IGNORECASE))


@pytest.fixture
def own(lab: Lab) -> Iterator[Lab]:
    """The lab, and afterwards without the takes, the training and the bundle that a test made."""
    yield lab
    for folder in ("datasets/takes", "bundles/my-sounds", "jobs"):
        shutil.rmtree(lab.store.root / folder)


def test_recordings_of_a_phone_are_judged_on_that_phone(dashboard: str, browse: Browse) -> None:
    """What its recorder writes, AAC in MPEG-4, beside a file that is no sound."""
    page = browse(dashboard, **PHONE)
    page.get_by_role("tab", name="Upload").click()
    files = [
        {"name": "Recording 7.m4a", "mimeType": "audio/mp4", "buffer": m4a(synth.render("rain"))},
        {"name": "bad.wav", "mimeType": "audio/wav", "buffer": b"no sound at all"},
    ]
    page.locator("input[type=file]").set_input_files(files)  # type: ignore[arg-type]
    expect(page.locator(".qm-verdict h2")).to_have_text(re.compile(r"Rain, .*\s%|No answer"))
    expect(page.get_by_text("Recording 7.m4a, uploaded: 5.")).to_be_visible()
    expect(page.get_by_role("alert").filter(has_text="bad.wav is not a sound file")).to_be_visible()
    bar = page.locator(".st-key-qm-bar").bounding_box()
    assert bar is not None
    assert bar["height"] < 100  # two rows
    width, shown = page.get_by_test_id("stMain").evaluate("e => [e.scrollWidth, e.clientWidth]")
    assert width <= shown


def m4a(samples: np.ndarray) -> bytes:
    """A waveform in 22,050 Hz as a phone's recorder writes it."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=decode.SAMPLE_RATE)
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = decode.SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    return file.getvalue()
