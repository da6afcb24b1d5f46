"""Every setting that changes a result, in one typed tree.

The defaults are the paper's (§4.3) where it gives one and they are compatible with its method; each
exception says why beside it. A TOML file changes several at once, `section.key=value` changes one, and
the whole tree is saved with every run and every bundle.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from qmoe_core.errors import ConfigError
from qmoe_core.runtime import system, typed

Probability = Annotated[float, Meta(ge=0.0, lt=1.0)]
# Bounded above because every configuration is saved as JSON, where infinity is no number.
Positive = Annotated[float, Meta(gt=0.0, le=1e9)]
NonNegative = Annotated[float, Meta(ge=0.0, le=1e9)]
Count = Annotated[int, Meta(ge=1)]
Widths = Annotated[tuple[Annotated[int, Meta(ge=1, le=65_536)], ...], Meta(min_length=1, max_length=4)]
"""Hidden layers, as many and as wide as the packed engine takes."""

Protocol = Literal["official", "random", "grouped"]
Selection = Literal["inner-validation", "best-on-test", "setting"]
Curiosity = Literal["disagreement", "distilled", "router-mc", "none", "cascade"]
Mix = Literal["probabilities", "logits"]
MoeTraining = Literal["compose", "joint"]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of the configuration: immutable, and it refuses keys that it does not have."""


class ExpertConfig(_Section, frozen=True):
    """One expert's network and how it is fitted (§4.3, "individual models")."""

    hidden: Widths = (640, 320)
    dropout: Probability = 0.195
    learning_rate: Positive = 5.79e-4
    weight_decay: NonNegative = 5.13e-3
    batch_size: Count = 64
    epochs: Count = 60
    patience: Count = 19
    label_smoothing: Probability = 0.0
    clip_norm: Positive = 1.0
    class_weights: bool = True
    popcount_threshold: NonNegative = 0.05
    """τ of Eq. 4: an activation counts as +1 above it, as −1 otherwise."""
    popcount_finetune_epochs: Annotated[int, Meta(ge=0)] = 30
    """Epochs of straight-through fine-tuning after a float expert was binarised; 0 is plain PTQ."""


class RouterConfig(_Section, frozen=True):
    """The router (§4.3) and how it is used (Eq. 5–8)."""

    hidden: Widths = (128, 64)
    dropout: Probability = 0.2
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 1e-4
    batch_size: Count = 256
    epochs: Count = 60
    patience: Count = 30
    clip_norm: Positive = 1.0
    load_balancing: NonNegative = 1e-3
    temperature: Positive = 1.0
    top_k: Count = 1
    curiosity: Literal["disagreement", "router-mc", "none"] = "disagreement"
    """Not `distilled`, which learns from the out-of-fold outputs that training makes, nor `cascade`, whose
    experts are put in order: they are chosen where a bundle is used."""
    alpha: Annotated[float, Meta(ge=0.0, le=1000.0)] = 0.3
    normalise: bool = False
    """Divide d_i by its mean over the calibration set, so that α ≈ 1 is where things start to move."""
    mc_samples: Annotated[int, Meta(ge=1, le=1000)] = 10
    mix: Mix = "probabilities"


class EvaluationConfig(_Section, frozen=True):
    """How folds are made and how an epoch is chosen; named on every figure."""

    protocol: Protocol = "official"
    selection: Selection = "inner-validation"
    folds: Annotated[int, Meta(ge=2, le=100)] = 5
    """Number of folds where the protocol makes them itself (`random`, `grouped`)."""


class Config(_Section, frozen=True):
    """All settings of a run."""

    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 42
    moe_training: MoeTraining = "compose"
    expert: ExpertConfig = ExpertConfig()
    router: RouterConfig = RouterConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def _readable(error: msgspec.ValidationError) -> str:
    """What msgspec says, with `router.temperature` for its `$.router.temperature`, and what is accepted."""
    text = str(error)
    where = re.search(r" - at `\$\.?(.*?)`$", text)
    key = where[1] if where else ""
    text = text[: where.start()] if where else text
    place: Any = Config
    for part in re.findall(r"[a-z_]+", key):
        place = get_type_hints(place)[part]
    accepted = ""
    if "unknown field" in text:
        accepted = "; accepted is " + ", ".join(place.__struct_fields__)
    elif "enum value" in text:
        accepted = "; accepted is " + ", ".join(get_args(place))
    return text[0].lower() + text[1:] + (f" - at `{key}`" if key else "") + accepted


PRESETS = ("paper-code",)
"""Configurations that ship (`presets/`), to be named where a TOML file can be given."""
MAX_BYTES, MAX_DEPTH = 64 << 10, 20
"""Of a configuration: more than any needs."""


def load(path: Path | str | None = None, settings: Iterable[str] = ()) -> Config:
    """The configuration: defaults, then a TOML file, then single `section.key=value` settings.

    Args:
        path: TOML file with any part of the tree, the name of one of `PRESETS`, or None.
        settings: such as `router.temperature=0.5`; the value is read as TOML, or as a bare word.

    Returns:
        The validated configuration.

    Raises:
        ConfigError: a file that cannot be read, a key that does not exist, or a value out of range;
            the message names the key.

    >>> load(settings=["router.temperature=0.5"]).router.temperature
    0.5
    >>> load(settings=["router.temprature=1"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    qmoe_core.errors.ConfigError: configuration: object contains unknown field `temprature` - at `router`; ...
    """
    tree: dict[str, Any] = {}
    source = "configuration"
    if path is not None:
        source = str(path)
        try:
            if source in PRESETS:
                shipped = resources.files("qmoe_core").joinpath("presets", f"{source}.toml")
                text = shipped.read_text(encoding="utf-8")
            else:
                text = system.content(Path(path), MAX_BYTES).decode()
            tree = _toml(text)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read as a configuration ({error})") from None
        except ValueError as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from None
    for setting in settings:
        key, sep, text = setting.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not sep or not all(parts) or len(parts) > MAX_DEPTH:
            given = setting if len(setting) < 100 else f"{setting[:100]}…"
            raise ConfigError(f"--set {given}: expected section.key=value, such as router.temperature=0.5")
        try:
            read = _toml(f"value = {text}")
        except ValueError:
            read = {}
        value = read["value"] if read.keys() == {"value"} else text.strip()
        node = tree
        for part in parts[:-1]:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                raise ConfigError(f"--set {setting}: `{part}` is a value, not a section")
            node = child
        node[parts[-1]] = value
    try:
        return typed.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_readable(error)}") from None


def _toml(text: str) -> dict[str, Any]:
    """Read TOML.

    Raises:
        ValueError: it is none, is nested too deeply, or has a number of thousands of digits.
    """
    try:
        tree = tomllib.loads(text)
        _check_depth(tree, MAX_DEPTH)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    return tree


def _check_depth(value: object, left: int) -> None:
    if isinstance(value, dict | list):
        if not left:
            raise RecursionError
        for child in value.values() if isinstance(value, dict) else value:
            _check_depth(child, left - 1)


def to_dict(config: msgspec.Struct) -> dict[str, Any]:
    """The configuration as plain dictionaries and lists, ready for JSON."""
    return msgspec.to_builtins(config)


def fingerprint(value: Any) -> str:
    """SHA-256 of a value's canonical JSON: the address of what was made from it.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()
