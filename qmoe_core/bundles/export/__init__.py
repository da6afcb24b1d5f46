"""A bundle as one file, to be carried out of the lab.

- `packed`: the bundle itself in one file, with its card, for `qmoe classify --bundle FILE` on a base install.
- `onnx`: a graph from waveform to decision for ONNX Runtime, where this program is not.
"""

from __future__ import annotations

from typing import Literal, get_args

from qmoe_core.bundles.export.archive import export_packed
from qmoe_core.bundles.export.graph import export_onnx

Form = Literal["packed", "onnx"]
FORMS: tuple[str, ...] = get_args(Form)

__all__ = ["FORMS", "Form", "export_onnx", "export_packed"]
