"""Weights of embedders: what ships, what can be had and under which licence, and where it is kept.

Weights lie in the store's folder `models`, one safetensors file a model; `ds-cnn:q8`, a network in a number
format, is `ds-cnn.q8.safetensors` there. Files of torch (.pt) are converted when they come; nothing is
unpickled of them but tensors (`weights_only`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from qmoe_core.audio.decode import SAMPLE_RATE
from qmoe_core.embedders import architectures
from qmoe_core.engine import network_storage
from qmoe_core.engine.network import Network
from qmoe_core.errors import UserError
from qmoe_core.experts.spec import NAMES
from qmoe_core.runtime.executor import Progress
from qmoe_core.runtime.store import default_root, published, unfinished

SHIPPED = Path(__file__).with_name("weights")
ARCHITECTURES: dict[str, Callable[[Mapping[str, np.ndarray]], Network]] = {
    "ds-cnn": architectures.ds_cnn,
    "mn04": architectures.mn04,
}
"""Makes the float network of a model's tensors."""

MN04: dict[str, Any] = {
    "title": "EfficientAT's MobileNetV3 of width 0.4, trained on AudioSet",
    "url": "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/mn04_as_mAP_432.pt",
    "bytes": 4_100_000,
    "sha256": "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c",
    "licence": "MIT, Florian Schmid 2022",
    "citation": "F. Schmid, K. Koutini, G. Widmer, Efficient Large-Scale Audio Tagging via "
    "Transformer-to-CNN Knowledge Distillation, ICASSP 2023",
}
"""What is downloaded for `mn04`: see `datasets.download.File`."""


def shipped() -> list[str]:
    """Names of the networks whose weights ship, each model's float one first."""
    return sorted(file.stem.replace(".", ":") for file in SHIPPED.glob("*.safetensors"))


def home() -> Path:
    """The folder with weights that were downloaded or given."""
    return published(default_root()) / "models"


def file_of(name: str) -> str:
    """The name of a model's file: `ds-cnn.q8.safetensors` for `ds-cnn:q8`."""
    return f"{name.replace(':', '.')}.safetensors"


def path(name: str) -> Path | None:
    """The safetensors file of a model's weights, or None where it is not on this machine."""
    for folder in (home(), SHIPPED):
        if (file := folder / file_of(name)).is_file():
            return file
    return None


def network(name: str, weights: str | Path | None = None) -> Network:
    """The network of one of `ARCHITECTURES`, float or in a number format.

    Args:
        name: such as `ds-cnn`, or `ds-cnn:q8`; `ds-cnn:fp32` is the float one.
        weights: safetensors file; None is the one that ships, was downloaded or made.

    Raises:
        UserError: its weights are not on this machine, or the file holds others.
    """
    name = name.removesuffix(":fp32")
    model, _, format = name.partition(":")
    file = path(name) if weights is None else Path(weights)
    if file is None and format:
        raise UserError(
            f"{name} is not on this machine: qmoe models quantize {model} --formats {format} makes it."
        )
    if file is None:
        raise UserError(
            f"The weights of {name} are not on this machine: qmoe models download {name}, "
            "or --from FILE with a file that you have."
        )
    if format:
        return _quantized(file, model)
    try:
        return ARCHITECTURES[name](_read(file))
    except UserError as error:
        raise UserError(f"{file.name}: {error}") from None


def _quantized(file: Path, model: str) -> Network:
    try:
        made = network_storage.loads(file.read_bytes(), file.name)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None
    if made.name != model:
        raise UserError(f"{file.name} holds the network of {made.name}, not of {model}")
    return made


def keep_quantized(made: Network, format: str, folder: str | Path | None) -> Path:
    """Write a network in a number format to its file.

    Args:
        folder: None puts it where `ds-cnn:q8` is looked for first.

    Raises:
        UserError: it cannot be written.
    """
    target = (home() if folder is None else Path(folder)) / file_of(f"{made.name}:{format}")
    return _write(target, network_storage.dumps(made))


