"""Pieces that pages share: figures, the verdict, the mixture's controls, the uncertainties with their strips.

HTML is written here and nowhere else; whatever comes from outside (file and class names) is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from streamlit.components.v2 import component

from dashboard.charts import palette
from dashboard.charts.palette import Theme
from dashboard.session import linked
from dashboard.session.state import ABSTAINS, ALPHAS, CURIOSITIES, LIMITS, SET_COVERAGES, Controls, stops
from dashboard.views import words
from dashboard.views.words import Verdict
from qmoe_core import numbers
from qmoe_core.bundles import Bundle
from qmoe_core.decision import Decision
from qmoe_core.evaluation import conformal
from qmoe_core.evaluation.conformal import Kept, Limits
from qmoe_core.evaluation.selective import Auroc

PAGES = Path(__file__).resolve().parents[2] / "pages"
_STYLE = Path(__file__).with_name("style.css")


def theme() -> Theme:
    """The theme the browser shows; light where it is not known yet."""
    return palette.DARK if st.context.theme.type == "dark" else palette.LIGHT


def style(theme: Theme) -> None:
    """The pages' few rules of style, with this theme's colours as variables."""
    names = {
        "ink": theme.ink,
        "muted": theme.muted,
        "line": theme.line,
        "accent": theme.accent,
        "page": theme.page,
        "on-accent": theme.page,
        "fails": "#f0806a" if theme.dark else "#c03a22",
    }
    variables = "".join(f"--qm-{name}:{colour};" for name, colour in names.items())
    st.html(f"<style>:root{{{variables}}}\n{_STYLE.read_text(encoding='utf-8')}</style>")


_theme_watch = component(
    "qmoe_theme_watch",
    js="""
        let reported = null;  // once for each colour, so that a theme we do not know asks for nothing again
        export default function ({ data, setTriggerValue }) {
            const app = document.querySelector("[data-testid=stApp]");
            const look = () => {
                const shown = getComputedStyle(app).backgroundColor;
                if (shown === data.drawn_for) reported = null;
                else if (shown !== reported) setTriggerValue("changed", (reported = shown));
            };
            const timer = setInterval(look, 250);
            return () => clearInterval(timer);
        }
    """,
)


def follow_theme(theme: Theme) -> None:
    """Draw the page again when its theme changes: Streamlit repaints its own parts only, not our charts."""
    red, green, blue = bytes.fromhex(theme.page[1:])
    drawn_for = f"rgb({red}, {green}, {blue})"
    _theme_watch(key="theme_watch", data={"drawn_for": drawn_for}, on_changed_change=lambda: None)


def figure(figure: go.Figure, alt: str, key: str | None = None) -> None:
    """A chart, with its content in words for those who do not see it."""
    st.plotly_chart(
        figure, theme=None, alt=alt, key=key, config={"displayModeBar": False, "scrollZoom": False}
    )


def plain(text: str) -> str:
    """Text that Markdown shows as it is: a file called `**x**` keeps its stars.

    >>> plain("a*b$c")
    'a\\\\*b\\\\$c'
    """
    return "".join(f"\\{c}" if c in r"\`*_{}[]()<>#+-.!|~$:" else c for c in text)


def caption(text: str) -> None:
    """A caption of plain text."""
    st.caption(plain(text))


def warning(text: object) -> None:
    """A warning of plain text."""
    st.warning(plain(str(text)))


def error(problem: object) -> None:
    """What is wrong: an error, or a sentence about it."""
    st.error(plain(str(problem)))


def empty(text: str) -> None:
    """What stands where there is nothing to show yet."""
    st.html(f'<p class="qm-empty">{escape(text)}</p>')


def one_of(page: str, key: str, label: str, options: Mapping[str, str], help: str = "", **more: Any) -> None:
    """A control of a page: one of several names, each shown as its value; see `linked.one_of`."""
    st.segmented_control(
        label,
        list(options),
        key=linked.widget(page, key),
        required=True,
        wrap=True,
        format_func=options.__getitem__,
        help=help or None,
        **more,
    )


def how(bundle: Bundle) -> str:
    """Where a bundle's answers come from: data, protocol, selection."""
    made = bundle.provenance
    return (
        f"bundle {bundle.name}: {made.dataset}, {made.clips:,} clips, {made.protocol} folds, "
        f"epoch chosen by {made.selection}"
    )


