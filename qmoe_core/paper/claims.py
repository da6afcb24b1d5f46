"""All claims, in order, and running their checks: for the command line, a job, and the Claims page.

A finding is kept in the store with its figures. Its verdict is not: that is judged anew from the figures
whenever it is read.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from qmoe_core import __version__
from qmoe_core.errors import Cancelled, ConfigError, StoreError, UserError
from qmoe_core.paper import features, latency, protocol, quantisation, routing, statistics
from qmoe_core.paper.claim import (
    GROUNDS,
    HOLDS,
    NOT_TESTABLE,
    VERDICTS,
    Claim,
    Figures,
    Materials,
    Ruling,
    Verdict,
)
from qmoe_core.paper.untested import STATEMENTS
from qmoe_core.runtime import typed
from qmoe_core.runtime.store import Store
from qmoe_core.runtime.system import processor

KIND = "claims"

CLAIMS: tuple[Claim, ...] = tuple(
    sorted(
        (
            claim
            for theme in (routing, protocol, features, quantisation, latency, statistics)
            for claim in theme.CLAIMS
        ),
        key=lambda claim: claim.id,
    )
)
BY_ID: dict[int, Claim] = {claim.id: claim for claim in CLAIMS}

Progress = Callable[[int, int, str], object]


@dataclass(frozen=True)
class Finding:
    """What a check came to.

    Attributes:
        figures: what was measured, or None where nothing could be.
        ruling: the verdict, the figures in a sentence, and why.
        at: when, Unix time; seconds: the check took; machine: that it ran on.
    """

    claim: Claim
    figures: Figures | None
    ruling: Ruling
    at: float
    seconds: float
    machine: str

    def to_json(self) -> dict[str, Any]:
        """One element of `qmoe claims --json`."""
        claim, ruling = self.claim, self.ruling
        return {
            "id": claim.id,
            "claim": claim.claim,
            "source": claim.source,
            "test": claim.test,
            "paper": claim.paper,
            "ours": ruling.ours,
            "verdict": ruling.verdict,
            "why": ruling.why,
            "theme": claim.theme,
            "ground": claim.ground,
            "turns": claim.turns,
            "cost": claim.cost,
            "basis": self.figures.basis if self.figures else None,
            "figures": self.figures.values if self.figures else {},
            "machine": self.machine,
            "seconds": self.seconds,
        }


def parse_only(text: str) -> tuple[int, ...]:
    """Claims from a comma-separated list of numbers, each once, in order.

    Raises:
        ConfigError: something in it is not the number of a claim.

    >>> parse_only("31, 5")
    (5, 31)
    """
    parts = [part.strip() for part in text.split(",")]
    wrong = [part for part in parts if not re.fullmatch("[0-9]{1,4}", part) or int(part) not in BY_ID]
    if wrong:
        raise ConfigError(
            f"--only: there is no claim '{wrong[0]}'; accepted is 1 to {max(BY_ID)}, with commas"
        )
    return tuple(sorted({int(part) for part in parts}))


def check(claim: Claim, materials: Materials) -> Finding:
    """Measure and judge.

    Returns:
        The finding; where something that the check needs is not there, one that says so.
    """
    started, at = time.perf_counter(), time.time()
    try:
        figures = claim.measure(materials)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = "bench" if package == "memory_profiler" else "lab"
        missing = f"It needs {package}, which is not installed: pip install 'qmoe-lab[{extra}]'."
        figures, ruling = None, Ruling("not-testable", "Not measured.", missing)
    except UserError as error:
        figures, ruling = None, Ruling("not-testable", "Not measured.", str(error))
    else:
        ruling = claim.judge(figures.values)
    return Finding(claim, figures, ruling, at, time.perf_counter() - started, processor())


def run(
    ids: Sequence[int] | None = None,
    store: Store | None = None,
    *,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Iterator[Finding]:
    """Check claims and keep the findings.

    Args:
        ids: of the claims; None for all.
        store: where findings are kept and runs are looked for; the user's own when None.
        progress: told before each check how many are done, of how many, and what is next, and at the end.

    Yields:
        Each finding as it is made, in the order of the claims.

    Raises:
        Cancelled: `cancelled` said so; findings made before are kept.
    """
    materials = Materials(store or Store())
    chosen = [claim for claim in CLAIMS if ids is None or claim.id in ids]
    for done, claim in enumerate(chosen):
        if cancelled is not None and cancelled():
            raise Cancelled("stopped; findings made so far are kept")
        if progress is not None:
            progress(done, len(chosen), f"claim {claim.id}")
        finding = check(claim, materials)
        keep(finding, materials.store)
        yield finding
    if progress is not None:
        progress(len(chosen), len(chosen), "done")


def keep(finding: Finding, store: Store) -> None:
    """Keep a finding's figures in place of older ones; there is nothing to keep of what was not measured."""
    if finding.figures is None:
        return
    document = {
        "claim": finding.claim.id,
        "at": finding.at,
        "seconds": finding.seconds,
        "machine": finding.machine,
        "figures": asdict(finding.figures),
    }
    kept = store.put(KIND, {"claim": finding.claim.id, "at": time.time_ns()}, {}, document)
    for entry in store.list(KIND):
        if entry.metadata["claim"] == finding.claim.id and entry.key != kept.key:
            with suppress(StoreError):  # another process was faster
                store.delete(f"{KIND}/{entry.key}")


