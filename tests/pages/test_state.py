"""Links: written and read back unchanged, and never a crash whatever they hold."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from dashboard.session import state
from dashboard.session.state import Controls
from qmoe_core import bundles
from qmoe_core.audio import synth

BUNDLE = bundles.load()


@st.composite
def controls(draw: st.DrawFn) -> Controls:
    chosen = draw(st.sets(st.sampled_from(BUNDLE.experts), min_size=1))
    abstain = draw(st.sampled_from(state.ABSTAINS))
    limit = draw(st.sampled_from(state.LIMITS[abstain])) if abstain in state.LIMITS else 0.0
    return Controls(
        experts=tuple(name for name in BUNDLE.experts if name in chosen),
        alpha=draw(st.sampled_from(state.ALPHAS)),
        normalise=draw(st.booleans()),
        top_k=draw(st.integers(1, len(chosen))),
        curiosity=draw(st.sampled_from(state.CURIOSITIES)),
        abstain=abstain,
        limit=limit,
        sound=draw(st.sampled_from(list(synth.GALLERY))),
        sets=draw(st.sampled_from(["threshold", "adaptive"])),
        set_coverage=draw(st.sampled_from(state.SET_COVERAGES)),
        per_class=draw(st.booleans()),
    )


@given(controls())
def test_a_link_restores_what_it_was_written_from(chosen: Controls) -> None:
    assert state.read_link(state.write_link(chosen, BUNDLE), BUNDLE) == (chosen, ())


def test_the_bundles_own_settings_need_no_link() -> None:
    assert state.write_link(state.defaults(BUNDLE), BUNDLE) == {}


KEYS = st.sampled_from(
    [
        *("sound", "experts", "alpha", "normalise", "k", "curiosity", "abstain", "limit"),
        *("sets", "set_coverage", "per_class"),
    ]
)
VALUES = st.one_of(
    st.text(alphabet=string.printable + "٣²α", max_size=60),
    st.sampled_from(
        ["inf", "-0", "1e999", "0x1", "٣", "1_0", "q4,", ",,,", "never", "risk", "coverage", "1", "0.05"]
    ),
)


@given(st.dictionaries(KEYS, VALUES))
def test_nonsense_never_gets_through(link: dict[str, str]) -> None:
    read, problems = state.read_link(link, BUNDLE)
    settings = read.settings(BUNDLE)  # raises when a value is not accepted
    assert 1 <= read.top_k <= len(settings.experts)
    assert all(problem.endswith(".") for problem in problems)
    assert state.read_link(state.write_link(read, BUNDLE), BUNDLE) == (read, ())


def test_numbers_that_python_reads_and_people_do_not_mean() -> None:
    for text in ("nan", "inf", "1e999", "-0.1", "1000.1", ""):
        assert state.read_link({"alpha": text}, BUNDLE)[1], text
    assert state.read_link({"alpha": "1e2"}, BUNDLE)[0].alpha == 100.0


def test_a_value_between_the_stops_is_among_them() -> None:
    assert state.stops((0.0, 1.0, 10.0), 2.5) == [0.0, 1.0, 2.5, 10.0]
    assert state.stops((0.0, 1.0, 10.0), 1.0) == [0.0, 1.0, 10.0]
