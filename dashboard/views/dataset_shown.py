"""Dataset: what the page is about: controls, and the clips that the filters keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from dashboard.session import linked
from dashboard.session.linked import Control
from dashboard.views import words
from qmoe_core.bundles import Bundle, BundleDataset
from qmoe_core.evaluation import contenders, selective
from qmoe_core.evaluation.contenders import Judged
from qmoe_core.routing import mixing
from qmoe_core.routing.mixing import Mixed, Settings

PAGE = "dataset"
CARDS = 18
"""Cards on a page of the list."""
ORDERS = {
    "file": "by name",
    "uncertain": "most uncertain",
    "disputed": "most disputed",
    "wrong": "confidently wrong",
}
COLOURS = {"class": "class", "error": "right or wrong", "uncertainty": "uncertainty", "fold": "fold"}
MAPS = {"pca": "PCA", "t-sne": "t-SNE"}


@dataclass(frozen=True)
class Shown:
    """What the page is about: a bundle's clips, as one contender judged them.

    Attributes:
        everyone: all experts' opinions, for who disputes what.
        listed: indices of the clips that the filters keep, in the order that was asked for.
    """

    bundle: Bundle
    data: BundleDataset
    judged: Judged
    everyone: Mixed
    listed: np.ndarray

    @property
    def wrong(self) -> np.ndarray:
        return ~self.judged.correct

    def called(self, index: int) -> str:
        """What the contender called a clip, for people."""
        return words.readable(self.bundle.classes[int(self.judged.predicted[index])])

    def truth(self, index: int) -> str:
        """What a clip is."""
        return self.bundle.classes[int(self.data.labels[index])]

    def probability(self, index: int) -> float:
        """With what probability it was called that."""
        return float(self.judged.probabilities[index].max())


def controls(bundle: Bundle, data: BundleDataset) -> list[Control]:
    """What a person can set here, and a link restores."""
    classes = ["", *bundle.classes]
    folds = ["", *(str(fold) for fold in np.unique(data.folds))]
    sources = {"", *(clip.source for clip in data.clips)}
    clips = {"", *(clip.name for clip in data.clips)}

    def by(text: str) -> str | None:
        found = contenders.parse(text, bundle)
        return found.name if found else None

    def known(names: set[str]) -> Callable[[str], str | None]:
        return lambda text: text if text in names else None

    return [
        Control("by", contenders.standard(bundle)[-1], "an expert or a mixture such as q4+q8@0.3", by),
        linked.one_of("class", classes, ""),
        linked.one_of("called", classes, ""),
        linked.one_of("fold", folds, ""),
        Control("source", "", "a source recording of this data set", known(sources)),
        linked.one_of("order", list(ORDERS), "file"),
        linked.one_of("colour", list(COLOURS), "class"),
        linked.one_of("map", list(MAPS), "pca"),
        linked.whole("page", 1, max(1, -(-len(data.clips) // CARDS)), 1),
        Control("clip", "", "the name of a clip of this data set", known(clips)),
    ]


def what_is_shown(bundle: Bundle, data: BundleDataset, values: dict[str, Any]) -> Shown:
    """Judge the clips, and choose and order those that the filters keep."""
    contender = contenders.parse(values["by"], bundle)
    assert contender is not None
    judged = contenders.judge(contender, bundle, data)
    everyone = mixing.mix(data.outputs, Settings(bundle.experts, top_k=len(bundle.experts), curiosity="none"))
    kept = np.ones(len(data.clips), bool)
    if values["class"]:
        kept &= data.labels == bundle.classes.index(values["class"])
    if values["called"]:
        kept &= judged.predicted == bundle.classes.index(values["called"])
    if values["fold"]:
        kept &= data.folds == int(values["fold"])
    if values["source"]:
        kept &= np.array([clip.source == values["source"] for clip in data.clips])
    n = len(data.clips)
    own, all_of_them = (
        selective.notable(mixed, data.labels, n)
        for mixed in (contender.mixed(bundle, data.outputs), everyone)
    )
    order = {
        "file": np.arange(n),
        "uncertain": own.uncertain,
        "disputed": all_of_them.disputed,
        "wrong": own.confidently_wrong,
    }[values["order"]]
    return Shown(bundle, data, judged, everyone, order[kept[order]])


def first_page() -> None:
    """Other clips are asked for: from the first card on."""
    linked.set_to(PAGE, page=1)


def open_clip(name: str) -> None:
    """Show one clip, and play it."""
    linked.set_to(PAGE, clip=name)
    st.session_state["dataset.play"] = True
