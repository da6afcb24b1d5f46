"""The Listen page in each of its states, by what it says."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard.components import microphone
from dashboard.components.microphone import Recording
from dashboard.session import hearing
from dashboard.views import uploads
from qmoe_core import bundles, serve
from qmoe_core.audio import decode, synth
from qmoe_core.errors import BundleError

Visit = Callable[..., AppTest]
HeardAs = Callable[[str], str]


def verdict(app: AppTest) -> tuple[str, str]:
    """Headline and sentence of the answer."""
    assert not app.exception
    block = next(html.body for html in app.html if "qm-verdict" in html.body and "<section" in html.body)
    found = re.search(r"<h2>(.*?)</h2><p>(.*?)</p>", block)
    assert found
    return found[1].replace("\xa0", " "), found[2].replace("\xa0", " ")


def text(app: AppTest) -> str:
    """All that the page says in Markdown, captions included, without the escapes."""
    said = [element.value for element in [*app.markdown, *app.caption]]
    return "\n".join(said).replace("\\", "").replace("\xa0", " ")


def wav(name: str = "dog-bark") -> bytes:
    return hearing.as_wav(synth.render(name))


def upload(app: AppTest, *files: tuple[str, bytes]) -> AppTest:
    app.session_state.source = "Upload"
    app.file_uploader(key="files").set_value([(name, data, "audio/wav") for name, data in files])
    return app.run()


def test_first_visit_shows_a_sound_already_judged(visit: Visit, heard_as: HeardAs) -> None:
    app = visit(sound="dog-bark")
    headline, sentence = verdict(app)
    assert re.fullmatch(heard_as("dog-bark") + r", [\w ]+ %", headline)
    assert re.search(r"experts? agree", sentence)
    assert "of the default set" in sentence
    assert "synthesised by this project" in text(app)
    assert "n = 400 clips, judged out of fold" in text(app)
    assert len(app.get("plotly_chart")) == 5
    assert not app.error
    assert not app.warning
    assert app.query_params == {"sound": "dog-bark"}


def test_another_sound_of_the_gallery(visit: Visit, heard_as: HeardAs) -> None:
    app = visit()
    app.pills(key="sound").set_value("rain").run()
    assert verdict(app)[0].startswith(heard_as("rain"))
    assert app.query_params == {"sound": "rain"}


def test_every_sound_of_the_gallery_is_judged(visit: Visit) -> None:
    app = visit()
    for name in synth.GALLERY:
        app.pills(key="sound").set_value(name).run()
        assert verdict(app)[0]


def test_an_upload_is_judged(visit: Visit, heard_as: HeardAs) -> None:
    app = upload(visit(), ("rain.wav", wav("rain")))
    assert verdict(app)[0].startswith(heard_as("rain"))
    assert "rain.wav, uploaded: 5.0 s, 22,050 Hz, mono." in text(app)


def test_uploads_are_still_there_after_another_page(visit: Visit, heard_as: HeardAs) -> None:
    app = upload(visit(abstain="never"), ("rain.wav", wav("rain")))
    app.switch_page("../pages/method.py").run()
    app.switch_page("../pages/listen.py").run()
    assert verdict(app)[0].startswith(heard_as("rain"))
    assert "Still here: rain.wav." in text(app)
    upload(app, ("rooster.wav", wav("rooster")))
    assert app.radio[0].label == "Two files"
    next(button for button in app.button if button.label == "Remove").click().run()
    assert not app.radio
    assert verdict(app)[0].startswith(heard_as("rooster"))


def test_a_bad_upload_is_explained_and_the_good_one_is_judged(visit: Visit, heard_as: HeardAs) -> None:
    app = upload(visit(), ("notes.wav", b"this is no sound"), ("rain.wav", wav("rain")))
    assert verdict(app)[0].startswith(heard_as("rain"))
    (error,) = app.error
    assert "notes.wav is not a sound file" in error.value.replace("\\", "")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.wav", b"", "is empty"),
        ("cut.wav", wav()[:40], "cut.wav"),
        ("text.mp3", b"hello" * 100, "is not a sound file"),
    ],
    ids=["empty", "cut off", "text"],
)
def test_bad_uploads_give_a_sentence(
    visit: Visit, heard_as: HeardAs, name: str, data: bytes, message: str
) -> None:
    app = upload(visit(), (name, data))
    assert not app.exception
    (error,) = app.error
    assert message in error.value.replace("\\", "")
    upload(app, ("rain.wav", wav("rain")))
    assert verdict(app)[0].startswith(heard_as("rain"))
    assert not app.error


def test_silence_gets_no_verdict_and_a_short_clip_is_noted(visit: Visit) -> None:
    app = upload(visit(), ("silence.wav", hearing.as_wav(np.zeros(22_050, np.float32))))
    assert not app.exception
    assert not [html.body for html in app.html if "qm-verdict" in html.body and "<section" in html.body]
    said = "\n".join(element.value for element in [*app.error, *app.warning, *app.info, *app.markdown])
    assert "nothing to judge, it is silent" in said.replace("\\", "")
    hiss = np.random.default_rng(0).normal(0, 0.1, 22_050).astype(np.float32)
    app = upload(visit(), ("short.wav", hearing.as_wav(hiss)))
    verdict(app)
    (block,) = [html.body for html in app.html if "<section" in html.body]
    assert "padded with silence" in block


def test_a_name_cannot_format_the_page(visit: Visit) -> None:
    app = upload(visit(), ("../**bold** <b> $a$.wav", b"no"))
    (error,) = app.error
    assert error.value.startswith(r"\*\*bold\*\* \<b\> \$a\$\.wav is not a sound file")


def test_several_files_are_listed_with_their_answers(visit: Visit, heard_as: HeardAs) -> None:
    app = upload(visit(abstain="never"), ("one.wav", wav("rain")), ("two.wav", wav("rooster")))
    (choice,) = app.radio
    assert [re.sub(r"\\|\*", "", option).split(",")[0] for option in choice.options] == [
        f"one.wav: {heard_as('rain').lower()}",
        f"two.wav: {heard_as('rooster').lower()}",
    ]
    assert verdict(app)[0].startswith(heard_as("rain"))
    choice.set_value(1).run()
    assert verdict(app)[0].startswith(heard_as("rooster"))


def zipped(**files: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/") + ".WAV", data)
    return held.getvalue()


def test_a_folder_as_zip_is_a_table_with_a_row_for_each_file(visit: Visit, heard_as: HeardAs) -> None:
    good = {"a__20240501_201500": wav("rain"), "b__deep__x": wav("rooster")}
    season = zipped(**good, b__bad=b"no sound", **{".hidden__x": wav("rain")})
    app = upload(visit(abstain="never"), ("season.zip", season), ("one.wav", wav("rain")))
    rows = app.dataframe[0].value
    assert rows["file"].tolist() == ["20240501_201500.WAV", "bad.WAV", "x.WAV", "one.wav"]
    rain, rooster = heard_as("rain"), heard_as("rooster")
    assert rows["answer"].tolist() == [rain.lower(), "not judged: see above", rooster.lower(), rain.lower()]
    assert rows["recorded"].tolist() == ["2024-05-01 20:15:00", "", "", ""]
    assert [error.value.partition(" ")[0].replace("\\", "") for error in app.error] == ["bad.WAV"]
    app.radio(key=uploads.OPENED).set_value(1).run()
    assert verdict(app)[0].startswith(rooster)


def test_a_row_opens_its_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    state: dict[str, Any] = {"files_table": {"selection": {"rows": [2], "columns": []}}}
    monkeypatch.setattr(uploads.st, "session_state", state)
    uploads._open([True, False, True])
    assert state[uploads.OPENED] == 1
    state["files_table"]["selection"]["rows"] = [1]  # could not be judged
    uploads._open([True, False, True])
    assert state[uploads.OPENED] == 1


@pytest.mark.parametrize(
    "data", [b"PK", zipped(), zipped(x=wav("rain"))[:-30]], ids=["none", "empty", "torn"]
)
def test_archives_that_cannot_be_unpacked_are_said(visit: Visit, data: bytes) -> None:
    app = upload(visit(), ("season.zip", data))
    assert not app.exception
    (warning,) = app.warning
    assert re.search("cannot be unpacked|holds no recordings", warning.value.replace("\\", ""))


def test_a_long_recording_has_a_result_for_each_window(visit: Visit, heard_as: HeardAs) -> None:
    both = np.concatenate([synth.render("rain"), synth.render("rooster")])
    app = upload(visit(abstain="never"), ("both.wav", hearing.as_wav(both)))
    windows = next(slider for slider in app.select_slider if slider.label.startswith("Part of the recording"))
    assert windows.options == ["whole", "0–5\xa0s", "2.5–7.5\xa0s", "5–10\xa0s"]
    assert len(app.get("plotly_chart")) == 6
    assert f"In order: {heard_as('rain').lower()}" in text(app)
    windows.set_value(1).run()
    assert verdict(app)[0].startswith(heard_as("rain"))
    app.select_slider(key=windows.key).set_value(3).run()
    assert verdict(app)[0].startswith(heard_as("rooster"))


def test_a_recording_is_judged(visit: Visit, heard_as: HeardAs) -> None:
    app = visit()
    app.session_state.source = "Record"
    app.run()
    assert not app.exception
    assert not [html for html in app.html if "<section" in html.body]  # nothing recorded, nothing said
    mount: microphone.Mount = app.session_state["recorder:mount"]
    mount.recording = Recording(
        "recording-1.wav", wav("rain"), decode.SAMPLE_RATE, 5.0, ("A filter stayed on.",)
    )
    app.run()
    assert verdict(app)[0].startswith(heard_as("rain"))
    assert "recording-1.wav, recorded here: 5.0 s" in text(app)
    assert [warning.value for warning in app.warning] == [r"A filter stayed on\."]
    assert "The recording" in [button.label for button in app.get("download_button")]


def test_the_browsers_own_recorder_is_there_where_nothing_else_is(visit: Visit, heard_as: HeardAs) -> None:
    app = visit()
    app.session_state["recorder:mount"].status = microphone.Status(state="unsupported")
    app.session_state.source = "Record"
    app.run()
    app.audio_input(key="recorder:fallback").set_value(("recording.wav", wav("rain"), "audio/wav")).run()
    assert verdict(app)[0].startswith(heard_as("rain"))
    assert "recorded here" in text(app)
    assert "weakened by 11–13 dB" in app.warning[0].value


def test_the_link_restores_the_controls(visit: Visit) -> None:
    link = {
        "sound": "rooster",
        "experts": "fp32,q1,popcount",
        "alpha": "12.5",
        "normalise": "1",
        "k": "2",
        "curiosity": "router-mc",
        "abstain": "risk",
        "limit": "0.123",
        "sets": "adaptive",
        "set_coverage": "0.9",
        "per_class": "1",
    }
    app = visit(**link)
    assert verdict(app)
    assert app.pills(key="sound").value == "rooster"
    assert app.pills(key="experts").value == ["fp32", "q1", "popcount"]
    assert app.select_slider(key="alpha").value == 12.5
    assert app.toggle(key="normalise").value is True
    assert app.number_input(key="top_k").value == 2
    assert app.segmented_control(key="curiosity").value == "router-mc"
    assert app.segmented_control(key="abstain").value == "risk"
    assert app.select_slider(key="limit_risk").value == 0.123
    assert app.segmented_control(key="sets").value == "adaptive"
    assert app.select_slider(key="set_coverage").value == 0.9
    assert "Prediction set, right in 90 % of cases" in verdict(app)[1]
    assert app.toggle(key="per_class").value is True
    assert app.query_params == link
    assert not app.warning


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("alpha", "banana", "a number from 0 to 1,000. Using 0.3."),
        ("alpha", "nan", "a number from 0 to 1,000. Using 0.3."),
        ("alpha", "-1", "a number from 0 to 1,000. Using 0.3."),
        ("k", "99", "a whole number from 1 to 3. Using 1."),
        ("k", "²", "a whole number from 1 to 3. Using 1."),
        ("experts", "gpt5", "one or more of fp32"),
        ("experts", "q4,gpt5", "does not have: gpt5"),
        ("curiosity", "<script>", "disagreement, distilled, router-mc, none and cascade"),
        ("normalise", "maybe", "0 or 1"),
        ("abstain", "often", "usual, risk, coverage and never"),
        ("sound", "../../etc", "one of helicopter-fire, rain"),
    ],
)
def test_nonsense_in_a_link_gives_a_sentence_and_the_default(
    visit: Visit, key: str, value: str, sentence: str
) -> None:
    app = visit(**{key: value})
    assert verdict(app)
    (warning,) = app.warning
    assert sentence in warning.value.replace("\\", "")
    assert value not in app.query_params.values()
    app.select_slider(key="alpha").set_value(10.0).run()
    assert not app.warning  # read, and gone with the next change


def test_strangers_in_a_link_are_left_alone(visit: Visit) -> None:
    app = visit(utm_source="letter", alpha="10")
    assert not app.warning
    assert app.query_params == {"utm_source": "letter", "alpha": "10"}


def test_controls_write_the_link(visit: Visit) -> None:
    app = visit()
    app.select_slider(key="alpha").set_value(100.0).run()
    app.segmented_control(key="abstain").set_value("coverage").run()
    app.select_slider(key="limit_coverage").set_value(0.5).run()
    assert app.query_params == {"alpha": "100", "abstain": "coverage", "limit": "0.5"}
    app.select_slider(key="alpha").set_value(0.3).run()
    app.segmented_control(key="abstain").set_value("usual").run()
    assert app.query_params == {}


def test_alpha_is_followed_in_words(visit: Visit) -> None:
    app = visit(sound="fire", experts="fp32,q8,popcount", alpha="0")
    assert "At α = 0 curiosity is off" in text(app)
    app.select_slider(key="alpha").set_value(1000.0).run()
    assert "Curiosity changed" in text(app)


def test_the_papers_alpha_changes_nothing(visit: Visit) -> None:
    said = text(visit())
    assert re.search(r"Curiosity changed neither the answer nor who gives it: .* × 1\.0\d\d", said)


def test_moving_a_control_only_mixes_again(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    observed = []
    monkeypatch.setattr(
        serve, "observe", lambda *args, real=serve.observe, **more: observed.append(1) or real(*args, **more)
    )
    app = visit()
    app.select_slider(key="alpha").set_value(100.0).run()
    app.pills(key="experts").set_value(["fp32", "popcount"]).run()
    app.number_input(key="top_k").set_value(2).run()
    assert verdict(app)
    assert len(observed) == 1


def test_it_would_rather_not_say(visit: Visit, heard_as: HeardAs) -> None:
    app = visit(sound="dog-bark", abstain="coverage", limit="0.3")
    headline, sentence = verdict(app)
    assert headline == "No answer"
    assert re.match(
        r"The best guess is dog, \d\d %, but the doubt, 0\.\d{3}, is above 0\.\d{3}, the limit for which "
        r"30 % of clips like those of esc10 are answered\.",
        sentence,
    )
    assert "Any other sound gets one of these names, or no answer." in text(app)
    assert re.search(r"other folds than those that set the limits, \d\d % are answered", text(app))
    app.segmented_control(key="abstain").set_value("never").run()
    assert verdict(app)[0].startswith(heard_as("dog-bark"))
    assert "Prediction set, right in 95 % of cases: " in verdict(app)[1]
    app.segmented_control(key="abstain").set_value("risk").run()
    app.select_slider(key="limit_risk").set_value(0.01).run()
    assert "--risk is 0.01, which no limit keeps" in app.warning[0].value.replace("\\", "")


def test_each_uncertainty_says_how_well_it_finds_errors(visit: Visit) -> None:
    said = "".join(html.body for html in visit().html)
    found = [float(value) for value in re.findall(r"AUROC of errors (0\.\d\d)", said)]
    assert len(found) == 6
    assert found[0] == max(found) > 0.8  # doubt


def test_a_single_expert(visit: Visit) -> None:
    app = visit(experts="popcount")
    assert verdict(app)
    assert app.number_input(key="top_k").max == 1
    assert "(top k of 1)" in app.number_input(key="top_k").label


def test_fewer_experts_than_k(visit: Visit) -> None:
    app = visit(k="3")
    app.pills(key="experts").set_value(["q4", "q8"]).run()
    assert verdict(app)
    assert app.number_input(key="top_k").value == 2
    assert app.query_params == {"experts": "q4,q8", "k": "2"}


def test_the_last_expert_stays(visit: Visit) -> None:
    app = visit()
    app.pills(key="experts").set_value([]).run()
    assert verdict(app)
    assert "the mixture stays q4, q8 and bitnet" in app.warning[0].value.replace("\\", "")
    assert set(app.pills(key="experts").value) == {"bitnet", "q4", "q8"}


def test_no_curiosity(visit: Visit) -> None:
    app = visit(curiosity="none")
    assert "the router alone chooses" in text(app)
    assert app.select_slider(key="alpha").disabled


def test_controls_survive_another_page(visit: Visit, heard_as: HeardAs) -> None:
    app = visit(alpha="50", sound="rain")
    app.switch_page("../pages/method.py").run()
    app.switch_page("../pages/listen.py").run()
    assert verdict(app)[0].startswith(heard_as("rain"))
    assert app.select_slider(key="alpha").value == 50.0


SESSION = "streamlit.runtime.caching.cache_data_api.get_session_id_or_throw"
"""What tells a session's caches from another's."""


def test_a_missing_bundle_is_explained(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise BundleError("bundle.json: cannot be read")

    st.cache_resource.clear()
    monkeypatch.setattr(bundles, "load", missing)
    app = visit()
    assert not app.exception
    assert "cannot be read" in app.error[0].value.replace("\\", "")


def test_two_names_for_one_content_keep_their_names(
    bundle: bundles.Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SESSION, lambda: "one")
    sound = hearing.from_gallery("rain")
    first = hearing.hear(sound, bundle)
    other = hearing.Sound(sound.key, "other.wav", sound.origin, sound.load, sound.playable)
    second = hearing.hear(other, bundle)
    settings = bundle.settings()
    assert hearing.judge(sound, first, bundle, settings).file == "Rain"
    assert hearing.judge(other, second, bundle, settings).file == "other.wav"


def test_wav_round_trip() -> None:
    samples = synth.render("rain")
    clip = decode.load(hearing.as_wav(samples), name="rain.wav")
    assert clip.source_rate_hz == decode.SAMPLE_RATE
    np.testing.assert_allclose(clip.samples, samples, atol=1e-4)


def test_envelope_holds_every_peak() -> None:
    samples = np.zeros(100_000, np.float32)
    samples[[5, 77_777]] = 0.5, -0.75
    low, high = hearing.envelope(samples)
    assert (low.min(), high.max()) == (-0.75, 0.5)
    assert hearing.envelope(samples[:3]).shape == (2, 3)


def test_the_first_sound_divides_the_formats_and_the_slider_turns_the_answer(visit: Visit) -> None:
    app = visit(abstain="never")
    (tiles,) = [html.body for html in app.html if '<ul class="qm-tiles"' in html.body]
    answers = re.findall(r"<li.*?<span>(.*?), ", tiles)
    assert len(answers) == len(bundles.load().experts)
    assert len(set(answers)) > 1
    assert len(re.findall(r"\d (?:kB|MB)<br>[\d.]+ ms</small>", tiles)) == len(answers)
    before = verdict(app)[0]
    hint = re.search(r"At α = ([\d,.]+) the answer is ([\w ]+)\.", text(app))
    assert hint
    app.select_slider(key="alpha").set_value(float(hint[1])).run()
    assert verdict(app)[0] != before
    assert verdict(app)[0].lower().startswith(hint[2])
    assert app.query_params == {"abstain": "never", "alpha": hint[1]}
    assert "It knows ten sounds: " in text(app)
    next(button for button in app.button if button.label == "Upload a recording").click().run()
    assert not app.exception
    assert app.session_state.source == "Upload"
