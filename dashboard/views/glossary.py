"""The words of the pages, each in a sentence."""

from __future__ import annotations

TERMS = {
    "expert, format": "A classifier whose weights have so many bits: q4 has four, fp32 is float, bitnet has "
    "the values −1, 0 and 1, popcount counts single bits, ptq8 is rounded to eight bits after training.",
    "bundle": "Trained experts, a router and the data they were judged on: what all pages are about.",
    "embedder": "Turns five seconds of sound into the numbers that experts classify.",
    "head": "The expert’s part behind the embedder, from its numbers to a score for each class.",
    "q, q̄": "An expert’s probabilities of the classes, and their mean over the experts of the mixture.",
    "router, r": "A small network that says how much each expert is to be asked; r adds up to 1.",
    "mixture": "The experts that answer, weighted by the router.",
    "disagreement d": "KL(q‖q̄): how far an expert’s answer is from the mean answer, nats.",
    "curiosity α": "How strongly experts that disagree are preferred: r · exp(α · d), scaled to add up to 1.",
    "cascade": "The next expert is asked only where the answer so far is too uncertain.",
    "total, aleatoric, epistemic": "H(q̄), the mean of H(q), and the difference: how uncertain the mean is, "
    "how uncertain each expert is, and how much they differ; nats.",
    "doubt": "1 − max q̄: one minus the probability of the answer.",
    "nat": "Unit of entropy with the natural logarithm; 1 nat is 1.44 bits.",
    "prediction set": "The classes that hold the right one as often as is promised (conformal prediction).",
    "F1": "Mean over classes, weighted by their clips, of 2·TP / (2·TP + FP + FN).",
    "fold": "A part of the data that is held out for judging while the rest is trained on.",
    "grouped": "Folds that keep all clips of one recording on one side.",
    "out of fold": "Judged by experts that were not trained on the clip.",
    "calibration, ECE": "Whether answers of 80 % are right in 80 % of cases; ECE is the mean gap.",
    "p50, p95, p99": "The time that 50, 95 or 99 % of calls stay below.",
    "MC dropout": "Running the router many times with random parts switched off, to see how much r moves.",
}


def markdown() -> str:
    """All terms, as a list."""
    return "\n".join(f"- **{term}**: {meaning}" for term, meaning in TERMS.items())