def verdict_block(verdict: Verdict, colour: str, notes: Sequence[str] = ()) -> None:
    """The answer, and what is unusual about the recording; announced to screen readers when it changes."""
    swatch = "transparent" if verdict.refused else colour
    kind = "qm-verdict qm-refused" if verdict.refused else "qm-verdict"
    unusual = f'<p class="qm-notes">{escape(" ".join(notes))}</p>' if notes else ""
    st.html(
        f'<section class="{kind}" role="status" aria-live="polite" style="--qm-class:{swatch}">'
        f"<h2>{escape(verdict.headline)}</h2><p>{escape(verdict.sentence)}</p>{unusual}</section>"
    )


def alpha_slider(controls: Controls) -> None:
    """Curiosity's α."""
    st.select_slider(
        "Curiosity α",
        stops(ALPHAS, controls.alpha),
        key="alpha",
        format_func=lambda value: f"{value:g}",
        disabled=controls.curiosity in ("none", "cascade"),
        help="How strongly an expert that deviates is preferred: r is multiplied with exp(α · d) (Eq. 8). "
        "The paper uses 0.2 and 0.3; between good experts d is about 0.01 nats, so α has to be large to "
        "matter.",
    )


def mixture_controls(bundle: Bundle, controls: Controls, *, alpha: bool = True) -> None:
    """Everything that changes how the experts are mixed; see `state.controls` for where the values go.

    Args:
        alpha: whether α is among them; else the page has its slider elsewhere.
    """
    if alpha:
        alpha_slider(controls)
    st.segmented_control(
        "What α rewards",
        CURIOSITIES,
        key="curiosity",
        required=True,
        wrap=True,
        format_func={
            "disagreement": "disagreement",
            "distilled": "predicted disagreement",
            "router-mc": "router doubt",
            "none": "nothing",
            "cascade": "doubt: a cascade",
        }.__getitem__,
        help="**Disagreement**: d = KL(q‖q̄), Eq. 8 as printed; every expert has to run. **Predicted "
        "disagreement**: d̂, what the cheapest expert’s answer and the router let expect of d; one or two "
        "experts have to run. **Router doubt**: the deviation of r over MC-dropout passes; only the router "
        "has to run. **Nothing**: the plain router. **Doubt: a cascade**: the experts in order of cost; "
        "the next is asked while the doubt of the last answer is above 0.1; the last one asked answers.",
    )
    st.pills(
        "Experts in the mixture",
        bundle.experts,
        selection_mode="multi",
        key="experts",
        wrap=True,
        help="The router chooses among these. All experts are shown, whether they are in the mixture or not.",
    )
    n = len(controls.experts)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.number_input(
            f"Experts that answer (top k of {n})",
            min_value=1,
            max_value=n,
            key="top_k",
            help="The k experts with the highest routing answer, weighted by it (Eq. 6).",
            width=230,
        )
        st.toggle(
            "Normalise d",
            key="normalise",
            disabled=controls.curiosity in ("none", "cascade"),
            help="Divide d by its mean over the default set, so that α ≈ 1 is where things start to move.",
        )


def promise_controls(controls: Controls) -> None:
    """When the lab should rather not answer, and how prediction sets are made."""
    st.segmented_control(
        "No answer in doubt",
        ABSTAINS,
        key="abstain",
        required=True,
        wrap=True,
        format_func={
            "usual": "as usual",
            "risk": "few errors",
            "coverage": "many answers",
            "never": "always answer",
        }.__getitem__,
        help="An answer is withheld where the doubt, 1 − the mixture’s largest probability, is above a "
        "limit. The limit is set on the default set’s out-of-fold predictions. **As usual**: "
        f"{numbers.percent(conformal.COVERAGE)} of clips like these are answered. **Few errors**: at "
        "most a share of the answers is wrong, with 95 % confidence. **Many answers**: another share of "
        "clips.",
    )
    if controls.abstain in LIMITS:
        st.select_slider(
            "Errors among the answers, at most" if controls.abstain == "risk" else "Clips answered, at least",
            stops(LIMITS[controls.abstain], controls.limit),
            key=f"limit_{controls.abstain}",
            format_func=numbers.percent,
        )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.segmented_control(
            "Prediction sets",
            conformal.SCORES,
            key="sets",
            required=True,
            help="**Threshold**: the labels of more than some probability; the smallest sets. **Adaptive**: "
            "the most probable labels that together have some probability; larger where it is hard.",
        )
        st.toggle("Coverage for every class", key="per_class", help="Each class has its own limit.")
    st.select_slider(
        "Sets hold the right label, at least",
        stops(SET_COVERAGES, controls.set_coverage),
        key="set_coverage",
        format_func=numbers.percent,
        help="How often a prediction set holds the right label, on clips like the default set’s. It does not "
        "depend on which answers are withheld.",
    )


