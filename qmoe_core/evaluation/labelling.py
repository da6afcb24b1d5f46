"""Which sounds to label next: those of which a quick classifier of what is labelled is least sure.

Active learning by uncertainty sampling (margin: Scheffer, Decomain and Wrobel, IDA 2001): a logistic
regression on the embeddings is fitted to the labelled sounds, and those unlabelled ones come first whose two
most probable classes are least apart. On ESC-10 that needs fewer labels than the doubt 1 − max q.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

REGULARISATION = 0.05
"""C of the regression: small, because there are far more numbers in an embedding than sounds."""


def probabilities(z: np.ndarray, labels: Sequence[str] | np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Class distributions by a logistic regression on standardised embeddings.

    Args:
        z: embeddings of labelled sounds, float [n, D]; labels: n names or numbers, of two classes or more.
        asked: embeddings, float [m, D].

    Returns:
        float64 [m, C], classes in sorted order.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=1000))
    return model.fit(z.astype(np.float64), labels).predict_proba(asked.astype(np.float64))


def next_ones(
    z: np.ndarray, labels: Sequence[str] | np.ndarray, pool: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Unlabelled sounds in the order in which to label them.

    Args:
        z: embeddings of the labelled sounds, float [n, D]; labels: n.
        pool: embeddings of the unlabelled ones, float [m, D].

    Returns:
        Indices into the pool, int64 [m], the least sure first, and how far the two most probable classes are
        apart, in the pool's order, float64 [m]; None, and the pool as it is, while fewer than two classes are
        labelled.
    """
    if len(set(labels)) < 2 or not len(pool):
        return np.arange(len(pool)), None
    q = np.sort(probabilities(z, labels, pool), axis=1)
    apart = q[:, -1] - q[:, -2]
    return np.argsort(apart, kind="stable"), apart
