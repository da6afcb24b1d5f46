"""The views of the Compare page: errors, agreement, calibration, abstaining, one clip, all runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st

from dashboard.charts import compare as compare_charts
from dashboard.charts import decision as shared_charts
from dashboard.charts.palette import Theme
from dashboard.session import holding, linked, recordings, runs, switch
from dashboard.views import contenders, tables, widgets, words
from dashboard.views.contenders import Contender, Judged, Look
from dashboard.views.tables import Column, decimals
from qmoe_core import bundles
from qmoe_core.bundles import Bundle, BundleDataset
from qmoe_core.errors import UserError
from qmoe_core.evaluation import classification, formats, selective
from qmoe_core.evaluation.calibration import BINS
from qmoe_core.evaluation.selective import Auroc
from qmoe_core.measure import bench
from qmoe_core.runtime.store import Store, default_root

PAGE = "compare"
MEASURES = {
    "doubt": "doubt",
    "total": "total",
    "aleatoric": "aleatoric",
    "epistemic": "epistemic",
    "router_variance": "router variance",
    "router_mutual_information": "router mutual information",
}
LAST_HEARD = "heard on Listen"


def basis(bundle: Bundle) -> str:
    """How many clips a figure is of, and how they were judged."""
    made = bundle.provenance
    return (
        f"n = {made.clips:,} clips, each judged by experts that had not heard it (out of fold, seed "
        f"{made.seeds[0]}); {widgets.how(bundle)}."
    )


def legend(judged: Sequence[Judged], looks: dict[str, Look]) -> None:
    """Which line is whose."""
    tables.legend([(one.contender.title, looks[one.contender.name].css) for one in judged])


def errors(judged: Sequence[Judged], looks: dict[str, Look], bundle: Bundle, values: dict[str, Any]) -> None:
    """Confusion matrices, F1 of each class, the most frequent confusions."""
    theme, classes = widgets.theme(), bundle.classes
    names = {one.contender.name: one for one in judged}
    st.subheader("What is taken for what", anchor=False)
    options = list(dict.fromkeys(["", *names, values["minus"]]))
    st.selectbox(
        "Show",
        options,
        key=linked.widget(PAGE, "minus"),
        format_func=lambda name: f"the change from {titled(name, bundle)}" if name else "counts of clips",
        width=320,
        help="Rows are what the clips are, columns what they were called; off the diagonal are the errors.",
    )
    reference = contenders.parse(values["minus"], bundle) if values["minus"] else None
    against = None
    if reference and bundle.dataset is not None:
        against = contenders.judge(reference, bundle, bundle.dataset).confusion
    drawn = [one for one in judged if reference is None or one.contender.name != reference.name]
    off = ~np.eye(len(classes), dtype=bool)
    if against is None:
        most = max(int((one.confusion * off).max()) for one in judged)
    else:
        most = max((int(np.abs(one.confusion - against).max()) for one in drawn), default=1)
    across = 4 if len(drawn) % 4 == 0 else 3  # no matrix alone in a row where that can be had
    for start in range(0, len(drawn), across):
        row = drawn[start : start + across]
        for column, one in zip(st.columns(across, gap="small"), row, strict=False):
            with column:
                name = one.contender.title
                st.markdown(f"**{widgets.plain(name)}**: {one.errors} errors")
                figure = (
                    compare_charts.confusion(one.confusion, classes, theme, most)
                    if against is None
                    else compare_charts.confusion_change(one.confusion, against, classes, theme, most)
                )
                widgets.figure(
                    figure, alt=f"Confusion matrix of {name}: {worst_pair(one, bundle)}", key=f"cm:{name}"
                )
    legend_text = (
        "Rows: what the clips are; columns: what they were called. Errors are coloured, all matrices alike; "
        "the diagonal, what was right, is grey."
        if against is None
        else "Clips more or fewer than there; teal is for the better, orange for the worse."
    )
    st.caption(widgets.plain(f"{legend_text} {basis(bundle)}"))

    left, right = st.columns([3, 2], gap="large")
    with left:
        st.subheader("F1 of each class", anchor=False)
        legend(judged, looks)
        f1 = {one.contender.name: classification.class_f1(one.confusion) for one in judged}
        hardest = classes[int(np.mean(list(f1.values()), axis=0).argmin())]
        widgets.figure(
            compare_charts.class_f1(f1, looks, classes, theme),
            alt=f"F1 of each class by format and mixture. The hardest is {words.readable(hardest)}.",
        )
        st.caption(widgets.plain(f"F1 = 2·TP / (2·TP + FP + FN), the hardest class on top. {basis(bundle)}"))
        columns = [Column("class", "class", number=False), *(Column(n, n) for n in f1)]
        tables.download(
            columns,
            [
                {"class": label} | {n: float(row[i]) for n, row in f1.items()}
                for i, label in enumerate(classes)
            ],
            "class-f1",
        )
    with right:
        confusions(judged, bundle)


def titled(name: str, bundle: Bundle) -> str:
    """A contender's name as it is shown."""
    found = contenders.parse(name, bundle)
    return found.title if found else name


