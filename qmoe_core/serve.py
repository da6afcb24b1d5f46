"""From a recording to a decision: what the command line, the Listen page and the Live view call.

`observe` does the heavy part once (embedding, experts, router); `decide` mixes what was observed and is
cheap enough to follow a slider.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import pairwise

import numpy as np

from qmoe_core import embedders
from qmoe_core.audio import decode, fitness, pictures
from qmoe_core.audio.pictures import Picture
from qmoe_core.bundles import Bundle
from qmoe_core.decision import Classification
from qmoe_core.errors import BundleError
from qmoe_core.routing import mixing
from qmoe_core.routing.mixing import Outputs, Settings

EMBED_BATCH = 16
"""Windows embedded at a time."""


@dataclass(frozen=True)
class Observation:
    """What the experts and the router said of every window of a recording.

    Attributes:
        file: display name; duration_s, sample_rate_hz: of the recording as it came; notes: see `decode.Clip`.
        spans: start and end of each window that was judged, seconds; silent ones are left out.
        embeddings: float32 [W, D].
        outputs: leading axis W.
    """

    file: str
    duration_s: float
    sample_rate_hz: int
    notes: tuple[str, ...]
    spans: tuple[tuple[float, float], ...]
    embeddings: np.ndarray
    outputs: Outputs
    fitness: fitness.Fitness | None = None
    """Of the recording; None of a picture."""
    recorded: datetime | None = None
    """When the recording began; see `decode.Clip`."""


_embedder = lru_cache(maxsize=4)(embedders.create)


def judges_pictures(bundle: Bundle) -> bool:
    """Whether the bundle was trained on pictures of spectrograms rather than recordings."""
    return bundle.embedder.endswith("@pictures")


def classify_file(
    source: str | bytes, bundle: Bundle, settings: Settings | None = None, *, name: str | None = None
) -> Classification:
    """Judge a file, of a recording or a picture: its path or its bytes, with the name to show.

    Raises:
        AudioError: see `decode.open_recording` and `pictures.load`. BundleError, ConfigError: see `classify`.
    """
    if judges_pictures(bundle):
        return classify(pictures.load(source, name=name), bundle, settings)
    with decode.open_recording(source, name=name, rate=embedder_of(bundle).sample_rate) as recording:
        return classify(recording, bundle, settings)


def embedder_of(bundle: Bundle, takes: str = "waveforms") -> embedders.Embedder:
    """The embedder that the bundle was trained on, made once a process.

    Raises:
        BundleError: this program's embedder of that name is another version, or takes something else.
    """
    if judges_pictures(bundle) != (takes == "pictures"):
        judged = "pictures of spectrograms" if judges_pictures(bundle) else "recordings"
        raise BundleError(f"bundle {bundle.name}: judges {judged}, and nothing else")
    name, expected = bundle.manifest.embedder, bundle.manifest.embedder_id
    embedder = _embedder(name)
    if embedder.id != expected:
        raise BundleError(
            f"{bundle.path}: was made with the embedder {expected}, but this program has {embedder.id}; "
            f"train it again with: qmoe train DATASET --embedder {name} --bundle NAME"
        )
    return embedder


def observe(clip: decode.Readable, bundle: Bundle, *, mc_samples: int | None = None) -> Observation:
    """Embed every window and ask every expert and the router.

    Args:
        clip: a recording, as `decode.open_recording` or `decode.load` gives it; read in bounded memory. Best
            at the embedder's sample rate; windows of another rate are converted.
        bundle: what answers.
        mc_samples: MC-dropout passes; the bundle's own number when None.

    Raises:
        BundleError: the bundle is damaged, or made with another embedder.
        AudioError: it cannot be read to its end. NothingToJudge: it is silent, or its band is too narrow.
    """
    embedder = embedder_of(bundle)
    fit: list[fitness.Fitness] = []
    spans: list[tuple[float, float]] = []
    parts: list[np.ndarray] = []
    waiting: list[np.ndarray] = []
    for window in decode.cut(clip):
        fit.append(window.fitness)
        if window.fitness.silent:
            continue
        spans.append((window.start_s, window.end_s))
        waiting.append(decode.resample(window.prepared, window.rate, embedder.sample_rate))
        if len(waiting) == EMBED_BATCH:
            parts.append(embedder.embed(np.stack(waiting)))
            waiting.clear()
    whole = fitness.combine(fit)
    fitness.refuse_unfit(clip.name, whole, clip.duration_s)
    if waiting:
        parts.append(embedder.embed(np.stack(waiting)))
    embeddings = np.concatenate(parts)
    notes = clip.notes + whole.notes()
    if (left_out := clip.duration_s - _covered_s(spans)) > fitness.GAP_S:
        notes += (f"{left_out:.3g} s of silence were left out.",)
    return Observation(
        file=clip.name,
        duration_s=clip.duration_s,
        sample_rate_hz=clip.source_rate_hz,
        notes=notes,
        spans=tuple(spans),
        embeddings=embeddings,
        outputs=bundle.outputs(embeddings, mc_samples=mc_samples),
        fitness=whole,
        recorded=clip.recorded,
    )


def _covered_s(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds that windows in order of time cover together."""
    return sum(end - max(start, before) for (_, before), (start, end) in pairwise([(0.0, 0.0), *spans]))