def promise_kept(kept: Kept | None) -> str:
    """What the promise comes to on clips of other folds than those that set the limits."""
    if kept is None:
        return ""
    share, answered = numbers.percent, "nothing is answered"
    if kept.answered:
        low, high = map(share, kept.risk_ci95)
        answered = (
            f"{share(kept.answered)} are answered and {share(kept.risk)} of the answers are wrong (95 % "
            f"interval {low} to {high})"
        )
    return (
        f"On {kept.n:,} clips of other folds than those that set the limits, {answered}; sets hold the "
        f"right sound in {share(kept.covered)}, and {kept.size:.2f} sounds on average. Intervals are over "
        "recordings."
    )


_MEASURES = (
    (
        "doubt",
        "Doubt",
        "1 − max<sub>c</sub> p<sub>c</sub>",
        "What the answer leaves to all other sounds; answers are withheld by it.",
    ),
    (
        "total",
        "Total",
        "H(q̄) = −Σ q̄<sub>c</sub> log q̄<sub>c</sub>",
        "How undecided the experts’ average is, for whatever reason (Eq. 7).",
    ),
    (
        "aleatoric",
        "Aleatoric",
        "mean<sub>i</sub> H(q<sub>i</sub>)",
        "How undecided each expert is by itself: the sound is ambiguous.",
    ),
    (
        "epistemic",
        "Epistemic",
        "H(q̄) − mean<sub>i</sub> H(q<sub>i</sub>)",
        "How much the experts differ from one another: the mean of d. Quantization shows here.",
    ),
    (
        "router_variance",
        "Router variance",
        "mean<sub>i</sub> Var<sub>s</sub> r<sub>i</sub><sup>(s)</sup>",
        "How much the routing moves when parts of the router are switched off at random (MC dropout).",
    ),
    (
        "router_mutual_information",
        "Router mutual information",
        "H(r̄) − mean<sub>s</sub> H(r<sup>(s)</sup>)",
        "The mutual information of a router’s pass and the choice of the expert.",
    ),
)


def uncertainties(
    decision: Decision, reference: Mapping[str, np.ndarray], limits: Limits | None, knows: Mapping[str, Auroc]
) -> None:
    """Each uncertainty: value, what it means, equation, how well it finds errors, and the default set's."""
    rows = []
    for name, title, equation, meaning in _MEASURES:
        value = decision.doubt if name == "doubt" else getattr(decision.uncertainty, name)
        shown = f"{value:.3f}" if name == "doubt" else numbers.nats(value)
        shown = f"{value:.2g}" if name == "router_variance" else shown
        limit = limits.doubt if limits and name == "doubt" and limits.doubt < 1.0 else None
        place = _strip(value, reference[name], limit) if name in reference else ""
        if name in knows:
            found = knows[name]
            knowing = f"AUROC of errors {found.auroc:.2f} ({found.low:.2f} to {found.high:.2f})"
            place += f'<p class="qm-place">{knowing}</p>'
        rows.append(
            f'<div class="qm-measure"><div><h4>{title}<span>{escape(shown)}</span></h4>'
            f'<p>{meaning} <span class="qm-equation">{equation}</span></p></div><div>{place}</div></div>'
        )
    st.html(f'<div class="qm-measures">{"".join(rows)}</div>')


_TICKS = (0.5, 0.9)


def _strip(value: float, reference: np.ndarray, limit: float | None) -> str:
    """The default set in a line, from its least to its most uncertain clip; this clip and the limit on it."""
    share = words.rank(value, reference)
    place = words.compared(value, reference)
    marks = "".join(
        f'<span class="qm-tick" style="left:{100 * share:.0f}%">{np.quantile(reference, share):.2g}</span>'
        for share in _TICKS
    )
    line = ""
    if limit is not None:
        at = words.rank(limit, reference)
        line = f'<span class="qm-limit" style="left:{100 * at:.1f}%" title="limit"></span>'
    return (
        f'<div class="qm-strip" role="img" aria-label="{escape(words.capital(place))}">{marks}{line}'
        f'<span class="qm-here" style="left:{100 * share:.1f}%"></span></div>'
        f'<p class="qm-place">{escape(words.capital(place))}</p>'
    )
