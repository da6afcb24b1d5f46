"""The Live page without a browser: what it says in each of its states. Its microphone is in tests/browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from dashboard.charts import live as live_charts
from dashboard.charts.palette import DARK, LIGHT
from dashboard.components import microphone
from dashboard.session import live_state
from dashboard.session.live_state import Live
from qmoe_core.audio import decode, synth
from qmoe_core.bundles import Bundle
from qmoe_core.errors import UserError
from qmoe_core.evaluation import conformal
from qmoe_core.evaluation.conformal import Promise
from qmoe_core.live import log as logs
from qmoe_core.live import sources
from qmoe_core.live.detections import Rules
from qmoe_core.live.pipeline import Pipeline
from qmoe_core.live.sessions import registry
from qmoe_core.live.sources import HeldSource

Visit = Callable[..., AppTest]
LIVE = "../pages/live.py"
DAY = 1_700_000_000.0


def text(app: AppTest) -> str:
    """All that the page says, without the escapes."""
    assert not app.exception
    said = [
        e.value for e in [*app.markdown, *app.caption, *app.subheader, *app.error, *app.warning, *app.info]
    ]
    return "\n".join([*said, *(html.body for html in app.html)]).replace("\\", "").replace("\xa0", " ")


def headline(app: AppTest) -> str:
    found = re.search(r'qm-live[ "].*?<h2>(.*?)</h2>', text(app), re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def page(visit: Visit) -> AppTest:
    return visit().switch_page(LIVE).run()


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    yield
    registry.close()


def heard(app: AppTest, name: str = "rain", seconds: float = 8.0) -> Live:
    """Let the page's pipeline hear a sound of the gallery, to its end."""
    live: Live = app.session_state["live"]
    source = HeldSource("a file", decode.SAMPLE_RATE, started=DAY)
    live.pipeline.source = source
    source.stream.ring.write(np.resize(synth.render(name), round(seconds * decode.SAMPLE_RATE)))
    live.pipeline.step()
    return live


def test_a_first_visit(page: AppTest) -> None:
    assert page.title[0].value == "The microphone, judged live"
    assert headline(page) == "Ready"
    assert "Nothing yet: a detection is logged when it is over." in text(page)
    assert not page.error
    assert registry.running == 0


def test_what_is_heard_now(page: AppTest) -> None:
    heard(page)
    page.run()
    assert re.fullmatch(r"Rain, .*%", headline(page))
    assert "1 window judged, 12 left out. 0.00 s of sound lost in 0 gaps; 0 overflows." in text(page)
    assert "A window takes" in text(page)


def test_what_is_not_accepted_now(page: AppTest) -> None:
    page.slider(key="live_threshold").set_value(1.0).run()
    heard(page)
    page.run()
    assert headline(page) == "No answer"
    assert "The best guess is rain" in text(page)
    assert "below class threshold" in text(page)


def test_silence_is_said(page: AppTest) -> None:
    live: Live = page.session_state["live"]
    live.pipeline.source = HeldSource("a file", decode.SAMPLE_RATE, started=DAY)
    live.pipeline.source.stream.ring.write(np.zeros(6 * decode.SAMPLE_RATE, np.float32))
    live.pipeline.step()
    page.run()
    assert headline(page) == "No answer"
    assert "It is silent." in text(page)


def test_after_listening(page: AppTest) -> None:
    heard(page).pipeline.finish()
    page.run()
    assert headline(page) == "Stopped"


def test_controls_reach_the_pipeline(page: AppTest, bundle: Bundle) -> None:
    page.slider(key="live_threshold").set_value(0.8).run()
    page.segmented_control(key="abstain").set_value("coverage").run()
    page.select_slider(key="limit_coverage").set_value(0.8).run()
    page.select_slider(key="alpha").set_value(10.0).run()
    live: Live = page.session_state["live"]
    wanted = conformal.limits(bundle, live.pipeline.settings, Promise(coverage=0.8))
    assert live.pipeline.rules == Rules(threshold=0.8, limits=wanted)
    assert live.pipeline.settings.alpha == 10.0


def test_thresholds_of_some_classes(bundle: Bundle) -> None:
    rules = live_state.rules_of(0.6, {"rain": 0.9, "dog": 0.6}, None)
    assert (rules.threshold_of("rain"), rules.threshold_of("dog")) == (0.9, 0.6)
    assert dict(rules.thresholds) == {"rain": 0.9}


