"""Sweep: the cascade as a front of accuracy against cost, beside chance, an oracle and each expert alone."""

from __future__ import annotations

import streamlit as st

from dashboard.charts import sweep as sweep_charts
from dashboard.session import linked, switch
from dashboard.views import tables, widgets
from dashboard.views.tables import Column
from qmoe_core import bundles, numbers
from qmoe_core.bundles import Bundle
from qmoe_core.errors import UserError
from qmoe_core.evaluation import cascade
from qmoe_core.evaluation.cascade import CascadeSweep
from qmoe_core.experts.spec import CHEAPEST_FIRST
from qmoe_core.numbers import decimals, percents
from qmoe_core.routing.mixing import Settings

COLUMNS = (
    Column(
        "threshold", "asked above a doubt of", decimals(4), "1 − the largest probability of the last answer."
    ),
    Column("asked", "asked on", percents(1), "Share of clips for which more than the first expert ran."),
    Column("accuracy", "accuracy", decimals(4)),
    Column("random", "at random", decimals(4), "Asking as many clips, whichever they are."),
    Column("f1", "F1", decimals(4)),
    Column("cost_us", "µs a clip", decimals(0), "Mean of the whole path, from waveform to logits."),
)


def the_cascade(bundle: Bundle, experts: tuple[str, ...]) -> None:
    """The front, what it is worth, and its numbers.

    Args:
        experts: of the bundle's; asked in order of cost.
    """
    st.subheader("A cascade: ask the next expert in doubt", anchor=False)
    others = [name for name in bundles.names() if name != bundle.path.name]
    joined: list[str] = []
    if others:
        joined = st.multiselect(
            "Bundles of the same data set with other embedders", others, key=linked.keep("cascade_with", [])
        )
    if len(experts) + len(joined) < 2:
        st.info("A cascade has two or more experts; choose another one above.")
        return
    try:
        found = _swept(bundle.path.name, tuple(sorted(experts, key=CHEAPEST_FIRST.index)), tuple(joined))
    except UserError as error:
        widgets.error(error)
        return
    equal, above = found.equal_accuracy, found.front_gain
    low, high = equal.ci95
    sentence = (
        f"Accuracy of the cascade less that of the best expert, {found.best_single.name}: "
        f"{numbers.signed(equal.difference, 4)}, with thresholds set on other folds. Its mean cost is "
        f"{numbers.percent(equal.cost_ratio)} of that of {equal.single}, the cheapest expert as good as the "
        f"best (95 % interval {numbers.percent(low)} to {numbers.percent(high)}). Asking as many at random "
        f"gives {numbers.signed(-equal.over_random, 4)} beside the cascade."
    )
    st.markdown(f"**{widgets.plain(sentence)}**")
    widgets.figure(sweep_charts.front(found, widgets.theme()), alt=f"Accuracy against cost. {sentence}")
    order = " → ".join(one.name for one in found.experts)
    low, high = above.ci95
    widgets.caption(
        f"Line: the cascade {order}; dotted: asking at random; marks: each expert alone, and the oracle, "
        "which asks only where that helps. The largest gain in accuracy over a single expert of at most the "
        f"same cost is {numbers.signed(above.gain, 4)} ({numbers.signed(low, 4)} to "
        f"{numbers.signed(high, 4)}). Costs are of whole "
        f"paths, measured here, one clip, median of {cascade.CALLS} calls; 95 % intervals over recordings; "
        f"{widgets.how(bundle)}."
    )
    rows = [
        {"random": chance.accuracy, **{key: getattr(point, key) for key in point.__dataclass_fields__}}
        for point, chance in zip(found.curve, found.random, strict=True)
    ]
    tables.download(COLUMNS, rows, "cascade", "Cascade")


@st.cache_data(max_entries=32, show_spinner="Timing whole paths …")
def _swept(name: str, experts: tuple[str, ...], joined: tuple[str, ...]) -> CascadeSweep:
    """The sweep of a bundle's experts, then q8 of each joined bundle; costs are measured once."""
    loaded = [switch.load(one) for one in (name, *joined)]
    outputs, data = cascade.joined(loaded)
    more = cascade.default_experts(loaded)[1:] if joined else ()
    path = cascade.costs(loaded)
    order = (*experts, *sorted(more, key=path.alone))
    sources = [clip.source for clip in data.clips]
    settings = Settings(order, curiosity="cascade")
    return cascade.cascade_sweep(outputs.of(order), data.labels, settings, path, data.folds, sources)
