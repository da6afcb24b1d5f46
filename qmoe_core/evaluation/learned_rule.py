"""Would a learned rule ask better than a threshold of doubt? Routers trained on which expert is right.

A small network sees a clip's embedding and what the first expert says of it, and learns from other folds
which experts are right. Its doubt (with MC dropout, or as an ensemble) is compared with the cascade's own:
how well it finds the first expert's errors, and the clips on which the next expert would put them right, and
what asking about the most doubtful clips comes to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qmoe_core.errors import ConfigError
from qmoe_core.evaluation.cascade import PathCosts
from qmoe_core.evaluation.classification import weighted_f1
from qmoe_core.evaluation.selective import Auroc, detection
from qmoe_core.routing.distilled import groups
from qmoe_core.routing.mixing import Outputs
from qmoe_core.routing.uncertainty import softmax

SHARES = (0.1, 0.2, 0.3)
"""Of clips about which the second expert is asked."""
MEMBERS, PASSES, HIDDEN, EPOCHS, DROPOUT = 5, 20, 64, 60, 0.2


@dataclass(frozen=True)
class Asking:
    """What asking the second expert about a share of the clips comes to."""

    share: float
    accuracy: float
    f1: float
    cost_us: float


@dataclass(frozen=True)
class Rule:
    """A score that says about which clips to ask, and how good it is.

    Attributes:
        errors: AUROC of the first expert's errors; rescued: of the clips that the first expert gets wrong
            and the second right; asking: at each of `SHARES`.
    """

    name: str
    errors: Auroc
    rescued: Auroc
    asking: tuple[Asking, ...]


@dataclass(frozen=True)
class LearnedRules:
    """Every rule on the same clips, out of fold; accuracy of the two experts alone."""

    experts: tuple[str, str]
    accuracy: tuple[float, float]
    n: int
    rules: tuple[Rule, ...]

    def to_json(self) -> dict[str, Any]:
        """As `qmoe sweep rule --json` prints it."""
        return asdict(self)


def learned_rules(
    embeddings: np.ndarray,
    outputs: Outputs,
    labels: np.ndarray,
    folds: np.ndarray,
    sources: Sequence[str],
    path: PathCosts,
) -> LearnedRules:
    """Compare the rules for a cascade of two experts.

    Args:
        embeddings: of the first expert's embedder, [n, D]; outputs: of the two experts, out of fold.
        labels, folds: int [n]; sources: recordings [n]; path: costs.

    Raises:
        ConfigError: not two experts, or one that is never wrong where the other is right.
    """
    if len(outputs.experts) != 2:
        raise ConfigError(
            "a rule is learned for a cascade of two experts; give --experts, the cheaper one first"
        )
    q = softmax(outputs.logits)
    called = q.argmax(axis=-1)
    right = called == labels[:, None]
    first = np.sort(q[:, 0], axis=-1)[:, ::-1]
    said = np.column_stack(
        [np.log(np.maximum(first[:, :3], 1e-9)), -(first * np.log(first + 1e-12)).sum(axis=1)]
    )
    inputs = np.column_stack([embeddings.astype(np.float64), said])
    scores = {"doubt (the cascade’s threshold)": 1.0 - first[:, 0]}
    scores |= _learned(inputs, right, groups(folds, sources))
    recordings = np.asarray(sources)
    errors = detection(scores, ~right[:, 0], recordings)
    rescued = detection(scores, ~right[:, 0] & right[:, 1], recordings)
    if errors is None or rescued is None:
        raise ConfigError(f"{outputs.experts[1]} puts nothing right that {outputs.experts[0]} gets wrong")
    cost = path.cumulative(outputs.experts)

    def asking(score: np.ndarray, share: float) -> Asking:
        asked = np.zeros(len(labels), bool)
        asked[np.argsort(-score, kind="stable")[: round(share * len(labels))]] = True
        answer = np.where(asked, called[:, 1], called[:, 0])
        mean = cost[0] + asked.mean() * (cost[1] - cost[0])
        return Asking(share, float((answer == labels).mean()), weighted_f1(labels, answer), float(mean))

    return LearnedRules(
        experts=(outputs.experts[0], outputs.experts[1]),
        accuracy=(float(right[:, 0].mean()), float(right[:, 1].mean())),
        n=len(labels),
        rules=tuple(
            Rule(name, errors[name], rescued[name], tuple(asking(score, share) for share in SHARES))
            for name, score in scores.items()
        ),
    )


def _learned(inputs: np.ndarray, right: np.ndarray, group: np.ndarray) -> Mapping[str, np.ndarray]:
    """Scores of networks that learned from other folds, [n] each: the larger, the rather to ask."""
    import torch

    found = {
        name: np.zeros(len(right))
        for name in (
            "learned router",
            "its MC dropout: mean",
            "its MC dropout: deviation",
            f"ensemble of {MEMBERS}: mean",
            f"ensemble of {MEMBERS}: deviation",
            f"ensemble of {MEMBERS}: gain of asking",
        )
    }
    for number in np.unique(group):
        new, old = group == number, group != number
        mean, std = inputs[old].mean(axis=0), inputs[old].std(axis=0) + 1e-6
        z = torch.tensor((inputs - mean) / std, dtype=torch.float32)
        members = [
            _fit(z[old], torch.tensor(right[old], dtype=torch.float32), seed) for seed in range(MEMBERS)
        ]
        with torch.no_grad():
            each = np.stack([torch.sigmoid(member.eval()(z[new])).numpy() for member in members])
            thinned = members[0].train()
            passes = np.stack([torch.sigmoid(thinned(z[new])).numpy() for _ in range(PASSES)])
        scores = (
            1.0 - each[0, :, 0],
            1.0 - passes[..., 0].mean(axis=0),
            passes[..., 0].std(axis=0),
            1.0 - each[..., 0].mean(axis=0),
            each[..., 0].std(axis=0),
            (each[..., 1] - each[..., 0]).mean(axis=0),
        )
        for name, score in zip(found, scores, strict=True):
            found[name][new] = score
    return found


def _fit(z: Any, right: Any, seed: int) -> Any:
    """A network from inputs [n, D] to logits of being right, one of each expert."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(z.shape[1], HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, right.shape[1])
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(z)).split(64):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(network(z[batch]), right[batch])
            loss.backward()
            optimizer.step()
    return network
