"""The README's figures are those of what ships: the default bundle, and the measured figures in data/.

Each checked table names where its numbers come from; a number that is changed by one in its last digit is
reported. What no file in this repository can give (other data sets, other machines) is not checked.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from qmoe_core import bundles, cli
from qmoe_core.evaluation import boards, distillation
from qmoe_core.evaluation.boards import Board
from qmoe_core.measure import machines

README = Path(__file__).resolve().parent.parent / "README.md"
NUMBER = re.compile(r"−?(?:\d[\d,]*)?\.?\d+")

Expected = Sequence[float]
Table = Mapping[str, Mapping[int, Expected]]
"""From a row's first cell to the numbers of its other cells, by column, in the order printed."""


def value(printed: str) -> float:
    return float(printed.replace(",", "").replace("−", "-"))


def matches(printed: str, expected: float) -> bool:
    """Whether a printed number is the expected one, rounded to its own digits."""
    digits = len(printed.partition(".")[2])
    return abs(value(printed) - expected) <= 0.5 * 10**-digits + 1e-9


def rows(text: str, header: str) -> dict[str, list[str]]:
    """The rows of the table whose first line begins so, each by its first cell; for one row, by "".

    Raises:
        ValueError: the README has no such table.
    """
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith(header)), None)
    if start is None:
        raise ValueError(f"no table begins with {header}")
    found = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = _cells(line)
        found["" if re.fullmatch("[0-9.± ]+", cells[0]) else cells[0]] = cells
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def problems(text: str) -> list[str]:
    """What the README's tables say otherwise than what ships."""
    wrong = []
    for header, expected in tables().items():
        printed = rows(text, header)
        for row, cells in expected.items():
            if row not in printed:
                wrong.append(f"{header}: no row {row!r}")
                continue
            for column, numbers in cells.items():
                said = NUMBER.findall(printed[row][column])
                if len(said) == 1 < len(numbers):  # a range that rounding makes one number
                    said *= len(numbers)
                if len(said) != len(numbers) or not all(map(matches, said, numbers)):
                    wrong.append(f"{header}: {row}, column {column}: {printed[row][column]}, not {numbers}")
    return wrong


@functools.cache
def tables() -> Mapping[str, Table]:
    """Every table that is checked, by its first line."""
    return {
        "| fp32 | q16 |": {"": dict(enumerate(f1_of_the_bundle()))},
        "| path | front end |": paths(),
        "| embedder + head |": on_a_board(),
        "| question |": uncertainty(),
        "| strategy | rank correlation": strategies(),
    }


def f1_of_the_bundle() -> Iterator[Expected]:
    f1 = bundles.load().provenance.f1
    order = ("fp32", "q16", "q8", "q4", "q3", "q2", "q1", "bitnet", "ptq8", "popcount")
    for name in (*order, "bitnet+q4+q8", "bitnet+q4+q8 curious"):
        yield f1[name]["mean"], f1[name]["std"]


def paths() -> Table:
    times = {row["name"]: row for row in machines.reference().rows}

    def row(embedder: str, *heads: str) -> dict[int, Expected]:
        chosen = [times[f"{embedder}:{head}"] for head in heads]

        def ends(pick: Callable[[dict[str, Any]], float]) -> Expected:
            values = [pick(one) for one in chosen]
            return values if len(values) == 1 else (min(values), max(values))

        front = chosen[0]["stages"]["front_end_us"]
        return {
            1: [front],
            2: ends(lambda one: one["stages"]["embedder_us"]),
            3: ends(lambda one: one["stages"]["head_us"]),
            4: ends(lambda one: one["p50_us"]),
            5: ends(lambda one: one["speedup_vs_peer"]),
        }

    def peer(embedder: str) -> dict[int, Expected]:
        one = times[f"{embedder} ONNX Runtime int8"]
        return {1: [one["stages"]["front_end_us"]], 4: [one["p50_us"]], 5: [one["speedup_vs_peer"]]}

    return {
        **{f"`{name}` fp32": row(name, "fp32") for name in ("mn04", "ds-cnn", "logmel-stats")},
        **{f"`{name}` q8": row(name, "q8") for name in ("mn04", "ds-cnn", "logmel-stats")},
        **{f"`{name}` q4, q2, q1": row(name, "q4", "q2", "q1") for name in ("mn04", "ds-cnn")},
        **{f"`{name}` ONNX Runtime static int8": peer(name) for name in ("mn04", "ds-cnn")},
    }