def worst_pair(one: Judged, bundle: Bundle) -> str:
    """The most frequent confusion, in words."""
    wrong = one.confusion * ~np.eye(len(bundle.classes), dtype=bool)
    truth, called = np.unravel_index(int(wrong.argmax()), wrong.shape)
    if not wrong[truth, called]:
        return "no errors."
    return (
        f"the most frequent error is {words.readable(bundle.classes[truth])} called "
        f"{words.readable(bundle.classes[called])}, {wrong[truth, called]} times."
    )


def confusions(judged: Sequence[Judged], bundle: Bundle) -> None:
    """The most frequent confusions, each a way to the clips."""
    st.subheader("The most frequent confusions", anchor=False)
    off = ~np.eye(len(bundle.classes), dtype=bool)
    total = np.sum([one.confusion * off for one in judged], axis=0)
    order = [int(i) for i in np.argsort(-total, axis=None, kind="stable")[:8] if total.flat[i]]
    if not order:
        st.markdown("None of them makes an error.")
        return
    rows = []
    titles = [one.contender.title for one in judged]
    for place in order:
        truth, called = divmod(place, len(bundle.classes))
        counts = {one.contender.name: int(one.confusion[truth, called]) for one in judged}
        most = max(judged, key=lambda one: counts[one.contender.name])
        rows.append({"class": bundle.classes[truth], "called": bundle.classes[called], **counts})
        said = " · ".join(str(counts[one.contender.name]) for one in judged)
        st.page_link(
            widgets.PAGES / "dataset.py",
            label=f"**{widgets.plain(words.capital(words.readable(bundle.classes[truth])))}** called "
            f"**{widgets.plain(words.readable(bundle.classes[called]))}**: {widgets.plain(said)}",
            query_params={
                **link_of(bundle),
                "class": bundle.classes[truth],
                "called": bundle.classes[called],
                "by": most.contender.name,
            },
        )
    st.caption(
        widgets.plain(
            f"Number of clips: {' · '.join(titles)}. Each line opens its clips on the Dataset page, as "
            "judged by who errs most."
        )
    )
    columns = [Column("class", "", number=False), Column("called", "", number=False)]
    tables.download([*columns, *(Column(one.contender.name, "") for one in judged)], rows, "confusions")


def link_of(bundle: Bundle) -> dict[str, str]:
    """The part of a link that names the bundle."""
    return {} if bundle.path.name == bundles.DEFAULT_NAME else {"bundle": bundle.path.name}


