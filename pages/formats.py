"""Formats: what each numeric format keeps and costs, and the cheapest one within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import streamlit as st

from dashboard.charts import formats as format_charts
from dashboard.charts import palette
from dashboard.session import fragments, linked, measured, switch
from dashboard.session.linked import Control, widget
from dashboard.session.measured import Kept
from dashboard.session.state import stops
from dashboard.views import ledger, widgets, words
from dashboard.views.ledger import Html
from dashboard.views.tables import Column
from dashboard.views.words import NBSP, Verdict
from qmoe_core.bundles import Bundle
from qmoe_core.errors import UserError
from qmoe_core.evaluation import pareto
from qmoe_core.evaluation.formats import YARDSTICK, Format, WeightGrid, formats, weight_grids
from qmoe_core.evaluation.pareto import Budget, Cost, amount
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
CHEAPEST = {"size": "smallest", "latency": "fastest", "energy": "thriftiest"}
QUICK_N, FULL_N = 300, 2000
SQUEEZE = 0.95
"""Formats that keep less than this stand on the lower edge of the figure, unless the budget is lower."""
PAPER_SHARES = {"q1": 98.3, "q2": 95.5, "q4": 99.9, "q8": 99.8, "q16": 100.0}
"""Per cent of the 16-bit F1 on ESC-50, the paper's Table 2."""


def page() -> None:
    """The page, from top to bottom."""
    ledger.style()
    st.title("Which format to ship", anchor=False)
    bundle = switch.bundle()
    if bundle is None:
        return
    try:
        latency, energy = measured.latest("latency", bundle), measured.latest("energy", bundle)
        found = formats(bundle, latency and latency.report, energy and energy.report)
    except UserError as error:
        st.error(widgets.plain(str(error)))
        return
    values = linked.controls(PAGE, controls(latency))
    if not found:
        ledger.empty("This bundle records no F1, so there is nothing to choose by; train it again.")
        return
    if latency is None:  # first: a deadline means nothing until it was measured
        ask_for_latency(bundle)
    the_choice(bundle, found, latency, energy, values)
    the_bits(bundle, found, latency, energy)
    the_grids(bundle, found)


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
        "Answer within",
        stops(DEADLINES, values["within"]),
        key=widget(PAGE, "within"),
        format_func=lambda us: "no limit" if us == NO_LIMIT else f"{us:g}{NBSP}µs",
        help="Time of one call of the expert or mixture, from embedding to probabilities, on one thread.",
    )


def the_terms(values: dict[str, Any], latency: Kept | None, energy: Kept | None) -> None:
    """What counts as within, what cheap means, and the other budgets."""
    st.segmented_control(
        "Cheapest is the",
        list(CHEAPEST),
        key=widget(PAGE, "cheapest"),
        required=True,
        format_func=CHEAPEST.__getitem__,
        help="Smallest files, least time of a call, or least energy of a call.",
    )
    st.segmented_control(
        "Calls that must be in time",
        list(CALLS),
        key=widget(PAGE, "calls"),
        required=True,
        format_func=CALLS.__getitem__,
        disabled=latency is None,
        help="The median, the 95th or the 99th percentile of the measured times.",
    )
    with st.expander("More budgets", expanded=NO_LIMIT not in (values["size"], values["energy"])):
        st.select_slider(
            "Size at most",
            stops(SIZES, values["size"]),
            key=widget(PAGE, "size"),
            format_func=lambda kb: "no limit" if kb == NO_LIMIT else f"{kb:,g}{NBSP}kB",
            help="Bytes of the files that must be carried; a mixture needs all its experts and the router.",
        )
        st.select_slider(
            "Energy of a call at most",
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
    st.subheader("Accuracy against cost", anchor=False)
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
        ledger.empty(f"No {what} was measured on this machine yet, so there is nothing to draw F1 against.")
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
        alt=f"F1 against {pareto.COSTS[cost][1]}: {said}. On the front: {words.listed(sorted(on_front))}.",
        key="trade",
    )
    kept = {"latency": latency, "energy": energy}.get(pareto.COSTS[cost][1])
    st.caption(
        widgets.plain(
            "As large as its files; grey does not fit; diamonds: mixtures; triangles: a lower F1 than drawn; "
            "dashed: your limits; dotted: the front, which nothing beats in both. "
            + (f"n = {kept.n:,} calls. {kept.basis(bundle)}" if kept else "Bytes on disk, counted.")
        )
    )


