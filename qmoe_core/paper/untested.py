"""Statements of the paper that no check here can test, and what testing them would take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Untested:
    """A statement without a check.

    Attributes:
        statement: as the paper makes it; source: where it stands.
        needs: what a test of it would take.
    """

    statement: str
    source: str
    needs: str


STATEMENTS = (
    Untested(
        "F1 on ESC-50, Quinn and UrbanSound8K is what is printed.",
        "§5.1, Table 1",
        "the recordings, or the published embeddings: `qmoe reproduce --dataset …` puts our figures beside "
        "the printed ones",
    ),
    Untested(
        "The p-values are those of the paired t-tests and of Levene’s test; Spearman’s ρ is 0.89.",
        "§5.5, Table 5",
        "F1 and latency of every fold, of which the paper prints means and deviations",
    ),
    Untested(
        "Latency, energy and memory have these values on an Apple M3 Max.",
        "§5.2–5.4, Tables 2–4 and 6",
        "that machine",
    ),
    Untested(
        "Curiosity converts bimodal latencies to Gaussian ones.",
        "§5.4",
        "every measured latency; five a dataset could show no distribution",
    ),
    Untested(
        "Later versions of the code correct Eq. 8.",
        "README, “corrected Eq. 8”",
        "an examination of those versions; every statement about code here is about commit dfbb02c or the "
        "two versions that claim 2 names",
    ),
    Untested(
        "The settings of §4.3 are the best of 200 trials.",
        "§4.3; the public code’s record of its tuning",
        "the trials, and folds that took no part in them",
    ),
)
"""Each of them, in the order of the paper."""
