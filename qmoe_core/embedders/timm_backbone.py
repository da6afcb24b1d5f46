"""Pretrained image networks as embedders (§3.1): the log-mel spectrogram is shown to them as a picture.

    waveform → log-mel [128, 216] dB → grey picture in [0, 1] → the network's size and colours → features [D]

- Range: the picture spans the 80 dB below the clip's loudest point: a network trained on photographs expects
  the full range from black to white in each of them, and what lies deeper is mostly noise of the recording.
- Size: 128 bands × 216 frames (5 s) are stretched to the network's native input (bilinear, antialiased;
  efficientnet_b3: 288 × 288), because features of these networks depend on scale. Row 0 is the lowest band.
- Colour: grey, the same in three channels. A colour map would add no information, only edges of hue that
  photographs do not have; a dataset that comes as pictures (`@pictures`) keeps the colours it has.
- Normalisation: the mean and deviation that the network was trained with (ImageNet's, from timm's
  configuration), so that its first layer sees inputs of the scale it knows. The paper's code leaves it out
  for two of its three sets (`@no-normalisation`).

Features are the input of the network's own classifier, which is left out: 1,536 numbers of
`efficientnet_b3`, 1,024 of `mobilenetv3_small_100`. The paper's code puts a new linear layer [D → D] in its
place for two sets, and never trains or seeds it (`@unseeded-projection`): every run has other features.

The network runs on CUDA where there is such a device, else on all cores. There it may use TF32, whose ten
bits are those of the half precision that embeddings are kept in. torch and timm are imported when an embedder
is made, not before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qmoe_core.audio import mel
from qmoe_core.audio.decode import SAMPLE_RATE
from qmoe_core.embedders import models
from qmoe_core.errors import UserError
from qmoe_core.runtime.ahead import ahead

if TYPE_CHECKING:
    from torch import Tensor, nn

N_MELS = 128
RANGE_DB = 80.0
VERSION = 1
"""To be raised when the same weights give other numbers, so that no cache mixes the two."""

_OTHER_WEIGHTS = (
    'a local safetensors file or "random" is accepted as weights, and `qmoe models download NAME --from FILE`'
)


def names() -> frozenset[str]:
    """The models that the installed timm knows, also with the name of their weights behind a dot."""
    import timm

    return frozenset(timm.list_models()) | frozenset(timm.list_models(pretrained=True))


class TimmBackbone:
    """A frozen timm model over log-mel pictures (see `embedders.Embedder`)."""

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        seed: int = 0,
        pictures: bool = False,
        normalise: bool = True,
        projection: str | None = None,
    ) -> None:
        """Make the model `name` and give it weights.

        Args:
            weights: None for those that were given (`qmoe models download NAME --from FILE`), else of timm's
                hub; the path of a safetensors file; or "random".
            seed: of random weights.
            pictures: take pictures rather than recordings.
            normalise: False leaves out the network's mean and deviation, as the paper's code does.
            projection: eight hexadecimal digits, from which a linear layer [D → D] behind it is drawn.

        Raises:
            UserError: the hub does not answer or has no such weights, or the file does not fit the model.
        """
        import torch
        from timm.data.config import resolve_data_config

        quirks = "" if normalise else "@no-normalisation"
        quirks += f"@unseeded-projection={projection}" if projection else ""
        quirks += "@pictures" if pictures else ""
        made_with = (
            f"@random={seed}" if weights == "random" else f"@{Path(weights).resolve()}" if weights else ""
        )
        self.name = name + made_with + quirks
        self.libraries = ("timm", "torch")  # part of the identity of what it gives
        self.sample_rate = SAMPLE_RATE
        self.takes = "pictures" if pictures else "waveforms"
        if weights is None:
            kept = models.path(name)
            self._model = _from_hub(name) if kept is None else _from_file(name, kept)
        elif weights == "random":
            self._model = _random(name, seed)
        else:
            self._model = _from_file(name, Path(weights))
        self._model.eval().requires_grad_(False)
        config = resolve_data_config({}, model=self._model)
        self._size: tuple[int, int] = config["input_size"][1:]
        none = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        self._mean, self._std = (config["mean"], config["std"]) if normalise else none
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        digest = self._digest()
        self._model.to(self._device)
        # Asked of the model itself: timm's num_features leaves out the layer behind mobilenetv3's pooling.
        self.dim = self._features(torch.zeros(1, 3, *self._size)).shape[1]
        if projection is not None:
            digest = hashlib.sha256(f"{digest} {projection}".encode()).hexdigest()
            self._model = _projected(self._model, self.dim, int(projection, 16)).to(self._device)
        self.id = f"{name}{quirks}-{digest[:8]}"

    def embed(self, inputs: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Waveforms float32 [B, n] (22,050 Hz), or pictures uint8 [height, width, 3], to float32 [B, D]."""
        import torch

        if not len(inputs):
            return np.empty((0, self.dim), dtype=np.float32)
        if self.takes == "pictures":
            shown = [self._dress(torch.tensor(pixels).permute(2, 0, 1)[None] / 255.0) for pixels in inputs]
            return self._features(torch.cat(shown))
        grey = np.stack(list(ahead(lambda waveform: grey_picture(mel.log_mel(waveform, N_MELS)), inputs)))
        return self._features(self._dress(torch.from_numpy(grey)[:, None]))

    def _features(self, dressed: Tensor) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return self._model(dressed.to(self._device)).float().cpu().numpy()

    def _digest(self) -> str:
        digest = hashlib.sha256(repr((VERSION, N_MELS, RANGE_DB, self._size, self._mean, self._std)).encode())
        for key, tensor in sorted(self._model.state_dict().items()):
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def _dress(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 1 or 3, h, w] in [0, 1] to the network's input [B, 3, height, width]."""
        import torch
        from torch.nn import functional

        resized = functional.interpolate(pictures, self._size, mode="bilinear", antialias=True)
        mean = torch.tensor(self._mean).view(1, 3, 1, 1)
        std = torch.tensor(self._std).view(1, 3, 1, 1)
        return (resized - mean) / std