def on_a_board() -> Table:
    found = {}
    for one in boards.fits(boards.shipped(), Board(speed=0.25), machines.reference()):
        esc, urban = (one.path.f1[name] for name in ("esc10", "urbansound8k-3folds"))
        found[one.path.name] = {
            1: [one.path.bytes / 1e3],
            2: [one.us / 1e3],
            3: [esc.mean, esc.std],
            4: [urban.mean, urban.std],
        }
    shown = ("q1", "q2+q1", "q4+q1")
    return {name: found[name] for name in shown} | {
        f"{name} (does not fit)": found[name] for name in ("q8+q1", "q8")
    }


def uncertainty() -> Table:
    said = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(said, write_through=True)):
        assert cli.main(["sweep", "uncertainty", "--json"]) == 0
        found = json.loads(said.getvalue())
    errors, unknown = found["errors"], found["unknown_classes"]

    def promise(**asked: float) -> Expected:
        [kept] = [
            one
            for one in found["kept"]
            if (one["coverage"] == asked.get("coverage"))
            and ("coverage" in asked or one["risk"] > asked["above"])
        ]
        low, high = kept["risk_ci95"]
        return 100 * kept["answered"], 100 * kept["risk"], 100 * low, 100 * high

    doubt = errors["doubt"]
    kinds = ("total", "epistemic", "router_variance")
    return {
        "Does doubt, 1 − the largest probability, find errors? AUROC": {
            1: [doubt["auroc"], doubt["low"], doubt["high"]]
        },
        "total / epistemic / the router's own": {1: [errors[kind]["auroc"] for kind in kinds]},
        "unknown classes: doubt / epistemic / the router's own": {
            1: [unknown[kind]["auroc"] for kind in ("doubt", *kinds[1:])]
        },
        "90 % of the clips answered: answered, and wrong of these": {1: promise(coverage=0.9)},
        "at most 10 % wrong: answered, and wrong of these": {1: promise(above=0.05)},
    }


def strategies() -> Table:
    loaded = bundles.load()
    compared = distillation.compare(loaded, loaded.settings(), alphas=())
    titles = {"distilled (bitnet)": "distilled from bitnet", "distilled (q1)": "distilled from q1"}
    found = {}
    for row in compared.rows:
        if row.name in ("none", "cascade") or row.rank is None:
            continue
        rank = [row.rank.within] if row.name == "disagreement" else []
        rank = rank or [row.rank.within, row.rank.low, row.rank.high]
        found[titles.get(row.name, row.name)] = {1: rank, 2: [row.runs[0]], 3: [row.f1[0]]}
    return found


def test_the_tables_are_those_of_what_ships() -> None:
    assert problems(README.read_text(encoding="utf-8")) == []


def test_any_other_number_is_reported() -> None:
    """Every checked number, changed by one in its last digit."""
    text, tried = README.read_text(encoding="utf-8"), 0
    for header, expected in tables().items():
        for row, columns in expected.items():
            cells = rows(text, header)[row]
            [line] = {line for line in text.splitlines() if _cells(line) == cells}
            for column in columns:
                for number in NUMBER.finditer(cells[column]):
                    other = str(int(number[0][-1]) ^ 1)  # 0 and 1, 2 and 3, … change places
                    cell = cells[column][: number.end() - 1] + other + cells[column][number.end() :]
                    changed = [*cells[:column], cell, *cells[column + 1 :]]
                    assert problems(text.replace(line, f"| {' | '.join(changed)} |")), (
                        header,
                        row,
                        number[0],
                    )
                    tried += 1
    assert tried > 120


def test_a_table_that_is_gone_is_said() -> None:
    with pytest.raises(ValueError, match="no table begins with"):
        problems("")


def test_sizes_in_sentences() -> None:
    """The embedder of the bundle, and the mixes of layers that the README names, in bytes."""
    text = README.read_text(encoding="utf-8")
    bundle = bundles.load()
    [network] = (bundles.shipped() / bundle.name / "embedders").iterdir()
    assert f"in 8 bits {network.stat().st_size / 1e3:.0f} kB" in text
    sizes = {mix["bytes"] for mix in boards.shipped_layers()["mixes"]}
    named = {int(value(found)) for found in re.findall(r"\(([\d,]+) bytes[;)]", text)}
    assert len(named) == 3
    assert named <= sizes
