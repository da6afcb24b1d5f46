"""The controls of a page and the link that restores them: values from a link, the session or the widgets.

A page lists its controls; `controls` gives their values before the widgets are drawn, and keeps the address
in the address bar such that it restores what is on screen, naming only what differs from the defaults. A
link overrules the session when it arrives; what makes no sense in it is answered with a sentence and the
default. The mixture's controls are the same on all pages: `dashboard.session.state`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from qmoe_core.numbers import listed

SHOWN = 40
"""Characters of nonsense that a sentence repeats."""
MOST = 12
"""Names that a sentence lists."""
_PAGE, _KEPT, _VISIT = "linked:page", "linked:kept", "linked:visit"
"""In the session: the page drawn last, the values of widgets that keep them, and the number of changes."""


@dataclass(frozen=True)
class Control:
    """Something a person can set on a page.

    Attributes:
        key: its name in the link.
        default: its value when nobody has set it.
        accepted: what a link may say, in words.
        read: from a link's text to a value, or None for nonsense.
        write: the inverse.
    """

    key: str
    default: Any
    accepted: str
    read: Callable[[str], Any]
    write: Callable[[Any], str] = str


def one_of(key: str, options: Sequence[str], default: str) -> Control:
    """One name of several."""
    return Control(key, default, _some(options), lambda text: text if text in options else None)


def some_of(key: str, options: Sequence[str], default: Sequence[str]) -> Control:
    """One or more names of several, in the order of the options."""

    def read(text: str) -> list[str] | None:
        asked = [part.strip() for part in text.split(",")]
        known = [name for name in options if name in asked]
        return known if known and len(known) == len(set(asked)) else None

    return Control(key, list(default), f"one or more of {_some(options)}", read, ",".join)


def whole(key: str, least: int, most: int, default: int) -> Control:
    """A whole number."""

    def read(text: str) -> int | None:
        return int(text) if re.fullmatch("[0-9]{1,9}", text) and least <= int(text) <= most else None

    return Control(key, default, f"a whole number from {least:,} to {most:,}", read)


def real(key: str, least: float, most: float, default: float) -> Control:
    """A number."""

    def read(text: str) -> float | None:
        try:
            value = float(text)
        except ValueError:
            return None
        return value if least <= value <= most else None

    return Control(key, default, f"a number from {least:g} to {most:g}", read, lambda value: f"{value:g}")


def switch(key: str, default: bool) -> Control:
    """On or off."""
    return Control(key, default, "0 or 1", {"0": False, "1": True}.get, lambda value: str(int(value)))


def _some(options: Sequence[str]) -> str:
    named = [name for name in options if name]
    return listed(named) if len(named) <= MOST else f"{', '.join(named[:MOST])} …"


def controls(page: str, defined: Sequence[Control]) -> dict[str, Any]:
    """This run's values by key; sentences about a link's nonsense are drawn here, and stay till a change.

    Call it before the widgets are drawn: it gives them their values. Their keys are those of `widget`.
    """
    state, asked = st.session_state, st.query_params.to_dict()
    known = {control.key: control for control in defined}
    for key in known:
        _register(widget(page, key))
    link = {key: text for key, text in asked.items() if key in known}
    kept = state.get(f"linked:{page}")
    if kept is None or (link and link != kept["link"]):
        values, problems = read_link(link, defined)
    else:
        values = {key: _touched(page, control, kept["values"]) for key, control in known.items()}
        problems = kept["problems"] if values == kept["values"] else []
    written = write_link(values, defined)
    state[f"linked:{page}"] = {"values": values, "link": written, "problems": problems}
    for key, value in values.items():
        if widget(page, key) not in state or state[widget(page, key)] != value:
            state[widget(page, key)] = value
    if link != written:
        strangers = {key: text for key, text in asked.items() if key not in known}
        st.query_params.from_dict(strangers | written)
    for problem in problems:
        st.warning(problem)
    return values


def enter(page: str) -> None:
    """Call it before a page is drawn: where it is another than before, widgets keep their values.

    Streamlit identifies a widget by page and key, and drops the value of one that a page does not draw; a
    value that was set through the session stays, and is what the next widget of this key shows.
    """
    state = st.session_state
    if state.get(_PAGE) == page:
        return
    state[_PAGE] = page
    state[_VISIT] = state.get(_VISIT, 0) + 1
    for key in state.setdefault(_KEPT, {}):
        if key in state:
            state[key] = state[key]


def entered(name: str) -> bool:
    """Whether a page runs the first time since another one was drawn; asked once a run, by a name."""
    visit = st.session_state.get(_VISIT, 0)
    new = st.session_state.get(f"{_VISIT}:{name}") != visit
    st.session_state[f"{_VISIT}:{name}"] = visit
    return new


def keep(key: str, default: Any, options: Sequence[Any] | None = None) -> str:
    """The key of a widget whose value survives while the widget is not drawn; the widget takes no default.

    Args:
        key: of the widget, on every page that draws it.
        default: its first value.
        options: what it may be, where that changes; else it is the default again.
    """
    state = st.session_state
    value = state[key] if key in state else state.setdefault(_KEPT, {}).get(key, default)
    if options is not None and value not in options:
        value = default
    if key not in state or state[key] != value:
        state[key] = value
    state.setdefault(_KEPT, {})[key] = value
    return key


def _register(key: str) -> None:
    st.session_state.setdefault(_KEPT, {}).setdefault(key)


def widget(page: str, key: str) -> str:
    """The key that a control's widget has."""
    return f"{page}.{key}"


def kept(page: str) -> dict[str, Any]:
    """The values of the page's last whole run; a fragment's widgets may be ahead of them."""
    return st.session_state[f"linked:{page}"]["values"]


def moved(page: str, key: str, text: str) -> None:
    """A fragment moved a control whose value is its text in the link, which follows without a full run."""
    found = st.session_state[f"linked:{page}"]
    found["values"][key] = found["link"][key] = st.query_params[key] = text


def set_to(page: str, /, **values: Any) -> None:
    """Move a page's controls from a callback, whether their widgets are drawn or not."""
    for key, value in values.items():
        st.session_state[widget(page, key)] = value


def read_link(link: dict[str, str], defined: Sequence[Control]) -> tuple[dict[str, Any], list[str]]:
    """Values from a link's parameters, and a sentence for each that makes no sense."""
    values, problems = {}, []
    for control in defined:
        text = link.get(control.key)
        value = control.default if text is None else control.read(text)
        if value is None:
            value = control.default
            using = f"Using {control.write(value)}." if control.write(value) else "It is left out."
            problems.append(
                f"The link asks for {control.key} = “{_safe(str(text))}”; accepted is "
                f"{_safe(control.accepted, 400)}. {using}"
            )
        values[control.key] = value
    return values, problems


def write_link(values: dict[str, Any], defined: Sequence[Control]) -> dict[str, str]:
    """The parameters that restore these values: those that differ from the defaults."""
    return {
        control.key: control.write(values[control.key])
        for control in defined
        if values[control.key] != control.default
    }


def _touched(page: str, control: Control, values: dict[str, Any]) -> Any:
    """What the user's widget says, else (one was emptied) the last value that makes sense, or the default."""
    kept = values.get(control.key, control.default)
    for value in (st.session_state.get(widget(page, control.key), kept), kept):
        try:
            if control.read(control.write(value)) is not None:
                return value
        except (TypeError, AttributeError):
            continue
    return control.default


def _safe(text: str, most: int = SHOWN) -> str:
    from dashboard.views.widgets import plain

    return plain(text[:most])
