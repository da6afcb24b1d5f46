"""Compare: the controls, which formats and mixtures are compared, and the figures of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from dashboard.charts.palette import Look
from dashboard.session import linked
from dashboard.session.linked import Control
from dashboard.session.state import ALPHAS, stops
from dashboard.views import tables, widgets, words
from dashboard.views.compare import MEASURES, PAGE, PERFECT, basis
from dashboard.views.compare_clip import LAST_HEARD
from dashboard.views.tables import Column
from qmoe_core.bundles import Bundle, BundleDataset
from qmoe_core.evaluation import contenders, selective
from qmoe_core.evaluation.calibration import BINS
from qmoe_core.evaluation.contenders import Contender, Judged
from qmoe_core.numbers import decimals, percents

VIEWS = {
    "errors": "Errors",
    "agreement": "Agreement",
    "calibration": "Calibration",
    "abstaining": "Abstaining",
    "noise": "In noise",
    "clip": "One clip",
    "runs": "All runs",
}


def controls(bundle: Bundle, data: BundleDataset) -> list[Control]:
    """What a person can set here, and a link restores."""

    def read(text: str) -> list[str] | None:
        asked = list(dict.fromkeys(text.split(",")))
        found = [contender.name for name in asked if (contender := contenders.parse(name.strip(), bundle))]
        return found if len(found) == len(asked) <= contenders.MOST else None

    def held_out(text: str) -> str | None:
        return text if not text or set(text.split("+")) <= set(bundle.classes) else None

    show = Control(
        "show",
        contenders.first(bundle),
        f"up to {contenders.MOST} of {', '.join(bundle.experts)}, and mixtures such as "
        f"{contenders.named(bundle.experts[:2], 0.3)}",
        read,
        ",".join,
    )
    own = Contender("", bundle.settings()).mixed(bundle, data.outputs)
    clips = [LAST_HEARD, *(clip.name for clip in data.clips)]
    disputed = selective.notable(own, data.labels, 1).disputed
    default = data.clips[int(disputed[0]) if len(disputed) else 0].name
    return [
        show,
        linked.one_of("view", list(VIEWS), "errors"),
        Control(
            "minus",
            "",
            "one of the formats or mixtures compared",
            lambda text: text if not text or contenders.parse(text, bundle) else None,
        ),
        linked.one_of("pairs", ["share", "kappa"], "share"),
        linked.one_of("by", list(MEASURES), "doubt"),
        linked.whole("answer", 1, 100, 90),
        Control("held", "", "one or more classes with + between them", held_out),
        linked.one_of("clip", clips, default),
        linked.one_of("runs", ["bundles", "all"], "bundles"),
        linked.one_of("noise", ["accuracy", "doubt", "ece", "risk"], "accuracy"),
    ]


def choose(bundle: Bundle, values: dict[str, Any]) -> None:
    """Which formats and mixtures are compared; others can be put together."""
    options = list(dict.fromkeys([*contenders.standard(bundle), *values["show"]]))
    titles = {name: found.title for name in options if (found := contenders.parse(name, bundle))}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.pills(
            "Compare",
            options,
            selection_mode="multi",
            key=linked.widget(PAGE, "show"),
            format_func=lambda name: str(titles.get(name, name)),
            wrap=True,
            width="content",
            help="Experts by their numeric format, and mixtures: without α the router alone chooses who "
            f"answers, with α curiosity changes the routing (Eq. 8). {words.FORMATS}",
        )
        with st.popover("Another mixture", icon=":material/add:", type="tertiary"):
            another_mixture(bundle, values["show"])


def another_mixture(bundle: Bundle, shown: Sequence[str]) -> None:
    """A mixture of one's own."""
    alpha = st.session_state["controls"].alpha if "controls" in st.session_state else 0.3
    alpha = st.session_state.get("mixing.alpha", alpha)
    experts = st.pills(
        "Experts",
        bundle.experts,
        selection_mode="multi",
        key=linked.keep("mixing.experts", list(bundle.experts[:2])),
        wrap=True,
    )
    alpha = st.select_slider(
        "Curiosity α",
        stops(ALPHAS, alpha),
        key=linked.keep("mixing.alpha", alpha),
        format_func=lambda value: f"{value:g}",
        help="r is multiplied with exp(α · d) (Eq. 8); 0 is the plain router.",
    )
    top_k = st.number_input(
        "Experts that answer (top k)",
        1,
        max(1, len(experts)),
        key=linked.keep("mixing.k", 1, range(1, max(1, len(experts)) + 1)),
    )
    name = contenders.named(
        [name for name in bundle.experts if name in experts] or ["?"],
        alpha or None,
        min(top_k, max(1, len(experts))),
    )
    there, full = name in shown, len(shown) >= contenders.MOST
    st.button(
        "Compare it",
        type="primary",
        disabled=len(experts) < 2 or there or full,
        on_click=lambda: linked.set_to(PAGE, show=[*shown, name]),
        help="It takes two experts." if len(experts) < 2 else "It is compared already." if there else None,
    )


