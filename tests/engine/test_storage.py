"""Files and tensors of an expert: what is saved comes back, and what does not fit is refused in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from qmoe_core.engine import FORMATS, ExpertWeights, from_tensors, load, load_with_scaler, save, to_tensors
from qmoe_core.errors import BundleError

MakeExpert = Callable[..., ExpertWeights]


def assert_same(a: ExpertWeights, b: ExpertWeights) -> None:
    assert a.name == b.name
    for x, y in zip(a.layers, b.layers, strict=True):
        assert (x.format, x.inputs, x.outputs, x.threshold) == (y.format, y.inputs, y.outputs, y.threshold)
        for part in ("matrix", "scale", "bias", "gamma", "beta"):
            np.testing.assert_array_equal(getattr(x, part), getattr(y, part))
            assert getattr(x, part).dtype == getattr(y, part).dtype
    np.testing.assert_array_equal(a.head_weight, b.head_weight)
    np.testing.assert_array_equal(a.head_bias, b.head_bias)


@pytest.mark.parametrize("layer_format", FORMATS)
def test_tensors_give_back_the_expert(layer_format: str, make_expert: MakeExpert) -> None:
    expert = make_expert(layer_format, (13, 7, 5, 3))
    assert_same(from_tensors(to_tensors(expert, "x."), {"name": expert.name}, "x."), expert)


@pytest.mark.parametrize("layer_format", FORMATS)
def test_file_gives_back_the_expert(layer_format: str, make_expert: MakeExpert, tmp_path: Path) -> None:
    expert = make_expert(layer_format, (13, 7, 3))
    path = tmp_path / "expert.safetensors"
    save(expert, path)
    assert_same(load(path), expert)
    assert load_with_scaler(path)[1:] == (None, None)
    assert [p.name for p in tmp_path.iterdir()] == ["expert.safetensors"]


def test_scaler_travels_with_the_expert(make_expert: MakeExpert, tmp_path: Path) -> None:
    mean, std = np.arange(4, dtype=np.float32), np.full(4, 2, np.float32)
    save(make_expert("int4", (4, 2, 2)), tmp_path / "e.safetensors", mean=mean, std=std)
    loaded = load_with_scaler(tmp_path / "e.safetensors")
    np.testing.assert_array_equal(loaded.mean, mean)
    np.testing.assert_array_equal(loaded.std, std)
    with pytest.raises(BundleError, match=r"scaler\.std: every deviation must be above zero"):
        save(make_expert("int4", (4, 2, 2)), tmp_path / "f.safetensors", mean=mean, std=mean)


@pytest.mark.parametrize(
    ("layer_format", "kilobytes"),
    [("int1", 241.6), ("int2", 390.1), ("int4", 687.1), ("int8", 1281.0), ("int16", 2468.8)],
)
def test_size_on_disk_is_table_7s(
    layer_format: str, kilobytes: float, make_expert: MakeExpert, tmp_path: Path
) -> None:
    """A file with its scaler, at the paper's shape, is within 2 % of the paper's Table 7."""
    expert = make_expert(layer_format, (1536, 640, 320, 50))
    path = tmp_path / "expert.safetensors"
    save(expert, path, mean=np.zeros(1536, np.float32), std=np.ones(1536, np.float32))
    assert path.stat().st_size / 1000 == pytest.approx(kilobytes, rel=0.02)
    assert expert.parameters == 1_206_770


def damage(tensors: dict[str, np.ndarray], how: str) -> None:
    codes = tensors["layers.0.codes"]
    if how == "missing":
        del tensors["layers.0.gamma"]
    elif how == "bytes":
        tensors["layers.0.codes"] = codes[:, :-1]
    elif how == "type":
        tensors["layers.0.scale"] = tensors["layers.0.scale"].astype(np.float64)
    elif how == "level":
        codes[0, 0] = 0b10
    elif how == "padding":
        codes[0, -1] |= 0b1100_0000
    elif how == "infinite":
        tensors["head.weight"][0, 0] = np.inf
    elif how == "chain":
        tensors["layers.1.inputs"][0] = 8
    elif how == "format":
        tensors["layers.0.format"][0] += 1
    elif how == "size":
        tensors["layers.0.inputs"][0] = -1
    elif how == "layers":
        del tensors["layers.0.format"]


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("missing", r"tensor layers\.0\.gamma is missing; expected float32 \[7\]"),
        ("bytes", r"tensor layers\.0\.codes: expected uint8 \[7, 4\], got uint8 \[7, 3\]"),
        ("type", r"tensor layers\.0\.scale: expected float32 \[7\], got float64 \[7\]"),
        ("level", r"tensor layers\.0\.codes: -2 is not a level of ternary, which has -1 to 1"),
        ("padding", r"tensor layers\.0\.codes: bits after the last of 13 levels must be zero"),
        ("infinite", r"head\.weight: holds a value that is not finite"),
        ("chain", r"damaged: layer 1 takes 8 inputs but gets 7"),
        ("format", r"tensor layers\.0\.format: expected one of float, int1"),
        ("size", r"tensor layers\.0\.inputs: expected 1 to 65536, got -1"),
        ("layers", r"tensor layers\.0\.format: expected one of"),
    ],
)
def test_what_does_not_fit_is_refused(how: str, sentence: str, make_expert: MakeExpert) -> None:
    expert = make_expert("ternary", (13, 7, 5, 3))
    tensors = {key: array.copy() for key, array in to_tensors(expert).items()}
    damage(tensors, how)
    with pytest.raises(BundleError, match=sentence):
        from_tensors(tensors, {"name": "damaged"})


def rewrite(path: Path, **changes: str) -> None:
    with safe_open(path, framework="numpy") as file:
        header = file.metadata() | changes
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(tensors, path, header)


def test_damaged_newer_and_foreign_files_are_refused(make_expert: MakeExpert, tmp_path: Path) -> None:
    path = tmp_path / "expert.safetensors"
    save(make_expert("int8", (13, 7, 3)), path)
    good = path.read_bytes()

    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(BundleError, match="is damaged, its checksum does not fit"):
        load(path)
    path.write_bytes(good[:-1])
    with pytest.raises(BundleError, match=r"cannot be read as a \.safetensors file"):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(BundleError, match=r"cannot be read as a \.safetensors file"):
        load(path)
    with pytest.raises(BundleError, match=r"nowhere\.safetensors: cannot be read"):
        load(tmp_path / "nowhere.safetensors")
    path.write_bytes(good)
    rewrite(path, version="2")
    with pytest.raises(BundleError, match="has format version 2, this program reads version 1"):
        load(path)
    save_file({"a": np.zeros(1, np.float32)}, path)
    with pytest.raises(BundleError, match="is not a packed expert"):
        load(path)


def test_an_interrupted_save_leaves_the_old_file(
    make_expert: MakeExpert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "expert.safetensors"
    save(make_expert("int8", (13, 7, 3)), path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        save(make_expert("int4", (13, 7, 3)), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["expert.safetensors"]


def test_the_same_expert_is_the_same_file(make_expert, tmp_path):
    weights = make_expert("int4", (16, 8, 3))
    for name in "abcdefgh":
        save(weights, tmp_path / name)

    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
