"""The Method page: each equation with its code, and numbers that are those of the sound just heard."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from importlib import import_module

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.views import equations
from qmoe_core import numbers
from qmoe_core.decision import Classification

Visit = Callable[..., AppTest]

METHOD = "../pages/method.py"


def text(app: AppTest) -> str:
    assert not app.exception
    return "\n".join(element.value for element in app.markdown).replace("\\", "").replace("\xa0", " ")


def test_without_a_sound_it_explains_with_the_gallerys(visit: Visit, dog: Classification) -> None:
    app = visit(sound="dog-bark").switch_page(METHOD)
    del app.session_state["example"]
    app.run()
    assert "those of **Dog**" in text(app)
    assert "of at most ln 10 = 2.30 nats" in text(app)
    assert f"|epistemic = total − aleatoric|{dog.whole.uncertainty.epistemic:.5f}|" in text(app)


def test_it_explains_with_the_sound_just_heard(visit: Visit) -> None:
    app = visit(sound="rain", alpha="100", experts="fp32,popcount")
    app.switch_page(METHOD).run()
    assert "those of **Rain** (rain, " in text(app)
    assert "bonus, α = 100" in text(app)
    curious = text(app).split("bonus, α = 100")[1]
    assert [name for name in ("fp32", "q4", "popcount") if f"|{name}|" in curious] == ["fp32", "popcount"]


def test_the_numbers_fit_together(visit: Visit) -> None:
    app = visit(experts="fp32,q2,popcount")
    app.switch_page(METHOD).run()
    said = text(app)
    assert "|sum|1.0000|" in said
    epistemic = re.search(r"\|epistemic = total − aleatoric\|([\d.]+)\|", said)
    mean = re.search(r"\|mean of the 3 d\|([\d.]+)\|", said)
    assert epistemic
    assert mean
    assert epistemic[1] == mean[1]


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        ("distilled", "d̂, predicted from one cheap expert"),
        ("router-mc", "doubt σ instead of d"),
        ("none", "every bonus is one"),
    ],
)
def test_it_says_what_the_bonus_comes_from(visit: Visit, strategy: str, sentence: str) -> None:
    app = visit(curiosity=strategy)
    app.switch_page(METHOD).run()
    assert sentence in text(app)


def test_predicted_disagreement_stands_beside_the_true_one(visit: Visit) -> None:
    assert "Choose **predicted disagreement** on Listen" in text(visit().switch_page(METHOD).run())
    app = visit(curiosity="distilled").switch_page(METHOD).run()
    _, shown = text(app).split("|expert|d, nats|d̂, nats|has to run|")
    mixed = [expert for expert in app.session_state["example"].decision.experts if expert.in_mixture]
    for expert in mixed:
        assert f"|{expert.name}|{expert.disagreement_kl:.4f}|{expert.predicted_kl:.4f}|" in shown


def test_figure_1_has_the_numbers_and_costs_of_its_sections(visit: Visit) -> None:
    app = visit(sound="dog-bark", experts="fp32,q2,popcount").switch_page(METHOD).run()
    said, decision = text(app), app.session_state["example"].decision
    [figure] = [html.body.replace("\xa0", " ") for html in app.html if '<ol class="qm-way"' in html.body]
    sections = re.findall(r'href="#(eq\w+)"', figure)
    assert sections == ["eq1", "eq1a", "eq2", "eq5", "eq7", "eq8", "eq6"]
    anchors = [header.anchor for header in app.subheader]
    assert anchors == [f"eq{equation.number}" for equation in equations.EQUATIONS]
    assert [anchors.index(section) for section in sections] == sorted(map(anchors.index, sections))
    agree = sum(e.label == decision.label for e in decision.experts if e.in_mixture)
    assert f"{agree} of 3 say dog" in figure
    assert f"total {numbers.nats(decision.uncertainty.total)}".replace("\xa0", " ") in figure
    assert f"dog, {numbers.percent(decision.probability)}".replace("\xa0", " ") in figure
    costs = re.findall(r"<small>([\d.,]+ [µm]s) · ([\d.]+) %</small>", figure)
    assert len(costs) == len(sections)
    assert sum(float(share) for _, share in costs) == pytest.approx(100.0, abs=0.5)
    for number, (us, share) in zip(("1", "1a"), costs[:2], strict=True):  # one step each
        section = said.split(f"Costs.** {us}")[1].split("of all steps")[0]
        assert f"{share} %" in section, number
    assert said.count("**Costs.**") == len(equations.EQUATIONS)
    assert "the experts: " in " ".join(caption.value for caption in app.caption).replace("\\", "")


def test_costs_say_what_is_not_of_the_mixture(visit: Visit) -> None:
    said = text(visit(experts="fp32,q2").switch_page(METHOD).run())
    assert said.count("None here: no expert of the mixture is of this kind.") == 2  # Eq. 3 and 4


def test_every_equation_shows_its_code(visit: Visit) -> None:
    app = visit().switch_page(METHOD).run()
    assert [latex.value.strip("$\n ") for latex in app.latex] == [e.latex for e in equations.EQUATIONS]
    shown = [code.value for code in app.code]
    assert shown == [equations.source(c).text for e in equations.EQUATIONS for c in e.code]
    assert any("def curious_routing(" in code for code in shown)


@pytest.mark.parametrize(
    "reference",
    [
        "qmoe_core.audio.mel:hz_to_mel",
        "qmoe_core.routing.mixing:Outputs.of",
        "qmoe_core.routing.mixing:Settings",
    ],
)
def test_source_is_what_inspect_finds(reference: str) -> None:
    module, _, path = reference.partition(":")
    found = import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    assert equations.source(reference).text == inspect.cleandoc("\n" + inspect.getsource(found))


@pytest.mark.parametrize(
    "reference",
    ["qmoe_core.nowhere:mix", "qmoe_core.routing.mixing:nothing", "qmoe_core.routing.mixing:Outputs.nothing"],
)
def test_source_that_is_not_there(reference: str) -> None:
    with pytest.raises(LookupError):
        equations.source(reference)
