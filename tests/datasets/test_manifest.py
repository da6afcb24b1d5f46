"""The manifest: addressed by its content, the same on every disk."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qmoe_core.datasets.manifest import DatasetClip, Manifest, check, printable
from qmoe_core.errors import DatasetError


def manifest(root: Path, **changes) -> Manifest:
    root.mkdir(exist_ok=True)
    entries = []
    for index, name in enumerate(("a.wav", "b.wav", "c.wav", "d.wav")):
        (root / name).write_bytes(bytes([index]))
        entries.append(DatasetClip(root / name, name, index // 2, index % 2 + 1, f"s{index}"))
    return replace(Manifest("sounds", root, ("cat", "dog"), tuple(entries)), **changes)


def test_arrays(tmp_path: Path) -> None:
    sounds = manifest(tmp_path)
    assert len(sounds) == 4
    assert sounds.labels.dtype == np.int64
    assert sounds.labels.tolist() == [0, 0, 1, 1]
    assert sounds.folds is not None
    assert sounds.folds.tolist() == [1, 2, 1, 2]
    assert sounds.names == ("a.wav", "b.wav", "c.wav", "d.wav")
    assert sounds.sources == ("s0", "s1", "s2", "s3")
    with pytest.raises(ValueError, match="read-only"):
        sounds.labels[0] = 1


def test_folds_are_there_for_all_clips_or_none(tmp_path: Path) -> None:
    sounds = manifest(tmp_path)
    some = replace(sounds.entries[0], fold=None)
    assert replace(sounds, entries=(some, *sounds.entries[1:])).folds is None


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    here, there = manifest(tmp_path / "here"), manifest(tmp_path / "there", name="other", licence="CC0")
    assert here.fingerprint() == there.fingerprint()
    assert pickle.loads(pickle.dumps(here)).fingerprint() == here.fingerprint()

    first, *others = here.entries
    variants = [
        replace(here, classes=("cat", "cow")),
        replace(here, entries=here.entries[::-1]),
        replace(here, entries=here.entries[1:]),
        *(
            replace(here, entries=(replace(first, **change), *others))
            for change in ({"name": "x.wav"}, {"label": 1}, {"fold": 3}, {"fold": None}, {"source": "s9"})
        ),
    ]
    prints = {variant.fingerprint() for variant in variants}
    assert len(prints) == len(variants)
    assert here.fingerprint() not in prints

    first.path.write_bytes(b"something else")
    assert here.fingerprint() != there.fingerprint()


def test_a_clip_that_went_missing_is_named(tmp_path: Path) -> None:
    sounds = manifest(tmp_path)
    sounds.entries[2].path.unlink()
    with pytest.raises(DatasetError, match=r"c\.wav: cannot be read \(No such file"):
        sounds.fingerprint()


def test_all_problems_at_once(tmp_path: Path) -> None:
    def clips(*rows: tuple[int, int | None, str]) -> list[DatasetClip]:
        return [DatasetClip(tmp_path, str(i), *row) for i, row in enumerate(rows)]

    def found(entries: list[DatasetClip], classes: list[str]) -> list[str]:
        return [f"{p.severity}: {p}" for p in check(entries, classes, "table")]

    fine = clips((0, None, "a"), (0, None, "a"), (1, None, "b"), (1, None, "b"))
    assert found(fine, ["cat", "dog"]) == []
    assert found([], []) == ["error: table: no clips; at least two classes of two clips each are needed"]
    assert found(clips((0, None, "a"), (1, 1, "a"), (1, 1, "a")), ["cat", "dog", "cow"]) == [
        "warning: table: class cat has too few clips (1); training needs at least two of every class",
        "error: table: class cow has too few clips (0); training needs at least two of every class",
        "warning: table: all clips are in fold 1; the protocol `official` needs at least two folds",
    ]
    crossing = found(clips((0, 1, "a"), (0, 2, "a"), (0, 2, "b")), ["cat"])
    assert crossing[0] == "error: table: one class only (cat); at least two are needed"
    assert crossing[1].startswith("warning: table: source recordings in more than one fold: 1 (a); ")


def test_names_that_could_move_the_cursor_are_escaped() -> None:
    assert printable("Übung/é.wav") == "Übung/é.wav"
    assert printable("a\x1b[2J\n") == r"a\x1b[2J\n"
    assert printable(Path("a\udcff")) == r"a\udcff"
