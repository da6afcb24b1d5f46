"""Compare: calibration, risk against coverage, and how well each uncertainty finds errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st

from dashboard.charts import compare as compare_charts
from dashboard.charts.palette import Look
from dashboard.session import holding, linked
from dashboard.views import tables, widgets, words
from dashboard.views.compare import MEASURES, PAGE, PERFECT, basis, legend
from dashboard.views.tables import Column
from qmoe_core import numbers
from qmoe_core.bundles import Bundle
from qmoe_core.evaluation import ood, selective
from qmoe_core.evaluation.calibration import BINS
from qmoe_core.evaluation.contenders import Judged
from qmoe_core.evaluation.selective import Auroc
from qmoe_core.numbers import decimals, percents

CALIBRATION = (
    Column("name", "Format or mixture", number=False),
    Column(
        "ece", "ECE", decimals(3), f"Σ_b n_b / n · |accuracy_b − confidence_b|, {BINS} bins: the mean gap."
    ),
    PERFECT,
    Column(
        "mce",
        "MCE",
        decimals(3),
        "max_b |accuracy_b − confidence_b|: the widest gap of a bin, however few clips it has.",
    ),
    Column(
        "stated",
        "stated",
        percents(1),
        "Mean stated probability of the answer: mean of max p.",
    ),
    Column(
        "right",
        "right",
        percents(1),
        "Share of clips called right; below the stated one it is overconfident.",
    ),
)


def calibration(judged: Sequence[Judged], looks: dict[str, Look], bundle: Bundle) -> None:
    """Does 80 % mean eight times in ten."""
    st.subheader("Calibration: is 80 % right in 80 % of cases?", anchor=False)
    left, right = st.columns([3, 2], gap="large")
    rows = []
    for one in judged:
        stated = float(one.probabilities.max(axis=-1).mean())
        curve = one.reliability
        rows.append(
            {
                "name": one.contender.title,
                "ece": float(curve.ece),
                "ece_perfect": one.ece_perfect,
                "mce": float(curve.mce),
                "stated": stated,
                "right": one.accuracy,
            }
        )
    gaps = [row["stated"] - row["right"] for row in rows]
    worst = int(np.argmax(np.abs(gaps)))
    way = "claims more than it keeps" if gaps[worst] > 0 else "is better than it claims"
    sentence = (
        f"{rows[worst]['name']} {way}: {numbers.percent(rows[worst]['stated'])} stated, "
        f"{numbers.percent(rows[worst]['right'])} right."
    )
    with left:
        legend(judged, looks)
        widgets.figure(
            compare_charts.reliability(
                {one.contender.name: one.reliability for one in judged}, looks, widgets.theme()
            ),
            alt=f"Reliability diagram. {sentence}",
        )
        widgets.caption(
            "On the dotted line, what is said is what happens; below it, too much is claimed. "
            f"{BINS} bins of equal width, the larger the mark the more clips. {basis(bundle)}"
        )
    with right:
        st.markdown(f"**{widgets.plain(sentence)}**")
        marks = [looks[one.contender.name].css for one in judged]
        tables.table(CALIBRATION, rows, name="calibration", title="Calibration of each", marks=marks)


def abstaining(
    judged: Sequence[Judged], looks: dict[str, Look], bundle: Bundle, values: dict[str, Any]
) -> None:
    """Risk–coverage with a slider; error and out-of-distribution detection."""
    st.subheader("Risk and coverage: what not answering gains", anchor=False)
    left, right = st.columns([3, 2], gap="large")
    with right:
        st.pills(
            "Measure of uncertainty",
            list(MEASURES),
            key=linked.widget(PAGE, "by"),
            required=True,
            wrap=True,
            format_func=MEASURES.__getitem__,
            help="  \n".join(
                f"**{MEASURES[name]}**: {widgets.plain(text)}" for name, text in selective.MEASURES.items()
            ),
        )
        st.slider(
            "Answer the most certain",
            1,
            100,
            key=linked.widget(PAGE, "answer"),
            format="%d %%",
            help="The clips with the largest uncertainty are left unanswered: coverage = answered / n, "
            "risk = errors among the answered / answered.",
        )
    measure, coverage = values["by"], values["answer"] / 100
    able = [one for one in judged if measure in one.uncertainties]
    risks = {one.contender.name: risk for one in able if (risk := one.risk(measure))}
    with left:
        if not able:
            st.info(
                f"A single expert has no {MEASURES[measure]} uncertainty: it takes several opinions. Choose "
                "a mixture above, or doubt."
            )
        else:
            legend(able, looks)
            widgets.figure(
                compare_charts.risk_coverage(risks, looks, coverage, widgets.theme()),
                alt="Share of errors among the answered clips against the share that is answered.",
            )
            widgets.caption(
                f"Measure of uncertainty {MEASURES[measure]}: {selective.MEASURES[measure]}. {basis(bundle)}"
            )
    with right:
        if able:
            effect(able, risks, looks, coverage)
    detections(judged, bundle, measure, values["held"])


EFFECT = (
    Column("name", "Format or mixture", number=False),
    Column(
        "errors",
        "wrong",
        meaning="Errors among the answered clips; clips that are equally sure share theirs.",
    ),
    Column("risk", "risk", percents(1), "Errors among the answered / answered."),
    Column(
        "threshold",
        "uncertainty above",
        lambda v: f"{v:.3g}",
        "Clips with a larger uncertainty are not answered.",
    ),
    Column("excess", "E-AURC", decimals(4), "AURC − that of the best order there could be; 0 is perfect."),
)


def effect(able: Sequence[Judged], risks: dict[str, Any], looks: dict[str, Look], coverage: float) -> None:
    """What the slider's place means for each."""
    rows = []
    for one in able:
        risk = risks[one.contender.name]
        answered = max(1, round(coverage * len(risk.risk)))
        rows.append(
            {
                "name": one.contender.title,
                "errors": round(float(risk.risk[answered - 1]) * answered),
                "risk": float(risk.risk[answered - 1]),
                "all": float(risk.risk[-1]),
                "threshold": float(risk.threshold[answered - 1]),
                "excess": risk.excess_aurc,
            }
        )
    n = len(able[0].correct)
    best = min(rows, key=lambda row: row["risk"])
    spared = n - max(1, round(coverage * n))
    st.markdown(
        f"**Leaving {spared} of {n} clips unanswered, {widgets.plain(best['name'])} is wrong on "
        f"{best['errors']}: {100 * best['risk']:.1f} % instead of {100 * best['all']:.1f} %.**"
    )
    tables.table(
        EFFECT,
        rows,
        name="abstaining",
        title="Effect of abstaining",
        marks=[looks[o.contender.name].css for o in able],
    )


