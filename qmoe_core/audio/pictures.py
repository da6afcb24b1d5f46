"""Pictures of Mel spectrograms, as some datasets come: from a file to checked RGB pixels.

Nothing is known of such a picture but what is usual: time runs to the right, low frequencies are at the
bottom, and brighter is louder. What embedders make of it is said in theirs.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qmoe_core.audio.decode import display_name
from qmoe_core.errors import AudioError

FORMATS = ("PNG", "JPEG")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
"""Endings of the names of pictures, in lower case."""
MAX_BYTES = 50 * 2**20
MAX_PIXELS = 25_000_000
MIN_SIDE = 8

_ACCEPTED = (
    f"PNG and JPEG pictures of {MIN_SIDE} × {MIN_SIDE} to {MAX_PIXELS // 10**6} million pixels are accepted"
)


@dataclass(frozen=True)
class Picture:
    """A picture, ready to be judged."""

    name: str
    """Safe to print and to use as a file name (see `decode.display_name`)."""
    pixels: np.ndarray
    """Red, green and blue, uint8 [height, width, 3]; what was transparent lies on white."""
    mode: str
    """Pillow's word for how the file keeps its pixels, such as RGBA."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]


def load(source: str | Path | bytes, *, name: str | None = None) -> Picture:
    """Read a picture from a path or from the bytes of a file.

    Raises:
        AudioError: it is missing, empty, too large, too small, or no such picture.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise AudioError("Pictures need Pillow, which is not installed: pip install pillow.") from None

    if isinstance(source, bytes):
        data = source
    else:
        path = Path(source)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise AudioError(
                f"{display_name(path.name)} cannot be read: {error.strerror or error}."
            ) from None
        name = name or path.name
    name = display_name(name or "picture")
    if len(data) > MAX_BYTES:
        raise AudioError(f"{name} is larger than {MAX_BYTES >> 20} MB; {_ACCEPTED}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's of large pictures, which are refused in the next line
            opened = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = opened.size
        if width * height > MAX_PIXELS or min(width, height) < MIN_SIDE:
            raise AudioError(f"{name} has {width} × {height} pixels; {_ACCEPTED}.")
        mode = opened.mode
        if mode.startswith("I"):  # 16 bits
            opened = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8))
        rgba = opened.convert("RGBA")
    except UnidentifiedImageError:
        raise AudioError(f"{name} is not a picture that can be read; {_ACCEPTED}.") from None
    except Image.DecompressionBombError:
        raise AudioError(f"{name} has far too many pixels; {_ACCEPTED}.") from None
    except (OSError, ValueError, SyntaxError):  # Pillow's of damaged files
        raise AudioError(f"{name} is a damaged picture; {_ACCEPTED}.") from None
    white = Image.new("RGBA", rgba.size, "white")
    return Picture(name, np.asarray(Image.alpha_composite(white, rgba).convert("RGB")), mode)