OVERVIEW = (
    Column("name", "Format or mixture", number=False),
    Column(
        "f1",
        "F1",
        decimals(3),
        "F1 of each class, 2·TP / (2·TP + FP + FN), averaged with the classes’ shares; over all clips at "
        "once.",
    ),
    Column(
        "by_fold",
        "F1 by fold",
        meaning="The same on each fold and seed by itself: mean ± deviation (n − 1); only for what the "
        "bundle recorded when it was made.",
    ),
    Column("accuracy", "Right", percents(1), "Share of clips called right: mean of [ŷ = y]."),
    Column("errors", "Errors", meaning="Number of clips called wrong."),
    Column(
        "ece",
        "ECE",
        decimals(3),
        f"Expected calibration error: Σ_b n_b / n · |accuracy_b − confidence_b| over {BINS} bins of the "
        "stated probability; 0 is best.",
    ),
    PERFECT,
    Column("nll", "NLL", decimals(3), "Mean of −log p(y), nats; lower is better."),
    Column("brier", "Brier", decimals(3), "Mean of Σ_c (p_c − [c = y])²; lower is better."),
    Column(
        "aurc",
        "AURC",
        decimals(4),
        "Area under risk against coverage: mean over k of the share of errors among the k most certain clips "
        "(doubt = 1 − max p); lower is better.",
    ),
)


def overview(judged: Sequence[Judged], looks: dict[str, Look], bundle: Bundle) -> None:
    """The figures of each contender; also the legend of what follows."""
    rows = []
    for one in judged:
        risk = one.risk("doubt")
        rows.append(
            {
                "name": one.contender.title,
                "f1": one.f1,
                "by_fold": by_fold(one.contender, bundle),
                "accuracy": one.accuracy,
                "errors": one.errors,
                "ece": float(one.reliability.ece),
                "ece_perfect": one.ece_perfect,
                "nll": one.nll,
                "brier": one.brier,
                "aurc": risk.aurc if risk else None,
            }
        )
    marks = [looks[one.contender.name].css for one in judged]
    tables.table(OVERVIEW, rows, name="compare", title="Figures of each format and mixture", marks=marks)
    widgets.caption(basis(bundle))


def by_fold(contender: Contender, bundle: Bundle) -> str | None:
    """F1 by fold as the bundle recorded it, where it did so for just this contender."""
    settings, own = contender.settings, bundle.settings()
    name = "+".join(settings.experts)
    if not contender.single:
        if settings.top_k != own.top_k:
            return None
        if settings.curiosity != "none":
            if (settings.curiosity, settings.alpha) != (own.curiosity, own.alpha):
                return None
            name += " curious"
    recorded = {
        frozenset(key.removesuffix(" curious").split("+"))
        | ({"curious"} if key.endswith(" curious") else set()): f1
        for key, f1 in bundle.provenance.f1.items()
    }
    wanted = frozenset(settings.experts) | ({"curious"} if name.endswith(" curious") else set())
    found = recorded.get(wanted)
    return f"{found['mean']:.3f} ± {found['std']:.3f} (n = {found['n']:.0f})" if found else None