def agreement(judged: Sequence[Judged], bundle: Bundle, values: dict[str, Any]) -> None:
    """Which of them say the same."""
    st.subheader("Who says the same", anchor=False)
    if len(judged) < 2:
        st.info("It takes two to agree: choose another format or mixture above.")
        return
    st.segmented_control(
        "Measured as",
        ["share", "kappa"],
        key=linked.widget(PAGE, "pairs"),
        required=True,
        format_func={"share": "share of clips", "kappa": "Cohen’s κ"}.__getitem__,
        help="**Share**: of the clips that both call the same, mean of [ŷ_i = ŷ_j].  \n**κ** = (share − "
        "chance) / (1 − chance): what is beyond the agreement that habits alone would give; 1 is always.",
    )
    kappa = values["pairs"] == "kappa"
    found = classification.agreement(np.stack([one.predicted for one in judged]), len(bundle.classes))
    matrix = found.kappa if kappa else found.share
    titles = [one.contender.title for one in judged]
    pairs = [(float(found.share[i, j]), i, j) for i in range(len(titles)) for j in range(i)]
    (most, a, b), (least, c, d) = max(pairs), min(pairs)
    n = len(judged[0].predicted)
    sentence = f"{titles[b]} and {titles[a]} agree most: on {round(most * n)} of {n} clips."
    if len(pairs) > 1:
        sentence += f" Least alike are {titles[d]} and {titles[c]}: {round(least * n)}."
    st.markdown(f"**{widgets.plain(sentence)}**")
    left, right = st.columns([3, 2], gap="large")
    with left:
        widgets.figure(
            compare_charts.agreement(matrix, titles, widgets.theme(), kappa),
            alt=f"Agreement of pairs. {sentence}",
        )
        st.caption(widgets.plain(basis(bundle)))
    with right:
        whole = np.stack([one.predicted for one in judged])
        same = int((whole == whole[0]).all(axis=0).sum())
        all_wrong = int(np.all([~one.correct for one in judged], axis=0).sum())
        some = int(np.any([one.correct for one in judged], axis=0).sum())
        st.markdown(
            f"All {words.number(len(judged))} say the same of **{same}** of {n} clips. "
            f"**{all_wrong}** clips are wrong by all of them: no choice among these would answer those. "
            f"A choice that always knew who is right would reach **{100 * some / n:.1f} %**."
        )
        rows = [
            {
                "a": titles[j],
                "b": titles[i],
                "share": float(found.share[i, j]),
                "kappa": float(found.kappa[i, j]),
            }
            for _, i, j in sorted(pairs)
        ]
        tables.table(AGREEMENT, rows, name="agreement", title="Agreement of pairs, the least alike first")


AGREEMENT = (
    Column("a", "Format or mixture", number=False),
    Column("b", "and", number=False),
    Column(
        "share",
        "alike",
        lambda v: f"{100 * v:.1f} %",
        "Share of clips both call the same: mean of [ŷ_a = ŷ_b].",
    ),
    Column(
        "kappa",
        "κ",
        decimals(3),
        "Cohen’s κ = (share − chance) / (1 − chance), chance from how often each says what.",
    ),
)

CALIBRATION = (
    Column("name", "Format or mixture", number=False),
    Column(
        "ece", "ECE", decimals(3), f"Σ_b n_b / n · |accuracy_b − confidence_b|, {BINS} bins: the mean gap."
    ),
    Column(
        "mce",
        "MCE",
        decimals(3),
        "max_b |accuracy_b − confidence_b|: the widest gap of a bin, however few clips it has.",
    ),
    Column(
        "stated",
        "stated",
        lambda v: f"{100 * v:.1f} %",
        "Mean stated probability of the answer: mean of max p.",
    ),
    Column(
        "right",
        "right",
        lambda v: f"{100 * v:.1f} %",
        "Share of clips called right; below the stated one it is overconfident.",
    ),
)


def calibration(judged: Sequence[Judged], looks: dict[str, Look], bundle: Bundle) -> None:
    """Does 80 % mean eight times in ten."""
    st.subheader("Does 80 % mean eight times in ten?", anchor=False)
    left, right = st.columns([3, 2], gap="large")
    rows = []
    for one in judged:
        stated = float(one.probabilities.max(axis=-1).mean())
        curve = one.reliability
        rows.append(
            {
                "name": one.contender.title,
                "ece": float(curve.ece),
                "mce": float(curve.mce),
                "stated": stated,
                "right": one.accuracy,
            }
        )
    gaps = [row["stated"] - row["right"] for row in rows]
    worst = int(np.argmax(np.abs(gaps)))
    way = "claims more than it keeps" if gaps[worst] > 0 else "is better than it claims"
    sentence = (
        f"{rows[worst]['name']} {way}: {words.percent(rows[worst]['stated'])} stated, "
        f"{words.percent(rows[worst]['right'])} right."
    )
    with left:
        legend(judged, looks)
        widgets.figure(
            compare_charts.reliability(
                {one.contender.name: one.reliability for one in judged}, looks, widgets.theme()
            ),
            alt=f"Reliability diagram. {sentence}",
        )
        st.caption(
            widgets.plain(
                "On the dotted line, what is said is what happens; below it, too much is claimed. "
                f"{BINS} bins of equal width, the larger the mark the more clips. {basis(bundle)}"
            )
        )
    with right:
        st.markdown(f"**{widgets.plain(sentence)}**")
        marks = [looks[one.contender.name].css for one in judged]
        tables.table(CALIBRATION, rows, name="calibration", title="Calibration of each", marks=marks)


