"""Floating-point operations (FLOPs) of one clip: front end, embedder, and every expert and mixture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from qmoe_core import embedders
from qmoe_core.audio import kaldi_mel, mel
from qmoe_core.audio.decode import WINDOW_S
from qmoe_core.embedders.learned import LearnedEmbedder
from qmoe_core.embedders.logmel_stats import LogMelStats
from qmoe_core.measure import roofline
from qmoe_core.numbers import percent
from qmoe_core.paper.report.document import ReportTable, Section, Value, columns_of
from qmoe_core.paper.report.study import MODELS, YARDSTICK, Model, Study, has


def transform(size: int) -> float:
    """Operations of a real Fourier transform, 2.5 · n · log2 n (radix 2; others take fewer).

    >>> transform(1024)
    25600.0
    """
    return 2.5 * size * math.log2(size)


def spectrogram(frames: int, size: int) -> float:
    """Window, transform, power, and mel filters, two of which overlap at every bin."""
    bins = size // 2 + 1
    return frames * (size + transform(size) + 3 * bins + 4 * bins)


def before_the_head(name: str | None) -> tuple[float | None, float | None]:
    """Operations of an embedder's front end and network for one window of 5 s; None where they are not known.

    Of log-mel statistics the cepstral transform counts as the network; sorting, means and deviations are left
    out.
    """
    made = None if name is None else embedders.create(name)
    if isinstance(made, LearnedEmbedder):
        samples = round(WINDOW_S * made.sample_rate)
        if made.network.name == "mn04":
            frames, size = kaldi_mel.frame_count(samples), kaldi_mel.N_FFT
        else:
            frames, size = mel.frame_count(samples), mel.N_FFT
        network = roofline.operations(made.network, (made.network.bands, frames))
        return spectrogram(frames, size), float(network)
    if isinstance(made, LogMelStats):
        frames = mel.frame_count(round(WINDOW_S * made.sample_rate))
        cepstra = 2.0 * made.parameters.n_mfcc * made.parameters.n_mels * frames
        return spectrogram(frames, mel.N_FFT), cepstra
    return None, None


def dense(widths: Sequence[int]) -> int:
    """Multiplications and additions of fully connected layers of these widths.

    >>> dense((1536, 640, 320, 50))
    2407680
    """
    return sum(2 * inputs * outputs for inputs, outputs in pairwise(widths))


def of_model(model: Model, head: int, router: int) -> int:
    """Operations of a model after the embedding: a mixture's router, and the experts that run.

    The plain router asks one expert; curiosity as printed (Eq. 8) asks all of them before it chooses.
    """
    if not model.is_mixture:
        return head
    return router + head * (len(model.experts) if model.curious else 1)


def section(studies: Sequence[Study], hidden: Sequence[int], router: Sequence[int]) -> Section:
    """FLOPs of every model on every dataset, and which share of the path that is.

    Args:
        hidden, router: widths of the hidden layers of an expert and of the router.
    """
    rows: list[tuple[Value, ...]] = []
    text = []
    for study in studies:
        front, network = before_the_head(study.path)
        before = None if front is None or network is None else front + network
        head = dense((study.dim, *hidden, len(study.tables.classes)))
        for model in (m for m in MODELS if has(study, m) and (m.is_mixture or m.ours == YARDSTICK)):
            widths = (study.dim, *router, len(model.experts))
            own = of_model(model, head, dense(widths))
            whole = None if before is None else before + own
            share = None if whole is None else 100.0 * own / whole
            numbers = (front, network, own, whole)
            rows.append(
                (
                    model.paper if model.is_mixture else "Every single model",
                    model.ours if model.is_mixture else "all formats",
                    study.name,
                    *(None if n is None else n / 1e6 for n in numbers),
                    share,
                )
            )
        if before is not None:
            text.append(
                f"On {study.name} a clip of {WINDOW_S:g} s takes {before / 1e6:,.1f} million operations to "
                f"its embedding ({study.path}) and {head / 1e6:,.2f} million in an expert: quantizing the "
                f"expert touches {percent(head / (before + head), 1)} of the path’s arithmetic."
            )
    note = (
        "One multiplication and one addition are two operations, in whatever number format: formats change "
        "what an operation costs, not how many there are (a ternary weight of 0 is counted). Front end: "
        "window, Fourier transform (2.5 n log2 n), power, mel filters. All single experts have one shape. "
        "A mixture without curiosity runs its router and one expert, with curiosity "
        "all of them; the dropout passes of the router are not counted."
    )
    columns = columns_of(
        "Model; Here; Dataset; Front end:2:M; Embedder:2:M; Expert or mixture:2:M; Path:2:M; "
        "Share of the path:1:%"
    )
    return Section(
        "flops",
        "FLOPs",
        tuple(text) or ("The embeddings were imported; what came before is not known.",),
        ReportTable("flops", "Operations of one clip", columns, tuple(rows), note),
    )