def observe_picture(picture: Picture, bundle: Bundle, *, mc_samples: int | None = None) -> Observation:
    """Embed a picture of a spectrogram and ask every expert and the router; its duration is not known, and 0.

    Raises:
        BundleError: the bundle is damaged, or made with another embedder, or of recordings.
    """
    embeddings = embedder_of(bundle, "pictures").embed([picture.pixels])
    width, height = picture.size
    return Observation(
        file=picture.name,
        duration_s=0.0,
        sample_rate_hz=0,
        notes=(f"A picture of {width} × {height} pixels; its duration and sample rate are not known.",),
        spans=((0.0, 0.0),),
        embeddings=embeddings,
        outputs=bundle.outputs(embeddings, mc_samples=mc_samples),
    )


def decide(observation: Observation, bundle: Bundle, settings: Settings) -> Classification:
    """Mix what was observed: a decision for each window, and one for the whole recording.

    The whole is decided from the windows' mean distributions (of each expert and of the router).

    Raises:
        ConfigError: the settings name an expert that the bundle lacks.
        BundleError: curiosity is `distilled`, and the bundle carries nothing that it could learn from.
    """
    scale = bundle.mean_interest(settings) if settings.normalise else 1.0
    every = [observation.outputs.at(i) for i in range(len(observation.spans))]
    windows = tuple(
        mixing.decide(
            outputs,
            bundle.classes,
            settings,
            mean_interest=scale,
            predicted=bundle.predict(outputs, settings),
            start_s=start,
            end_s=end,
        )
        for outputs, (start, end) in zip(every, observation.spans, strict=True)
    )
    whole = windows[0]
    if len(windows) > 1:
        pooled = observation.outputs.pooled()
        whole = mixing.decide(
            pooled,
            bundle.classes,
            settings,
            mean_interest=scale,
            predicted=bundle.predict(pooled, settings),
            start_s=0.0,
            end_s=observation.duration_s,
        )
    return Classification(
        file=observation.file,
        bundle=bundle.name,
        duration_s=observation.duration_s,
        sample_rate_hz=observation.sample_rate_hz,
        whole=whole,
        windows=windows,
        notes=observation.notes,
        fitness=observation.fitness,
        recorded=observation.recorded,
    )


def classify(
    clip: decode.Readable | Picture, bundle: Bundle, settings: Settings | None = None
) -> Classification:
    """Judge a recording, or a picture of one: `observe`, then `decide`.

    Args:
        settings: how to mix; the bundle's own when None.

    Raises:
        BundleError, ConfigError: see `observe` and `decide`.
    """
    settings = bundle.settings() if settings is None else settings
    if isinstance(clip, Picture):
        return decide(observe_picture(clip, bundle, mc_samples=settings.mc_samples), bundle, settings)
    return decide(observe(clip, bundle, mc_samples=settings.mc_samples), bundle, settings)
