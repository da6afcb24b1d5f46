"""The number formats: one table, from which training, packing, kernels, export and pages derive all else.

A row of `_SPECS` is an expert: its name, how its weights are stored, how they are learned, and the words for
it. A symmetric format of k bits needs nothing but its row: see "How to add a format" in docs/architecture.md.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from qmoe_core.errors import ConfigError

Rule = Literal["float", "symmetric", "rounded", "ternary", "popcount"]
"""How a layer's weights become levels; `qmoe_core.experts.network.LAYERS` has the layer of each."""


class LevelRange(NamedTuple):
    """The integers that are stored for weights.

    Attributes:
        bits: of a level in a file (`engine/bits.py` packs any number of bits without a gap).
        lowest, highest: levels that there are. One bit has no zero: its levels are −1 and 1.
    """

    bits: int
    lowest: int
    highest: int

    @property
    def field(self) -> int:
        """Bits of a level where a kernel reads it: the next power of two, so that none spans two bytes."""
        return 1 << (self.bits - 1).bit_length()

    @property
    def values(self) -> int:
        """How many values a level can take."""
        return 2 if self.bits == 1 else self.highest - self.lowest + 1


def _integers(bits: int) -> LevelRange:
    """Two's complement of 2 bits and more; −1 and 1 in one bit."""
    half = 1 << (bits - 1)
    return LevelRange(bits, -half, max(half - 1, 1))


@dataclass(frozen=True)
class ExpertSpec:
    """One numeric format of a classifier.

    Attributes:
        name: how users and files call it.
        title: what a page prints.
        format: what files call the form in which a hidden layer's weights are stored.
        levels: the integers of that form; None for float32.
        rule: how a layer learns them.
        equation: of the paper, under which the Method page lists it, or nothing.
        summary: one sentence on how it comes about.
        derived_from: the expert it is made from after training, or None when it learns by itself.
    """

    name: str
    title: str
    format: str
    levels: LevelRange | None
    rule: Rule
    equation: str
    summary: str
    derived_from: str | None = None

    @property
    def bits(self) -> int:
        """Bits a stored weight takes."""
        return self.levels.bits if self.levels else 32


def _symmetric(bits: int, summary: str) -> ExpertSpec:
    """Eq. 2 with k = `bits`: q2, q4, …"""
    return ExpertSpec(f"q{bits}", f"{bits}-bit", f"int{bits}", _integers(bits), "symmetric", "2", summary)


_SPECS = (
    ExpertSpec(
        "fp32",
        "FP32",
        "float",
        None,
        "float",
        "",
        "Float weights and activations: the yardstick.",
    ),
    _symmetric(1, "sign(W) times the mean of |W|, trained straight through."),
    _symmetric(2, "Eq. 2 with k = 2: its grid is {−1, 0, 1} times max|W|."),
    _symmetric(3, "Eq. 2 with k = 3, trained straight through: seven levels, −3 to 3."),
    _symmetric(4, "Eq. 2 with k = 4, trained straight through."),
    _symmetric(8, "Eq. 2 with k = 8, trained straight through."),
    _symmetric(16, "Eq. 2 with k = 16: integers, not floats."),
    ExpertSpec(
        "bitnet",
        "BitNet",
        "ternary",
        LevelRange(2, -1, 1),
        "ternary",
        "3",
        "Eq. 3; threshold and scale learned per output channel.",
    ),
    ExpertSpec(
        "ptq8",
        "PTQ 8-bit",
        "int8",
        _integers(8),
        "rounded",
        "4",
        "The float expert rounded to 8 bits, never trained again.",
        derived_from="fp32",
    ),
    ExpertSpec(
        "popcount",
        "Popcount",
        "sign",
        LevelRange(1, -1, 1),
        "popcount",
        "4",
        "Eq. 4: the float expert's weights and activations as single bits, then a short fine-tune.",
        derived_from="fp32",
    ),
)

EXPERTS: dict[str, ExpertSpec] = {spec.name: spec for spec in _SPECS}
NAMES: tuple[str, ...] = tuple(EXPERTS)
LEVELS: dict[str, LevelRange] = {spec.format: spec.levels for spec in _SPECS if spec.levels}
"""The levels of each integer form, by its name in files."""
FORMATS: tuple[str, ...] = ("float", *LEVELS)


def _cost(spec: ExpertSpec) -> tuple[int, int, bool]:
    return spec.bits, spec.levels.values if spec.levels else 0, spec.rule != "popcount"


CHEAPEST_FIRST: tuple[str, ...] = tuple(sorted(NAMES, key=lambda name: _cost(EXPERTS[name])))
"""Experts by what a packed inference takes: bits of a weight, then values it can take, then whether
activations have more than one bit."""


def parse_names(text: str | Iterable[str], *, setting: str = "experts") -> tuple[str, ...]:
    """Expert names from a comma-separated list, in the order given.

    Args:
        text: such as `q4,q8,bitnet`, or the names themselves; `all` stands for every expert.
        setting: what to call the source of the names in an error.

    Returns:
        The names.

    Raises:
        ConfigError: no name, an unknown one, or one twice.

    >>> parse_names("bitnet, q4,q8")
    ('bitnet', 'q4', 'q8')
    """
    parts = text.split(",") if isinstance(text, str) else list(text)
    names = tuple(part.strip().lower() for part in parts if part.strip())
    if names == ("all",):
        return NAMES
    if not names:
        raise ConfigError(f"{setting}: no expert named; choose from {', '.join(NAMES)}, or all")
    for name in names:
        if name not in EXPERTS:
            close = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"{setting}: there is no expert '{name}'; choose from {', '.join(NAMES)}{hint}")
    if len(set(names)) != len(names):
        raise ConfigError(f"{setting}: an expert is named twice in {','.join(names)}")
    return names
