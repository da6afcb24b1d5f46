"""Claims 10 and 11: what the embeddings are, and what the classifier on them looks like."""

from __future__ import annotations

import numpy as np

from qmoe_core.evaluation.significance import bootstrap_interval
from qmoe_core.numbers import percent
from qmoe_core.paper import reference
from qmoe_core.paper.claim import (
    Claim,
    ClaimFigure,
    Figures,
    Materials,
    Ruling,
    Series,
    Values,
    ruling,
)
from qmoe_core.paper.tables import table

BACKBONES = {"efficientnet_b3": "EfficientNet-B3", "mobilenetv3_small_100": "MobileNetV3-small"}
PROJECTED = 128
DESCRIBED = {"[256, 128, 64] (§4.2)": (256, 128, 64), "[640, 320] (§4.3)": (640, 320)}


def _embeddings(m: Materials) -> Figures:
    import timm

    sizes = {}
    for name in BACKBONES:
        model = timm.create_model(name, pretrained=False, num_classes=0)
        # What comes out with the classifier removed; `num_features` leaves a head's own layer out.
        sizes[name] = float(model.head_hidden_size or model.num_features)  # type: ignore[operator]
    generator = np.random.default_rng(0)
    projections = [reference.unseeded_projection(m.z, PROJECTED, generator) for _ in range(2)]
    plain, first, second = (_nearest(z) for z in (m.z, *projections))
    right = [m.data.labels[found] == m.data.labels for found in (plain, first, second)]
    agree = (first == second).astype(float)
    low, high = bootstrap_interval(agree, lambda s: s.mean(axis=1))
    values = {
        "claimed": 1024.0,
        **sizes,
        "neighbour_right": float(right[0].mean()),
        "neighbour_right_projected": float((right[1].mean() + right[2].mean()) / 2.0),
        "runs_agree": float(agree.mean()),
        "runs_agree_low": low,
        "runs_agree_high": high,
    }
    return Figures(
        values,
        f"timm without weights; projection: {len(m.z)} embeddings of {m.z.shape[1]} numbers to {PROJECTED}",
    )


def _nearest(z: np.ndarray) -> np.ndarray:
    """Index of each clip's nearest other clip."""
    squares = (z**2).sum(axis=1)
    distance = squares[:, None] + squares[None, :] - 2.0 * z @ z.T
    np.fill_diagonal(distance, np.inf)
    return distance.argmin(axis=1)


def _judge_embeddings(v: Values) -> Ruling:
    ours = (
        f"EfficientNet-B3 gives {v['efficientnet_b3']:,.0f} numbers, MobileNetV3-small "
        f"{v['mobilenetv3_small_100']:,.0f}. Through two runs of an unseeded linear layer, as on two "
        f"sets, {percent(v['runs_agree'], 0)} of our clips keep the same nearest neighbour (95 %: "
        f"{percent(v['runs_agree_low'], 0)}–{percent(v['runs_agree_high'], 0)}); the neighbour has the "
        f"clip’s class on {percent(v['neighbour_right'], 0)} before and "
        f"{percent(v['neighbour_right_projected'], 0)} after it."
    )
    return ruling(
        v["efficientnet_b3"] == v["claimed"],
        ours,
        "EfficientNet-B3’s penultimate layer has the size that is claimed.",
        "1,024 is the size of MobileNetV3-small’s head, not of EfficientNet-B3’s; the embeddings of the "
        "results have 1,536 numbers, and for two sets pass through a layer that is another one at each "
        "run.",
    )


def _architecture(_: Materials) -> Figures:
    printed = table(7).row(model="FP32-Base")["params"].value or 0.0
    counts = {
        title: float(reference.expert_parameters(1536, 50, hidden, pre_norm=False))
        for title, hidden in DESCRIBED.items()
    }
    first, second = counts.values()
    values = {"printed": printed, "section_4_2": first, "section_4_3": second}
    picture = ClaimFigure(
        "bars",
        "",
        "parameters",
        (Series("parameters", ["Table 7", *counts], [printed, *counts.values()]),),
    )
    return Figures(values, "Table 7; 1,536 inputs, 50 classes", picture)


def _judge_architecture(v: Values) -> Ruling:
    ours = (
        f"Hidden layers of 256, 128 and 64 make {v['section_4_2']:,.0f} parameters, of 640 and 320 "
        f"{v['section_4_3']:,.0f}; Table 7 prints {v['printed']:,.0f}."
    )
    return ruling(
        v["section_4_2"] == v["printed"],
        ours,
        "The network of §4.2 has the parameters of Table 7.",
        "The results are those of the network of §4.3, two layers of 640 and 320 with a dropout of "
        "0.195; the one of §4.2 is not in the code, nor are gradient clipping, the mixtures’ weight "
        "decay and batches of 256, while a label smoothing of 0.109 is in the code and not in the text.",
    )


CLAIMS = (
    Claim(
        10,
        "features",
        "code",
        "The embeddings are 1,024 numbers from the penultimate layer of EfficientNet-B3.",
        "§3.1, §4.2, §4.3",
        "Build both backbones and ask for the size of what they give; pass the default bundle’s "
        "embeddings twice through an unseeded linear layer and compare nearest neighbours.",
        "1,024",
        "An EfficientNet-B3 whose penultimate layer has 1,024 numbers.",
        "experiment",
        _embeddings,
        _judge_embeddings,
    ),
    Claim(
        11,
        "features",
        "arithmetic",
        "The classifier has hidden layers of 256, 128 and 64 and a dropout of 0.3.",
        "§4.2; against §4.3",
        "Count the parameters of the two networks that the text describes and compare with Table 7.",
        "[256, 128, 64] with 0.3 in §4.2, [640, 320] with 0.195 in §4.3",
        "A parameter count in Table 7 that is that of the network of §4.2.",
        "arithmetic",
        _architecture,
        _judge_architecture,
    ),
)
