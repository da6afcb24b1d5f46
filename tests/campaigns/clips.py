"""What every expert and the router say of the default bundle's clips, and what was kept of them, in one file.

    python -m tests.campaigns.clips said.npz

Run on two machines it gives two files to compare; see `arm`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from qmoe_core import bundles
from qmoe_core.routing import mixing
from qmoe_core.routing.uncertainty import softmax


def write(path: Path) -> None:
    """The clips' embeddings judged by all experts; out of fold, the mixture of what is kept."""
    loaded = bundles.load()
    data = loaded.dataset
    assert data is not None
    settings = loaded.settings()
    outputs = loaded.outputs(data.embeddings.astype(np.float32)).all()
    np.savez(
        path,
        experts=softmax(outputs.logits),
        router=softmax(outputs.router),
        mixture=mixing.mix(outputs, settings).probabilities,
        out_of_fold=mixing.mix(data.outputs, settings).probabilities,
    )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
