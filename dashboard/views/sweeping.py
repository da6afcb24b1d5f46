"""What the Sweep page shows: a sweep of every strategy, and what they say at one α in words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import streamlit as st

from dashboard.views import words
from dashboard.views.words import Verdict
from qmoe_core import numbers
from qmoe_core.bundles import Bundle, BundleDataset
from qmoe_core.config import Curiosity
from qmoe_core.evaluation import sweep
from qmoe_core.evaluation.sweep import AlphaSweep, Flip, Interest
from qmoe_core.numbers import NBSP
from qmoe_core.routing.curiosity import bonus
from qmoe_core.routing.mixing import MAX_ALPHA, Settings

_DECADE = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
STOPS = (0.0, *(round(x * 10.0**power, 10) for power in (-1, 0, 1, 2) for x in _DECADE), MAX_ALPHA)
"""The slider's α: logarithmic, with 0; the paper's 0.2 and 0.3 are among them."""
EFFECTS = ("corrected", "made wrong", "still wrong")
STRATEGIES: dict[Curiosity, str] = {
    "disagreement": "disagreement",
    "distilled": "predicted disagreement",
    "router-mc": "router doubt",
    "none": "nothing",
    "cascade": "doubt: a cascade",
}
"""What α can reward, as the page calls it."""


def sweeps(bundle: Bundle, settings: Settings, alphas: tuple[float, ...]) -> dict[Curiosity, AlphaSweep]:
    """Every strategy with the same experts, k and normalisation, over the bundle's out-of-fold outputs."""
    return {
        strategy: _sweep(bundle.digest, replace(settings, alpha=0.0, curiosity=strategy), alphas, bundle)
        for strategy in STRATEGIES
    }


@st.cache_data(max_entries=96, max_size="96 MB", show_spinner="Sweeping α …")
def _sweep(digest: str, settings: Settings, alphas: tuple[float, ...], _bundle: Bundle) -> AlphaSweep:
    data = dataset(_bundle)
    predicted = _bundle.predict_out_of_fold(settings)
    return sweep.alpha_sweep(data.outputs, data.labels, settings, alphas, predicted)


@st.cache_data(max_entries=96, show_spinner=False)
def _interest(digest: str, settings: Settings, _bundle: Bundle) -> Interest:
    return sweep.interest(_bundle, settings)


def interest(bundle: Bundle, settings: Settings) -> Interest:
    """What α multiplies under these settings."""
    return _interest(bundle.digest, replace(settings, alpha=0.0), bundle)


def dataset(bundle: Bundle) -> BundleDataset:
    """The clips that a bundle carries; only for pages that have asked whether it does."""
    assert bundle.dataset is not None
    return bundle.dataset


def at(found: AlphaSweep, alpha: float) -> int:
    """Where an α stands in a sweep that was made with it."""
    return int(np.searchsorted(found.alphas, alpha))


def verdict(found: AlphaSweep, flips: list[Flip], index: int) -> Verdict:
    """What α does, in a headline and a sentence."""
    n, alpha = found.predicted.shape[1], found.alphas[index]
    now = f"F1{NBSP}{found.f1[index]:.3f}, accuracy {found.accuracy[index]:.3f}."
    if found.settings.curiosity == "cascade":
        sentence = f"Doubt decides how many experts are asked, so α has nothing to multiply. {now}"
        return Verdict("The cascade", sentence, False)
    if found.settings.curiosity == "none":
        return Verdict("The plain router", f"Curiosity is off, so α has nothing to multiply. {now}", False)
    if alpha == 0:
        sentence = f"{now} This is what every other α is compared with."
        return Verdict("At α = 0, the plain router answers", sentence, False)
    if not flips:
        return Verdict(
            f"α = {alpha:g} changes nothing",
            f"All {n:,} clips keep their expert and their label: in the median clip the largest bonus is "
            f"{numbers.factor(float(found.bonus[index]))} the smallest. {now}",
            False,
        )
    change = found.f1[index] - found.f1[at(found, 0.0)]
    turned = [flip for flip in flips if flip.effect != "same label"]
    moved = f"α = {alpha:g} sends {len(flips):,} of {n:,} clips elsewhere"
    if not turned:
        return Verdict(moved, f"Other experts answer them, and every label stays. {now}", False)
    effects = [(effect, sum(flip.effect == effect for flip in turned)) for effect in EFFECTS]
    counted = numbers.listed(f"{numbers.number(count)} {effect}" for effect, count in effects if count)
    labels = "label changes" if len(turned) == 1 else "labels change"
    direction = "stays at" if abs(change) < 5e-4 else "rises to" if change > 0 else "falls to"
    return Verdict(
        moved,
        f"{words.capital(numbers.number(len(turned)))} {labels}: {counted}. F1 {direction} "
        f"{found.f1[index]:.3f}, accuracy is {found.accuracy[index]:.3f}.",
        False,
    )


def bonus_range(settings: Settings, found: Interest, alpha: float) -> str:
    """The bonus that α gives, over all clips and experts, in a sentence."""
    if settings.curiosity in ("none", "cascade"):
        return "No bonus: curiosity is off."
    least, typical, most = (
        float(bonus(np.asarray(value), alpha)) for value in (found.least, np.median(found.middle), found.most)
    )
    symbol = words.REWARDED[settings.curiosity]
    return (
        f"The bonus exp(α · {symbol}) runs from {numbers.factor(least)} to {numbers.factor(most)}; "
        f"typically {numbers.factor(typical)}."
    )
