"""The layout of ESC-50 and ESC-10: `meta/esc50.csv` and the clips in `audio/`; or both in one folder.

Columns: `filename, fold, target, category, src_file`, and `esc10` where the subset is asked for; `take`
and any others are not used. Targets may have gaps (ESC-10 keeps ESC-50's numbers): labels count from 0
in the order of the targets. Clips with the same `src_file` were cut from one recording. ESC-50's classes
fall into five super-categories of ten, which can be the target instead (`esc50:categories`).

K. J. Piczak, "ESC: Dataset for Environmental Sound Classification", ACM MM 2015.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qmoe_core.datasets import metadata
from qmoe_core.datasets.manifest import DatasetClip, Manifest, Problem, Scan, check, first

TABLE = "meta/esc50.csv"
TABLES = (TABLE, "esc50.csv", "audio/esc50.csv")
HOMES = ("audio", "audio/audio", "")
"""Folders of the clips."""
COLUMNS = ("filename", "fold", "target", "category", "src_file")

CITATION = (
    'K. J. Piczak, "ESC: Dataset for Environmental Sound Classification", '
    "Proc. 23rd ACM Multimedia, 2015, doi 10.1145/2733373.2806390"
)
CLASSES = (
    *("dog", "rooster", "pig", "cow", "frog"),
    *("cat", "hen", "insects", "sheep", "crow"),
    *("rain", "sea_waves", "crackling_fire", "crickets", "chirping_birds"),
    *("water_drops", "wind", "pouring_water", "toilet_flush", "thunderstorm"),
    *("crying_baby", "sneezing", "clapping", "breathing", "coughing"),
    *("footsteps", "laughing", "brushing_teeth", "snoring", "drinking_sipping"),
    *("door_wood_knock", "mouse_click", "keyboard_typing", "door_wood_creaks", "can_opening"),
    *("washing_machine", "vacuum_cleaner", "clock_alarm", "clock_tick", "glass_breaking"),
    *("helicopter", "chainsaw", "siren", "car_horn", "engine"),
    *("train", "church_bells", "airplane", "fireworks", "hand_saw"),
)
"""ESC-50's, in the order of their targets: ten to a super-category."""
CATEGORIES = (
    "animals",
    "natural soundscapes and water",
    "human, not speech",
    "interior and domestic",
    "exterior and urban",
)
ESC10_CLASSES = {target: CLASSES[target] for target in (0, 1, 10, 11, 12, 20, 21, 38, 40, 41)}


@dataclass(frozen=True)
class _Row:
    where: str
    filename: str
    fold: int
    target: int
    category: str
    source: str


def matches(root: Path) -> bool:
    """Whether the folder has this layout."""
    return metadata.table_in(root, TABLES) is not None