def _us(value: float) -> str:
    return f"{value:#.3g}".rstrip(".") if value < 999.5 else f"{value:,.0f}"


COLUMNS = (
    Column("name", "Format", ledger.expert, words.FORMATS, number=False),
    Column("bits", "bits", meaning="Bits that a stored weight takes."),
    Column("f1", "F1", meaning=r"Weighted $F_1 = \frac{2\,TP}{2\,TP+FP+FN}$ out of fold, ± deviation."),
    Column("share_of_16bit", "% of 16-bit", meaning=r"$F_1 / F_1^{16}$, as in the paper’s Table 2."),
    Column(
        "paper_share",
        "paper’s, %",
        lambda v: f"{v:.1f}",
        r"The paper’s $F_1 / F_1^{16}$ on ESC-50, per cent.",
    ),
    Column("bytes", "size", lambda v: amount("bytes", v), "Bytes of the files that must be carried."),
    Column("p50_us", "median, µs", _us, r"Half of the calls take at most so long, $t_{0.5}$."),
    Column("p95_us", "p95, µs", _us, r"95 % of the calls take at most so long, $t_{0.95}$."),
    Column("p99_us", "p99, µs", _us, r"99 % of the calls take at most so long, $t_{0.99}$."),
    Column(
        "energy_mj",
        "energy, mJ",
        lambda v: f"{v:.3g}",
        r"Gross energy of a call, $E = P \cdot t$: measured by a meter, or modelled.",
    ),
    Column("fits", "fits", number=False, meaning="Whether it keeps to your budget, and if not, why."),
)
MORE = ("f1_std", "n", "energy_source", "co2_ug", "std_us", *(f"f1_fold_{i}" for i in range(1, 6)))
"""What the CSV has beside the columns on screen."""


def the_table(candidates: Sequence[Format], budget: Budget, choice: pareto.Choice, bundle: Bundle) -> None:
    """Every format with its figures; what does not fit is greyed out and says why."""
    rows = []
    for one in candidates:
        why = choice.misfits.get(one.name, ())
        rows.append(
            {
                **one.to_json(),
                "paper_share": PAPER_SHARES.get(one.name),
                "fits": "; ".join(why) or "yes",
                "dim": bool(why),
                "mark": one is choice.format,
                **{f"f1_fold_{i}": value for i, value in enumerate(one.f1_folds, start=1)},
            }
        )
    pairs = {"f1": ("f1", "f1_std"), "energy_mj": ("energy_mj", "energy_source")}
    shown = [
        row | {key: (row[a], row[b]) for key, (a, b) in pairs.items() if row[a] is not None} for row in rows
    ]
    forms: dict[str, Callable[[Any], str]] = {
        "f1": lambda pair: Html(f"{pair[0]:.3f} <small>± {pair[1]:.3f}</small>"),
        "energy_mj": lambda pair: Html(f"{pair[0]:.3g} <small>{escape(pair[1])}</small>"),
        "share_of_16bit": lambda share: f"{100 * share:.1f}{NBSP}%",
    }
    columns = [
        Column(c.key, c.title, forms.get(c.key, c.form), c.meaning, c.number)
        for c in COLUMNS
        if any(row.get(c.key) is not None for row in rows)
    ]
    st.html(ledger.html(columns, shown, "Formats with their figures"))
    with st.container(horizontal=True, gap="small"):
        written = [Column(key, "") for key in (*(c.key for c in COLUMNS), *MORE)]
        ledger.download("Formats", written, lambda: rows, "formats")
        ledger.meanings(COLUMNS)


def ask_for_latency(bundle: Bundle) -> None:
    """The empty state of everything that needs times, and the way on."""
    with st.container(border=True):
        st.markdown(
            "**No latency was measured on this machine yet.** F1 and size are known all the same; for "
            "“answer within”, measure first."
        )
        quick = Bench(measure="latency", bundle=measured.named(bundle), experts=bundle.experts, n=QUICK_N)
        measured.panel([(f"Measure now: {QUICK_N} calls of each, under a minute", quick)], primary=True)
        st.page_link(widgets.PAGES / "efficiency.py", label="All measurements are on Efficiency")


