"""A bundle: trained, packed, servable. The unit a page loads and a board carries.

A folder: `bundle.json` (what it is, how it came about, and size and SHA-256 of every other file),
`experts/NAME.safetensors` (heads, bit-packed), `embedders/NAME.safetensors` (networks that this program runs
itself), `router.safetensors` (router and scalers) and, when the data allows it, `dataset.safetensors`: the
training set's embeddings with the predictions that each clip got from experts that had not seen it (out of
fold), which is what every honest figure of the lab rests on.

Experts may stand behind different embedders, the cheapest first: the router takes the embeddings of that one.

`qmoe export` makes one file of it, to be carried: a ZIP of the same files, uncompressed. It is read in
place, never unpacked.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from qmoe_core import engine
from qmoe_core.config import Config
from qmoe_core.decision import Decision
from qmoe_core.errors import BundleError, ConfigError
from qmoe_core.experts.spec import CHEAPEST_FIRST, head_of, parse_names
from qmoe_core.routing import distilled, mixing
from qmoe_core.routing.mixing import Mixed, Outputs, Settings
from qmoe_core.routing.router import Router
from qmoe_core.routing.uncertainty import disagreement, softmax
from qmoe_core.runtime import system, typed
from qmoe_core.runtime.files import put_in_place
from qmoe_core.runtime.store import unfinished

VERSION = 2
DEFAULT_NAME = "esc10-ds-cnn"
SHIPPED_BEFORE = {"esc10-logmel-stats": "qmoe train esc10 --bundle esc10-logmel-stats"}
"""Bundles that came with earlier versions, and how each is made again."""
MANIFEST = "bundle.json"
ROUTER_FILE = "router.safetensors"
DATASET_FILE = "dataset.safetensors"
MAX_MANIFEST_BYTES = 4 << 20
MAX_NAME = 1000
"""Characters of a name of a class, a clip or the bundle itself, or of a sentence about where it came from."""
LEAST_STD, LARGEST_MEAN = 1e-12, 1e6
"""Of embeddings, which are half precision: beyond, what is standardised or routed might not be finite."""
MAX_DIRECTORY_BYTES = 1 << 17
"""Of a ZIP's list of its files, which Python reads whole, once for each of them: a bundle has a dozen."""
_NAME = re.compile(r"\w[\w.-]*")


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bytes: int
    sha256: str


class ClipRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A clip of the training set: file name, and the recording it was cut from."""

    name: str
    source: str


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a bundle was made from, and how well it does out of fold."""

    dataset: str
    dataset_fingerprint: str
    clips: int
    protocol: str
    selection: str
    seeds: list[int]
    code: str
    qmoe: str
    licence: str
    citation: str
    f1: dict[str, dict[str, float]]
    """Weighted F1 of each expert and mixture: mean and deviation over folds × seeds."""
    copies: int = 0
    """Changed copies of each clip that experts were trained on too."""


class EmbedderRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An embedder as a bundle names it.

    Attributes:
        name: to give to `embedders.create`; id: of the numbers that it gave; dim: how many, D.
    """

    name: str
    id: str
    dim: int

    @property
    def file(self) -> str:
        """Where its network is, in a bundle that carries it."""
        return f"embedders/{self.id.replace(':', '.')}.safetensors"


def expert_file(name: str) -> str:
    """Where an expert's head is."""
    return f"experts/{name.replace(':', '.')}.safetensors"


class _Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    version: int
    name: str
    title: str
    classes: list[str]
    embedders: list[EmbedderRecord]
    experts: dict[str, str]
    """The name of each, and that of its embedder."""
    mixture: list[str]
    config: Config
    provenance: Provenance
    clips: list[ClipRecord]
    files: dict[str, _File]

    @property
    def embedder(self) -> str:
        return self.embedders[0].name

    @property
    def embedder_id(self) -> str:
        return self.embedders[0].id

    @property
    def dim(self) -> int:
        return self.embedders[0].dim


@dataclass(frozen=True)
class BundleDataset:
    """The training set as the bundle carries it; n clips.

    Attributes:
        clips: names and sources.
        embedded: float16 [n, D] of each embedder.
        labels: int64 [n]; folds: int64 [n], 0 where the dataset has none.
        outputs: what the experts and routers of the fold that left a clip out said of it.
    """

    clips: tuple[ClipRecord, ...]
    embedded: tuple[np.ndarray, ...]
    labels: np.ndarray
    folds: np.ndarray
    outputs: Outputs

    @property
    def embeddings(self) -> np.ndarray:
        """Those of the first embedder."""
        return self.embedded[0]


