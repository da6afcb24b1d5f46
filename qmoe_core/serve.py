"""From a recording to a decision: what the command line, the Listen page and the Live view call.

`observe` embeds and routes; `decide` runs the experts that the mixture's strategy needs, and mixes.
A page that shows every expert runs all of them once (`Outputs.all`); `decide` then follows a slider.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from qmoe_core import embedders
from qmoe_core.audio import decode, fitness, pictures
from qmoe_core.audio.decode import Clip
from qmoe_core.audio.pictures import Picture
from qmoe_core.bundles import Bundle
from qmoe_core.decision import Classification
from qmoe_core.errors import BundleError
from qmoe_core.routing.mixing import Outputs, Settings

EMBED_BATCH = 32
"""Windows embedded at a time: bounds the memory that an hour of sound takes."""


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


_embedder = lru_cache(maxsize=4)(embedders.create)


def judges_pictures(bundle: Bundle) -> bool:
    """Whether the bundle was trained on pictures of spectrograms rather than recordings."""
    return bundle.embedder.endswith("@pictures")


def load(source: str | bytes, bundle: Bundle, *, name: str | None = None) -> Clip | Picture:
    """Read what the bundle judges: a recording, or a picture; see `decode.load` and `pictures.load`."""
    return (pictures if judges_pictures(bundle) else decode).load(source, name=name)


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


def observe(clip: decode.Clip, bundle: Bundle, *, mc_samples: int | None = None) -> Observation:
    """Embed and route every window.

    Args:
        clip: a recording, as `decode.load` gives it.
        bundle: what answers.
        mc_samples: MC-dropout passes; the bundle's own number when None.

    Raises:
        BundleError: the bundle is damaged, or made with another embedder.
        NothingToJudge: the clip is silent, or its band is too narrow.
    """
    embedder = embedder_of(bundle)
    every = decode.windows(clip)
    whole = fitness.combine([window.fitness for window in every])
    windows = [window for window in every if not window.fitness.silent]
    if not windows:
        whole = replace(whole, silent_share=1.0)
    fitness.refuse_unfit(clip.name, whole)
    notes = clip.notes + whole.notes()
    judged_s = sum(window.end_s - window.start_s for window in windows[:1]) + sum(
        min(window.end_s - window.start_s, window.end_s - before.end_s)
        for before, window in pairwise(windows)
    )
    if clip.duration_s - judged_s > fitness.GAP_S:
        notes += (f"{clip.duration_s - judged_s:.3g} s of silence were left out.",)
    parts = [
        embedder.embed(np.stack([window.prepared for window in windows[i : i + EMBED_BATCH]]))
        for i in range(0, len(windows), EMBED_BATCH)
    ]
    embeddings = np.concatenate(parts)
    return Observation(
        file=clip.name,
        duration_s=clip.duration_s,
        sample_rate_hz=clip.source_rate_hz,
        notes=notes,
        spans=tuple((window.start_s, window.end_s) for window in windows),
        embeddings=embeddings,
        outputs=bundle.outputs(embeddings, mc_samples=mc_samples),
        fitness=whole,
    )


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
    )


def classify(clip: Clip | Picture, bundle: Bundle, settings: Settings | None = None) -> Classification:
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
