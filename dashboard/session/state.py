"""The controls of the mixture: what a link carries, what the session remembers, what the widgets show.

The session holds one frozen `Controls`. A link overrules it when it arrives (`?alpha=10&experts=q4,q8`);
nonsense in it is answered with a sentence and the default. The link in the address bar always restores
what is on screen, and names only what differs from the bundle's own settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import streamlit as st

from dashboard.session import linked
from qmoe_core.audio import synth
from qmoe_core.bundles import Bundle
from qmoe_core.config import Curiosity
from qmoe_core.evaluation import conformal
from qmoe_core.evaluation.conformal import Promise, Score
from qmoe_core.experts.spec import CHEAPEST_FIRST
from qmoe_core.numbers import listed
from qmoe_core.routing.mixing import CURIOSITIES, MAX_ALPHA, Settings

ALPHAS = (
    0.0,
    0.1,
    0.2,
    0.3,
    0.5,
    1.0,
    2.0,
    3.0,
    5.0,
    10.0,
    20.0,
    30.0,
    50.0,
    100.0,
    200.0,
    300.0,
    500.0,
    1000.0,
)
"""Stops of the α slider: logarithmic, with 0; 0.2 and 0.3 are the paper's."""
LIMITS = {
    "risk": (0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3),
    "coverage": (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
}
"""Stops of the sliders of what answers keep: the share of errors among them, the share of clips answered."""
SET_COVERAGES = (0.8, 0.9, 0.95, 0.99)
"""Stops of the slider of prediction sets: how often they hold the right label."""
DEFAULT_LIMIT = {"usual": 0.0, "risk": 0.05, "coverage": 0.9, "never": 0.0}
SOUNDS = {synth.DISPUTED.name: synth.DISPUTED, **synth.GALLERY}
"""What the gallery offers."""
FIRST_SOUND = synth.DISPUTED.name

Abstain = Literal["usual", "risk", "coverage", "never"]
"""When an answer is withheld: for the usual promise, one's own risk or coverage, or never."""
ABSTAINS: tuple[Abstain, ...] = get_args(Abstain)

_LINKED = (
    "sound",
    "experts",
    "alpha",
    "normalise",
    "k",
    "curiosity",
    "abstain",
    "limit",
    "sets",
    "set_coverage",
    "per_class",
)


@dataclass(frozen=True)
class Controls:
    """Everything a person can set about the mixture, on whatever page, and the gallery's sound."""

    experts: tuple[str, ...]
    alpha: float
    normalise: bool
    top_k: int
    curiosity: Curiosity
    abstain: Abstain = "usual"
    limit: float = 0.0
    sound: str = FIRST_SOUND
    sets: Score = "threshold"
    set_coverage: float = conformal.COVERAGE
    per_class: bool = False

    @property
    def promise(self) -> Promise:
        """What answers and prediction sets are to keep."""
        risk = {"risk": self.limit, "never": 1.0}.get(self.abstain)
        answered = self.limit if self.abstain == "coverage" else None
        return Promise(risk, answered, self.sets, self.per_class, self.set_coverage)

    def settings(self, bundle: Bundle) -> Settings:
        """The mixture's settings; what the page does not offer is as in the bundle."""
        return bundle.settings(
            experts=tuple(sorted(self.experts, key=CHEAPEST_FIRST.index))
            if self.curiosity == "cascade"
            else self.experts,
            alpha=self.alpha,
            normalise=self.normalise,
            top_k=self.top_k,
            curiosity=self.curiosity,
        )


def defaults(bundle: Bundle) -> Controls:
    """The bundle's own settings, with its experts in the order in which all are shown."""
    own = bundle.settings()
    experts = tuple(name for name in bundle.experts if name in own.experts)
    return Controls(experts, own.alpha, own.normalise, own.top_k, own.curiosity)


def read_link(link: Mapping[str, str], bundle: Bundle) -> tuple[Controls, tuple[str, ...]]:
    """Controls from the parameters of a link, and a sentence for each that makes no sense.

    Parameters that are not ours are left alone: other people add their own to links.
    """
    controls = defaults(bundle)
    problems: list[str] = []

    def take(key: str, accepted: str, **change: Any) -> None:
        nonlocal controls
        if None in change.values():
            kept = _shown(getattr(controls, next(iter(change))))
            problems.append(
                f"The link asks for {key} = “{link[key][:40]}”; accepted is {accepted}. Using {kept}."
            )
        else:
            controls = replace(controls, **change)

    if "experts" in link:
        asked = [name.strip() for name in link["experts"].split(",")]
        known = tuple(name for name in bundle.experts if name in asked)
        strangers = [name for name in asked if name not in bundle.experts]
        if known and strangers:
            problems.append(
                f"The link asks for experts that this bundle does not have: {listed(strangers)[:60]}."
            )
        take("experts", f"one or more of {', '.join(bundle.experts)}", experts=known or None)
    n = len(controls.experts)
    if "alpha" in link:
        take("alpha", f"a number from 0 to {MAX_ALPHA:,.0f}", alpha=_real(link["alpha"], 0.0, MAX_ALPHA))
    if "k" in link:
        take("k", f"a whole number from 1 to {n}", top_k=_whole(link["k"], 1, n))
    if "curiosity" in link:
        take("curiosity", listed(CURIOSITIES), curiosity=_one_of(link["curiosity"], CURIOSITIES))
    if "normalise" in link:
        take("normalise", "0 or 1", normalise={"0": False, "1": True}.get(link["normalise"]))
    if "abstain" in link:
        take("abstain", listed(ABSTAINS), abstain=_one_of(link["abstain"], ABSTAINS))
        controls = replace(controls, limit=DEFAULT_LIMIT[controls.abstain])
    if "limit" in link and controls.abstain in LIMITS:
        take("limit", "a number from 0.001 to 0.999", limit=_real(link["limit"], 0.001, 0.999))
    if "sets" in link:
        take("sets", listed(conformal.SCORES), sets=_one_of(link["sets"], conformal.SCORES))
    if "set_coverage" in link:
        share = _real(link["set_coverage"], 0.001, 0.999)
        take("set_coverage", "a number from 0.001 to 0.999", set_coverage=share)
    if "per_class" in link:
        take("per_class", "0 or 1", per_class={"0": False, "1": True}.get(link["per_class"]))
    if "sound" in link:
        take("sound", f"one of {', '.join(SOUNDS)}", sound=_one_of(link["sound"], tuple(SOUNDS)))
    return replace(controls, top_k=min(controls.top_k, n)), tuple(problems)


def write_link(controls: Controls, bundle: Bundle) -> dict[str, str]:
    """The parameters that restore these controls: those that differ from the bundle's own."""
    own = defaults(bundle)
    link = {
        "sound": controls.sound,
        "experts": ",".join(controls.experts),
        "alpha": f"{controls.alpha:g}",
        "normalise": "1" if controls.normalise else "0",
        "k": str(controls.top_k),
        "curiosity": controls.curiosity,
        "abstain": controls.abstain,
        "limit": f"{controls.limit:g}",
        "sets": controls.sets,
        "set_coverage": f"{controls.set_coverage:g}",
        "per_class": "1" if controls.per_class else "0",
    }
    same = {
        "sound": controls.sound == own.sound,
        "experts": controls.experts == own.experts,
        "alpha": controls.alpha == own.alpha,
        "normalise": controls.normalise == own.normalise,
        "k": controls.top_k == own.top_k,
        "curiosity": controls.curiosity == own.curiosity,
        "abstain": controls.abstain == own.abstain,
        "limit": controls.abstain not in LIMITS or controls.limit == DEFAULT_LIMIT[controls.abstain],
        "sets": controls.sets == own.sets,
        "set_coverage": controls.set_coverage == own.set_coverage,
        "per_class": controls.per_class == own.per_class,
    }
    return {key: value for key, value in link.items() if not same[key]}


def controls(bundle: Bundle) -> tuple[Controls, tuple[str, ...]]:
    """This run's controls, from a new link, the widgets or the session, and what was wrong with them.

    Call it before the widgets are drawn: it gives them their values. The sentences stay till the next change.
    """
    state, asked = st.session_state, st.query_params.to_dict()
    link = {key: value for key, value in asked.items() if key in _LINKED}
    if "controls" not in state or (link and link != state.link):
        current, problems = read_link(link, bundle)
    else:
        current, problems = _touched(state.controls, bundle)
        if current == state.controls:
            problems = problems or state.problems
        current = _of_another(current, state.own, defaults(bundle))
    _show(current)
    state.own = defaults(bundle)
    state.controls, state.problems = current, problems
    state.link = write_link(current, bundle)
    if link != state.link:
        strangers = {key: value for key, value in asked.items() if key not in _LINKED}
        st.query_params.from_dict(strangers | state.link)
    return current, problems


def remembered(bundle: Bundle) -> Controls:
    """The controls on a page that does not show them, and whose address does not carry them."""
    state = st.session_state
    if "controls" not in state:
        state.controls, state.problems, state.own, state.link = defaults(bundle), (), defaults(bundle), {}
    return state.controls


def set_alpha(alpha: float) -> None:
    """Set α from a callback, on whatever page."""
    st.session_state.controls = replace(st.session_state.controls, alpha=alpha)
    st.session_state[linked.keep("alpha", alpha)] = alpha


def follow(bundle: Bundle) -> Controls:
    """The controls when a fragment runs again because one of its own moved; the address follows.

    The address that the browser sends with it may be older than what has been written since: it is no link.
    """
    state = st.session_state
    current, _ = _touched(state.controls, bundle)
    if current != state.controls:
        state.controls, state.problems, state.link = current, (), write_link(current, bundle)
        strangers = {key: text for key, text in st.query_params.to_dict().items() if key not in _LINKED}
        st.query_params.from_dict(strangers | state.link)
    return current


def _of_another(controls: Controls, before: Controls, own: Controls) -> Controls:
    """The controls for a bundle whose own are others: what was as in the bundle before is as in this one."""
    if before == own:
        return controls
    fields = ("experts", "alpha", "normalise", "top_k", "curiosity")
    same = {name: getattr(own, name) for name in fields if getattr(controls, name) == getattr(before, name)}
    changed = replace(controls, **same)
    return replace(changed, top_k=min(changed.top_k, len(changed.experts)))


def _show(controls: Controls) -> None:
    """Give the widgets their values, where they have others: one that the user just moved is left alone."""
    values = {
        "sound": controls.sound,
        "experts": list(controls.experts),
        "alpha": controls.alpha,
        "normalise": controls.normalise,
        "top_k": controls.top_k,
        "curiosity": controls.curiosity,
        "abstain": controls.abstain,
        "sets": controls.sets,
        "set_coverage": controls.set_coverage,
        "per_class": controls.per_class,
    }
    if controls.abstain in LIMITS:
        values[f"limit_{controls.abstain}"] = controls.limit
    for key, value in values.items():
        linked.keep(key, value)
        if key not in st.session_state or st.session_state[key] != value:
            st.session_state[key] = value


def _touched(controls: Controls, bundle: Bundle) -> tuple[Controls, tuple[str, ...]]:
    """The controls after what the user did to the widgets; a widget that is not drawn keeps its value."""
    state, problems = st.session_state, ()
    chosen = state.get("experts", controls.experts)
    experts = tuple(name for name in bundle.experts if name in chosen)
    if not experts:
        experts = (
            tuple(name for name in controls.experts if name in bundle.experts) or defaults(bundle).experts
        )
        problems = (f"At least one expert has to answer: the mixture stays {listed(experts)}.",)
    # A chip that is being drawn anew while another is clicked is None for a moment.
    abstain = state.get("abstain") or controls.abstain
    fallback = controls.limit if abstain == controls.abstain else DEFAULT_LIMIT[abstain]
    return Controls(
        experts=experts,
        alpha=state.get("alpha", controls.alpha),
        normalise=state.get("normalise", controls.normalise),
        top_k=min(state.get("top_k", controls.top_k), len(experts)),
        curiosity=state.get("curiosity") or controls.curiosity,
        abstain=abstain,
        limit=state.get(f"limit_{abstain}", fallback) if abstain in LIMITS else 0.0,
        sound=state.get("sound") or controls.sound,
        sets=state.get("sets") or controls.sets,
        set_coverage=state.get("set_coverage", controls.set_coverage),
        per_class=state.get("per_class", controls.per_class),
    ), problems


def stops(grid: tuple[float, ...], value: float) -> list[float]:
    """A slider's stops, with the value that a link brought among them."""
    return sorted({*grid, value})


def _real(text: str, least: float, most: float) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if least <= value <= most else None


def _whole(text: str, least: int, most: int) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,4}", text) and least <= int(text) <= most else None


def _one_of(text: str, accepted: Iterable[str]) -> Any:
    return text if text in accepted else None


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, bool):
        return "1" if value else "0"
    return f"{value:g}" if isinstance(value, int | float) else str(value)
