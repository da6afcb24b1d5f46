"""What the microphone component sends, read with suspicion."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.components import microphone
from dashboard.components.microphone import Granted

PCM = base64.b64encode(np.array([0, 32767, -32767, -32768], "<i2").tobytes()).decode()
PLAIN = {"echoCancellation": False, "noiseSuppression": False, "autoGainControl": False}


def packet(**changes: object) -> dict[str, object]:
    chunk = {"sequence": 0, "frame": 128, "captured": 12.5, "pcm": PCM}
    whole: dict[str, object] = {
        "packet": 3,
        "stream": "a",
        "rate": 48_000,
        "sent": 13.0,
        "state": "listening",
        "detail": "",
        "hidden": True,
        "dropped": 0,
        "granted": {**PLAIN, "sampleRate": 48_000, "channelCount": 1, "label": "Desk"},
        "chunks": [chunk],
    }
    return whole | changes


def test_a_packet() -> None:
    number, parsed, status = microphone.parse(packet())
    assert (number, parsed.stream, parsed.rate, parsed.sent) == (3, "a", 48_000, 13.0)
    assert (parsed.state.condition, parsed.state.sentence) == ("listening", "Listening.")
    (chunk,) = parsed.chunks
    assert (chunk.sequence, chunk.frame, chunk.captured) == (0, 128, 12.5)
    np.testing.assert_allclose(chunk.samples, [0, 1, -1, -1.00003], atol=1e-5)
    assert (status.rate, status.hidden, status.warnings) == (48_000, True, ())
    assert status.granted is not None
    assert status.granted.label == "Desk"


@pytest.mark.parametrize("state", sorted(microphone.SENTENCES))
def test_every_state_has_its_sentence(state: str) -> None:
    _, parsed, status = microphone.parse(packet(state=state))
    assert status.sentence == parsed.state.sentence == microphone.SENTENCES[state]
    assert (parsed.state.condition == "failed") == (state not in ("idle", "asking", "listening", "paused"))


def test_a_state_that_is_not_known_is_a_failure() -> None:
    _, parsed, status = microphone.parse(packet(state="dancing", detail="TypeError: no"))
    assert status.state == "failed"
    assert parsed.state.sentence == "The microphone could not be started. (TypeError: no)"


@pytest.mark.parametrize(
    ("granted", "warning"),
    [
        (PLAIN, ""),
        ({}, ""),  # the browser does not say
        (PLAIN | {"noiseSuppression": True}, "left noise suppression on"),
        (
            PLAIN | {"echoCancellation": "all", "autoGainControl": True},
            "left echo cancellation and gain control on",
        ),
        (dict.fromkeys(PLAIN, True), "left echo cancellation, noise suppression and gain control on"),
    ],
)
def test_filters_that_stayed_on(granted: dict[str, object], warning: str) -> None:
    _, _, status = microphone.parse(packet(granted=granted))
    assert len(status.warnings) == bool(warning)
    assert warning in "".join(status.warnings)


def test_a_headset_in_telephone_mode() -> None:
    _, _, status = microphone.parse(packet(rate=8000))
    assert "nothing above 4 kHz" in status.warnings[0]


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        "packet",
        {},
        packet(chunks=[{"sequence": -1, "frame": 0, "captured": 0, "pcm": ""}]),
        packet(chunks=[{"sequence": 0, "frame": 0, "captured": 0, "pcm": "AAA"}]),
        packet(chunks=[{"sequence": 0, "frame": 0, "captured": 0, "pcm": "ä"}]),
        packet(chunks=[{"sequence": 0, "frame": 0, "captured": 0, "pcm": base64.b64encode(b"abc").decode()}]),
        packet(chunks=[{"sequence": 0, "frame": 0, "captured": 0, "pcm": "A" * 2_000_000}]),
        packet(chunks=[{}] * 500),
        packet(chunks=[{"sequence": 0, "frame": 0, "captured": 0, "pcm": "A" * 700_000}] * 40),
        packet(stream="a" * 1000),
        packet(rate=None),
        packet(rate=1e300 * 1e10),
        packet(sent="now"),
        packet(granted={"label": "a" * 5000}),
    ],
)
def test_nonsense_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whichever reader finds it first
        microphone.parse(wrong)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(sorted(packet())), JSON))
def test_whatever_comes_is_read_or_refused(changes: dict[str, Any]) -> None:
    try:
        _, parsed, status = microphone.parse(packet(**changes))
    except ValueError:
        return
    assert status.state in microphone.SENTENCES
    assert all(np.isfinite(chunk.samples).all() for chunk in parsed.chunks)


def test_granted_by_itself() -> None:
    assert Granted().warning == ""
    assert Granted(noise_suppression=True).warning.endswith("weakened.")
