"""The layout of UrbanSound8K: `metadata/UrbanSound8K.csv` and the clips in `audio/fold1` to `audio/fold10`.

The table may also lie beside the folders of the folds, and these in the same folder, as the set is passed on.

Columns: `slice_file_name, fsID, fold, classID, class`; `start, end, salience` and any others are not used.
The ten folds are official; clips with the same `fsID` were cut from one recording of freesound.org. Clips
last at most 4 s and come in any WAV format, rate and number of channels.

J. Salamon, C. Jacoby, J. P. Bello, "A Dataset and Taxonomy for Urban Sound Research", ACM MM 2014.
"""

from __future__ import annotations

from pathlib import Path

from qmoe_core.datasets import metadata
from qmoe_core.datasets.esc import missing_files, not_listed
from qmoe_core.datasets.manifest import DatasetClip, Manifest, Problem, Scan, check

TABLE = "metadata/UrbanSound8K.csv"
TABLES = (TABLE, "UrbanSound8K.csv", "audio/UrbanSound8K.csv")
HOMES = ("audio", "")
"""Folders of the folds."""
COLUMNS = ("slice_file_name", "fsID", "fold", "classID", "class")
FOLDS = 10
LONGEST_S = 4.0
CLASSES = (
    *("air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling"),
    *("engine_idling", "gun_shot", "jackhammer", "siren", "street_music"),
)
LICENCE = "CC BY-NC 3.0"
CITATION = (
    'J. Salamon, C. Jacoby, J. P. Bello, "A Dataset and Taxonomy for Urban Sound Research", '
    "Proc. 22nd ACM Multimedia, 2014, doi 10.1145/2647868.2655045"
)


def matches(root: Path) -> bool:
    """Whether the folder has this layout."""
    return metadata.table_in(root, TABLES) is not None


def scan(root: Path, *, skip_missing: bool = False) -> Scan:
    """Reads a folder of this layout.

    Args:
        root: folder with `metadata/` and `audio/`.
        skip_missing: leave out clips whose file is missing, with a warning, rather than refuse.

    Returns:
        The manifest and every problem at once. Its classes are those of the ten that have clips.
    """
    table = metadata.table_in(root, TABLES) or TABLE
    read, problems = metadata.read(root, table, COLUMNS)
    rows: list[dict[str, str]] = []
    seen: dict[str, str] = {}
    for where, value in read:
        name = value["slice_file_name"]
        wrong = _wrong(value)
        problems += [Problem("error", where, message) for message in wrong]
        if not wrong and name in seen:
            problems.append(Problem("error", where, f"{name} is listed twice, first in {seen[name]}"))
        elif not wrong:
            seen[name] = where
            rows.append(value)
            said = name.split("-")
            if len(said) == 4 and (said[0], said[1]) != (value["fsID"], value["classID"]):
                message = f"{name} names another recording or class than fsID and classID do"
                problems.append(Problem("warning", where, message))
    if not rows and not any(problem.severity == "error" for problem in problems):
        problems.append(Problem("error", table, "no clips; one row a clip is expected"))

    clips = metadata.Clips(root, HOMES, map(_place, rows))
    found = {_place(row): clips.find(_place(row)) for row in rows}
    missing = sorted(place for place, path in found.items() if path is None)
    problems += missing_files(missing, len(rows), skip_missing, clips.home) + clips.problems(table)
    kept = [row for row in rows if found[_place(row)] or not skip_missing]
    numbers = sorted({int(row["classID"]) for row in rows})
    entries = tuple(
        DatasetClip(
            found[_place(row)] or clips.expected(_place(row)),
            _place(row),
            numbers.index(int(row["classID"])),
            int(row["fold"]),
            row["fsID"],
        )
        for row in sorted(kept, key=_place)
    )
    classes = tuple(CLASSES[number] for number in numbers)
    if rows:
        problems += check(entries, classes, table)
    if not any(problem.severity == "error" for problem in problems):  # else they only seem to be unlisted
        problems += not_listed(clips, list(found), table)
    return Scan(Manifest(root.name, root, classes, entries, LICENCE, CITATION), tuple(problems))


def _place(row: dict[str, str]) -> str:
    return f"fold{row['fold']}/{row['slice_file_name']}"


def _wrong(value: dict[str, str]) -> list[str]:
    """What is wrong with one row's values."""
    wrong = metadata.wrong_filename("slice_file_name", value["slice_file_name"])
    wrong += metadata.wrong_text("fsID", value["fsID"])
    if not metadata.is_count(value["fold"]) or not 1 <= int(value["fold"]) <= FOLDS:
        wrong.append(f"fold is {value['fold']!r}; expected 1 to {FOLDS}")
    number, name = value["classID"], value["class"]
    if name not in CLASSES:
        wrong.append(f"class is {name!r}; expected one of {', '.join(CLASSES)}")
    elif not metadata.is_count(number) or int(number) != CLASSES.index(name):
        wrong.append(f"classID is {number!r}; that of {name} is {CLASSES.index(name)}")
    return wrong