def abstaining(
    judged: Sequence[Judged], looks: dict[str, Look], bundle: Bundle, values: dict[str, Any]
) -> None:
    """Risk–coverage with a slider; error and out-of-distribution detection."""
    st.subheader("What is gained by not answering", anchor=False)
    left, right = st.columns([3, 2], gap="large")
    with right:
        st.pills(
            "Unsure means",
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
            "Answer the surest",
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
            st.caption(
                widgets.plain(
                    f"Unsure means {MEASURES[measure]}: {selective.MEASURES[measure]}. {basis(bundle)}"
                )
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
    Column("risk", "risk", lambda v: f"{100 * v:.1f} %", "Errors among the answered / answered."),
    Column(
        "threshold", "unsure above", lambda v: f"{v:.3g}", "Clips with a larger uncertainty are not answered."
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
    """How well each uncertainty finds errors, and sounds that nobody taught."""
    mixture = next((one for one in reversed(judged) if not one.contender.single), None)
    one = mixture or judged[-1]
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("Does it know when it is wrong?", anchor=False)
        st.markdown(f"Errors of **{widgets.plain(one.contender.title)}**, found by each uncertainty.")
        found = found_errors(bundle.digest, one.contender.name, one.uncertainties, one.correct)
        if found is None:
            st.info("It makes no errors, so there is nothing to find.")
        else:
            draw_detection(found, measure, "Errors", "errors")
            some = next(iter(found.values()))
            st.caption(
                widgets.plain(
                    "AUROC = P(uncertainty of an error > of a right answer), 0.5 knows nothing; lines: 95 % "
                    f"bootstrap over clips. {some.positives} errors among "
                    f"{some.positives + some.negatives} clips; {widgets.how(bundle)}, seed "
                    f"{bundle.provenance.seeds[0]}."
                )
            )
    with right:
        st.subheader("Does it know what nobody taught?", anchor=False)
        strange(bundle, measure, held)


@st.cache_data(max_entries=64, show_spinner="Resampling clips …")
def found_errors(
    digest: str, name: str, _uncertainties: dict[str, np.ndarray], _correct: np.ndarray
) -> dict[str, Auroc] | None:
    """Error detection of a contender; a sixth of a second, so it is kept."""
    return selective.detection(_uncertainties, ~_correct)


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
                words.listed(map(words.readable, tried[name].held_out))
                if name
                else f"each of {len(tried)} sets in turn"
            ),
            width=320,
        )
        chosen = [tried[asked]] if asked else list(tried.values())
        held = f"never heard {words.listed(map(words.readable, chosen[0].held_out))}"
        if len(chosen) > 1:
            held = "have never heard some classes"
        st.markdown(f"Experts that **{widgets.plain(held)}** listen to them among known sounds.")
        draw_detection(holding.together(chosen), measure, "Strange sounds", "held-out")
        one = chosen[0]
        lines = (
            "95 % bootstrap over clips" if len(chosen) == 1 else f"least and largest of {len(chosen)} sets"
        )
        st.caption(
            widgets.plain(
                f"AUROC = P(uncertainty of a strange clip > of a known one); lines: {lines}. "
                f"{one.n_strange} strange and {one.n_known} known clips of {one.dataset} a set, {one.folds} "
                f"{one.protocol} folds, seed {one.seed}; {'+'.join(one.experts)}, plain router."
            )
        )
    holding.offer(bundle, first=not tried)


ANSWERS = (
    Column("name", "Format or mixture", number=False),
    Column("label", "says", number=False),
    Column("probability", "with", lambda v: f"{100 * v:.0f} %", "Probability of its answer: max p."),
    Column(
        "right",
        "right",
        lambda v: "–" if v is None else "yes" if v else "no",
        "Whether that is what the clip is.",
    ),
    Column("total", "H, nats", decimals(3), "How undecided it is: H(q̄) = −Σ q̄_c log q̄_c."),
    Column(
        "epistemic",
        "epistemic",
        decimals(4),
        "How much the experts of a mixture differ: H(q̄) − mean H(q_i), nats.",
    ),
    Column(
        "answers", "who answers", meaning="The experts of a mixture that the routing chose.", number=False
    ),
)


def one_clip(
    compared: Sequence[Contender],
    looks: dict[str, Look],
    bundle: Bundle,
    data: BundleDataset,
    values: dict[str, Any],
) -> None:
    """The same clip, as each hears it."""
    st.subheader("The same clip, as each hears it", anchor=False)
    example = st.session_state.get("example")
    clips = {clip.name: i for i, clip in enumerate(data.clips)}
    st.selectbox(
        "Clip",
        [LAST_HEARD, *clips],
        key=linked.widget(PAGE, "clip"),
        format_func=lambda name: clip_title(name, bundle, data, clips),
        help="A clip of the default set, as experts judged it that had not heard it; type to search.",
    )
    truth = None
    if values["clip"] == LAST_HEARD:
        if example is None or example.decision.classes != bundle.classes:
            st.info("Nothing was heard on Listen with these classes yet.")
            st.page_link(widgets.PAGES / "listen.py", label="Open Listen")
            return
        rows, shares, shown = heard_there(example, compared)
        if not shown:
            st.info("Of that sound only single experts’ answers are kept. Choose an expert above.")
            return
        said = f"n = 1 sound, {example.name}, judged by the experts as served; {widgets.how(bundle)}."
    else:
        index = clips[values["clip"]]
        truth = int(data.labels[index])
        outputs = data.outputs.at(index)
        decisions = [contender.decision(bundle, outputs) for contender in compared]
        rows = [answer_row(c, d, bundle.classes[truth]) for c, d in zip(compared, decisions, strict=True)]
        shares, shown = np.stack([d.probabilities for d in decisions]), list(compared)
        said = (
            f"n = 1 clip, {values['clip']}, judged by experts that had not heard it (out of fold, seed "
            f"{bundle.provenance.seeds[0]}); {widgets.how(bundle)}."
        )
    left, right = st.columns([3, 2], gap="large")
    with left:
        titles = [contender.title for contender in shown]
        summary = "; ".join(f"{row['name']}: {row['label']} {row['probability']:.0%}" for row in rows)
        widgets.figure(
            compare_charts.answers(shares, titles, bundle.classes, truth, widgets.theme()),
            alt=f"Probability of each class by format and mixture. {summary}.",
        )
        bold = " Bold: what the clip is." if truth is not None else ""
        st.caption(widgets.plain(f"Per cent.{bold} {said}"))
    if truth is not None:
        with right:
            play(values["clip"], bundle)
    marks = [looks[contender.name].css for contender in shown]
    tables.table(ANSWERS, rows, name="clip", title="What each says", marks=marks)


def clip_title(name: str, bundle: Bundle, data: BundleDataset, clips: dict[str, int]) -> str:
    """A clip's class and name."""
    if name not in clips:
        return "the sound heard last on Listen"
    return f"{words.readable(bundle.classes[int(data.labels[clips[name]])])}: {name}"


def answer_row(contender: Contender, decision: Any, truth: str | None) -> dict[str, Any]:
    """What one contender says, as a row."""
    chosen = [expert.name for expert in decision.experts if expert.selected]
    return {
        "name": contender.title,
        "label": words.readable(decision.label),
        "probability": decision.probability,
        "right": None if truth is None else decision.label == truth,
        "total": decision.uncertainty.total,
        "epistemic": None if contender.single else decision.uncertainty.epistemic,
        "answers": None if contender.single else words.listed(chosen),
    }


def heard_there(
    example: Any, compared: Sequence[Contender]
) -> tuple[list[dict[str, Any]], np.ndarray, list[Contender]]:
    """What single experts said of the sound heard on Listen; its mixture is the one set there."""
    said = {expert.name: expert for expert in example.decision.experts}
    shown = [contender for contender in compared if contender.single and contender.name in said]
    rows, shares = [], []
    for contender in shown:
        expert = said[contender.name]
        rows.append(
            {
                "name": contender.title,
                "label": words.readable(expert.label),
                "probability": float(expert.probabilities.max()),
            }
        )
        shares.append(expert.probabilities)
    return rows, np.array(shares), shown


def play(clip: str, bundle: Bundle) -> None:
    """The recording, where it is at hand."""
    path = recordings.at_hand(bundle).get(clip)
    if path is None:
        st.caption("Its recording is not on this machine; what is shown comes from its embedding.")
        return
    try:
        heard = recordings.heard(path)
    except UserError as error:
        st.warning(widgets.plain(str(error)))
        return
    st.audio(str(path))
    widgets.figure(
        shared_charts.spectrogram(
            heard.spectrogram, (0.0, shared_charts.frames_span(heard.spectrogram.shape[1])), widgets.theme()
        ),
        alt=f"Log-mel spectrogram of {clip}.",
    )


RUNS = (
    Column("name", "Format or mixture", number=False),
    Column(
        "origin", "from", number=False, meaning="The bundle that records it, or the store of finished folds."
    ),
    Column("dataset", "data", number=False),
    Column("embedder", "embedder", number=False),
    Column("protocol", "folds", number=False, meaning="How the folds were made."),
    Column("selection", "epoch by", number=False, meaning="On which clips the epoch was chosen."),
    Column(
        "f1",
        "F1",
        decimals(3),
        "Weighted F1, mean over folds × seeds: Σ_c n_c / n · 2·TP / (2·TP + FP + FN).",
    ),
    Column("f1_std", "±", decimals(3), "Deviation of F1 over folds × seeds, with n − 1."),
    Column("n", "n", meaning="Folds × seeds."),
    Column("ece", "ECE", decimals(3), "Σ_b n_b / n · |accuracy_b − confidence_b|, of a bundle’s first seed."),
    Column("aurc", "AURC", decimals(4), "Mean share of errors among the k surest clips, likewise."),
    Column(
        "bytes",
        "kB",
        lambda v: f"{v / 1000:,.0f}",
        "Files that must be carried; for runs of the store parameters × bits / 8.",
    ),
    Column(
        "p50_us", "µs", decimals(1), "Median time of one call, where Efficiency measured it on this machine."
    ),
)


def all_runs(bundle: Bundle, values: dict[str, Any]) -> None:
    """Parallel coordinates, and the same as a table."""
    st.subheader("Everything that was trained", anchor=False)
    st.segmented_control(
        "Runs",
        ["bundles", "all"],
        key=linked.widget(PAGE, "runs"),
        required=True,
        format_func={"bundles": "of bundles", "all": "of bundles and the store"}.__getitem__,
        help="Training leaves finished folds in the store; a bundle records the figures of those that it was "
        "made from.",
    )
    found, unread = listed_runs(str(default_root()), values["runs"] == "all")
    for sentence in unread:
        st.warning(widgets.plain(sentence))
    if not found:
        st.info("Nothing was trained yet.")
        st.page_link(widgets.PAGES / "train.py", label="Train")
        return
    theme = widgets.theme()
    with st.container(key="qm-wide"):
        widgets.figure(
            compare_charts.parallel(runs.axes(found), [run_colour(run, theme) for run in found], theme),
            alt=f"{len(found)} runs over their format, size and F1; the same as in the table below.",
        )
    latency = bench.last("latency", Store()) if any(run.p50_us is not None for run in found) else None
    where = f" Times: {formats.measured_on(latency, bundle)}, one clip a call." if latency else ""
    st.caption(
        widgets.plain(
            f"n = {len(found)} runs. Drag along an axis to keep the runs that pass there, drag a name to "
            f"move its axis, click an axis to let all pass again. {same_for_all(found)}{where}"
        )
    )
    rows = [run.row for run in sorted(found, key=lambda run: -run.f1)]
    tables.table(RUNS, rows, name="runs", title="All runs, the best first")


def same_for_all(found: Sequence[runs.Run]) -> str:
    """What all runs share, as a sentence; what they do not share is an axis."""
    shared = []
    for key, form in (("dataset", "{}"), ("protocol", "{} folds"), ("selection", "epoch chosen by {}")):
        values = {getattr(run, key) for run in found}
        if len(values) == 1:
            shared.append(form.format(values.pop()))
    return f"All of them: {', '.join(shared)}." if shared else ""


def run_colour(run: runs.Run, theme: Theme) -> str:
    """An expert's colour; ink for mixtures."""
    return contenders.expert_colour(run.name) if run.bits is not None else theme.ink


@st.cache_data(max_entries=4, ttl=10, show_spinner="Looking for runs …")
def listed_runs(root: str, everything: bool) -> tuple[list[runs.Run], list[str]]:
    """All runs in this store, and a sentence for each bundle that could not be read."""
    store = Store()
    latency = bench.last("latency", store)
    loaded, unread = [], []
    for name in bundles.names():
        try:
            loaded.append(switch.load(name))
        except UserError as error:
            unread.append(f"{error}; it is left out.")
    found = [run for one in loaded for run in runs.of_bundle(one, latency)]
    if everything:
        try:
            found += runs.of_store(store, loaded)
        except UserError as error:
            unread.append(str(error))
    return found, unread
