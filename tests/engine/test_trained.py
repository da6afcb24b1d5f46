"""What was trained is what is served: an expert's training form and its packed form, on the default set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qmoe_core import bundles
from qmoe_core.engine import PackedExpert
from qmoe_core.experts import NAMES
from qmoe_core.experts.network import ExpertNetwork, export
from qmoe_core.training.fit import fit, predict


@pytest.fixture(scope="module")
def default() -> bundles.Bundle:
    return bundles.load()


@pytest.mark.parametrize("name", NAMES)
def test_the_packed_form_says_what_the_training_form_says_of_every_clip(
    name: str, default: bundles.Bundle
) -> None:
    assert default.dataset is not None
    z, config = default.standardise(default.dataset.embeddings), default.config.expert
    torch.manual_seed(0)
    network = ExpertNetwork(name, z.shape[1], len(default.classes), config)
    fit(network, z, default.dataset.labels, config, seed=0, epochs=2)

    trained = predict(network, z)
    served = PackedExpert(export(network)).logits(z)

    np.testing.assert_array_equal(served.argmax(axis=1), trained.argmax(axis=1))
    error = np.abs(served - trained).max(axis=1) / np.abs(trained).max(axis=1)
    # Sums of floats in another order differ by 1e-7, so that of the activations between two layers one
    # that is as near as that to half a step rounds to the other side, and moves that clip by about 1e-3.
    assert np.quantile(error, 0.99) < 1e-3
    assert error.max() < 1e-2
