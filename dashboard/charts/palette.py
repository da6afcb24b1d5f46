"""Colours: one for each expert and each class, the same on every page, and the two themes' surfaces.

The expert and class colours were searched for in OKLCH so that each has a contrast of at least 3 : 1 on the
light and on the dark page, and so that any two stay apart under full protanopia, deuteranopia and
tritanopia (OKLab distance at least 0.1 and 0.09; of q3, the tenth, 0.06). They only ever accompany a name,
never replace it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EXPERTS = {
    "fp32": "#ae887b",
    "q16": "#1866e0",
    "q8": "#4b8efe",
    "q4": "#8b83bf",
    "q3": "#fc36ba",
    "q2": "#7457a3",
    "q1": "#a26482",
    "bitnet": "#397247",
    "ptq8": "#d37812",
    "popcount": "#c92516",
}
_CLASSES = (
    "#7293ca",
    "#f9601f",
    "#46703d",
    "#ad74ff",
    "#954a7e",
    "#c27f68",
    "#4057da",
    "#95758a",
    "#c92516",
    "#7a6cbc",
)


@dataclass(frozen=True)
class Theme:
    """What a chart needs to know of the page it stands on; the same values as in .streamlit/config.toml."""

    dark: bool
    page: str
    ink: str
    muted: str
    line: str
    accent: str
    scale: tuple[str, ...]
    """From nothing (the page itself) to full, for probabilities."""


LIGHT = Theme(
    dark=False,
    page="#fcfbf8",
    ink="#1e2328",
    muted="#636a70",
    line="#d9d5cb",
    accent="#0f6b73",
    scale=("#f4f3ee", "#cfe4e3", "#8ac1c3", "#43959a", "#167079", "#0a4b53"),
)
DARK = Theme(
    dark=True,
    page="#15181b",
    ink="#e6e3dc",
    muted="#a2a8ad",
    line="#3a4148",
    accent="#5fbdc4",
    scale=("#1c2125", "#1f3a40", "#225a61", "#348990", "#5fbdc4", "#b4e6e8"),
)


def expert_colour(name: str) -> str:
    """The colour of an expert; a neutral grey for one that this version does not know."""
    return EXPERTS.get(name, "#808080")


def class_colour(classes: Sequence[str], label: str) -> str:
    """The colour of a class, by its place in the bundle's list; colours repeat after ten classes."""
    return _CLASSES[list(classes).index(label) % len(_CLASSES)]


@dataclass(frozen=True)
class Look:
    """How a contender is drawn: experts by their colour, mixtures in ink, told apart by dashes and marks."""

    colour: str
    dash: str = "solid"
    symbol: str = "circle"

    @property
    def css(self) -> str:
        """The same as a line of a legend."""
        style = {"solid": "solid", "dash": "dashed", "dot": "dotted"}.get(self.dash, "double")
        return f"3px {style} {self.colour}"


_MIXTURE_MARKS = (
    ("solid", "diamond"),
    ("dash", "diamond-open"),
    ("dot", "square"),
    ("dashdot", "square-open"),
)


def looks(names: Sequence[str], theme: Theme) -> dict[str, Look]:
    """By name, how each expert or mixture (`q4+q8@0.3`) is drawn."""
    mixtures = [name for name in names if "+" in name]
    found = {name: Look(expert_colour(name)) for name in names if name not in mixtures}
    for i, name in enumerate(mixtures):
        found[name] = Look(theme.ink, *_MIXTURE_MARKS[i % len(_MIXTURE_MARKS)])
    return found
