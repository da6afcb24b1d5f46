"""Takes of one's own: changes are whole, undone, and grouped by recording; what is odd is said."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from qmoe_core import datasets
from qmoe_core.audio import decode
from qmoe_core.datasets import splits, takes
from qmoe_core.datasets.takes import Given, Takes
from qmoe_core.errors import DatasetError
from qmoe_core.evaluation import labelling


def sound(seed: int, seconds: float = 1.0, rate: int = 16_000) -> bytes:
    file = io.BytesIO()
    samples = 0.1 * np.random.default_rng(seed).normal(size=round(seconds * rate))
    soundfile.write(file, samples, rate, format="WAV")
    return file.getvalue()


def some(classes: str = "ab", each: int = 2) -> list[Given]:
    """Takes of classes, each of a recording of its own."""
    return [
        Given(sound(100 * i + j), f"{name}{j}.wav", name)
        for i, name in enumerate(classes)
        for j in range(each)
    ]


@pytest.fixture
def own(tmp_path: Path) -> Takes:
    return Takes(tmp_path / "takes")


def test_what_is_added_is_a_dataset(own: Takes) -> None:
    assert own.add([*some(), Given(b"no sound", "x.wav", "a"), some()[0]]) == [
        refused(b"no sound"),
        "a0.wav is there already.",
    ]
    own.add([Given(sound(7), "later.wav")])
    manifest = datasets.open_dataset(own.root)
    assert (manifest.classes, manifest.labels.tolist()) == (("a", "b"), [0, 0, 1, 1])
    assert len(set(manifest.sources)) == 4
    assert takes.counted(own.listed) == {"a": (2, 2), "b": (2, 2)}
    assert datasets.validate(own.root, decode=True).errors == ()


def refused(data: bytes) -> str:
    with pytest.raises(decode.AudioError) as error:
        decode.load(data, name="x.wav")
    return str(error.value)


def test_every_change_is_undone(own: Takes) -> None:
    own.add(some())
    before = own.listed
    first = before[0]
    for change in (
        lambda: own.label([take.id for take in before if take.label == "a"], "kettle"),
        lambda: own.delete([first.id]),
        lambda: own.cut(first.id, [(0.25, 0.75)]),
        lambda: own.add([Given(sound(9), "9.wav", "c")]),
    ):
        change()
        assert own.listed != before
        own.undo()
        assert own.listed == before
    assert all(own.path(take).is_file() for take in before)
    own.undo()
    assert (own.listed, own.undoable) == ((), False)


def test_parts_stay_of_one_recording(own: Takes) -> None:
    own.add([*some(), Given(sound(50, 12.0), "long.wav", "c"), *some("d")])
    long = next(take for take in own.listed if take.label == "c")
    own.cut(long.id, takes.pieces(long.seconds))
    parts = [take for take in own.listed if take.label == "c"]
    assert [take.seconds for take in parts] == [5.0, 5.0, 2.0]
    assert {take.recording for take in parts} == {long.recording}
    whole, part = decode.load(sound(50, 12.0), rate=16_000), decode.load(own.path(parts[1]), rate=16_000)
    np.testing.assert_allclose(part.samples, whole.samples[80_000:160_000], atol=2e-4)
    (concern,) = [said for said in takes.concerns(own.listed) if "one recording" in said]
    assert "All takes of c are of one recording" in concern
    # A class of one recording cannot be on both sides: the folds are of takes then, and that is said.
    assert takes.request(own.root, own.listed, "logmel-stats", "x").config.evaluation.protocol == "random"
    own.label([take.id for take in parts], "d")
    asked = takes.request(own.root, own.listed, "logmel-stats", "x")
    assert (asked.config.evaluation.protocol, asked.config.evaluation.folds) == ("grouped", 2)
    subject, manifest = asked.subject()
    folds = splits.folds(subject.labels, manifest.sources, None, "grouped", 2)
    assert splits.leaking_sources(folds, manifest.sources) == 0


def test_too_few_to_train(own: Takes) -> None:
    own.add([*some("a", 5), Given(sound(9), "9.wav", "b")])
    assert takes.concerns(own.listed)[0].startswith("Fewer than 5 takes of b")
    with pytest.raises(DatasetError, match="two takes or more of each \\(b has one\\)"):
        takes.request(own.root, own.listed, "logmel-stats", "x")


def test_nothing_is_half_written(own: Takes, monkeypatch: pytest.MonkeyPatch) -> None:
    own.add(some())
    before = own.listed

    def fails(path: Path, data: bytes) -> None:
        if path.name == takes.TABLE:
            raise OSError(28, "No space left on device")
        write(path, data)

    write = takes.write_whole
    monkeypatch.setattr(takes, "write_whole", fails)
    with pytest.raises(DatasetError, match="No space left"):
        own.add([Given(sound(9), "9.wav", "c")])
    monkeypatch.undo()
    assert own.listed == before
    own.label([before[0].id], "c")  # what was left over goes with the next change
    named = {take.sound for take in before}
    assert {path.name for path in (own.root / takes.SOUNDS).iterdir()} == named


def test_bounds_of_a_visitor(tmp_path: Path) -> None:
    own = Takes(tmp_path, most_bytes=1 << 20, longest_s=2.0)
    assert "2 s" in own.add([Given(sound(1, 3.0), "long.wav", "a")])[0]
    with pytest.raises(DatasetError, match="larger than 1 MB"):
        own.add([Given(sound(i, 1.9), f"{i}.wav", "a") for i in range(20)])
    assert own.listed == ()


@pytest.mark.parametrize("name", ["", " ", "a\nb", ".hidden", "x" * 61, "a\x1bb"])
def test_names_of_classes(own: Takes, name: str) -> None:
    own.add(some())
    if name.split() == ["a", "b"]:
        own.label([own.listed[0].id], name)
        assert own.listed[0].label == "a b"
    elif name == "":
        own.label([own.listed[0].id], name)
        assert own.listed[0].label == ""
    else:
        with pytest.raises(DatasetError, match="1 to 60 characters"):
            own.label([own.listed[0].id], name)


def test_a_damaged_table_is_said(own: Takes) -> None:
    own.add(some())
    (own.root / takes.TABLE).write_text("[1")
    with pytest.raises(DatasetError, match="cannot be read as a list of takes"):
        datasets.open_dataset(own.root)


def test_the_least_sure_comes_first() -> None:
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(-3, 0.3, (5, 8)), rng.normal(3, 0.3, (5, 8))])
    pool = np.stack([np.full(8, -3.0), np.full(8, 0.05), np.full(8, 3.0)])
    order, apart = labelling.next_ones(z, ["a"] * 5 + ["b"] * 5, pool)
    assert order[0] == 1
    assert apart is not None
    assert apart[1] < 0.2 < min(apart[0], apart[2])
    assert labelling.next_ones(z, ["a"] * 10, pool)[1] is None