def test_the_log(page: AppTest) -> None:
    live = heard(page)
    live.pipeline.finish()
    (entry,) = live.log.entries()
    page.run()
    assert "<td>rain</td>" in text(page)
    assert "<td>yes</td>" in text(page)
    assert f">2023-11-14 {logs.clock(entry.start)}</th>" in text(page)  # not today: the day is told
    assert re.search(r"<td>\d of 3</td>", text(page))  # those that the mixture needs
    assert page.selectbox(key="live_chosen").value == entry.id
    assert len(page.get("audio")) == 1
    page.segmented_control(key=f"live_mark:{entry.id}").set_value("wrong").run()
    assert live.log.entries()[0].mark == "wrong"
    assert "<td>wrong</td>" in text(page)
    page.button(key="live_clear").click().run()
    assert "Nothing yet" in text(page)


def test_what_was_not_accepted_can_be_left_out(page: AppTest) -> None:
    page.slider(key="live_threshold").set_value(1.0).run()
    heard(page).pipeline.finish()
    page.run()
    assert "<td>no: below class threshold</td>" in text(page)
    page.toggle(key="live_rejected").set_value(False).run()
    assert "Nothing yet" in text(page)


def test_it_is_kept_over_restarts(visit: Visit) -> None:
    first = visit().switch_page(LIVE).run()
    first.toggle(key="live_keep").set_value(True).run()
    heard(first).pipeline.finish()
    second = visit().switch_page(LIVE).run()
    assert "Nothing yet" in text(second)
    second.toggle(key="live_keep").set_value(True).run()
    assert "<td>rain</td>" in text(second)


def test_full_logs_say_so(page: AppTest) -> None:
    live = heard(page)
    live.log.capacity = 1
    live.pipeline.finish()
    heard(page).pipeline.finish()
    page.run()
    assert "The log holds 1 lines; 1 older ones were dropped." in text(page)


# A microphone of the machine


class Host(HeldSource):
    """A microphone of this machine that hears rain."""

    opened = 0

    def __init__(self, device: str | None, rate: int | None) -> None:
        super().__init__(str(device), rate or decode.SAMPLE_RATE)
        self.closed = False
        Host.opened += 1

    def close(self) -> None:
        super().close()
        self.closed = True


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> type[Host]:
    desk = sources.Device(0, "Desk", decode.SAMPLE_RATE, 1, default=False)
    line = sources.Device(3, "Line", decode.SAMPLE_RATE, 2, default=True)
    monkeypatch.setattr(sources, "devices", lambda: [desk, line])
    monkeypatch.setattr(sources, "HostSource", Host)
    monkeypatch.setattr(live_state, "HostSource", Host)
    Host.opened = 0
    return Host


def test_a_microphone_of_the_machine(page: AppTest, host: type[Host]) -> None:
    page.segmented_control(key="live_source").set_value("The machine that runs the lab").run()
    assert page.selectbox(key="live_device").value == "Line"
    page.button(key="live_host").click().run()
    live: Live = page.session_state["live"]
    assert (live.running, registry.running, host.opened) == (True, 1, 1)
    assert page.button(key="live_host").label == "Stop"
    page.button(key="live_host").click().run()
    assert (live.running, registry.running) == (False, 0)
    assert live.pipeline.source.closed  # type: ignore[attr-defined]
    assert page.button(key="live_host").label == "Start"


def test_a_headset_in_telephone_mode(page: AppTest, host: type[Host]) -> None:
    page.segmented_control(key="live_source").set_value("The machine that runs the lab").run()
    page.session_state["live"].start_host("Line", 8000)
    page.run()
    assert "there is nothing above 4 kHz" in text(page)


