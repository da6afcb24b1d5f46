"""The recordings behind a bundle's data set, where they are at hand: which there are, and their pictures."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st

from dashboard.charts.palette import Theme
from qmoe_core import datasets
from qmoe_core.audio import decode, mel
from qmoe_core.bundles import Bundle
from qmoe_core.errors import UserError

THUMBNAIL = (216, 96)
"""Width and height of a thumbnail, pixels: a frame a column."""
RANGE_DB = 80.0


def at_hand(bundle: Bundle) -> dict[str, Path]:
    """Recordings of the bundle's data set on this machine, by clip name; another label is another clip."""
    labels = None if bundle.dataset is None else bundle.dataset.labels
    if labels is None:
        return {}
    names = tuple(clip.name for clip in bundle.manifest.clips)
    truth = tuple(bundle.classes[label] for label in labels)
    return _at_hand(bundle.provenance.dataset, names, truth)


@st.cache_data(max_entries=8, ttl=60, show_spinner=False)
def _at_hand(dataset: str, names: tuple[str, ...], truth: tuple[str, ...]) -> dict[str, Path]:
    try:
        manifest = datasets.open_dataset(dataset, skip_missing=True)
    except UserError:
        return {}
    if manifest.media != "audio":  # pictures and imported embeddings cannot be played
        return {}
    here = {entry.name: (manifest.classes[entry.label], entry.path) for entry in manifest.entries}
    found = {}
    for name, label in zip(names, truth, strict=True):
        known = here.get(name)
        if known is not None and known[0] == label:
            found[name] = known[1]
    return found


@dataclass(frozen=True)
class Heard:
    """A recording that was read: its duration, and its spectrogram in whole dB, int8 [128, frames]."""

    duration_s: float
    spectrogram: np.ndarray


def decoded(path: Path) -> Heard:
    """Decode a recording.

    Raises:
        AudioError: it cannot be.
    """
    clip = decode.load(path)
    levels = np.rint(np.clip(mel.log_mel(clip.samples), -127, 127)).astype(np.int8)
    return Heard(clip.duration_s, levels)


@st.cache_data(max_entries=64, max_size="64 MB", show_spinner=False)
def heard(path: Path) -> Heard:
    """As `decoded`, kept for all sessions: of data sets, which all may read."""
    return decoded(path)


@st.cache_data(max_entries=16, max_size="8 MB", scope="session", show_spinner=False)
def heard_here(path: Path) -> Heard:
    """As `decoded`, kept with the session: of a person's own takes."""
    return decoded(path)


def pictured(path: Path, theme: Theme) -> bytes | None:
    """A small picture of a recording's spectrogram, PNG; None where it cannot be decoded."""
    try:
        levels = mel.log_mel(decode.load(path).samples)
    except UserError:
        return None
    return png(_fitted(np.clip((levels - levels.max()) / RANGE_DB + 1.0, 0.0, 1.0)), theme)


@st.cache_data(max_entries=2048, max_size="32 MB", show_spinner=False)
def thumbnail(path: Path, theme: Theme) -> bytes | None:
    """As `pictured`, kept for all sessions: of data sets, which all may read."""
    return pictured(path, theme)


@st.cache_data(max_entries=256, max_size="4 MB", scope="session", show_spinner=False)
def thumbnail_here(path: Path, theme: Theme) -> bytes | None:
    """As `pictured`, kept with the session: of a person's own takes."""
    return pictured(path, theme)


def _fitted(share: np.ndarray) -> np.ndarray:
    """Rows and columns pooled by their mean to a thumbnail's size, high frequencies on top."""
    width, height = THUMBNAIL
    for axis, size in ((1, width), (0, height)):
        if share.shape[axis] > size:
            starts = np.linspace(0, share.shape[axis], size, endpoint=False).astype(int)
            counts = np.diff(np.append(starts, share.shape[axis]))
            sums = np.add.reduceat(share, starts, axis=axis)
            share = sums / (counts if axis else counts[:, None])
    return share[::-1]


def png(share: np.ndarray, theme: Theme) -> bytes:
    """Values from 0 to 1, [height, width], as a PNG in the theme's colours."""
    from PIL import Image

    stops = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in theme.scale], float)
    levels = np.linspace(0, len(stops) - 1, 256)
    palette = np.stack([np.interp(levels, np.arange(len(stops)), stops[:, c]) for c in range(3)], axis=1)
    picture = Image.fromarray(np.rint(255 * share).astype(np.uint8))
    picture.putpalette(np.rint(palette).astype(np.uint8).tobytes())
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


@st.cache_data(max_entries=2048, max_size="16 MB", show_spinner=False)
def embedding_picture(digest: str, index: int, theme: Theme, _embeddings: np.ndarray) -> bytes:
    """A clip's embedding as a picture, for want of its recording: each number by how unusual it is."""
    z = (_embeddings[index] - _embeddings.mean(axis=0, dtype=float)) / np.maximum(
        _embeddings.std(axis=0, dtype=float), 1e-6
    )
    width = THUMBNAIL[0] // 4
    rows = -(-len(z) // width)
    filled = np.pad(np.clip(z / 6.0 + 0.5, 0.0, 1.0), (0, rows * width - len(z)))
    return png(filled.reshape(rows, width), theme)