def latest(store: Store | None = None) -> dict[int, Finding]:
    """The newest kept finding of each claim, judged anew.

    Those that an older check made, with other figures than the verdict needs today, are left out.
    """
    found: dict[int, Finding] = {}
    for entry in (store or Store()).list(KIND):
        kept = entry.metadata
        claim = BY_ID.get(kept["claim"])
        if claim is None:
            continue
        try:
            figures = typed.convert(kept["figures"], Figures)
            ruling = claim.judge(figures.values)
        except (KeyError, msgspec.ValidationError):
            continue
        found[claim.id] = Finding(claim, figures, ruling, kept["at"], kept["seconds"], kept["machine"])
    return found


FAIRNESS = (
    "A verdict is about the sentence beside it, not about the work as a whole. Most statements were chosen "
    "because a first reading raised a question, so how many hold does not measure the paper."
)
HEADINGS = (HOLDS, *GROUNDS.values(), NOT_TESTABLE)
"""Of the groups, in the order of reading."""


def heading(claim: Claim, verdict: str | None) -> str:
    """The group of a claim: what holds, what could not be tested, else what it was compared with."""
    return {"holds": HOLDS, "not-testable": NOT_TESTABLE}.get(verdict or "", GROUNDS[claim.ground])


def grouped(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """Findings by heading; no empty ones."""
    groups: dict[str, list[Finding]] = {title: [] for title in HEADINGS}
    for finding in findings:
        groups[heading(finding.claim, finding.ruling.verdict)].append(finding)
    return {title: found for title, found in groups.items() if found}


def markdown(findings: Sequence[Finding]) -> str:
    """Findings as a document for the authors: how it was tested, what came out, what would change it."""
    count = tally(findings)
    groups = grouped(findings)
    lines = [
        "# Statements of “Uncertainty Makes It Stable”, recomputed",
        "",
        "Thank you for publishing the tables in full and the code with them: without both, nothing here "
        "could have been checked.",
        "",
        f"{len(findings)} statements of the paper and its public code were tested with qmoe lab "
        f"{__version__}: {count['holds']} hold, {count['does-not-hold']} do not, {count['not-testable']} "
        f"could not be tested. {FAIRNESS} What would change a verdict stands with it. Where the code is "
        "meant, it is commit dfbb02c; later versions exist and were not examined, but for the two that claim "
        "2 names. `qmoe claims --only NUMBER` runs a check again. Corrections are welcome, of the checks "
        "too.",
    ]
    for title in HEADINGS:
        found = groups.get(title, [])
        if found or title == NOT_TESTABLE:
            lines += ["", f"## {title}"]
        for finding in found:
            lines += ["", *_section(finding)]
    lines += ["", *(f"- {one.statement} ({one.source}) It would take {one.needs}." for one in STATEMENTS)]
    return "\n".join(lines) + "\n"


def _section(finding: Finding) -> list[str]:
    """One finding of that document."""
    claim, ruling = finding.claim, finding.ruling
    basis = finding.figures.basis if finding.figures else "nothing"
    return [
        f"### {claim.id}. {claim.claim}",
        "",
        f"- **Where:** {claim.source}. Printed: {claim.paper}",
        f"- **Tested:** {claim.test} ({basis})",
        f"- **Came out:** {ruling.ours}",
        f"- **Verdict:** {ruling.verdict.replace('-', ' ')}. {ruling.why}",
        f"- **What would change it:** {claim.turns}",
    ]


def tally(findings: Iterable[Finding]) -> dict[Verdict, int]:
    """How many of each verdict."""
    verdicts = [finding.ruling.verdict for finding in findings]
    return {verdict: verdicts.count(verdict) for verdict in VERDICTS}