def grey_picture(level: np.ndarray) -> np.ndarray:
    """Levels [M, T] in dB to brightness in [0, 1]: white is the loudest, black 80 dB below it or less."""
    return np.maximum(0.0, 1.0 + (level - level.max()) / np.float32(RANGE_DB))


def _projected(model: nn.Module, dim: int, draw: int) -> nn.Module:
    """The model with a linear layer behind it, as torch makes one, drawn from a seed."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw)
        layer = nn.Linear(dim, dim)
    return nn.Sequential(model, layer).eval().requires_grad_(False)


def _from_hub(name: str) -> nn.Module:
    import huggingface_hub
    import timm

    try:
        config = timm.get_pretrained_cfg(name)
        repository = getattr(config, "hf_hub_id", None)
        filename = getattr(config, "hf_hub_filename", None) or "model.safetensors"
        if repository and not huggingface_hub.try_to_load_from_cache(repository, filename):
            huggingface_hub.model_info(
                repository, timeout=10
            )  # fails at once where a download tries for a minute
        return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's client has dozens of its own, and all mean the same to a user
        raise UserError(
            f"The pretrained weights of {name} could not be had from the hub "
            f"({type(error).__name__}); {_OTHER_WEIGHTS}."
        ) from error


def _random(name: str, seed: int) -> nn.Module:
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(name, pretrained=False, num_classes=0)


def _from_file(name: str, path: Path) -> nn.Module:
    import safetensors.torch
    from safetensors import SafetensorError

    if not path.is_file():
        raise UserError(f"The weights file {path} does not exist; {_OTHER_WEIGHTS}.")
    try:
        given = safetensors.torch.load_file(path)
    except (SafetensorError, OSError):
        raise UserError(f"{path.name} is not a readable safetensors file; {_OTHER_WEIGHTS}.") from None
    return _with(name, given, path.name)


def fetch(name: str) -> Path:
    """Have the hub's client fetch the weights of a model; gives the folder where it keeps them.

    Raises:
        UserError: timm knows no such model, or the hub does not give it.
    """
    import huggingface_hub

    _from_hub(_known(name))
    return Path(huggingface_hub.constants.HF_HUB_CACHE)


def check(name: str, tensors: Mapping[str, np.ndarray]) -> None:
    """
    Raises:
        UserError: timm knows no such model, or these are not its weights.
    """
    import torch

    _with(_known(name), {key: torch.tensor(array) for key, array in tensors.items()}, "the file")


def _known(name: str) -> str:
    if name not in names():
        raise UserError(f"There is no model {name}; mn04 and the models of timm are accepted.")
    return name


def _with(name: str, given: dict[str, Tensor], said: str) -> nn.Module:
    """The model with these weights; those of its classifier may be among them.

    Args:
        said: what errors call the file.
    """
    model = _random(name, 0)
    wanted = model.state_dict()
    classifier = _classifier_prefixes(model)
    given = {key: tensor for key, tensor in given.items() if key in wanted or not key.startswith(classifier)}
    problems = [f"{key} is missing" for key in wanted if key not in given]
    problems += [f"{key} is unknown to it" for key in given if key not in wanted]
    problems += [
        f"{key} has shape {tuple(given[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in given and given[key].shape != tensor.shape
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{said} does not hold the weights of {name}: {', '.join(problems[:3])}{more}.")
    model.load_state_dict(given)
    return model


def _classifier_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Where a file keeps the classifier that this model goes without."""
    layers = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    return tuple(f"{layer}." for layer in ([layers] if isinstance(layers, str) else layers))