def test_a_microphone_that_cannot_be_opened(
    page: AppTest, host: type[Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise UserError("The microphone Line cannot be opened at 48,000 Hz.")

    monkeypatch.setattr(live_state, "HostSource", refused)
    page.segmented_control(key="live_source").set_value("The machine that runs the lab").run()
    page.button(key="live_host").click().run()
    assert "cannot be opened at 48,000 Hz" in text(page)
    assert registry.running == 0


@pytest.mark.parametrize(
    ("devices", "sentence"),
    [
        (lambda: [], "has no microphone"),
        (lambda: (_ for _ in ()).throw(UserError("need PortAudio")), "PortAudio"),
    ],
)
def test_no_microphone_on_the_machine(
    page: AppTest, monkeypatch: pytest.MonkeyPatch, devices: Callable, sentence: str
) -> None:
    monkeypatch.setattr(sources, "devices", devices)
    page.segmented_control(key="live_source").set_value("The machine that runs the lab").run()
    assert sentence in text(page)


def test_too_many_sessions(page: AppTest, host: type[Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_limit", 0)
    page.segmented_control(key="live_source").set_value("The machine that runs the lab").run()
    page.button(key="live_host").click().run()
    assert "0 live sessions run on this machine already" in text(page)
    live: Live = page.session_state["live"]
    assert live.pipeline.source.closed  # type: ignore[attr-defined]


# The browser's microphone, as its packets come


def status(state: str) -> microphone.Status:
    return microphone.Status(state=state, sentence=microphone.SENTENCES[state])


def test_packets_start_and_stop_the_session(page: AppTest) -> None:
    live: Live = page.session_state["live"]
    live.received(status("asking"))
    assert not live.running
    live.received(status("listening"))
    live.received(status("interrupted"))
    assert (live.running, registry.running) == (True, 1)
    live.received(status("paused"))
    assert (live.running, registry.running) == (False, 0)
    live.received(status("listening"))
    live.received(status("vanished"))
    assert registry.running == 0


def test_the_browser_takes_over_from_the_machine(page: AppTest, host: type[Host]) -> None:
    live: Live = page.session_state["live"]
    live.start_host("Desk", None)
    desk = live.pipeline.source
    live.received(status("idle"))  # of a browser that is not listening: nothing changes
    assert live.running
    live.received(status("listening"))
    assert live.pipeline.source is live.browser
    assert desk.closed  # type: ignore[attr-defined]


# The picture


@pytest.fixture
def pipeline(bundle: Bundle) -> Pipeline:
    source = HeldSource("a file", decode.SAMPLE_RATE, started=DAY)
    made = Pipeline(source, bundle)
    samples = np.resize(synth.render("rain"), 40 * decode.SAMPLE_RATE)
    for start in range(0, len(samples), 5512):
        source.stream.ring.write(samples[start : start + 5512])
        made.step()
    return made


def test_the_picture_is_complete_and_small(pipeline: Pipeline, bundle: Bundle) -> None:
    import base64
    import json

    drawn = live_charts.picture(pipeline.view(), bundle, 0.1, LIGHT)
    assert len(json.dumps(drawn)) < 150_000
    assert drawn["alt"].count("Newest: rain") == 1
    assert len(drawn["windows"]) == pytest.approx(120, abs=1)
    ages = [window["ago"] for window in drawn["windows"]]
    assert ages == sorted(ages, reverse=True)
    assert (ages[0] < 30.0, ages[-1] < 0.25) == (True, True)
    levels = np.frombuffer(base64.b64decode(drawn["levels"]), np.uint8).reshape(drawn["mels"], -1)
    assert levels.shape[1] * drawn["step"] == pytest.approx(30.0, abs=0.1)
    assert levels.max() == 255
    for window in drawn["windows"]:
        assert sum(window["shares"]) == pytest.approx(100, abs=6)
        ran = {bundle.experts[i]: label for i, label in enumerate(window["said"]) if label is not None}
        assert ran.keys() == {*bundle.settings().experts}
        assert all(0 <= label < len(bundle.classes) for label in ran.values())
        assert len(window["said"]) == len(bundle.experts)
        assert len(window["routed"]) == 1


def test_the_picture_of_nothing(bundle: Bundle) -> None:
    view = Pipeline(HeldSource("a file", decode.SAMPLE_RATE, started=DAY), bundle).view()
    drawn = live_charts.picture(view, bundle, None, DARK)
    assert (drawn["windows"], drawn["levels"], drawn["end"]) == ([], "", 0)


def test_latency_in_words() -> None:
    said = live_charts.latency(np.array([0.001] * 98 + [0.002, 0.010]))
    assert "1.0 ms (median)" in said
    assert "n = 100 windows" in said
    assert said.count("<i ") == 40
