"""A folder per class, with recordings inside, or pictures of Mel spectrograms (nested folders allowed).

A class folder may be a link to another place. The class folders may lie in parts, such as `training/`,
`validation/` and `testing/`, as those of Quinn's ABGQI soundscapes do: the parts are then official folds.
Testing is fold 1, validation 2, training 3, so that fold `official-1` under inner validation is the split as
it was published (trained on training, the epoch chosen on validation, judged on testing); in the other two
the parts change roles, and every clip is judged once. Otherwise there are no official folds. Nothing is known
of where a clip was cut from, so each file counts as a recording of its own: its source is its path without
the suffix.
"""

from __future__ import annotations

import os
import re
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

PARTS = {
    **dict.fromkeys(("testing", "test", "eval", "evaluation"), 1),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), 2),
    **dict.fromkeys(("training", "train"), 3),
}
"""Names of parts and their fold."""
LEAST_LINKED = 2
"""Recordings that make a class of a folder that is a link to elsewhere: training needs as many."""
_FOLD = re.compile(r"fold[ _-]?\d{1,2}", re.IGNORECASE)

QUINN_CLASSES = frozenset({"anthropophony", "biophony", "geophony", "quiet", "interference"})
QUINN_LICENCE = "MIT"
QUINN_CITATION = (
    'C. A. Quinn et al., "Soundscape classification with convolutional neural networks reveals temporal and '
    'geographic patterns in ecoacoustic data", Ecological Indicators 138, 2022, doi 10.5281/zenodo.6038459'
)


def matches(root: Path) -> bool:
    """Whether any folder in it has recordings or pictures."""
    return any(_sounding(folder, root) for folder in _folders(root))


def scan(root: Path) -> Scan:
    """Reads a folder of this layout.

    Hidden files are ignored. Links that lead out of `root` are left out, unless a class folder is one.

    Args:
        root: folder with one folder a class, or with parts that have one.

    Returns:
        The manifest and every problem at once.
    """
    places, problems = _class_folders(root)
    links: list[Path] = []
    files = {folder: _files(folder, root, links) for folder in places}
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
    if links:
        names = first(_shown(links, root))
        problems.append(Problem("warning", ".", f"links to elsewhere are left out: {len(links)} ({names})"))
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
    if len(classes) > 1 and all(_FOLD.fullmatch(name) for name in classes):
        message = (
            f"{first(classes)} are names of folds, and no classes: the table that tells the classes is "
            "missing; put UrbanSound8K.csv or esc50.csv beside them, or sort the files into a folder a class"
        )
        problems.append(Problem("error", ".", message))
    problems += check(entries, classes, ".")
    quinn = media == "pictures" and len(classes) > 1 and set(classes) <= QUINN_CLASSES
    licence, citation = (QUINN_LICENCE, QUINN_CITATION) if quinn else ("", "")
    return Scan(Manifest(root.name, root, classes, entries, licence, citation, media), tuple(problems))


def _class_folders(root: Path) -> tuple[dict[Path, int | None], list[Problem]]:
    """Every class folder with the official fold of what is in it, and what is left out beside parts."""
    folders = _folders(root)
    parts = {
        folder: PARTS[folder.name.lower()]
        for folder in folders
        if folder.name.lower() in PARTS and any(_sounding(inner, root) for inner in _folders(folder))
    }
    if len(set(parts.values())) < 2:
        return dict.fromkeys(folders), []
    others = [folder for folder in folders if folder not in parts]
    names = " and ".join(folder.name for folder in parts)
    problems = [
        Problem("warning", printable(folder.name), f"left out: it lies beside {names}, parts of the dataset")
        for folder in others
    ]
    return {inner: fold for part, fold in parts.items() for inner in _folders(part)}, problems


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


def _sounding(folder: Path, root: Path) -> bool:
    """Whether there are recordings or pictures in a folder that may be a class."""
    return any(_media(path) for path in _files(folder, root, []))


def _files(folder: Path, root: Path, left_out: list[Path]) -> list[Path]:
    """Regular files of a class; links that lead out of `root` are left out and added to `left_out`.

    A folder that is itself such a link is a class where it holds at least two recordings or pictures.
    """
    root = root.resolve()
    home = Path(os.path.realpath(folder))
    if home.is_relative_to(root):
        return list(_walk(folder, root, left_out))
    found = list(_walk(folder, home, []))
    if sum(_media(path) is not None for path in found) >= LEAST_LINKED:
        return found
    left_out.append(folder)
    return []


def _walk(folder: Path, inside: Path, left_out: list[Path]) -> Iterator[Path]:
    """Regular files under a folder; links are followed only to files that lie in `inside`."""
    for parent, folders, files in os.walk(folder):
        left_out += [Path(parent, name) for name in folders if Path(parent, name).is_symlink()]
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(parent, name)
            if name.startswith(".") or not path.is_file():
                continue
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):
                left_out.append(path)
            else:
                yield path
