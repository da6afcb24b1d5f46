"""A folder per class, with recordings inside, or pictures of Mel spectrograms (nested folders allowed).

The class folders may lie in parts, `training/`, `validation/` and `testing/`, as those of Quinn's ABGQI
soundscapes do: the parts are then official folds. Testing is fold 1, validation 2, training 3, so that fold
`official-1` under inner validation is the split as it was published (trained on training, the epoch chosen on
validation, judged on testing); in the other two the parts change roles, and every clip is judged once.
Otherwise there are no official folds. Nothing is known of where a clip was cut from, so each file counts as a
recording of its own: its source is its path without the suffix.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from qmoe_core.datasets.manifest import (
    AUDIO_SUFFIXES,
    PICTURE_SUFFIXES,
    DatasetClip,
    Manifest,
    Media,
    Problem,
    Scan,
    check,
    first,
    printable,
)

PARTS = {"testing": 1, "test": 1, "validation": 2, "valid": 2, "val": 2, "training": 3, "train": 3}
"""Names of parts and their fold."""

QUINN_CLASSES = frozenset({"anthropophony", "biophony", "geophony", "quiet", "interference"})
QUINN_LICENCE = "MIT"
QUINN_CITATION = (
    'C. A. Quinn et al., "Soundscape classification with convolutional neural networks reveals temporal and '
    'geographic patterns in ecoacoustic data", Ecological Indicators 138, 2022, doi 10.5281/zenodo.6038459'
)


def matches(root: Path) -> bool:
    """Whether any folder in it has recordings or pictures."""
    inside = root.resolve()
    return any(_media(path) for folder in _folders(root) for path in _walk(folder, inside))


def scan(root: Path) -> Scan:
    """Reads a folder of this layout; hidden files and links that lead out of `root` are ignored.

    Args:
        root: folder with one folder a class, or with parts that have one.

    Returns:
        The manifest and every problem at once.
    """
    problems: list[Problem] = []
    places = _class_folders(root)
    files = {folder: list(_walk(folder, root.resolve())) for folder in places}
    media = _kind(path for paths in files.values() for path in paths)
    other = [p for paths in files.values() for p in paths if _media(p) not in (media, None)]
    if other:
        message = f"pictures left out of a dataset of recordings: {len(other)} ({first(_shown(other, root))})"
        problems.append(Problem("warning", ".", message))
    found: dict[Path, list[Path]] = {}
    for folder, paths in files.items():
        ours = [path for path in paths if _media(path) == media]
        clips = [path for path in ours if path.relative_to(root).as_posix().isprintable()]
        if clips:
            found[folder] = clips
        if len(clips) < len(ours):
            message = f"files left out for control characters in their names: {len(ours) - len(clips)}"
            problems.append(Problem("warning", printable(folder.name), message))
        elif not clips:
            wanted = "pictures (png, jpg)" if media == "pictures" else "audio (wav, flac, ogg, mp3)"
            message = f"has no {wanted} and does not count as a class"
            problems.append(Problem("warning", printable(folder.name), message))
    loose = [
        path for home in {root, *(f.parent for f in places)} for path in home.iterdir() if path.is_file()
    ]
    loose = [path for path in loose if _media(path) == media]
    if loose:
        what = "pictures" if media == "pictures" else "audio files"
        names = first(_shown(loose, root))
        message = f"{what} left out because they lie in no class folder: {len(loose)} ({names})"
        problems.append(Problem("warning", ".", message))

    classes = tuple(sorted({folder.name for folder in found}))
    entries = tuple(
        sorted(
            (
                DatasetClip(
                    path, name, classes.index(folder.name), places[folder], name.removesuffix(path.suffix)
                )
                for folder, clips in found.items()
                for path in clips
                for name in [path.relative_to(root).as_posix()]
            ),
            key=lambda entry: entry.name,
        )
    )
    problems += check(entries, classes, ".")
    quinn = media == "pictures" and len(classes) > 1 and set(classes) <= QUINN_CLASSES
    licence, citation = (QUINN_LICENCE, QUINN_CITATION) if quinn else ("", "")
    return Scan(Manifest(root.name, root, classes, entries, licence, citation, media), tuple(problems))


def _class_folders(root: Path) -> dict[Path, int | None]:
    """Every class folder, and the official fold of what is in it."""
    folders = _folders(root)
    if len(folders) > 1 and all(folder.name.lower() in PARTS for folder in folders):
        return {inner: PARTS[folder.name.lower()] for folder in folders for inner in _folders(folder)}
    return dict.fromkeys(folders)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if not path.name.startswith(".") and path.is_dir())


def _kind(paths: Iterator[Path]) -> Media:
    """What a dataset with these files is of: recordings if it has any."""
    kinds = {_media(path) for path in paths}
    return "pictures" if "pictures" in kinds and "audio" not in kinds else "audio"


def _media(path: Path) -> Media | None:
    suffix = path.suffix.lower()
    return "audio" if suffix in AUDIO_SUFFIXES else "pictures" if suffix in PICTURE_SUFFIXES else None


def _shown(paths: list[Path], root: Path) -> list[str]:
    return sorted(printable(path.relative_to(root)) for path in paths)


def _walk(folder: Path, root: Path) -> Iterator[Path]:
    """Regular files under a folder; links are followed only to files that lie within `root`."""
    if not Path(os.path.realpath(folder)).is_relative_to(root):
        return
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(parent, name)
            inside = not path.is_symlink() or Path(os.path.realpath(path)).is_relative_to(root)
            if not name.startswith(".") and inside and path.is_file():
                yield path