Scaler = tuple[np.ndarray, np.ndarray]
"""Mean and standard deviation of an embedder's numbers, float32 [D] each."""
Embed = Callable[[str, np.ndarray], np.ndarray]
"""An embedder's name and the indices of B clips → their embeddings [B, D]."""


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle. Experts are read and made ready when first asked for, then kept."""

    path: Path
    manifest: _Manifest
    router: Router
    scalers: tuple[Scaler, ...]
    """Of each embedder."""
    _experts: dict[str, engine.PackedExpert] = field(default_factory=dict, repr=False)
    _heads: dict[tuple[object, ...], distilled.Head] = field(default_factory=dict, repr=False)
    _interests: dict[Settings, float] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def title(self) -> str:
        return self.manifest.title

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.manifest.classes)

    @property
    def experts(self) -> tuple[str, ...]:
        return tuple(self.manifest.experts)

    @property
    def embedders(self) -> tuple[EmbedderRecord, ...]:
        """The cheapest first."""
        return tuple(self.manifest.embedders)

    @property
    def embedder(self) -> str:
        """The name of the first, to give to `embedders.create`."""
        return self.manifest.embedder

    def behind(self, expert: str) -> int:
        """The index of an expert's embedder."""
        return [one.name for one in self.embedders].index(self.manifest.experts[expert])

    @property
    def config(self) -> Config:
        return self.manifest.config

    @property
    def provenance(self) -> Provenance:
        return self.manifest.provenance

    @property
    def digest(self) -> str:
        """SHA-256 over all files' checksums: the identity of what is served."""
        return hashlib.sha256(msgspec.json.encode(self.manifest, order="deterministic")).hexdigest()

    def settings(self, **changes: Any) -> Settings:
        """The bundle's own way to mix, with changes such as `alpha=1.0`.

        A cascade asks experts in the order of what their whole paths cost.

        Raises:
            ConfigError: a value that is not accepted.
        """
        made = replace(Settings.of(self.config.router, tuple(self.manifest.mixture)), **changes)
        if made.curiosity != "cascade" or not {*made.experts} <= {*self.experts}:
            return made
        return replace(made, experts=tuple(sorted(made.experts, key=self._cost)))

    def _cost(self, expert: str) -> tuple[int, int]:
        return self.behind(expert), CHEAPEST_FIRST.index(head_of(expert))

    def standardise(self, embeddings: np.ndarray, embedder: int = 0) -> np.ndarray:
        """What the heads behind an embedder, and the router behind the first, take: float32 [B, D]."""
        mean, std = self.scalers[embedder]
        return (embeddings.astype(np.float32) - mean) / std

    def expert(self, name: str) -> engine.PackedExpert:
        """An expert, ready to serve.

        Raises:
            BundleError: no such expert here, or its file is damaged.
        """
        with self._lock:
            if name not in self._experts:
                self._experts[name] = engine.PackedExpert(self.weights(name))
            return self._experts[name]

    def weights(self, name: str) -> engine.ExpertWeights:
        """An expert's numbers, read anew.

        Raises:
            BundleError: no such expert here, or its file is damaged.
        """
        if name not in self.experts:
            raise BundleError(f"bundle {self.name}: no expert '{name}'; there are {', '.join(self.experts)}")
        file = expert_file(name)
        weights = engine.loads(self.read(file), self.path / file)
        dim = self.embedders[self.behind(name)].dim
        if weights.dim != dim or weights.classes != len(self.classes):
            raise BundleError(
                f"{self.path / file}: takes {weights.dim} numbers and gives {weights.classes} classes, "
                f"but the bundle has {dim} and {len(self.classes)}"
            )
        return weights

    def expert_bytes(self, name: str) -> int:
        """Bytes of an expert's head."""
        return self.manifest.files[expert_file(name)].bytes

    def outputs(self, *embedded: np.ndarray, mc_samples: int | None = None) -> Outputs:
        """Logits of the router, and of each expert that will be asked for, of B clips.

        Args:
            embedded: float32 [B, D] of each embedder, as it gives them (not standardised).
            mc_samples: MC-dropout passes; the bundle's own number when None.
        """
        at = {one.name: i for i, one in enumerate(self.embedders)}
        return self.lazy_outputs(
            len(embedded[0]), lambda name, clips: embedded[at[name]][clips], mc_samples=mc_samples
        )

    def lazy_outputs(self, count: int, embed: Embed, *, mc_samples: int | None = None) -> Outputs:
        """The same of clips that are embedded where an expert behind the embedder is asked.

        Args:
            count: of the clips, B; embed: called for the first embedder with all of them.
        """
        samples = self.config.router.mc_samples if mc_samples is None else mc_samples

        def standardised(embedder: int, clips: np.ndarray) -> np.ndarray:
            return self.standardise(embed(self.embedders[embedder].name, clips), embedder)

        return Outputs.lazy(
            self.experts,
            len(self.classes),
            self.router.forward(standardised(0, np.arange(count)), samples),
            lambda name, clips: self.expert(name).logits(standardised(self.behind(name), clips)),
        )

    def mix(self, outputs: Outputs, settings: Settings) -> Mixed:
        """Mix outputs of this bundle; see `mixing.mix`.

        Raises:
            BundleError, ConfigError: see `head`.
        """
        return mixing.mix(outputs, settings, **self._learned(settings))

    def decide(
        self, outputs: Outputs, settings: Settings, start_s: float = 0.0, end_s: float = 0.0
    ) -> Decision:
        """One clip's decision; see `mixing.decide`.

        Raises:
            BundleError, ConfigError: see `head`.
        """
        learned = self._learned(settings)
        return mixing.decide(outputs, self.classes, settings, start_s=start_s, end_s=end_s, **learned)

    def _learned(self, settings: Settings) -> dict[str, Any]:
        """What these settings take from the out-of-fold outputs."""
        distils = settings.curiosity == "distilled"
        return {
            "mean_interest": self.mean_interest(settings),
            "predicted": self.head(settings) if distils else None,
        }

    @cached_property
    def dataset(self) -> BundleDataset | None:
        """The training set with its out-of-fold predictions, or None where the bundle carries none.

        Raises:
            BundleError: the file is damaged, or does not fit the bundle.
        """
        if DATASET_FILE not in self.manifest.files:
            return None
        path = self.path / DATASET_FILE
        tensors = _tensors(self.read(DATASET_FILE), path)
        n, experts, classes = len(self.manifest.clips), len(self.experts), len(self.classes)
        embeddings = {_indexed("embeddings", i): (n, one.dim) for i, one in enumerate(self.embedders)}
        shapes = {
            **embeddings,
            "labels": (n,),
            "folds": (n,),
            "oof_logits": (n, experts, classes),
            "oof_router": (n, experts),
            "oof_router_mc": (self.config.router.mc_samples, n, experts),
        }
        for name, shape in shapes.items():
            _expect(path, tensors, name, shape)
        if not ((tensors["labels"] >= 0) & (tensors["labels"] < classes)).all():
            raise BundleError(f"{path}: a label is not one of the {classes} classes")
        return BundleDataset(
            clips=tuple(self.manifest.clips),
            embedded=tuple(tensors[name] for name in embeddings),
            labels=tensors["labels"].astype(np.int64),
            folds=tensors["folds"].astype(np.int64),
            outputs=Outputs(
                self.experts,
                tensors["oof_logits"].astype(np.float64),
                tensors["oof_router"].astype(np.float64),
                tensors["oof_router_mc"].astype(np.float64),
            ),
        )

    def head(self, settings: Settings) -> distilled.Head:
        """What predicts d_i under these settings, learned from the out-of-fold outputs when first asked for.

        Raises:
            BundleError: the bundle carries none. ConfigError: it lacks one of the experts.
        """
        key = (settings.experts, settings.cheap_expert, settings.temperature)
        if key not in self._heads:
            self._heads[key] = distilled.fit(self._lessons(settings))
        return self._heads[key]

    def predict_out_of_fold(self, settings: Settings) -> distilled.Predicted | None:
        """d̂_i of the dataset's clips, each by a head that learned from the other folds.

        None unless curiosity is `distilled`.

        Raises:
            BundleError, ConfigError: see `head`; or there is but one fold.
        """
        if settings.curiosity != "distilled":
            return None
        return distilled.out_of_fold(self._lessons(settings))

    def _lessons(self, settings: Settings) -> distilled.Lessons:
        data = self.dataset
        if data is None:
            raise BundleError(
                f"bundle {self.name} carries no out-of-fold outputs, from which distilled curiosity learns; "
                "accepted is another curiosity, or a bundle made with: qmoe train DATASET --bundle NAME"
            )
        outputs = data.outputs.of(settings.experts)
        return distilled.Lessons(
            cheap=settings.cheap_expert,
            experts=settings.experts,
            logits=data.outputs.of((settings.cheap_expert,)).logits[..., 0, :],
            r=softmax(outputs.router / settings.temperature),
            d=disagreement(softmax(outputs.logits)),
            group=distilled.groups(data.folds, [clip.source for clip in data.clips]),
        )

    def mean_interest(self, settings: Settings) -> float:
        """What `normalise` divides by: the out-of-fold mean of d_i (or d̂_i, σ_i); 1 without a dataset."""
        if not settings.normalise or self.dataset is None:
            return 1.0
        key = replace(settings, alpha=0.0, top_k=1)  # whatever they are, d_i is the same
        if key not in self._interests:
            predicted = self.predict_out_of_fold(settings)
            self._interests[key] = mixing.mean_interest(self.dataset.outputs, settings, predicted)
        return self._interests[key]

    def reference(self, settings: Settings) -> Mixed | None:
        """The default set's out-of-fold predictions mixed the same way, to compare a clip with."""
        if self.dataset is None:
            return None
        predicted = self.predict_out_of_fold(settings)
        interest = self.mean_interest(settings)
        return mixing.mix(self.dataset.outputs, settings, mean_interest=interest, predicted=predicted)

    def verify(self) -> None:
        """Read every file and compare sizes and checksums.

        Raises:
            BundleError: the first file that is missing or damaged.
        """
        for name in self.manifest.files:
            self.read(name)

    def read(self, name: str) -> bytes:
        """One of the bundle's files, after its size and checksum were compared.

        Raises:
            BundleError: it is missing or damaged.
        """
        return _read_checked(self.path, name, self.manifest.files.get(name))