def detections(judged: Sequence[Judged], bundle: Bundle, measure: str, held: str) -> None:
    """How well each uncertainty finds errors, and unknown classes."""
    mixture = next((one for one in reversed(judged) if not one.contender.single), None)
    one = mixture or judged[-1]
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("Does uncertainty find its errors?", anchor=False)
        st.markdown(f"Errors of **{widgets.plain(one.contender.title)}**, found by each uncertainty.")
        sources = [clip.source for clip in bundle.dataset.clips] if bundle.dataset else None
        found = found_errors(bundle.digest, one.contender.name, one.uncertainties, one.correct, sources)
        if found is None:
            st.info("It makes no errors, so there is nothing to find.")
        else:
            draw_detection(found, measure, "Errors", "errors")
            some = next(iter(found.values()))
            widgets.caption(
                "AUROC = P(uncertainty of an error > of a right answer), 0.5 is chance; lines: 95 % "
                f"bootstrap over recordings. {some.positives} errors among {some.positives + some.negatives} "
                f"clips; {widgets.how(bundle)}, seed {bundle.provenance.seeds[0]}."
            )
    with right:
        st.subheader("Does uncertainty find unknown classes?", anchor=False)
        strange(bundle, measure, held)


@st.cache_data(max_entries=64, show_spinner="Resampling clips …")
def found_errors(
    digest: str,
    name: str,
    _uncertainties: dict[str, np.ndarray],
    _correct: np.ndarray,
    _sources: Sequence[str] | None,
) -> dict[str, Auroc] | None:
    """Error detection of a contender; a sixth of a second, so it is kept."""
    return selective.detection(_uncertainties, ~_correct, _sources)


def draw_detection(found: dict[str, Auroc], measure: str, what: str, name: str) -> None:
    """The figure, and its numbers as a file."""
    shown = {MEASURES[key]: one for key, one in found.items()}
    best = max(found, key=lambda key: found[key].auroc)
    widgets.figure(
        compare_charts.detection(shown, widgets.theme(), MEASURES[measure]),
        alt=f"{what}: {MEASURES[best]} finds them best, AUROC {found[best].auroc:.2f}.",
        key=f"detection:{name}",
    )
    columns = [Column(key, key) for key in ("uncertainty", "auroc", "low", "high", "positives", "negatives")]
    tables.download(
        columns, [{"uncertainty": key, **one.__dict__} for key, one in found.items()], f"auroc-{name}"
    )


def strange(bundle: Bundle, measure: str, asked: str) -> None:
    """Held-out classes: what was found, or how to find it."""
    tried = {"+".join(one.held_out): one for one in holding.kept(bundle)}
    if tried:
        key = linked.widget(PAGE, "held")
        if asked not in ("", *tried):
            st.warning(f"Nobody has held out {widgets.plain(asked)} yet; these are all sets that were tried.")
            st.session_state[key] = asked = ""
        st.selectbox(
            "Classes held out",
            ["", *tried],
            key=key,
            format_func=lambda name: (
                numbers.listed(map(words.readable, tried[name].held_out))
                if name
                else f"each of {len(tried)} sets in turn"
            ),
            width=320,
        )
        chosen = [tried[asked]] if asked else list(tried.values())
        held = f"were not trained on {numbers.listed(map(words.readable, chosen[0].held_out))}"
        if len(chosen) > 1:
            held = "were not trained on some classes"
        st.markdown(f"Experts that **{widgets.plain(held)}** classify them among known sounds.")
        draw_detection(ood.together(chosen), measure, "Unknown classes", "held-out")
        one = chosen[0]
        lines = (
            "95 % bootstrap over recordings"
            if len(chosen) == 1
            else f"least and largest of {len(chosen)} sets"
        )
        widgets.caption(
            f"AUROC = P(uncertainty of a clip of an unknown class > of a known one); lines: {lines}. "
            f"{one.n_strange} clips of unknown and {one.n_known} of known classes of {one.dataset} a set, "
            f"{one.folds} "
            f"{one.protocol} folds, seed {one.seed}; {'+'.join(one.experts)}, plain router."
        )
    holding.offer(bundle, first=not tried)
