"""Log-mel statistics of pictures: a Mel spectrogram is read back from its picture, as well as that goes.

    pixels → lightness L* → levels from −80 to 0 dB → 64 bands × 216 frames → `logmel_stats`

What is assumed, because a picture does not say it: low frequencies are at the bottom; its height spans the
bands and its width five seconds, of which 216 frames are made; and lightness (CIE L*, 0 to 100) grows
linearly with the level over 80 dB. Magma, inferno and viridis are built for that by another measure of
lightness (within 6 of L*'s 100, which is 5 dB); grey comes close. Axes or a frame around the picture would
count as sound. So these numbers are not those of the recording: embeddings of pictures compare with those of
pictures made alike, and with nothing else. The embedder has an id of its own for that reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from qmoe_core.audio.decode import SAMPLE_RATE
from qmoe_core.audio.mel import frame_count
from qmoe_core.embedders import logmel_stats

NAME = f"{logmel_stats.NAME}@pictures"
VERSION = 1
"""To be raised when the same picture gives other numbers, so that no cache mixes the two."""
RANGE_DB = 80.0
FRAMES = frame_count(5 * SAMPLE_RATE)


class PictureStats:
    """The embedder named "logmel-stats@pictures" (see `embedders.Embedder`)."""

    name = NAME
    takes = "pictures"
    sample_rate = SAMPLE_RATE

    def __init__(self) -> None:
        self._statistics = logmel_stats.LogMelStats(version=1)  # a picture's levels are what it shows
        self.dim = self._statistics.dim
        digest = hashlib.sha256(repr((VERSION, RANGE_DB, FRAMES, self._statistics.id)).encode()).hexdigest()
        self.id = f"{NAME}-{digest[:8]}"

    def embed(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Pictures uint8 [height, width, 3] to embeddings float32 [B, D]."""
        out = np.empty((len(pictures), self.dim), dtype=np.float32)
        for row, pixels in zip(out, pictures, strict=True):
            level = levels(pixels, self._statistics.parameters.n_mels, FRAMES)
            row[:] = self._statistics.statistics(10.0 ** (level / 10.0))
        return out


def levels(pixels: np.ndarray, bands: int, frames: int) -> np.ndarray:
    """A picture uint8 [height, width, 3] as levels in dB, float32 [bands, frames], low frequencies first."""
    from PIL import Image

    light = Image.fromarray(lightness(pixels)[::-1])
    resized = np.asarray(light.resize((frames, bands), Image.Resampling.BILINEAR))
    return (resized / np.float32(100.0) - np.float32(1.0)) * np.float32(RANGE_DB)


def lightness(pixels: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB pixels: uint8 [..., 3] to float32 [...] from 0 (black) to 100 (white)."""
    share = np.arange(256) / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    luminance = linear[pixels] @ [0.2126, 0.7152, 0.0722]
    dark = 24389.0 / 27.0 * luminance
    return np.where(luminance <= 216.0 / 24389.0, dark, 116.0 * np.cbrt(luminance) - 16.0).astype(np.float32)
