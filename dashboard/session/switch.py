"""Which bundle the pages are about: the link's (`?bundle=`), the session's, or the one that ships."""

from __future__ import annotations

import streamlit as st

from dashboard.views import widgets
from qmoe_core import bundles
from qmoe_core.bundles import DEFAULT_NAME, MANIFEST, SHIPPED_BEFORE, Bundle, BundleDataset
from qmoe_core.errors import BundleError, UserError

KEY = "bundle"
_CHOSEN, _LINKED, _SELECTED = "chosen_bundle", "linked_bundle", "selected_bundle"


def load(name: str) -> Bundle:
    """A bundle by name, loaded once for all sessions, and again when it was replaced on disk.

    Raises:
        BundleError: it is missing, damaged or newer than this program.
    """
    manifest = bundles.find(name) / MANIFEST
    try:
        return _load(str(manifest.parent), manifest.stat().st_mtime_ns)
    except OSError as error:
        raise BundleError(f"{manifest}: cannot be read ({error.strerror})") from None


@st.cache_resource(max_entries=4, show_spinner="Loading the experts …")
def _load(folder: str, changed: int) -> Bundle:
    return bundles.load(folder)


def use(name: str) -> None:
    """Let all pages of this session be about another bundle."""
    st.session_state[_CHOSEN] = name


def chosen() -> str:
    """The name of the bundle that all pages of this session are about."""
    return st.session_state.get(_CHOSEN, DEFAULT_NAME)


def bundle() -> Bundle | None:
    """The bundle that this page is about; a sentence where it fails.

    Call it first: it puts the choice in the link. Gives None, with the reason drawn, when not even the bundle
    that ships can be loaded.
    """
    names, name, problem = bundles.names(), _wanted(), ""
    try:
        if name not in (*names, *SHIPPED_BEFORE):  # a link may name one of ours, not probe folders
            raise BundleError(f"There is no bundle “{name[:60]}” here, or there is none any more")
        loaded = load(name)
    except UserError as error:
        problem, name = str(error), DEFAULT_NAME
        try:
            loaded = load(name)
        except UserError as worse:
            widgets.error(worse)
            return None
    st.session_state[_CHOSEN] = name
    _write_link(name)
    if problem:
        widgets.warning(f"{problem}. This is the default bundle.")
    return loaded


def with_data() -> tuple[Bundle, BundleDataset] | None:
    """The bundle of this page with its data set; None, with the reason drawn, where there is none."""
    loaded = bundle()
    if loaded is None:
        return None
    try:
        data = loaded.dataset
    except UserError as error:
        widgets.error(error)
        return None
    if data is None:
        st.info("This bundle carries no data set. Choose another one above, or train it again.")
        st.page_link(widgets.PAGES / "train.py", label="Train a bundle")
        return None
    return loaded, data


def _wanted() -> str:
    """What a new link asks for, else what the session chose before."""
    link = st.query_params.get(KEY)
    if link is not None and link != st.session_state.get(_LINKED):
        return link
    return chosen()


def _write_link(name: str) -> None:
    st.session_state[_LINKED] = name
    if name != DEFAULT_NAME:
        if st.query_params.get(KEY) != name:
            st.query_params[KEY] = name
    elif KEY in st.query_params:
        del st.query_params[KEY]


def select() -> None:
    """The selector in the bar above every page."""
    names, name = bundles.names(), _wanted()
    if name in names:
        st.session_state[_CHOSEN] = name
        _write_link(name)
    st.session_state[_SELECTED] = name if name in names else DEFAULT_NAME
    st.selectbox(
        "Bundle",
        names,
        key=_SELECTED,
        on_change=lambda: use(st.session_state[_SELECTED]),
        width=230,
        label_visibility="collapsed",
    )