def shipped() -> Path:
    """The folder `data/` that ships: beside the package in a checkout, inside it in a wheel."""
    inside = Path(__file__).resolve().parents[1] / "_app" / "data"
    return inside if inside.is_dir() else Path(__file__).resolve().parents[2] / "data"


def find(name: str | Path | None = None) -> Path:
    """The folder of a bundle.

    Args:
        name: a folder, or a file that `qmoe export` made; or the name of a bundle that ships or that
            `qmoe train --bundle` made; None for the default.

    Raises:
        BundleError: there is no such bundle; the message lists those there are.
    """
    if name is None:
        return shipped() / DEFAULT_NAME
    candidates = [Path(name)]
    if _NAME.fullmatch(str(name)):
        candidates += [home / name for home in _homes()]
    for candidate in candidates:
        with suppress(OSError, ValueError):  # too long for a file's name, or a zero byte; not ours to read
            # A pipe or a device is neither: it would be waited for, or read, for ever.
            if (candidate / MANIFEST).is_file() or (candidate.is_file() and zipfile.is_zipfile(candidate)):
                return candidate
    if (command := SHIPPED_BEFORE.get(str(name))) is not None:
        raise BundleError(f"{name}: ships no more; {DEFAULT_NAME} does. It is made again with: {command}")
    raise BundleError(
        f"{name}: not a bundle; accepted is a folder with a {MANIFEST}, a file that qmoe export made "
        f"(packed, not onnx), or one of {', '.join(names())}"
    )


