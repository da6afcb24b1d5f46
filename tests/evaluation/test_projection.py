"""Maps of embeddings: the same every time, right for literals, kept in the store."""

from __future__ import annotations

import numpy as np
import pytest

from qmoe_core.errors import ConfigError
from qmoe_core.evaluation import projection
from qmoe_core.evaluation.projection import project
from qmoe_core.runtime.store import Store


def _clusters() -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = 10.0 * rng.normal(size=(3, 6))
    return (np.repeat(centres, 10, axis=0) + rng.normal(size=(30, 6))).astype(np.float16)


def test_points_on_a_line_stay_on_a_line() -> None:
    along = np.arange(5.0)

    found = project(np.stack([along, 2.0 * along, -along, np.ones(5)], axis=1))

    assert found.explained == pytest.approx(1.0)
    np.testing.assert_allclose(found.points[:, 1], 0.0, atol=1e-6)
    steps = np.diff(found.points[:, 0])
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    assert abs(steps[0]) == pytest.approx(np.sqrt(3.0) / np.std(along))


def test_pca_is_scikit_learns() -> None:
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    x = _clusters().astype(np.float64)
    pca = PCA(2, svd_solver="full")
    theirs = pca.fit_transform(StandardScaler().fit_transform(x))

    found = project(x)

    np.testing.assert_allclose(np.abs(found.points), np.abs(theirs), rtol=1e-5, atol=1e-6)
    assert found.explained == pytest.approx(pca.explained_variance_ratio_.sum())


@pytest.mark.parametrize("method", projection.METHODS)
def test_clusters_are_seen_and_the_map_is_the_same_every_time(method: projection.Method) -> None:
    found = project(_clusters(), method)

    assert found.points.shape == (30, 2)
    centre = found.points.reshape(3, 10, 2).mean(axis=1)
    nearest = np.linalg.norm(found.points[:, None] - centre, axis=2).argmin(axis=1)
    assert nearest.tolist() == np.repeat([0, 1, 2], 10).tolist()
    np.testing.assert_array_equal(found.points, project(_clusters(), method).points)


def test_made_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = project(_clusters(), "pca", store)
    monkeypatch.setattr(projection, "_pca", None)  # a second time it would fail

    kept = project(_clusters(), "pca", store)

    np.testing.assert_array_equal(kept.points, made.points)
    assert kept.explained == made.explained
    assert len(store.list(projection.KIND)) == 1


@pytest.mark.parametrize("method", projection.METHODS)
def test_few_and_identical_clips(method: projection.Method) -> None:
    assert np.isfinite(project(np.eye(4)[:, :3], method).points).all()
    assert project(np.ones((5, 3))).points.tolist() == [[0.0, 0.0]] * 5


def test_a_map_that_cannot_be_drawn() -> None:
    with pytest.raises(ConfigError, match="accepted is pca, t-sne"):
        project(np.eye(4), "umap")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="at least 3 clips, and there are 2"):
        project(np.eye(2))
