"""Datasets of sounds: one module a layout, all giving the same manifest.

A dataset is given by its folder or its name, and may have options behind a colon, such as `esc50:categories`
or `urbansound8k:skip-missing`: whatever takes a dataset takes them, also on the Train page.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from qmoe_core.audio import decode as audio
from qmoe_core.audio import pictures
from qmoe_core.datasets import esc, folder, imported, takes, urbansound
from qmoe_core.datasets.manifest import DatasetClip, Manifest, Problem, Scan, first, gathered, printable
from qmoe_core.errors import AudioError, DatasetError
from qmoe_core.runtime.ahead import ahead
from qmoe_core.runtime.executor import Progress
from qmoe_core.runtime.store import default_root, published

__all__ = [
    "OPTIONS",
    "DatasetClip",
    "Layout",
    "Manifest",
    "Problem",
    "Validation",
    "available",
    "homes",
    "kept",
    "open_dataset",
    "validate",
]

Layout = Literal["esc", "urbansound", "imported", "takes", "folder"]

OPTIONS = {
    "categories": "the target is the super-category (ESC), or the column category (imported)",
    "labels": "the target is the column label (imported)",
    "esc10": "only the clips of ESC-10 (ESC)",
    "skip-missing": "leave out listed clips whose file is missing (ESC, UrbanSound8K)",
}
"""What may stand behind a dataset's name."""
_TAKES: dict[Layout, frozenset[str]] = {
    "esc": frozenset({"categories", "esc10", "skip-missing"}),
    "urbansound": frozenset({"skip-missing"}),
    "imported": frozenset({"categories", "labels"}),
    "takes": frozenset(),
    "folder": frozenset(),
}


def kept() -> Path:
    """Where datasets that were downloaded or imported lie."""
    return published(default_root()) / "datasets"


def homes() -> list[Path]:
    """Folders where a dataset is looked for by name: the store's, $QMOE_DATA, and a checkout's neighbour."""
    named = os.environ.get("QMOE_DATA")
    return [
        kept(),
        *([Path(named).expanduser()] if named else []),
        Path(__file__).resolve().parents[2].parent / "shared" / "data",
    ]


def available() -> dict[str, Path]:
    """Datasets that can be opened by name, the first place winning; only the layout is looked at."""
    found: dict[str, Path] = {}
    for home in homes():
        with contextlib.suppress(OSError):  # a home that does not exist, or is not ours to read
            for path in sorted(home.iterdir()):
                if path.is_dir() and not path.name.startswith(".") and _layout(path):
                    found.setdefault(path.name, path)
    return found


def open_dataset(
    spec: str | Path, *, layout: Layout | None = None, esc10: bool = False, skip_missing: bool = False
) -> Manifest:
    """Opens a dataset.

    Args:
        spec: its folder, or a name such as `esc10` that is looked for in `homes()`; options (see `OPTIONS`)
            may follow behind a colon, with commas between them.
        layout: `esc` (meta/esc50.csv and audio/), `urbansound` (metadata/UrbanSound8K.csv and audio/fold1 …),
            `imported` (see `imported`), `takes` (see `takes`) or `folder` (a folder a class); None finds out.
        esc10, skip_missing: the options of that name.

    Raises:
        DatasetError: it cannot be found or used; the message names the file and what is accepted.
    """
    root, scan = _opened(spec, layout, esc10, skip_missing)
    problems = gathered(scan.problems)
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        hint = f" (the first of {len(errors)} problems: qmoe data validate lists them)" if errors[1:] else ""
        raise DatasetError(f"{printable(root / errors[0].file)}: {errors[0].message}{hint}")
    return replace(scan.manifest, notes=tuple(str(problem) for problem in problems))


