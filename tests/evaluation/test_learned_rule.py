"""Learned rules: what they could know they find, and they are judged on clips that they did not learn "
"from."""

from __future__ import annotations

import numpy as np
import pytest

from qmoe_core.errors import ConfigError
from qmoe_core.evaluation.cascade import PathCosts
from qmoe_core.evaluation.learned_rule import learned_rules
from qmoe_core.routing.mixing import Outputs

PATH = PathCosts({"q1": "a", "q8": "a"}, {"a": 10.0, "q1": 1.0, "q8": 9.0})


def outputs(right: np.ndarray) -> Outputs:
    """Two experts of two classes that are equally sure of all they say; the clips are of class 0."""
    q = np.where(right[..., None], [0.9, 0.1], [0.1, 0.9])
    unused = np.zeros(right.shape)
    return Outputs(("q1", "q8"), np.log(q), unused, unused[None])


def test_an_error_that_the_embedding_shows_is_found_where_doubt_is_blind() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(150, 4))
    right = np.column_stack([embeddings[:, 0] < 0.8, np.ones(150, bool)])
    folds, sources = np.arange(150) % 3, [str(i) for i in range(150)]

    found = learned_rules(embeddings, outputs(right), np.zeros(150, int), folds, sources, PATH)

    doubt, learned = found.rules[0], found.rules[1]
    assert doubt.errors.auroc == 0.5
    assert learned.errors.auroc > 0.9
    assert learned.errors == learned.rescued  # the second expert is always right
    assert found.accuracy == (pytest.approx(right[:, 0].mean()), 1.0)
    assert learned.asking[-1].accuracy > doubt.asking[-1].accuracy
    assert learned.asking[0].cost_us == pytest.approx(11.0 + 0.1 * 9.0)


def test_nothing_can_be_learned_where_the_second_puts_nothing_right() -> None:
    right = np.ones((30, 2), bool)
    with pytest.raises(ConfigError, match="q8 puts nothing right that q1 gets wrong"):
        learned_rules(
            np.zeros((30, 2)), outputs(right), np.zeros(30, int), np.arange(30) % 3, ["a"] * 30, PATH
        )
