"""Formats: the budget, the cheapest format within it, and F1 against a cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import streamlit as st

from dashboard.charts import formats as format_charts
from dashboard.charts import palette
from dashboard.session import fragments, linked, measured
from dashboard.session.linked import Control, widget
from dashboard.session.measured import Kept
from dashboard.session.state import stops
from dashboard.views import widgets, words
from dashboard.views.formats_weights import the_table
from dashboard.views.paths import board_controls
from dashboard.views.words import Verdict
from qmoe_core import numbers
from qmoe_core.bundles import Bundle
from qmoe_core.evaluation import pareto
from qmoe_core.evaluation.formats import YARDSTICK, Format
from qmoe_core.evaluation.pareto import Budget, Cost
from qmoe_core.numbers import NBSP, amount
from qmoe_core.runtime.jobs import Bench

PAGE = "formats"
NO_LIMIT = math.inf
KEEPS = (0.0, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.999, 1.0)
DEADLINES = (2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 70.0, 100.0, 200.0, 500.0, 1000.0, NO_LIMIT)
"""Stops of the deadline, µs."""

SIZES = (
    100.0,
    120.0,
    150.0,
    200.0,
    300.0,
    400.0,
    500.0,
    750.0,
    1000.0,
    1500.0,
    2000.0,
    3000.0,
    5000.0,
    NO_LIMIT,
)
"""Stops of the size budget, kB."""
ENERGIES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, NO_LIMIT)
"""Stops of the energy budget, mJ."""
CALLS = {"p50_us": "50 %", "p95_us": "95 %", "p99_us": "99 %"}
CHEAPEST = {"size": "smallest", "latency": "fastest", "energy": "least energy"}
QUICK_N, FULL_N = 300, 2000
SQUEEZE = 0.95
"""Formats that keep less than this stand on the lower edge of the figure, unless the budget is lower."""


def _limit(key: str, unit: str) -> Control:
    """A budget in the link: a number, or `none`."""

    def read(text: str) -> float | None:
        if text == "none":
            return NO_LIMIT
        try:
            value = float(text)
        except ValueError:
            return None
        return value if 0.0 < value < 1e9 else None

    return Control(
        key, NO_LIMIT, f"a number of {unit}, or none", read, lambda v: "none" if v == NO_LIMIT else f"{v:g}"
    )


def controls(latency: Kept | None) -> list[Control]:
    """Everything a person can set here; F1 stands against size where no time is known."""
    return [
        linked.real("keep", 0.0, 1.0, 0.99),
        _limit("within", "µs"),
        _limit("size", "kB"),
        _limit("energy", "mJ"),
        linked.one_of("calls", tuple(CALLS), "p95_us"),
        linked.one_of("cheapest", tuple(CHEAPEST), "size"),
        linked.one_of("against", tuple(CHEAPEST), "latency" if latency else "size"),
        linked.switch("mixtures", True),
        *board_controls(),
    ]


@st.fragment
def the_choice(
    bundle: Bundle, found: list[Format], latency: Kept | None, energy: Kept | None, values: dict[str, Any]
) -> None:
    """The budget, the answer, and everything that does not fit greyed out."""
    values = fragments.follow(PAGE, controls(latency), values)
    left, right = st.columns([3, 2], gap="large")
    with left:
        the_budget(values)
    with right:
        the_terms(values, latency, energy)
    candidates = [one for one in found if values["mixtures"] or one.kind == "expert"]
    budget = Budget(
        keep=values["keep"] or None,
        deadline_us=None if values["within"] == NO_LIMIT else values["within"],
        quantile=values["calls"],
        bytes=None if values["size"] == NO_LIMIT else 1e3 * values["size"],
        energy_mj=None if values["energy"] == NO_LIMIT else values["energy"],
    )
    costs: dict[str, Cost] = {"size": "bytes", "latency": values["calls"], "energy": "energy_mj"}
    choice = pareto.cheapest(candidates, budget, costs[values["cheapest"]])
    with left:
        the_answer(choice, budget, found)
    the_trade(candidates, budget, choice, costs[values["against"]], latency, energy, bundle)
    the_table(candidates, budget, choice, bundle)


def the_budget(values: dict[str, Any]) -> None:
    """The two sliders that most people need."""
    st.select_slider(
        "Keep at least, of the 16-bit F1",
        stops(KEEPS, values["keep"]),
        key=widget(PAGE, "keep"),
        format_func=lambda share: f"{100 * share:.4g}{NBSP}%" if share else "any",
        help="F1 of the format over F1 of the 16-bit expert, as in the paper’s Table 2: $F_1 / F_1^{16}$.",
    )
    st.select_slider(
        "The head must answer within",
        stops(DEADLINES, values["within"]),
        key=widget(PAGE, "within"),
        format_func=lambda us: "no limit" if us == NO_LIMIT else f"{us:g}{NBSP}µs",
        help="Time of one call of the expert or mixture, from embedding to probabilities, on one thread.",
    )


def the_terms(values: dict[str, Any], latency: Kept | None, energy: Kept | None) -> None:
    """What counts as within, what cheap means, and the other budgets."""
    widgets.one_of(
        PAGE,
        "cheapest",
        "Cheapest is the",
        CHEAPEST,
        "Smallest files, least time of a call, or least energy of a call.",
    )
    widgets.one_of(
        PAGE,
        "calls",
        "Calls that must be in time",
        CALLS,
        "The median, the 95th or the 99th percentile of the measured times.",
        disabled=latency is None,
    )
    with st.expander("More budgets", expanded=NO_LIMIT not in (values["size"], values["energy"])):
        st.select_slider(
            "Size of the head at most",
            stops(SIZES, values["size"]),
            key=widget(PAGE, "size"),
            format_func=lambda kb: "no limit" if kb == NO_LIMIT else f"{kb:,g}{NBSP}kB",
            help="Bytes of the files that must be carried; a mixture needs all its experts and the router.",
        )
        st.select_slider(
            "Energy of the head’s call at most",
            stops(ENERGIES, values["energy"]),
            key=widget(PAGE, "energy"),
            format_func=lambda mj: "no limit" if mj == NO_LIMIT else f"{mj:g}{NBSP}mJ",
            disabled=energy is None,
            help="Gross energy of one call, $E = P \\cdot t$; measure it on Efficiency first.",
        )
        st.toggle(
            "Consider mixtures", key=widget(PAGE, "mixtures"), help="Mixtures of experts beside single ones."
        )


def the_answer(choice: pareto.Choice, budget: Budget, found: Sequence[Format]) -> None:
    """The cheapest format that fits, in a sentence, and whether its F1 differs from 16-bit's at all."""
    best = choice.format
    if best is None:
        reason = choice.sentence.removeprefix("Nothing fits: ")
        widgets.verdict_block(Verdict("Nothing fits", words.capital(reason), refused=True), "")
        return
    asked = [choice.cost] if budget.deadline_us is None else [choice.cost, budget.quantile]
    least = pareto.COSTS[choice.cost][0]
    sentence = f"The {least} of {len(choice.fitting)} that fit: {pareto.describe(best, *asked)}."
    yardstick = next((one for one in found if one.name == YARDSTICK), None)
    aside = ""
    if yardstick and best.name != YARDSTICK:
        gap = abs(best.f1 - yardstick.f1)
        less = "less" if gap < yardstick.f1_std else "more"
        aside = (
            f" Its F1 is {gap:.3f} from 16-bit’s, {less} than the deviation between folds "
            f"({yardstick.f1_std:.3f}, n = {yardstick.n})."
        )
    colour = palette.expert_colour(best.name) if best.kind == "expert" else widgets.theme().accent
    widgets.verdict_block(Verdict(best.name, sentence + aside, refused=False), colour)


