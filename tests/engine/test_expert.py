"""A packed expert: the same logits from every kernel, alone or in a batch, from any thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from qmoe_core.engine import FORMATS, ExpertWeights, PackedExpert, kernels
from qmoe_core.errors import ConfigError

MakeExpert = Callable[..., ExpertWeights]
COMPILED = tuple(name for name in kernels.available() if name != "numpy")


def embeddings(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("layer_format", FORMATS)
@pytest.mark.parametrize(
    "sizes", [(1536, 640, 320, 50), (37, 41, 7), (5, 1, 3, 1), (300, 33, 65, 31, 97, 10)]
)
def test_kernels_agree(name: str, layer_format: str, sizes: tuple[int, ...], make_expert: MakeExpert) -> None:
    expert = make_expert(layer_format, sizes)
    x = embeddings(20, sizes[0])
    expected = PackedExpert(expert, "numpy").logits(x)
    packed = PackedExpert(expert, name)
    logits = packed.logits(x)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(logits.argmax(axis=1), expected.argmax(axis=1))
    for one, row in zip(x, logits, strict=True):
        np.testing.assert_array_equal(packed.logits(one), row)


@pytest.mark.parametrize("name", kernels.available())
def test_shapes(name: str, make_expert: MakeExpert) -> None:
    packed = PackedExpert(make_expert("int4", (9, 8, 3)), name)
    x = embeddings(6, 9)
    expected = packed.logits(x)
    assert packed.logits(x[0]).shape == (3,)
    assert packed.logits(x[:0]).shape == (0, 3)
    np.testing.assert_array_equal(packed.logits(x.reshape(2, 3, 9)).reshape(6, 3), expected)
    np.testing.assert_array_equal(packed.logits(x.astype(np.float64)), expected)
    np.testing.assert_array_equal(packed.logits(np.asfortranarray(x)), expected)
    frozen = x.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(packed.logits(frozen), expected)
    with pytest.raises(ValueError, match="random-int4: expected"):
        packed.logits(x[:, :8])
    with pytest.raises(ValueError, match="random-int4: expected"):
        packed.logits(np.array(1, np.float32))
    out = np.empty(6 * 3, np.float32)
    packed.logits_into(x.reshape(-1), packed.workspace(), out)
    np.testing.assert_array_equal(out.reshape(6, 3), expected)
    with pytest.raises(ValueError, match="must fit the expert"):
        packed.logits_into(x[0], packed.workspace(), np.empty(4, np.float32))


@pytest.mark.parametrize("name", kernels.available())
@pytest.mark.parametrize("layer_format", ["int8", "int1", "float"])
def test_not_a_number_stays_visible(name: str, layer_format: str, make_expert: MakeExpert) -> None:
    packed = PackedExpert(make_expert(layer_format, (40, 8, 3)), name)
    x = embeddings(3, 40)
    x[1, 5] = np.nan
    with np.errstate(invalid="ignore"):
        logits = packed.logits(x)
    assert np.isnan(logits[1]).all()
    assert np.isfinite(logits[[0, 2]]).all()


@pytest.mark.parametrize("name", kernels.available())
def test_threads_share_an_expert(name: str, make_expert: MakeExpert) -> None:
    packed = PackedExpert(make_expert("int2", (64, 48, 10)), name)
    x = embeddings(200, 64)
    expected = packed.logits(x)
    with ThreadPoolExecutor(4) as pool:
        logits = np.stack(list(pool.map(packed.logits, x)))
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_weights_stay_packed_in_memory(make_expert: MakeExpert) -> None:
    """Resident bytes at the paper's shape: packed matrices, and no more than 97 kB besides."""
    for layer_format, bits in (
        ("int1", 1),
        ("sign", 1),
        ("ternary", 2),
        ("int2", 2),
        ("int4", 4),
        ("int8", 8),
    ):
        expert = make_expert(layer_format, (1536, 640, 320, 50))
        for name in COMPILED:
            packed = PackedExpert(expert, name)
            assert packed.nbytes < (1536 * 640 + 640 * 320) * bits // 8 + 97_000


def test_the_kernel_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    best = kernels.available()[0]
    monkeypatch.delenv("QMOE_KERNEL", raising=False)
    assert kernels.choose() == best
    monkeypatch.setenv("QMOE_KERNEL", "portable")
    assert kernels.choose() == "portable"
    assert kernels.choose("numpy") == "numpy"
    monkeypatch.setenv("QMOE_KERNEL", "avx1024")
    with pytest.raises(ConfigError, match="kernel 'avx1024' cannot run here; accepted are auto"):
        kernels.choose()
