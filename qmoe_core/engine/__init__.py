"""Low-bit experts as they are stored and served: bit-packed weights, integer kernels, no torch.

`HiddenLayer` and `ExpertWeights` are an expert's numbers, `storage` is their form on disk, and `PackedExpert`
runs them.
"""

from qmoe_core.engine.expert import PackedExpert
from qmoe_core.engine.storage import ExpertFile, from_tensors, load, load_with_scaler, loads, save, to_tensors
from qmoe_core.engine.weights import FORMATS, LEVELS, ExpertWeights, HiddenLayer

__all__ = [
    "FORMATS",
    "LEVELS",
    "ExpertFile",
    "ExpertWeights",
    "HiddenLayer",
    "PackedExpert",
    "from_tensors",
    "load",
    "load_with_scaler",
    "loads",
    "save",
    "to_tensors",
]