def the_bits(bundle: Bundle, found: list[Format], latency: Kept | None, energy: Kept | None) -> None:
    """Everything against bits."""
    st.subheader("What a bit buys", anchor=False)
    singles = [one for one in found if one.kind == "expert"]
    said = "; ".join(f"{one.name} F1 {one.f1:.3f}, {amount('bytes', one.bytes)}" for one in singles)
    widgets.figure(
        format_charts.ladder(found, widgets.theme()),
        alt=f"F1, size, latency and energy against bits. {said}.",
        key="ladder",
    )
    n = max(one.n for one in singles)
    notes = [
        f"F1: mean ± deviation over n = {n} folds × seeds; rings are the folds of the first seed. "
        f"{words.capital(widgets.how(bundle))}."
    ]
    if latency:
        notes.append(f"Latency: n = {latency.n:,} calls. {latency.basis(bundle)}")
    if energy:
        notes.append(f"Energy: {energy.basis(bundle)}")
    st.caption(widgets.plain(" ".join(notes)))


@st.cache_data(max_entries=16, show_spinner="Reading the weights …")
def _grids(digest: str, layer: int, _bundle: Bundle) -> list[WeightGrid]:
    return weight_grids(_bundle, layer)


def the_grids(bundle: Bundle, found: Sequence[Format]) -> None:
    """The 2-bit cliff as a picture: what values the weights may take, and how many are nothing at all."""
    st.subheader("Why two bits are a poor ternary", anchor=False)
    try:
        grids = _grids(bundle.digest, 0, bundle)
    except UserError as error:
        st.error(widgets.plain(str(error)))
        return
    left, right = st.columns([3, 2], gap="large")
    order = ("q1", "popcount", "q2", "bitnet", "q4", "q8", "ptq8", "q16", "fp32")
    grids = sorted(grids, key=lambda grid: order.index(grid.name))
    with left:
        widgets.figure(
            format_charts.grids(grids, widgets.theme()),
            alt="Values of the weights of the first hidden layer by format: "
            + "; ".join(f"{grid.name}: {format_charts.uses(grid)}" for grid in grids)
            + ".",
            key="grids",
        )
        weights = bundle.manifest.dim * bundle.config.expert.hidden[0]
        st.caption(
            widgets.plain(
                f"The first hidden layer of this bundle’s experts, n = {weights:,} weights each; ticks are "
                "the levels a format has. Each row is as high as its most frequent value."
            )
        )
    with right:
        st.markdown(explanation({grid.name: grid for grid in grids}, {one.name: one for one in found}))
        st.latex(r"W_q = \mathrm{clip}\Big(\mathrm{round}\big(\tfrac{W}{s}\big), -2^{k-1}, 2^{k-1}-1\Big)")
        st.latex(r"s = \frac{\max|W|}{2^{k-1}-1}")
        st.caption("Eq. 2. At k = 2 the step s is the largest weight itself.")


def explanation(grids: dict[str, WeightGrid], found: dict[str, Format]) -> str:
    """What the picture shows, with this bundle's numbers, in Markdown."""
    parts = []
    if q2 := grids.get("q2"):
        parts.append(
            "With two bits, Eq. 2 takes its step from the **largest** weight, so what is below half of it "
            f"rounds to nothing: **{100 * q2.zeros:.0f} % of the weights are zero**, the code −2 is never "
            f"used, and a weight tells {q2.entropy_bits:.2f} of its 2 bits."
        )
        if q1 := grids.get("q1"):
            less = "less" if q2.entropy_bits < q1.entropy_bits else "more"
            parts.append(f"That is {less} than the one bit of a plain sign ({q1.entropy_bits:.2f}).")
    if bitnet := grids.get("bitnet"):
        parts.append(
            f"BitNet’s threshold and scale are learned for each output channel: {100 * bitnet.zeros:.0f} % "
            f"zeros, {bitnet.entropy_bits:.2f} bits of the log₂ 3 = 1.58 that three values can tell."
        )
    if q4 := grids.get("q4"):
        parts.append(f"Four bits are past it: {100 * q4.zeros:.0f} % zeros, {q4.entropy_bits:.1f} bits.")
    two = found.get("q2")
    if two and two.share_of_16bit:
        here = 100 * two.share_of_16bit
        cliff = "There is no cliff here" if here > 98 else "The cliff is here too"
        parts.append(
            f"\n\n**{cliff}**: q2 keeps {here:.1f} % of the 16-bit F1 on these clips; on the paper’s ESC-50 "
            f"it keeps {PAPER_SHARES['q2']} %."
        )
    return " ".join(parts)


page()
