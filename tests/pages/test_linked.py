"""Controls that a link restores, and the bundle that pages are about."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from dashboard.session import linked
from dashboard.session.linked import Control

DEFINED = [
    linked.one_of("view", ["map", "list"], "map"),
    linked.some_of("experts", ["q1", "q2", "q4"], ["q1"]),
    linked.whole("page", 1, 9, 1),
    linked.real("alpha", 0.0, 10.0, 0.3),
    linked.switch("fold", True),
    linked.one_of("class", ["", "dog"], ""),
]


def test_an_empty_link_is_the_defaults() -> None:
    values, problems = linked.read_link({}, DEFINED)
    assert values == {"view": "map", "experts": ["q1"], "page": 1, "alpha": 0.3, "fold": True, "class": ""}
    assert not problems
    assert linked.write_link(values, DEFINED) == {}


@given(
    view=st.sampled_from(["map", "list"]),
    experts=st.lists(st.sampled_from(["q1", "q2", "q4"]), min_size=1, unique=True),
    page=st.integers(1, 9),
    alpha=st.integers(0, 1000).map(lambda n: n / 100),
    fold=st.booleans(),
    label=st.sampled_from(["", "dog"]),
)
def test_a_link_restores_what_wrote_it(view, experts, page, alpha, fold, label) -> None:
    order = [name for name in ("q1", "q2", "q4") if name in experts]
    values = {"view": view, "experts": order, "page": page, "alpha": alpha, "fold": fold, "class": label}
    assert linked.read_link(linked.write_link(values, DEFINED), DEFINED) == (values, [])


@given(st.dictionaries(st.sampled_from([c.key for c in DEFINED]), st.text(max_size=60)))
def test_no_link_can_break_a_page(link: dict[str, str]) -> None:
    values, problems = linked.read_link(link, DEFINED)
    restored = linked.read_link(linked.write_link(values, DEFINED), DEFINED)
    assert restored == (values, [])
    assert len(problems) <= len(link)


@pytest.mark.parametrize(
    ("link", "sentence"),
    [
        ({"view": "globe"}, "view = “globe”; accepted is map and list. Using map."),
        ({"experts": "q1,q9"}, "accepted is one or more of q1, q2 and q4. Using q1."),
        ({"page": "0"}, "accepted is a whole number from 1 to 9. Using 1."),
        ({"page": "٣"}, "page = “٣”"),
        ({"alpha": "nan"}, "accepted is a number from 0 to 10. Using 0.3."),
        ({"fold": "yes"}, "accepted is 0 or 1. Using 1."),
        ({"class": "cat"}, "accepted is dog. It is left out."),
        ({"view": "x" * 99}, f"“{'x' * linked.SHOWN}”"),
    ],
)
def test_nonsense_gets_a_sentence(link: dict[str, str], sentence: str) -> None:
    _, problems = linked.read_link(link, DEFINED)
    assert sentence in problems[0].replace("\\", "")


def test_a_sentence_shows_markup_as_it_is() -> None:
    _, (problem,) = linked.read_link({"view": "**<b>**"}, DEFINED)
    assert r"\*\*\<b\>\*\*" in problem


def test_long_lists_are_cut() -> None:
    control = linked.one_of("x", [str(i) for i in range(100)], "0")
    assert control.accepted.endswith("11 …")


def _page() -> None:
    import streamlit as st

    from dashboard.session import linked

    options = st.session_state.get("options", ["a", "b", "c"])
    values = linked.controls("p", [linked.one_of("x", options, options[0]), linked.whole("n", 1, 9, 1)])
    if st.session_state.get("drawn", True):
        st.selectbox("x", options, key="p.x")
    st.number_input("n", 1, 9, key="p.n")
    st.text(f"{values['x']} {values['n']}")


def test_widgets_write_the_link_and_a_new_link_overrules_them() -> None:
    app = AppTest.from_function(_page).run()
    assert (app.text[0].value, app.query_params) == ("a 1", {})
    app.selectbox(key="p.x").set_value("b").run()
    assert (app.text[0].value, app.query_params) == ("b 1", {"x": "b"})
    app.query_params.update({"x": "c", "n": "3", "utm": "letter"})
    app.run()
    assert app.text[0].value == "c 3"
    assert set(app.query_params) == {"utm", "x", "n"}  # strangers are left alone


def test_a_widget_that_is_not_drawn_keeps_its_value() -> None:
    app = AppTest.from_function(_page).run()
    app.selectbox(key="p.x").set_value("b").run()
    app.session_state["drawn"] = False
    app.run()
    app.number_input(key="p.n").set_value(4).run()
    assert app.text[0].value == "b 4"
    app.session_state["drawn"] = True
    app.run()
    assert app.selectbox(key="p.x").value == "b"


def test_a_value_that_no_longer_exists_is_the_default() -> None:
    app = AppTest.from_function(_page).run()
    app.selectbox(key="p.x").set_value("b").run()
    app.session_state["options"] = ["c", "d"]
    app.run()
    assert not app.exception
    assert app.text[0].value == "c 1"


def test_sentences_stay_until_something_changes() -> None:
    app = AppTest.from_function(_page)
    app.query_params["x"] = "nonsense"
    assert len(app.run().warning) == 1
    assert len(app.run().warning) == 1
    app.number_input(key="p.n").set_value(2).run()
    assert not app.warning


def test_a_control_of_ones_own() -> None:
    control = Control("t", "", "anything short", lambda text: text if len(text) < 4 else None)
    assert linked.read_link({"t": "abc"}, [control]) == ({"t": "abc"}, [])
    assert linked.read_link({"t": "abcd"}, [control])[0] == {"t": ""}