def the_trade(
    candidates: Sequence[Format],
    budget: Budget,
    choice: pareto.Choice,
    cost: Cost,
    latency: Kept | None,
    energy: Kept | None,
    bundle: Bundle,
) -> None:
    """F1 against a cost, with the front."""
    st.subheader("Accuracy against the cost of the head", anchor=False)
    st.segmented_control(
        "Against",
        list(CHEAPEST),
        key=widget(PAGE, "against"),
        required=True,
        label_visibility="collapsed",
    )
    shown = [one for one in candidates if getattr(one, cost) is not None]
    if not shown:
        what = pareto.COSTS[cost][1]
        widgets.empty(f"No {what} was measured on this machine yet, so there is nothing to draw F1 against.")
        return
    on_front = {one.name for one, best in zip(shown, pareto.front(shown, (cost,)), strict=True) if best}
    yardstick = next((one.f1 for one in candidates if one.name == YARDSTICK), None)
    wanted = budget.keep * yardstick if budget.keep and yardstick else None
    asked = {
        "f1": wanted,
        budget.quantile: budget.deadline_us,
        "bytes": budget.bytes,
        "energy_mj": budget.energy_mj,
    }
    limits = {field: limit for field, limit in asked.items() if limit is not None}
    best = choice.format.name if choice.format else None
    said = "; ".join(f"{one.name} {one.f1:.3f} at {amount(cost, getattr(one, cost))}" for one in shown)
    widgets.figure(
        format_charts.trade(
            shown,
            cost,
            fitting=choice.fitting,
            chosen=best,
            front=on_front,
            limits=limits,
            floor=min(wanted, SQUEEZE * yardstick) if wanted and yardstick else 0.0,
            theme=widgets.theme(),
        ),
        alt=f"F1 against {pareto.COSTS[cost][1]}: {said}. On the front: {numbers.listed(sorted(on_front))}.",
        key="trade",
    )
    kept = {"latency": latency, "energy": energy}.get(pareto.COSTS[cost][1])
    widgets.caption(
        "The area of a mark is the size of the files; grey: does not fit; diamonds: mixtures; triangles: the "
        "F1 is below the chart; dashed: your limits; dotted: the front, formats that no other beats in both. "
        + (f"n = {kept.n:,} calls. {kept.basis(bundle)}" if kept else "Bytes on disk, counted.")
    )


def ask_for_latency(bundle: Bundle) -> None:
    """The empty state of everything that needs times, and the way on."""
    with st.container(border=True):
        st.markdown(
            "**No latency was measured on this machine yet.** F1 and size are known all the same; for "
            "“answer within”, measure first. (Whole paths are above.)"
        )
        quick = Bench(measure="latency", bundle=measured.named(bundle), experts=bundle.experts, n=QUICK_N)
        measured.panel([(f"Measure now: {QUICK_N} calls of each, under a minute", quick)], primary=True)
        st.page_link(widgets.PAGES / "efficiency.py", label="All measurements are on Efficiency")
