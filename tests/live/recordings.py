"""Sequences of real recordings that the bundle knows, for all tests that play them to a microphone."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from qmoe_core import serve
from qmoe_core.audio import decode
from qmoe_core.audio.fitness import NothingToJudge
from qmoe_core.bundles import Bundle
from qmoe_core.datasets import open_dataset


class Sequence(NamedTuple):
    """Recordings one after another, at 22,050 Hz."""

    labels: list[str]
    samples: np.ndarray


def ten_clips(shared_data: Path, bundle: Bundle, seed: int = 0, pause_s: float = 0.0) -> Sequence:
    """Ten real clips, one of each class, that the bundle knows by themselves, with pauses around them."""
    manifest = open_dataset(shared_data / "esc10")
    labels: list[str] = []
    pause = np.zeros(round(pause_s * decode.SAMPLE_RATE), np.float32)
    parts = [pause]
    for i in np.random.default_rng(seed).permutation(len(manifest.entries)):
        label = manifest.classes[manifest.entries[i].label]
        if label in labels:
            continue
        clip = decode.load(manifest.entries[i].path)
        try:
            known = serve.classify(clip, bundle).whole
        except NothingToJudge:  # a few clips have a narrow band
            continue
        if known.label == label and known.probability >= 0.6:
            labels.append(label)
            parts += [np.pad(clip.samples, (0, decode.WINDOW_SAMPLES))[: decode.WINDOW_SAMPLES], pause]
    return Sequence(labels, np.concatenate(parts))


def in_order(found: list[str], wanted: list[str]) -> int:
    """How many of the wanted labels were found in their order: the longest common subsequence."""
    table = np.zeros((len(found) + 1, len(wanted) + 1), int)
    for i, one in enumerate(found):
        for j, two in enumerate(wanted):
            table[i + 1, j + 1] = table[i, j] + 1 if one == two else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])
