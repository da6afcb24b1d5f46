"""The packed form: the bundle's own files in one ZIP, uncompressed, with a card that people can read."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from qmoe_core import bundles
from qmoe_core.bundles import Bundle
from qmoe_core.bundles.export.card import CARD, card
from qmoe_core.errors import BundleError
from qmoe_core.experts.spec import members, parse_names
from qmoe_core.routing.router import Router
from qmoe_core.runtime.store import unfinished

EPOCH = (1980, 1, 1, 0, 0, 0)
"""A ZIP's earliest time: when a file was written is nobody's business."""


def export_packed(bundle: Bundle, path: Path, *, experts: Sequence[str] | None = None) -> Path:
    """Write a bundle as one file that `bundles.load` reads.

    Args:
        bundle: to be carried.
        path: of the file; an existing one is replaced.
        experts: to take along; all of the bundle's when None. The mixture keeps those of its experts that
            come along.

    Returns:
        The file.

    Raises:
        BundleError: an expert that the bundle lacks, no expert of the mixture among them, a damaged bundle,
            or a file that cannot be written.
    """
    chosen = bundle.experts if experts is None else chosen_experts(bundle, experts)
    if not set(chosen) & set(bundle.manifest.mixture):
        raise BundleError(
            f"bundle {bundle.name}: take at least one expert of its mixture along, "
            f"which is {', '.join(bundle.manifest.mixture)}"
        )
    with tempfile.TemporaryDirectory() as home:
        folder = bundle.path
        if chosen != bundle.experts or not folder.is_dir():
            folder = _with_experts(bundle, chosen, Path(home) / bundle.name)
        whole = bundles.load(folder)
        members = [bundles.MANIFEST, *whole.manifest.files]
        temporary = unfinished(path)
        try:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr(zipfile.ZipInfo(CARD, EPOCH), card(whole))
                for name in members:
                    data = (folder / name).read_bytes() if name == bundles.MANIFEST else whole.read(name)
                    archive.writestr(zipfile.ZipInfo(name, EPOCH), data)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise BundleError(f"{path}: cannot be written ({error.strerror or error})") from None
        finally:
            temporary.unlink(missing_ok=True)
    return path


def chosen_experts(bundle: Bundle, experts: Sequence[str]) -> tuple[str, ...]:
    """These experts in the bundle's order.

    Raises:
        BundleError: the bundle lacks one; ConfigError: not the name of an expert.
    """
    names = parse_names(experts, setting="--experts")
    if missing := [name for name in names if name not in bundle.experts]:
        raise BundleError(
            f"bundle {bundle.name}: no expert {', '.join(missing)}; there are {', '.join(bundle.experts)}"
        )
    return tuple(name for name in bundle.experts if name in names)


def _with_experts(bundle: Bundle, chosen: tuple[str, ...], folder: Path) -> Path:
    """The bundle with some of its experts, as a folder."""
    f1 = {name: figures for name, figures in bundle.provenance.f1.items() if members(name, chosen)}
    index = [bundle.experts.index(name) for name in chosen]
    router = bundle.router
    data = bundle.dataset
    places = sorted({0, *(bundle.behind(name) for name in chosen)})  # the router takes the first
    embedders = [bundle.embedders[place] for place in places]
    carried = {one.name: bundle.read(one.file) for one in embedders if one.file in bundle.manifest.files}
    return bundles.save(
        folder,
        title=bundle.title,
        classes=bundle.classes,
        mixture=tuple(name for name in bundle.manifest.mixture if name in chosen),
        embedders=embedders,
        networks=carried,
        behind=bundle.manifest.experts,
        config=bundle.config,
        provenance=msgspec.structs.replace(bundle.provenance, f1=f1),
        experts={name: bundle.weights(name) for name in chosen},
        router=Router(
            chosen,
            (*router.weights[:-1], router.weights[-1][index]),
            (*router.biases[:-1], router.biases[-1][index]),
            router.dropout,
            router.seed,
        ),
        scalers=[bundle.scalers[place] for place in places],
        dataset=None
        if data is None
        else replace(
            data,
            embedded=tuple(data.embedded[place] for place in places),
            outputs=data.outputs.of(chosen),
        ),
    )
