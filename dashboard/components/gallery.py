"""Cards with a picture to choose from: a component, because a whole card is to be pressed."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st
from streamlit.components.v2 import component

_HERE = Path(__file__)
_component = component(
    "qmoe_gallery",
    html="<ul></ul>",
    css=_HERE.with_suffix(".css").read_text(encoding="utf-8"),
    js=_HERE.with_suffix(".js").read_text(encoding="utf-8"),
)


@dataclass(frozen=True)
class Card:
    """A card.

    Attributes:
        id: what is told when it is chosen.
        title, note, detail: its lines; colour: of the mark beside the title.
        wrong: whether the note tells of an error.
        picture: PNG, or None.
    """

    id: str
    title: str
    note: str
    detail: str
    colour: str
    wrong: bool
    picture: bytes | None


def show(cards: Sequence[Card], chosen: Callable[[str], None], *, key: str) -> None:
    """Show cards, and call `chosen` with the id of one that is pressed."""

    def pressed() -> None:
        name = st.session_state[key].chosen
        if any(card.id == name for card in cards):  # the browser is not to be believed
            chosen(name)

    data = [
        {**card.__dict__, "picture": base64.b64encode(card.picture).decode() if card.picture else None}
        for card in cards
    ]
    _component(key=key, data={"cards": data}, on_chosen_change=pressed)
