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
    voices = loaded.listen(data.embeddings.astype(np.float32))
    np.savez(
        path,
        experts=softmax(voices.logits),
        router=softmax(voices.router),
        mixture=mixing.mix(voices, settings).probabilities,
        out_of_fold=mixing.mix(data.voices, settings).probabilities,
    )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
