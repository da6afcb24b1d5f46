"""The layout of UrbanSound8K: `metadata/UrbanSound8K.csv` and the clips in `audio/fold1` to `audio/fold10`.

Columns: `slice_file_name, fsID, fold, classID, class`; `start, end, salience` and any others are not used.
The ten folds are official; clips with the same `fsID` were cut from one recording of freesound.org. Clips
last at most 4 s and come in any WAV format, rate and number of channels.

J. Salamon, C. Jacoby, J. P. Bello, "A Dataset and Taxonomy for Urban Sound Research", ACM MM 2014.
"""

from __future__ import annotations

from pathlib import Path

from qmoe_core.datasets import metadata
from qmoe_core.datasets.esc import missing_files
from qmoe_core.datasets.manifest import AUDIO_SUFFIXES, DatasetClip, Manifest, Problem, Scan, check

TABLE = "metadata/UrbanSound8K.csv"
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
    return (root / TABLE).is_file()


def scan(root: Path, *, skip_missing: bool = False) -> Scan:
    """Reads a folder of this layout.

    Args:
        root: folder with `metadata/` and `audio/`.
        skip_missing: leave out clips whose file is missing, with a warning, rather than refuse.

    Returns:
        The manifest and every problem at once. Its classes are those of the ten that have clips.
    """
    read, problems = metadata.read(root, TABLE, COLUMNS)
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
    if not rows and not problems:
        problems.append(Problem("error", TABLE, "no clips; one row a clip is expected"))

    found = {_place(row): (root / "audio" / _place(row)).is_file() for row in rows}
    problems += missing_files(
        sorted(place for place, there in found.items() if not there), len(rows), skip_missing
    )
    kept = [row for row in rows if found[_place(row)] or not skip_missing]
    numbers = sorted({int(row["classID"]) for row in rows})
    entries = tuple(
        DatasetClip(
            root / "audio" / _place(row),
            _place(row),
            numbers.index(int(row["classID"])),
            int(row["fold"]),
            row["fsID"],
        )
        for row in sorted(kept, key=_place)
    )
    classes = tuple(CLASSES[number] for number in numbers)
    if rows:
        problems += check(entries, classes, TABLE)
    return Scan(Manifest(root.name, root, classes, entries, LICENCE, CITATION), tuple(problems))


def unlisted(root: Path) -> list[str]:
    """Audio files that the table does not mention, as `fold5/NAME`."""
    read, _ = metadata.read(root, TABLE, COLUMNS)
    listed = {_place(value) for _, value in read}
    found = (path for path in (root / "audio").glob("*/*") if path.suffix.lower() in AUDIO_SUFFIXES)
    names = (path.relative_to(root / "audio").as_posix() for path in found)
    return sorted(name for name in names if name not in listed and not Path(name).name.startswith("."))


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