def made() -> Path:
    """Where bundles trained here are kept."""
    from qmoe_core.runtime.store import default_root

    return default_root() / "bundles"


def _homes() -> list[Path]:
    """Where bundles are looked for by name: those that ship, those trained here, those that are published."""
    from qmoe_core.runtime.store import default_root, published

    return list(dict.fromkeys([shipped(), made(), published(default_root()) / "bundles"]))


def names() -> list[str]:
    """Names of all bundles that `find` knows, the default first."""
    found = {path.parent.name for home in _homes() for path in home.glob(f"*/{MANIFEST}")}
    return sorted(filter(_NAME.fullmatch, found), key=lambda name: (name != DEFAULT_NAME, name))


def destination(name: str | Path) -> Path:
    """Where a bundle is to be written.

    Args:
        name: a folder (with a separator in it), or the name of a bundle among those made here.

    Raises:
        BundleError: not a name, or something that is not a bundle is there, and would be lost.
    """
    folder = Path(name)
    if len(folder.parts) < 2:
        if not _NAME.fullmatch(str(name)):
            raise BundleError(f"{name}: not a name for a bundle; letters, digits, . _ and - are accepted")
        folder = made() / name
    _refuse_to_replace_what_is_no_bundle(folder)
    return folder


def _refuse_to_replace_what_is_no_bundle(folder: Path) -> None:
    ours = folder.is_dir() and ((folder / MANIFEST).is_file() or not any(folder.iterdir()))
    if ours and _version(folder) > VERSION:
        raise BundleError(f"{folder}: written by a newer qmoe, and is not replaced; give another name")
    if folder.exists() and not ours:
        raise BundleError(
            f"{folder}: is not a bundle, and is not replaced by one; give a folder that does not exist yet"
        )


