"""`ds-cnn`, the embedder of our own: depthwise-separable convolutions over the spectrogram of `logmel-stats`.

    waveform → log-mel [64, T] dB → the 80 dB below the loudest point, as −1 … 1
             → network → mean and maximum of each channel [576]

It was trained to give what `mn04` gives, on synthetic sounds only (`embedders.distil`).
"""

from __future__ import annotations

import numpy as np

from qmoe_core.audio import mel

NAME = "ds-cnn"
N_MELS = 64
RANGE_DB = 80.0


def levels(waveform: np.ndarray) -> np.ndarray:
    """A waveform [n] at 22,050 Hz to the network's input, float32 [64, 1 + n // 512]; 1 is the loudest."""
    decibels = mel.log_mel(waveform, N_MELS)
    decibels -= decibels.max()
    decibels /= np.float32(RANGE_DB / 2)
    decibels += np.float32(1)
    return np.maximum(decibels, np.float32(-1), out=decibels)
