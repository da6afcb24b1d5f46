"""Pictures of spectrograms: whatever their mode, RGB comes out; whatever is wrong with them, a sentence."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qmoe_core.audio import pictures
from qmoe_core.errors import AudioError


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_modes(mode: str) -> None:
    grey = np.full((8, 9), 255, np.uint8)
    image = (
        Image.fromarray(grey.astype(np.uint16) * 257)
        if mode == "I;16"
        else Image.fromarray(grey).convert(mode)
    )
    picture = pictures.load(png(image), name="a/b.png")
    assert picture.pixels.shape == (8, 9, 3)
    assert (picture.pixels == 255).all()
    assert (picture.name, picture.mode, picture.size) == ("b.png", mode, (9, 8))


def test_what_is_transparent_lies_on_white() -> None:
    picture = pictures.load(png(Image.new("RGBA", (8, 8), (0, 0, 0, 0))))
    assert (picture.pixels == 255).all()


def test_refusals(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(AudioError, match=r"gone\.png cannot be read: No such file"):
        pictures.load(tmp_path / "gone.png")
    with pytest.raises(AudioError, match="is not a picture that can be read; PNG and JPEG"):
        pictures.load(b"")
    gif = io.BytesIO()
    Image.new("L", (8, 8)).save(gif, "GIF")
    with pytest.raises(AudioError, match="is not a picture that can be read"):
        pictures.load(gif.getvalue())
    with pytest.raises(AudioError, match=r"has 9000 × 9000 pixels; .* to 25 million pixels are accepted"):
        pictures.load(png(Image.new("1", (9_000, 9_000))))
    whole = png(Image.effect_noise((64, 64), 50))
    with pytest.raises(AudioError, match="is a damaged picture"):
        pictures.load(whole[: len(whole) // 2])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(AudioError, match="has far too many pixels"):
        pictures.load(whole)
    monkeypatch.setattr(pictures, "MAX_BYTES", 10)
    with pytest.raises(AudioError, match="is larger than"):
        pictures.load(whole)
