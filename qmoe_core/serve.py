"""From a recording to a decision: what the command line, the Listen page and the Live view call.

`observe` embeds and routes; `decide` runs the experts that the mixture's strategy needs, and mixes. Where
experts stand behind several embedders, a window is shown to a further one when an expert behind it is asked.
A page that shows every expert runs all of them once (`Outputs.all`); `decide` then follows a slider.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
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
LAZY_WINDOWS = 64
"""Windows of a recording that are kept for further embedders (28 MB); a longer recording is shown to all of
them, so that any length can be judged in the same memory."""


@dataclass(frozen=True)
class Observation:
    """A recording's windows, embedded, and the outputs of router and experts for them.

    Attributes:
        file: display name; duration_s, sample_rate_hz: of the recording as it came; notes: see `decode.Clip`.
        spans: start and end of each window that was judged, seconds; silent ones are left out.
        outputs: leading axis W; an expert is run when `decide` asks for it.
    """

    file: str
    duration_s: float
    sample_rate_hz: int
    notes: tuple[str, ...]
    spans: tuple[tuple[float, float], ...]
    outputs: Outputs
    fitness: fitness.Fitness | None = None
    """Of the recording; None of a picture."""
    recorded: datetime | None = None
    """When the recording began; see `decode.Clip`."""


@lru_cache(maxsize=8)
def _embedder(name: str, id_: str, network: bytes | None, file: str) -> embedders.Embedder:
    return embedders.recorded(name, id_) if network is None else embedders.carried(name, network, file)


class Embedded:
    """Windows behind a bundle's embedders; one is embedded when somebody asks for it (see `bundles.Embed`).

    Attributes:
        count: of the windows; seconds: that embedding took.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.count, self.seconds = 0, 0.0
        self._bundle = bundle
        self._windows: dict[int, Callable[[int], np.ndarray]] = {}
        self._rows: dict[tuple[str, int], np.ndarray] = {}

    def add(self, window: Callable[[int], np.ndarray]) -> None:
        """One more: a sample rate in Hz → the window at it, prepared, float32 [n].

        It is kept until the first embedder has it; as long as others may be asked where there are others.
        """
        self._windows[self.count] = window
        self.count += 1
        if self.count % EMBED_BATCH == 0:
            self._embed_kept()

    def _embed_kept(self) -> None:
        names = [one.name for one in self._bundle.embedders]
        asked = names if self.count > LAZY_WINDOWS else names[:1]
        for name in asked:
            self(name, np.array(list(self._windows)))
        if asked == names:
            self._windows.clear()

    def __call__(self, name: str, clips: np.ndarray) -> np.ndarray:
        started = time.perf_counter()
        lacking = [i for i in clips if (name, i) not in self._rows]
        embedder = embedder_of(self._bundle, name)
        for some in (lacking[i : i + EMBED_BATCH] for i in range(0, len(lacking), EMBED_BATCH)):
            waveforms = np.stack([self._windows[i](embedder.sample_rate) for i in some])
            self._rows.update(zip([(name, i) for i in some], embedder.embed(waveforms), strict=True))
        self.seconds += time.perf_counter() - started
        return np.stack([self._rows[name, i] for i in clips])

    def outputs(self, mc_samples: int | None = None) -> Outputs:
        """What router and experts say of the windows; see `Bundle.lazy_outputs`."""
        return self._bundle.lazy_outputs(self.count, self, mc_samples=mc_samples)


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
    rate = max(embedder_of(bundle, one.name).sample_rate for one in bundle.embedders)
    with decode.open_recording(source, name=name, rate=rate) as recording:
        return classify(recording, bundle, settings)


def embedder_of(bundle: Bundle, name: str | None = None, takes: str = "waveforms") -> embedders.Embedder:
    """An embedder that the bundle was trained on, made once a process; its first where none is named.

    Raises:
        BundleError: this program's embedder of that name is another version, or takes something else.
    """
    if judges_pictures(bundle) != (takes == "pictures"):
        judged = "pictures of spectrograms" if judges_pictures(bundle) else "recordings"
        raise BundleError(f"bundle {bundle.name}: judges {judged}, and nothing else")
    record = next(one for one in bundle.embedders if name in (None, one.name))
    carried = bundle.read(record.file) if record.file in bundle.manifest.files else None
    embedder = _embedder(record.name, record.id, carried, str(bundle.path / record.file))
    if (embedder.id, embedder.dim) != (record.id, record.dim):
        raise BundleError(
            f"{bundle.path}: was made with the embedder {record.id}, but this program has {embedder.id}; "
            f"train it again with: qmoe train DATASET --embedder {record.name} --bundle NAME"
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
    fit: list[fitness.Fitness] = []
    spans: list[tuple[float, float]] = []
    embedded = Embedded(bundle)
    for window in decode.cut(clip):
        fit.append(window.fitness)
        if window.fitness.silent:
            continue
        spans.append((window.start_s, window.end_s))
        embedded.add(partial(_at_rate, window))
    whole = fitness.combine(fit)
    fitness.refuse_unfit(clip.name, whole, clip.duration_s)
    notes = clip.notes + whole.notes()
    if (left_out := clip.duration_s - _covered_s(spans)) > fitness.GAP_S:
        notes += (f"{left_out:.3g} s of silence were left out.",)
    outputs = embedded.outputs(mc_samples)
    return Observation(
        file=clip.name,
        duration_s=clip.duration_s,
        sample_rate_hz=clip.source_rate_hz,
        notes=notes,
        spans=tuple(spans),
        outputs=outputs.all() if run_all else outputs,
        fitness=whole,
        recorded=clip.recorded,
    )


def _at_rate(window: decode.Window, rate: int) -> np.ndarray:
    return decode.resample(window.prepared, window.rate, rate)


def _covered_s(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds that windows in order of time cover together."""
    return sum(end - max(start, before) for (_, before), (start, end) in pairwise([(0.0, 0.0), *spans]))


def observe_picture(picture: Picture, bundle: Bundle, *, mc_samples: int | None = None) -> Observation:
    """Embed and route a picture of a spectrogram; its duration is not known, and 0.

    Raises:
        BundleError: the bundle is damaged, or made with another embedder, or of recordings.
    """
    embeddings = embedder_of(bundle, takes="pictures").embed([picture.pixels])
    width, height = picture.size
    return Observation(
        file=picture.name,
        duration_s=0.0,
        sample_rate_hz=0,
        notes=(f"A picture of {width} × {height} pixels; its duration and sample rate are not known.",),
        spans=((0.0, 0.0),),
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