def scan(root: Path, *, esc10: bool = False, skip_missing: bool = False, categories: bool = False) -> Scan:
    """Reads a folder of this layout.

    Args:
        root: folder with `meta/` and `audio/`.
        esc10: take only the rows whose `esc10` is True.
        skip_missing: leave out clips whose file is missing, with a warning, rather than refuse.
        categories: the target is the super-category, as far as there are clips of it.

    Returns:
        The manifest and every problem at once.
    """
    table = metadata.table_in(root, TABLES) or TABLE
    rows, problems = _rows(root, table, esc10)
    clips = metadata.Clips(root, HOMES, (row.filename for row in rows))
    paths = {row.filename: clips.find(row.filename) for row in rows}
    missing = [name for name, path in paths.items() if path is None]
    problems += missing_files(missing, len(rows), skip_missing, clips.home) + clips.problems(table)
    kept = [row for row in rows if paths[row.filename] or not skip_missing]

    names = {row.target: row.category for row in reversed(rows)}
    problems += [
        Problem(
            "error", row.where, f"target {row.target} is {names[row.target]} elsewhere, not {row.category}"
        )
        for row in rows
        if row.category != names[row.target]
    ]
    targets = sorted(names)
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    problems += [
        Problem("error", table, f"category {name} has more than one target; each needs its own")
        for name in twice
    ]
    classes = tuple(names[target] for target in targets)
    label = {target: index for index, target in enumerate(targets)}
    if categories:
        strange = sorted(name for target, name in names.items() if name not in CLASSES[target : target + 1])
        if strange:
            message = (
                f"super-categories are those of ESC-50, and these are none of its classes: {first(strange)}"
            )
            problems.append(Problem("error", table, message))
        there = sorted({target // 10 for target in targets if target < len(CLASSES)})
        classes = tuple(CATEGORIES[number] for number in there)
        label = {target: there.index(target // 10) for target in targets if target < len(CLASSES)}
    entries = tuple(
        DatasetClip(
            paths[row.filename] or clips.expected(row.filename),
            row.filename,
            label[row.target],
            row.fold,
            row.source,
        )
        for row in sorted(kept, key=lambda row: row.filename)
        if row.target in label
    )
    if rows:
        problems += check(entries, classes, table)
    if not any(problem.severity == "error" for problem in problems):  # else they only seem to be unlisted
        every = _rows(root, table, esc10=False)[0] if esc10 else rows
        problems += not_listed(clips, [row.filename for row in every], table)
    name, licence, citation = _provenance(root, names, esc10)
    name += ":categories" if categories else ""
    return Scan(Manifest(name, root, classes, entries, licence, citation), tuple(problems))


def missing_files(missing: Sequence[str], listed: int, skip: bool, home: str) -> list[Problem]:
    """What there is to say of listed clips without a file."""
    if not missing:
        return []
    message = f"missing files: {len(missing)} of {listed} ({first(missing)})"
    if skip:
        return [Problem("warning", home or ".", f"{message}; left out")]
    advice = "put them back, or leave them out with :skip-missing behind the dataset's name"
    return [Problem("error", home or ".", f"{message}; {advice}")]


def not_listed(clips: metadata.Clips, places: Sequence[str], table: str) -> list[Problem]:
    """What there is to say of audio files that the table does not mention."""
    extra = clips.unlisted(places)
    if not extra:
        return []
    message = f"audio files that {table} does not list, and are not used: {len(extra)} ({first(extra)})"
    return [Problem("warning", clips.home or ".", message)]


def _provenance(root: Path, names: dict[int, str], esc10: bool) -> tuple[str, str, str]:
    """Name, licence and citation; other data in this layout get the name of their folder and no more."""
    if names == ESC10_CLASSES:
        return ("esc10" if esc10 else root.name), "CC BY 3.0", CITATION
    if len(names) == 50 and ESC10_CLASSES.items() <= names.items():
        return root.name, "CC BY-NC 3.0", CITATION
    return root.name, "", ""


def _rows(root: Path, table: str, esc10: bool) -> tuple[list[_Row], list[Problem]]:
    """The table's usable rows, and what is wrong with the table and the others."""
    columns = (*COLUMNS, "esc10") if esc10 else COLUMNS
    read, problems = metadata.read(root, table, columns)
    rows: list[_Row] = []
    seen: dict[str, str] = {}
    for where, value in read:
        if esc10 and value["esc10"].lower() not in ("true", "false"):
            problems.append(Problem("error", where, f"esc10 is {value['esc10']!r}; expected True or False"))
        wrong = _wrong(value)
        problems += [Problem("error", where, message) for message in wrong]
        if not wrong and value["filename"] in seen:
            message = f"{value['filename']} is listed twice, first in {seen[value['filename']]}"
            problems.append(Problem("error", where, message))
        elif not wrong and (not esc10 or value["esc10"].lower() == "true"):
            seen[value["filename"]] = where
            rows.append(
                _Row(
                    where,
                    value["filename"],
                    int(value["fold"]),
                    int(value["target"]),
                    value["category"],
                    value["src_file"],
                )
            )
    if not rows and not any(problem.severity == "error" for problem in problems):
        wanted = "a row with esc10 True" if esc10 else "one row a clip"
        problems.append(Problem("error", table, f"no clips; {wanted} is expected"))
    return rows, problems


def _wrong(value: dict[str, str]) -> list[str]:
    """What is wrong with one row's values."""
    wrong = metadata.wrong_filename("filename", value["filename"])
    if not metadata.is_count(value["fold"]) or int(value["fold"]) < 1:
        wrong.append(f"fold is {value['fold']!r}; expected a whole number from 1")
    if not metadata.is_count(value["target"]):
        wrong.append(f"target is {value['target']!r}; expected a whole number from 0")
    for column in ("category", "src_file"):
        wrong += metadata.wrong_text(column, value[column])
    return wrong