def download(
    name: str,
    *,
    file: str | Path | None = None,
    url: str | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Path:
    """Put a model's weights where embedders find them.

    Args:
        name: `mn04` or a model of timm.
        file: .pt or .safetensors that the user has; None fetches it.
        url: another place that has the file that its authors offer.
        progress: told of bytes that have arrived.

    Returns:
        The safetensors file; of a model of timm that the hub keeps, the hub's folder.

    Raises:
        UserError: there is no such model, or what came holds other weights.
        Cancelled: what has arrived is kept, and the next call asks for the rest.
    """
    if file is not None:
        return _keep(name, _tensors(Path(file)), Path(file).name)
    if (here := path(name)) is not None:
        return here
    if name != "mn04":
        from qmoe_core.embedders import timm_backbone

        return timm_backbone.fetch(name)
    from qmoe_core.datasets import download as downloads

    wanted = downloads.File(name=name, **MN04)
    with downloads.fetched(wanted, url, progress, cancelled) as (fetched, _):
        return _keep(name, _tensors(fetched, torch_file=True), fetched.name)


def _keep(name: str, tensors: dict[str, np.ndarray], given: str) -> Path:
    """Check a model's tensors and keep them as a safetensors file, in one step."""
    try:
        if name in ARCHITECTURES:
            ARCHITECTURES[name](tensors)
        else:
            from qmoe_core.embedders import timm_backbone

            timm_backbone.check(name, tensors)
    except UserError as error:
        raise UserError(f"{given}: {error}") from None
    return _write(home() / file_of(name), safetensors.numpy.save(tensors))


def _write(target: Path, data: bytes) -> Path:
    """A file that takes its place in one step."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = unfinished(target)
        work.write_bytes(data)
        work.replace(target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from None
    return target


def _tensors(file: Path, *, torch_file: bool | None = None) -> dict[str, np.ndarray]:
    """The tensors of a .pt or .safetensors file, by name.

    Raises:
        UserError: it is missing, damaged, or holds anything but tensors.
    """
    if torch_file is None:
        torch_file = file.suffix in (".pt", ".pth", ".bin")
    if not torch_file:
        return _read(file)
    import torch

    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file; .pt and .safetensors are accepted") from None
    except Exception as error:  # torch raises what its archive, its unpickler or its storage do
        raise UserError(
            f"{file.name}: no file of torch that holds tensors only ({type(error).__name__}); nothing else "
            "is read. A .safetensors file is accepted too."
        ) from None
    if not isinstance(held, dict) or not all(isinstance(t, torch.Tensor) for t in held.values()):
        raise UserError(f"{file.name}: expected a dictionary of tensors by name, as a state_dict is")
    return {str(key): tensor.contiguous().numpy() for key, tensor in held.items()}


def _read(file: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(file)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file; .pt and .safetensors are accepted") from None
    except (SafetensorError, OSError):
        raise UserError(f"{file.name} is not a readable safetensors file.") from None


def keep_made(tensors: dict[str, np.ndarray], about: Mapping[str, object], out: str | Path | None) -> Path:
    """Write the weights of a `ds-cnn` that was trained here.

    Args:
        about: how it was made, kept in the file's metadata.
        out: the file; None puts it where `ds-cnn` is looked for first.

    Raises:
        UserError: it cannot be written.
    """
    target = home() / "ds-cnn.safetensors" if out is None else Path(out)
    return _write(target, safetensors.numpy.save(tensors, {"about": json.dumps(about, sort_keys=True)}))


@dataclass(frozen=True)
class Known:
    """An embedder in the list; see `known`.

    Attributes:
        dim: numbers of an embedding; sample_rate_hz: of its waveforms; bytes: of its weights.
        state: `ships`, `here`, or how to have it.
    """

    name: str
    dim: int | None
    sample_rate_hz: int
    bytes: int
    licence: str | None
    state: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def known() -> list[Known]:
    """Embedders that can be named: our own, `mn04`, and the models of timm whose weights were given.

    Raises:
        UserError: weights that are kept are damaged.
    """
    from qmoe_core.embedders import logmel_stats
    from qmoe_core.embedders.learned import FRONT_ENDS

    statistics = logmel_stats.LogMelStats()
    rows = [Known(statistics.name, statistics.dim, statistics.sample_rate, 0, None, "ships, has no weights")]
    for name in ARCHITECTURES:
        file, licence = path(name), MN04["licence"] if name == "mn04" else "as the lab"
        rate = FRONT_ENDS[name].sample_rate
        if file is None:
            state = f"qmoe models download {name}"
            rows.append(Known(name, None, rate, MN04["bytes"], licence, state))
            continue
        state = "ships" if file.parent == SHIPPED else "here"
        dim = network(name).dim
        rows.append(Known(name, dim, rate, file.stat().st_size, licence, state))
        for made, quantized in [(f"{name}:{format}", path(f"{name}:{format}")) for format in NAMES]:
            if quantized is not None:
                state = "ships" if quantized.parent == SHIPPED else "here"
                rows.append(Known(made, dim, rate, quantized.stat().st_size, licence, state))
    others = [f for f in sorted(home().glob("*.safetensors")) if f.name.split(".")[0] not in ARCHITECTURES]
    return rows + [Known(f.stem, None, SAMPLE_RATE, f.stat().st_size, None, "here, of timm") for f in others]
