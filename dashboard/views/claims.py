"""Pieces of the Claims page as HTML, words and rows; no Streamlit here.

Everything that a finding says was written in this lab, but it is escaped all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from dashboard.views.tables import Column
from qmoe_core.numbers import NBSP
from qmoe_core.paper.claim import Claim
from qmoe_core.paper.claims import HEADINGS, Finding, heading, tally
from qmoe_core.paper.untested import STATEMENTS

UNCHECKED = "unchecked"
STATES = {
    "holds": ("✓", "holds"),
    "does-not-hold": ("✕", "does not hold"),
    "not-testable": ("?", "not testable here"),
    UNCHECKED: ("…", "not checked yet"),
}
"""Each state's sign and words."""

COLUMNS = tuple(
    Column(key, key, number=False)
    for key in (
        "id",
        "theme",
        "claim",
        "source",
        "test",
        "paper",
        "ours",
        "verdict",
        "why",
        "basis",
        "machine",
        "seconds",
    )
)
"""Of the CSV."""

Findings = Mapping[int, Finding]


def state(claim: Claim, findings: Findings) -> str:
    """A verdict, or `unchecked`."""
    finding = findings.get(claim.id)
    return finding.ruling.verdict if finding else UNCHECKED


def fitting(
    claims: Sequence[Claim], findings: Findings, *, verdict: str, theme: str, search: str
) -> list[Claim]:
    """The claims that a filter lets through; empty strings let everything through.

    Args:
        search: words that must all occur in what is said about a claim; or the number of one.
    """
    words, numbers = search.lower().split(), {str(claim.id) for claim in claims}

    def found(claim: Claim) -> bool:
        if search.strip() in numbers:
            return search.strip() == str(claim.id)
        return all(word in said(claim) for word in words)

    def said(claim: Claim) -> str:
        finding = findings.get(claim.id)
        ruled = [finding.ruling.ours, finding.ruling.why] if finding else []
        return " ".join([claim.claim, claim.source, claim.test, claim.paper, *ruled]).lower()

    return [
        claim
        for claim in claims
        if verdict in ("", state(claim, findings)) and theme in ("", claim.theme) and found(claim)
    ]


def summary(claims: Sequence[Claim], findings: Findings) -> str:
    """How it stands, in a sentence."""
    count = tally(findings.values())
    left = len(claims) - len(findings)
    parts = [
        f"{count['holds']} hold{'s' * (count['holds'] == 1)}",
        f"{count['does-not-hold']} do{'es' * (count['does-not-hold'] == 1)} not",
    ]
    if count["not-testable"]:
        parts.append(f"{count['not-testable']} cannot be tested here")
    if left:
        parts.append(f"{left} {'was' if left == 1 else 'were'} not checked on this machine yet")
    listed = f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"Of {len(claims)} statements of the paper and its public code, {listed}."


def grouped(claims: Sequence[Claim], findings: Findings) -> dict[str, list[Claim]]:
    """Claims by heading: what holds first, then by what the statement is compared with; no empty headings."""
    groups: dict[str, list[Claim]] = {title: [] for title in HEADINGS}
    for claim in claims:
        groups[heading(claim, state(claim, findings))].append(claim)
    return {title: listed for title, listed in groups.items() if listed}


def overview(claims: Sequence[Claim], findings: Findings) -> str:
    """All claims as numbers, in the groups of the page, each a link to its place on it."""
    rows = []
    for title, listed in grouped(claims, findings).items():
        links = "".join(
            f'<a href="#claim-{claim.id}" class="qm-v-{state(claim, findings)}" '
            f'title="{escape(claim.claim)}" aria-label="Claim {claim.id}: '
            f'{STATES[state(claim, findings)][1]}">{claim.id}</a>'
            for claim in listed
        )
        rows.append(f"<dt>{escape(title)}</dt><dd>{links}</dd>")
    return f'<dl class="qm-claims qm-map">{"".join(rows)}</dl>'


def card(claim: Claim, finding: Finding | None) -> str:
    """A claim: the statement, where it stands, and what came of it."""
    key = finding.ruling.verdict if finding else UNCHECKED
    sign, words = STATES[key]
    badge = f'<span class="qm-badge qm-v-{key}">{sign} {words}</span>'
    ruled = f"{badge}{_text(finding.ruling.ours)}" if finding else badge
    why = f"<p>{_text(finding.ruling.why)}</p>" if finding else ""
    return (
        f'<article class="qm-claims qm-claim" id="claim-{claim.id}"><div class="qm-no">{claim.id}</div><div>'
        f"<h3>{_text(claim.claim)}</h3>"
        f'<p class="qm-source">{_text(claim.source)}. Theirs: {_text(claim.paper)}</p>'
        f'<p class="qm-ruled">{ruled}</p>{why}</div></article>'
    )


def _text(text: str) -> str:
    """Escaped, and a figure on the same line as its per cent."""
    return escape(text).replace(" %", f"{NBSP}%")


def untested() -> str:
    """The statements that no check here can test, in Markdown, each with what a test would take."""
    return "\n".join(f"- {one.statement} ({one.source}) *It would take {one.needs}.*" for one in STATEMENTS)


def document(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """As `qmoe claims --json` prints it."""
    return [finding.to_json() for finding in findings]