def _version(folder: Path) -> int:
    """Of the bundle that is there; 0 where that cannot be told."""
    try:
        found = typed.decode(_read(folder, MANIFEST, MAX_MANIFEST_BYTES), dict[str, Any])
    except (OSError, _OtherSize, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
    version = found.get("version")
    return version if isinstance(version, int) else 0


def load(name: str | Path | None = None) -> Bundle:
    """Read a bundle (see `find`).

    Raises:
        BundleError: missing, damaged, newer than this program, or made with another embedder.
    """
    path = find(name)
    manifest = _read_manifest(path)
    tensors = _tensors(_read_checked(path, ROUTER_FILE, manifest.files.get(ROUTER_FILE)), path / ROUTER_FILE)
    scalers = []
    for i, embedder in enumerate(manifest.embedders):
        for key in ("mean", "std"):
            _expect(path / ROUTER_FILE, tensors, _indexed(key, i), (embedder.dim,))
        mean, std = tensors.pop(_indexed("mean", i)), tensors.pop(_indexed("std", i))
        if not (std > LEAST_STD).all():
            raise BundleError(f"{path / ROUTER_FILE}: a standard deviation is not above zero")
        if not (np.abs(mean) <= LARGEST_MEAN).all():
            raise BundleError(f"{path / ROUTER_FILE}: a mean is beyond ±{LARGEST_MEAN:,.0f}")
        scalers.append((mean, std))
    try:
        router = Router.from_tensors(
            tensors,
            tuple(manifest.experts),
            manifest.config.router.dropout,
            manifest.config.seed,
        )
    except BundleError as error:
        raise BundleError(f"{path / ROUTER_FILE}: {error}") from None
    if router.dim != manifest.dim:
        raise BundleError(f"{path / ROUTER_FILE}: the router takes {router.dim} numbers, not {manifest.dim}")
    return Bundle(path, manifest, router, tuple(scalers))


def _indexed(tensor: str, embedder: int) -> str:
    """The name of an embedder's tensor: that of the first is as in version 1."""
    return f"{tensor}.{embedder}" if embedder else tensor


def save(
    folder: Path,
    *,
    title: str,
    classes: tuple[str, ...],
    mixture: tuple[str, ...],
    embedders: Sequence[EmbedderRecord],
    networks: Mapping[str, bytes],
    behind: Mapping[str, str],
    config: Config,
    provenance: Provenance,
    experts: Mapping[str, engine.ExpertWeights],
    router: Router,
    scalers: Sequence[Scaler],
    dataset: BundleDataset | None,
) -> Path:
    """Write a bundle: complete, or not at all. A bundle that is there is replaced.

    Args:
        embedders: the cheapest first; networks: the files of those that are carried, by name.
        behind: the name of each expert's embedder.
        scalers: of each embedder.

    Returns:
        The folder.

    Raises:
        BundleError: it cannot be written, or what is there is not a bundle.
    """
    _refuse_to_replace_what_is_no_bundle(folder)
    work = unfinished(folder)
    try:
        work.mkdir(parents=True)
        files: dict[str, _File] = {}

        def add(name: str, write: Callable[[Path], object]) -> None:
            path = work / name
            path.parent.mkdir(exist_ok=True)
            write(path)
            data = path.read_bytes()
            files[name] = _File(len(data), hashlib.sha256(data).hexdigest())
            path.chmod(0o644)
            _flush(path)

        for name, weights in experts.items():
            add(expert_file(name), lambda path, w=weights: engine.save(w, path))
        for embedder in embedders:
            if embedder.name in networks:
                add(embedder.file, lambda path, e=embedder: path.write_bytes(networks[e.name]))
        tensors = router.to_tensors()
        for i, (mean, std) in enumerate(scalers):
            tensors |= {_indexed("mean", i): mean, _indexed("std", i): std}
        add(ROUTER_FILE, lambda path: path.write_bytes(safetensors.numpy.save(tensors)))
        if dataset is not None:
            arrays = {
                _indexed("embeddings", i): embeddings.astype(np.float16)
                for i, embeddings in enumerate(dataset.embedded)
            } | {
                "labels": dataset.labels.astype(np.int16),
                "folds": dataset.folds.astype(np.int16),
                "oof_logits": dataset.outputs.logits.astype(np.float32),
                "oof_router": dataset.outputs.router.astype(np.float32),
                "oof_router_mc": dataset.outputs.router_mc.astype(np.float32),
            }
            add(DATASET_FILE, lambda path: path.write_bytes(safetensors.numpy.save(arrays)))
        manifest = _Manifest(
            format="qmoe-bundle",
            version=VERSION,
            name=folder.name,
            title=title,
            classes=list(classes),
            embedders=list(embedders),
            experts={name: behind[name] for name in experts},
            mixture=list(mixture),
            config=config,
            provenance=provenance,
            clips=list(dataset.clips) if dataset else [],
            files=files,
        )
        (work / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        _flush(work / MANIFEST)
        work.chmod(0o755)
        put_in_place(work, folder)
    except OSError as error:
        raise BundleError(f"{folder}: the bundle could not be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / MANIFEST
    try:
        raw = _read(folder, MANIFEST, MAX_MANIFEST_BYTES)
    except _OtherSize:
        raise BundleError(
            f"{path}: larger than a bundle's description can be ({MAX_MANIFEST_BYTES >> 20} MB)"
        ) from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        found = typed.decode(raw, dict[str, Any])
        version = found.get("version")
        if isinstance(version, int) and version > VERSION:
            raise BundleError(
                f"{path}: written by a newer qmoe (bundle version {version}, this one reads {VERSION})"
            )
        manifest = typed.convert(_upgraded(found) if version == 1 else found, _Manifest)
    except msgspec.ValidationError as error:
        if "unknown field" in str(error):  # what it means is not known either, so it is not passed over
            raise BundleError(
                f"{path}: written by another version of qmoe, and left as it is ({error})"
            ) from None
        raise BundleError(f"{path}: not a bundle's description ({error})") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path}: not a bundle's description ({error})") from None
    if manifest.format != "qmoe-bundle" or manifest.version != VERSION:
        raise BundleError(
            f"{path}: not a bundle this program reads (format {manifest.format} {manifest.version})"
        )
    _check_manifest(path, manifest)
    return manifest


def _check_manifest(path: Path, manifest: _Manifest) -> None:
    """What the types do not say.

    Raises:
        BundleError: the first thing that does not fit.
    """
    came_from = manifest.provenance
    shown = [manifest.name, manifest.title, *manifest.classes, *manifest.experts.values()]
    shown += [text for embedder in manifest.embedders for text in (embedder.name, embedder.id)]
    shown += [text for text in msgspec.structs.astuple(came_from) if isinstance(text, str)]
    shown += [*came_from.f1]
    shown += [text for clip in manifest.clips for text in (clip.name, clip.source)]
    if odd := next((text for text in shown if not text.isprintable() or len(text) > MAX_NAME), None):
        raise BundleError(f"{path}: holds a name that cannot be shown ({odd[:40]!a})")
    # Names become paths, too: of the folder that some of the experts are exported from.
    if not system.is_plain_name(manifest.name):
        raise BundleError(f"{path}: its name, {manifest.name!r}, is a path")
    if not came_from.seeds or not all(
        {"mean", "std", "n"} <= found.keys() for found in came_from.f1.values()
    ):
        raise BundleError(f"{path}: says nothing of seeds, or of the mean, std and n of an F1")
    if len(manifest.classes) < 2 or len(set(manifest.classes)) != len(manifest.classes):
        raise BundleError(f"{path}: expected at least two classes with different names")
    try:
        experts = parse_names(manifest.experts)
        parse_names(manifest.mixture, setting="mixture")
    except ConfigError as error:
        raise BundleError(f"{path}: {error}") from None
    if experts != tuple(manifest.experts) or not set(manifest.mixture) <= set(experts):
        raise BundleError(f"{path}: the mixture names experts that the bundle does not have")
    embedders = [embedder.name for embedder in manifest.embedders]
    if (
        not embedders
        or len({*embedders}) < len(embedders)
        or not {*manifest.experts.values()} <= {*embedders}
    ):
        raise BundleError(f"{path}: an expert has an embedder that the bundle does not have, or has twice")
    # Names become paths: none but those that a bundle has.
    known = {ROUTER_FILE, DATASET_FILE, *(expert_file(name) for name in experts)}
    known |= {one.file for one in manifest.embedders if system.is_plain_name(one.file.rpartition("/")[2])}
    for name in manifest.files.keys() - known:
        raise BundleError(f"{path}: lists {name!r}, which is no file of a bundle")


def _upgraded(found: dict[str, Any]) -> dict[str, Any]:
    """A description of version 1, which has one embedder, as one of this version."""
    old = typed.convert({name: found.pop(name, None) for name in _Version1.__struct_fields__}, _Version1)
    embedder = {"name": old.embedder, "id": old.embedder_id, "dim": old.dim}
    experts = dict.fromkeys(old.experts, old.embedder)
    return found | {"version": VERSION, "embedders": [embedder], "experts": experts}


class _Version1(msgspec.Struct):
    """What version 1 says otherwise."""

    embedder: str
    embedder_id: str
    dim: int
    experts: list[str]


class _Bounded:
    """A file that refuses to be read in large pieces: a ZIP may claim any size for its list of files."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self.seekable, self.close = file.seek, file.tell, file.seekable, file.close
        self.most: int | None = MAX_DIRECTORY_BYTES
        self._read = file.read

    def read(self, n: int = -1) -> bytes:
        if self.most is None:
            return self._read(n)
        if n > self.most:
            raise OSError("lists more files than a bundle has")
        return self._read(n if n >= 0 else self.most)  # the end of the file, and a comment


@contextmanager
def _archive(bundle: Path) -> Iterator[zipfile.ZipFile]:
    with bundle.open("rb") as file:
        bounded = _Bounded(file)
        with zipfile.ZipFile(cast(BinaryIO, bounded)) as archive:
            bounded.most = None
            yield archive


class _OtherSize(Exception):
    """A file is larger than what was allowed; args: its bytes."""


def _read(bundle: Path, name: str, most: int) -> bytes:
    """A file of a bundle, from its folder or from inside the file that it is.

    Raises:
        OSError: it cannot be read, or is not there.
        _OtherSize: it has more bytes than `most`.
    """
    if bundle.is_dir():
        path = bundle / name
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError("not a file")  # a pipe would be waited for, for ever
        with path.open("rb") as file:
            data = file.read(most + 1)
            size = os.fstat(file.fileno()).st_size
    else:
        try:
            with _archive(bundle) as archive, archive.open(name) as member:
                info = archive.getinfo(name)
                if info.compress_type != zipfile.ZIP_STORED:  # a few bytes could become gigabytes
                    raise OSError("compressed, which no exported bundle is")
                data, size = member.read(most + 1), info.file_size
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from None
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise OSError(f"not a whole ZIP file: {error}") from None
    if len(data) > most:
        raise _OtherSize(max(size, len(data)))
    return data


def _read_checked(bundle: Path, name: str, record: _File | None) -> bytes:
    path = bundle / name
    if record is None:
        raise BundleError(f"{bundle / MANIFEST}: does not list {name}, so it cannot be checked")
    try:
        data = _read(bundle, name, record.bytes)
        size = len(data)
    except _OtherSize as error:
        data, size = b"", error.args[0]
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error.strerror or error}); the bundle is damaged"
        ) from None
    if size != record.bytes:
        raise BundleError(f"{path}: has {size:,} bytes, expected {record.bytes:,}; the bundle is damaged")
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise BundleError(f"{path}: its checksum does not fit; the bundle is damaged, make or copy it again")
    return data


def _tensors(data: bytes, path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load(data)
    except (SafetensorError, ValueError, KeyError) as error:  # KeyError: numbers that NumPy has no type for
        raise BundleError(f"{path}: not a safetensors file that can be read ({error})") from None


def _expect(path: Path, tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> None:
    if name not in tensors:
        raise BundleError(f"{path}: the tensor {name} is missing")
    if tensors[name].shape != shape:
        raise BundleError(f"{path}: the tensor {name} has shape {tensors[name].shape}, expected {shape}")
    if not np.isfinite(tensors[name]).all():
        raise BundleError(f"{path}: the tensor {name} holds numbers that are not finite")
