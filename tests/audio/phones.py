"""What phones, browsers and cameras record, encoded by PyAV (FFmpeg in a wheel), which may be absent."""

from __future__ import annotations

import io

import numpy as np

CONTAINERS = (
    ("ipod", "aac", 44_100),  # m4a
    ("ipod", "alac", 44_100),
    ("mp4", "aac", 48_000),
    ("mov", "pcm_s16le", 44_100),
    ("webm", "libopus", 48_000),
    ("ogg", "libopus", 48_000),
    ("matroska", "aac", 44_100),
    ("adts", "aac", 44_100),
    ("3gp", "amr_nb", 8_000),
    ("amr", "amr_nb", 8_000),
    ("caf", "pcm_s16le", 44_100),
    ("caf", "alac", 44_100),
    ("asf", "wmav2", 44_100),  # wma
    ("wv", "wavpack", 44_100),
    ("avi", "libmp3lame", 44_100),
    ("flv", "aac", 44_100),
    ("wav", "libmp3lame", 44_100),
)
"""FFmpeg's name of the container and of the codec, and the sample rate, Hz."""


def encoded(samples: np.ndarray, rate: int, container: str, codec: str, into_hz: int) -> bytes:
    """A recording as a file.

    Args:
        samples: float32 [n], mono; rate: theirs, Hz.
        container, codec, into_hz: as in `CONTAINERS`.

    Raises:
        ModuleNotFoundError: PyAV is not installed. ValueError: this FFmpeg has no such encoder.
    """
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=into_hz, layout="mono")
        stream.bit_rate = 12_200 if codec == "amr_nb" else 64_000
        stream.codec_context.open()
        resampler = av.AudioResampler(
            format=stream.codec_context.format,
            layout="mono",
            rate=into_hz,
            frame_size=stream.codec_context.frame_size or 1024,
        )
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return file.getvalue()
