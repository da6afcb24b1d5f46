"""From a recording to a decision: what the command line, the Listen page and the Live view call.

`observe` embeds and routes; `decide` runs the experts that the mixture's strategy needs, and mixes.
A page that shows every expert runs all of them once (`Outputs.all`); `decide` then follows a slider.
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
from qmoe_core.routing.mixing import Outputs, Settings

EMBED_BATCH = 16
"""Windows embedded at a time."""


@dataclass(frozen=True)
class Observation:
    """A recording's windows, embedded, and the outputs of router and experts for them.

    Attributes:
        file: display name; duration_s, sample_rate_hz: of the recording as it came; notes: see `decode.Clip`.
        spans: start and end of each window that was judged, seconds; silent ones are left out.
        embeddings: float32 [W, D].
        outputs: leading axis W; an expert is run when `decide` asks for it.
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


def observe(
    clip: decode.Readable, bundle: Bundle, *, mc_samples: int | None = None, run_all: bool = False
) -> Observation:
    """Embed and route every window.

    Args:
        clip: a recording, as `decode.open_recording` or `decode.load` gives it; read in bounded memory. Best
            at the embedder's sample rate; windows of another rate are converted.
        bundle: what answers.
        mc_samples: MC-dropout passes; the bundle's own number when None.
        run_all: run every expert now, for whoever shows them all and mixes several times.

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
    outputs = bundle.outputs(embeddings, mc_samples=mc_samples)
    return Observation(
        file=clip.name,
        duration_s=clip.duration_s,
        sample_rate_hz=clip.source_rate_hz,
        notes=notes,
        spans=tuple(spans),
        embeddings=embeddings,
        outputs=outputs.all() if run_all else outputs,
        fitness=whole,
        recorded=clip.recorded,
    )


def _covered_s(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds that windows in order of time cover together."""
    return sum(end - max(start, before) for (_, before), (start, end) in pairwise([(0.0, 0.0), *spans]))


def observe_picture(picture: Picture, bundle: Bundle, *, mc_samples: int | None = None) -> Observation:
    """Embed and route a picture of a spectrogram; its duration is not known, and 0.

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
    outputs = observation.outputs
    bundle.mix(outputs, settings)  # runs the experts on all windows together
    windows = tuple(
        bundle.decide(outputs.at(i), settings, start, end) for i, (start, end) in enumerate(observation.spans)
    )
    whole = windows[0]
    if len(windows) > 1:
        whole = bundle.decide(outputs.pooled(), settings, 0.0, observation.duration_s)
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