@dataclass(frozen=True)
class Validation:
    """What checking a dataset gave.

    Attributes:
        manifest: as far as it can be used; files: how many were looked at.
        problems: everything that is wrong.
    """

    manifest: Manifest
    files: int
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that make the dataset, or a file of it, unusable."""
        return tuple(problem for problem in self.problems if problem.severity == "error")


def validate(
    spec: str | Path,
    *,
    layout: Layout | None = None,
    esc10: bool = False,
    skip_missing: bool = False,
    decode: bool = False,
    progress: Progress | None = None,
) -> Validation:
    """Everything that is wrong with a dataset, at once; it takes what `open_dataset` takes.

    Beyond what opening checks, the header of every file is read, and files with the same content and those
    that no table lists are found.

    Args:
        decode: decode every file to its end, as embedding would.
        progress: told of files looked at.

    Raises:
        DatasetError: there is no such folder, or no dataset in it.
    """
    root, scan = _opened(spec, layout, esc10, skip_missing)
    manifest = scan.manifest
    problems = list(scan.problems)
    if manifest.ready is not None:
        return Validation(manifest, len(manifest), gathered([*problems, *imported.damage(root)]))
    check = _picture if manifest.media == "pictures" else _decoded if decode else _header
    present = [entry for entry in manifest.entries if entry.path.is_file()]
    looks: list[_Look] = []
    for done, look in enumerate(ahead(check, present), start=1):
        looks.append(look)
        if progress is not None:
            progress(done, len(present), look.entry.name)
    problems += [
        Problem(severity, look.entry.path.relative_to(root).as_posix(), message)
        for look in looks
        for severity, message in look.problems
    ]
    if manifest.media == "pictures":
        problems += _odd_ones(looks)
    if (layout or _layout(root)) == "urbansound":
        problems += _longer_than(looks, urbansound.LONGEST_S)
    problems += _same_content(present)
    return Validation(manifest, len(present), gathered(problems))


@dataclass(frozen=True)
class _Look:
    """What reading one file gave: problems as (severity, message), seconds of sound, or size and mode."""

    entry: DatasetClip
    problems: tuple[tuple[Literal["error", "warning"], str], ...] = ()
    duration_s: float = 0.0
    shape: str = ""


def _header(entry: DatasetClip) -> _Look:
    """The header and the first block of a recording."""
    try:
        with audio.open_recording(entry.path) as recording:
            next(recording.blocks())
            return _Look(entry, duration_s=recording.announced_s or recording.duration_s)
    except AudioError as error:
        message = str(error)
    if "holds no samples" in message:
        message = "holds no samples"
    elif "is not a sound file" in message:
        message = "cannot be read as audio; WAV, FLAC, Ogg Vorbis and MP3 are accepted"
    return _Look(entry, (("error", message),))


def _decoded(entry: DatasetClip) -> _Look:
    try:
        with audio.open_recording(entry.path) as clip:
            for _ in clip.blocks():
                pass
    except AudioError as error:
        return _Look(entry, (("error", str(error)),))
    doubtful = ("header announces", "is damaged", "Digital silence")
    return _Look(
        entry,
        tuple(("warning", note) for note in clip.notes if any(word in note for word in doubtful)),
        clip.duration_s,
    )


def _picture(entry: DatasetClip) -> _Look:
    try:
        picture = pictures.load(entry.path)
    except AudioError as error:
        return _Look(entry, (("error", str(error)),))
    flat = bool((picture.pixels == picture.pixels[0, 0]).all())
    width, height = picture.size
    return _Look(
        entry, (("warning", "is of one colour"),) if flat else (), shape=f"{width} × {height} {picture.mode}"
    )


def _odd_ones(looks: Iterable[_Look]) -> list[Problem]:
    """Pictures of another size or mode than most."""
    by_shape: dict[str, list[str]] = defaultdict(list)
    for look in looks:
        if look.shape:
            by_shape[look.shape].append(look.entry.name)
    usual = max(by_shape, key=lambda shape: len(by_shape[shape]), default="")
    return [
        Problem(
            "warning",
            names[0],
            f"{len(names)} of the pictures are {shape} ({first(names)}), most are {usual}; all are made RGB "
            "and stretched to one size",
        )
        for shape, names in by_shape.items()
        if shape != usual
    ]


def _longer_than(looks: Iterable[_Look], seconds: float) -> list[Problem]:
    longer = [look.entry.name for look in looks if look.duration_s > seconds + audio.TAIL_S]
    if not longer:
        return []
    message = (
        f"clips longer than {seconds:g} s, which this dataset has none of: {len(longer)} ({first(longer)})"
    )
    return [Problem("warning", longer[0], message)]


def _same_content(entries: Iterable[DatasetClip]) -> list[Problem]:
    same: dict[str, list[DatasetClip]] = defaultdict(list)
    for entry in entries:
        with contextlib.suppress(DatasetError):  # unreadable, which was said
            same[entry.sha256].append(entry)
    problems = []
    for group in same.values():
        # Within one source recording, repetition is at least kept on one side of a grouped fold.
        if len({entry.source for entry in group}) > 1 or len({entry.label for entry in group}) > 1:
            names = [entry.name for entry in group]
            message = f"{len(names)} files with one content ({first(names)}) differ in source or label"
            problems.append(Problem("warning", names[0], message))
    return problems


def _opened(spec: str | Path, layout: Layout | None, esc10: bool, skip_missing: bool) -> tuple[Path, Scan]:
    root, options = _locate(spec)
    root = root if layout else _within(root)
    wanted = options | {name for name, on in (("esc10", esc10), ("skip-missing", skip_missing)) if on}
    return root, _scan(root, layout, wanted)


def _within(root: Path) -> Path:
    """The dataset in a folder that holds nothing else, as archives unpack.

    Raises:
        DatasetError: the folder is a part of a dataset.
    """
    if root.name in ("audio", "meta", "metadata") and _tabled(root.parent) and not _tabled(root):
        raise DatasetError(f"{printable(root)}: is a part of a dataset; give {printable(root.parent)}")
    with contextlib.suppress(OSError):
        inside = [path for path in root.iterdir() if not path.name.startswith((".", "__MACOSX"))]
        if len(inside) == 1 and inside[0].is_dir() and not _tabled(root) and _tabled(inside[0]):
            return inside[0]
    return root


def _tabled(root: Path) -> bool:
    return esc.matches(root) or urbansound.matches(root)


def _locate(spec: str | Path) -> tuple[Path, set[str]]:
    """A dataset's folder, and the options behind its name."""
    root = _folder(spec)
    if root is not None:
        return root, set()
    bare, colon, behind = str(spec).rpartition(":")
    options = {option.strip() for option in behind.split(",")}
    if colon and options <= OPTIONS.keys() and (root := _folder(bare)):
        return root, options
    if colon and _folder(bare):
        unknown = printable(sorted(options - OPTIONS.keys())[0])
        raise DatasetError(f"{printable(spec)}: no option {unknown!r}; accepted are {', '.join(OPTIONS)}")
    bare = str(spec) if not colon else bare
    by_name = isinstance(spec, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", bare)
    looked = f"; looked for it in {', '.join(map(str, homes()))}" if by_name else ""
    raise DatasetError(f"{printable(spec)}: no such dataset{looked}; give the path of its folder")


def _folder(spec: str | Path) -> Path | None:
    """The folder of that path or name, if there is one."""
    try:
        path = Path(spec).expanduser()
        if path.is_dir():
            return path.resolve()
        if path.exists():
            archive = path.suffix.lower() in (".zip", ".gz", ".tar", ".tgz", ".7z", ".rar")
            way_out = "; unpack it first" if archive else ""
            raise DatasetError(f"{printable(path)}: is a file; expected the folder of a dataset{way_out}")
        if isinstance(spec, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", spec):
            return next((home.joinpath(spec).resolve() for home in homes() if (home / spec).is_dir()), None)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~somebody who does not exist
        raise DatasetError(f"{printable(spec)}: not a folder that can be opened ({error})") from None
    return None


def _layout(root: Path) -> Layout | None:
    if esc.matches(root):
        return "esc"
    if urbansound.matches(root):
        return "urbansound"
    if imported.matches(root):
        return "imported"
    if takes.matches(root):
        return "takes"
    return "folder" if folder.matches(root) else None


def _scan(root: Path, layout: Layout | None, options: set[str]) -> Scan:
    try:
        layout = layout or _layout(root)
        if layout is None:
            raise DatasetError(
                f"{printable(root)}: no dataset; expected {esc.TABLE} or {urbansound.TABLE} with audio/, "
                "or a folder per class with recordings (wav, flac, mp3, m4a, …) or pictures (png, jpg)"
            )
        if layout not in _TAKES:
            raise DatasetError(f"layout {layout!r} does not exist; expected {', '.join(_TAKES)}")
        if strange := sorted(options - _TAKES[layout]):
            can = ", ".join(sorted(_TAKES[layout])) or "none"
            raise DatasetError(
                f"{root}: has no {strange[0]}: {OPTIONS[strange[0]]}; options of this dataset: {can}"
            )
        if layout == "esc":
            return esc.scan(
                root,
                esc10="esc10" in options,
                skip_missing="skip-missing" in options,
                categories="categories" in options,
            )
        if layout == "urbansound":
            return urbansound.scan(root, skip_missing="skip-missing" in options)
        if layout == "imported":
            if {"categories", "labels"} <= options:
                raise DatasetError(f"{root}: categories and labels are two targets; give one of them")
            target = "category" if "categories" in options else "label" if "labels" in options else "class_id"
            return imported.scan(root, target=target)
        if layout == "takes":
            return takes.scan(root)
        return folder.scan(root)
    except OSError as error:
        raise DatasetError(
            f"{printable(error.filename or root)}: cannot be read ({error.strerror or error})"
        ) from None
