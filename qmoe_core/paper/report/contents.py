"""The report's first pages: where each part of the paper is found in it, and Eq. 1–8 with its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qmoe_core.audio import mel
from qmoe_core.experts.spec import EXPERTS
from qmoe_core.numbers import listed
from qmoe_core.paper.report.curiosity import SHOWN
from qmoe_core.paper.report.document import ReportTable, Section, Value, columns_of
from qmoe_core.paper.report.mixtures import by_alpha
from qmoe_core.paper.report.study import Study

PARTS = (
    ("Equation 1", "§3.1", "mel scale", "equations"),
    ("Equation 2", "§3.2", "k-bit weights", "equations"),
    ("Equation 3", "§3.2", "BitNet, ternary weights", "equations"),
    ("Equation 4", "§3.2", "post-training quantization, popcount", "equations"),
    ("Equation 5", "§3.3", "routing", "equations"),
    ("Equation 6", "§3.3", "mixture of the top k", "equations"),
    ("Equation 7", "§3.3", "predictive entropy", "equations"),
    ("Equation 8", "§3.3", "curiosity", "equations"),
    ("Figure 1", "§3.3", "from the embedding to the decision", "equations"),
    ("Experimental setup", "§4", "data, protocol, training", "methods"),
    ("Table 1", "§5.1", "F1 on every dataset", "table-1"),
    ("Mixtures or single models", "§5.1", "the question of Table 1", "mixtures"),
    ("Table 2", "§5.2", "bit widths", "table-2"),
    ("Table 3", "§5.3", "mixtures with and without curiosity", "table-3"),
    ("Four recommendations", "§5.3", "which mixture for what", "scenarios-5-3"),
    ("Table 4", "§5.4", "latency and memory", "table-4"),
    ("Five recommendations", "§5.4", "which model for what", "scenarios-5-4"),
    ("Table 5", "§5.5", "significance", "table-5"),
    ("Table 6", "Appendix A", "carbon of training", "table-6"),
    ("Appendix A.1", "Appendix A", "training and deployment", "appendix-a1"),
    ("Appendix A.2", "Appendix A", "recommendations", "appendix-a2"),
    ("Table 7", "Appendix B", "sizes", "table-7"),
    ("Appendix B.1", "Appendix B", "optimal configuration", "appendix-b"),
    ("Appendix B.2", "Appendix B", "trade-offs of mixtures", "appendix-b"),
)
"""Every table, figure, equation, appendix and list of recommendations of the paper, in its order, and the id
of the section that has it here."""
NOT_HERE = "not made in this run"


def contents(sections: Sequence[Section]) -> Section:
    """Where each part of the paper is in these sections; what the code has beside it comes after."""
    titles = {section.id: section.title for section in sections}
    rows = tuple((part, where, what, titles.get(place, NOT_HERE)) for part, where, what, place in PARTS)
    named = {place for *_, place in PARTS}
    others = [section.title for section in sections if section.id not in named]
    return Section(
        "contents",
        "The paper, part by part",
        (
            "Sections stand in the paper’s order. Between them is what the paper’s code and its README have "
            f"beside the paper, and what this lab adds: {listed(others)}.",
        ),
        ReportTable(
            "contents", "Where it is here", columns_of("The paper; Section; About; In this report"), rows
        ),
    )


def equations(studies: Sequence[Study], alpha: float) -> Section:
    """Figure 1 and Eq. 1–8 in order, each with numbers of this run: one clip on its way to a decision."""
    study = studies[0]
    tables = study.tables
    levels = EXPERTS["q4"].levels
    assert levels is not None

    def f1(*names: str) -> str:
        return listed(
            [f"{tables.f1(name).mean():.3f} for {name}" for name in names if name in tables.predicted]
        )

    rows: list[tuple[Value, ...]] = [
        (
            "Eq. 1",
            "M(f) = 1125 · ln(1 + f/700)",
            "mel of a frequency",
            f"1,000 Hz is {mel.hz_to_mel(1000.0):,.1f} mel, 8,000 Hz {mel.hz_to_mel(8000.0):,.1f}",
        ),
        (
            "Eq. 2",
            "W_q = clip(round(W/s), −2^(k−1), 2^(k−1)−1), s = max|W| / (2^(k−1)−1)",
            "weights in k bits",
            f"4 bits: levels −{-levels.lowest} to {levels.highest}, of which −{levels.highest} to "
            f"{levels.highest} occur; F1 {f1('q1', 'q2', 'q4', 'q8', 'q16')}",
        ),
        (
            "Eq. 3",
            "W_t = sign(W) · 1(|W| > τ)",
            "ternary weights, τ learned per output",
            f"levels −1, 0, 1; F1 {f1('bitnet')}",
        ),
        (
            "Eq. 4",
            "y = popcount(x_b ⊕ w_b) − d/2",
            "one bit for weights and activations",
            f"F1 {f1('popcount')}; the 8-bit rounding of the text has {f1('ptq8')}",
        ),
        *_routed(study, alpha),
    ]
    text = (
        "Each equation with numbers of this run. From Eq. 5 on they are those of one clip that neither the "
        f"experts nor the router had seen: the one of {study.name} on which the experts of {SHOWN} disagree "
        "most. The Method page of the lab (qmoe app) shows what each format makes of weights.",
    )
    return Section(
        "equations",
        "Figure 1 and Equations 1 to 8, with numbers",
        text,
        ReportTable(
            "equations", "The equations", columns_of("Number; Equation; What it is; Here"), tuple(rows)
        ),
    )


def _routed(study: Study, alpha: float) -> list[tuple[Value, ...]]:
    """Eq. 5 to 8 and Figure 1 for the clip of the largest disagreement."""
    scores = study.tables
    if SHOWN not in scores.mixed:
        return []
    plain, curious = by_alpha(scores, SHOWN, (0.0, alpha))
    experts = scores.mixed[SHOWN].experts
    at = np.unravel_index(int(np.argmax(plain.epistemic)), plain.epistemic.shape)

    def each(values: np.ndarray, digits: int = 3) -> str:
        return listed([f"{name} {value:.{digits}f}" for name, value in zip(experts, values, strict=True)])

    said = int(curious.probabilities[at].argmax())
    chosen = experts[int(curious.routing[at].argmax())]
    opinions = listed(
        [
            f"{name} says {scores.classes[int(q.argmax())]} ({q.max():.2f})"
            for name, q in zip(experts, plain.q[at], strict=True)
        ]
    )
    return [
        ("Eq. 5", "p_i = exp(G_i(z)/T) / Σ_j exp(G_j(z)/T)", "routing", each(plain.r[at])),
        (
            "Eq. 6",
            "y = Σ_{i in TopK} p_i · E_i(z)",
            "mixture of the top k",
            f"{opinions}; the mixture’s largest probability is {plain.probabilities[at].max():.2f}",
        ),
        (
            "Eq. 7",
            "H(y|z) = −Σ_c p̄_c log p̄_c",
            "entropy of the mean distribution",
            f"{plain.total[at]:.3f} nats, of which {plain.epistemic[at]:.3f} are disagreement",
        ),
        (
            "Eq. 8",
            "p_i^curious ∝ p_i · exp(α · KL(p_i ‖ p̄))",
            f"curiosity, α = {alpha:g}",
            f"d: {each(plain.disagreement[at])} nats; routing becomes {each(curious.routing[at])}",
        ),
        (
            "Figure 1",
            "embedding → router → top-k experts → decision",
            "all of it for this clip",
            f"{study.dim:,} numbers → {chosen} answers → {scores.classes[said]}, and the clip is "
            f"{scores.classes[int(scores.labels[at[-1]])]}",
        ),
    ]
