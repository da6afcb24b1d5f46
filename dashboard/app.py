"""The dashboard's entry: `streamlit run dashboard/app.py`. Lists the pages, a file each in pages/."""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # in a wheel, `dashboard` lies inside the package and is found only this way
    sys.path.insert(0, str(ROOT))

from dashboard.session import linked, public  # noqa: E402 - found only now
from dashboard.views import bar, widgets  # noqa: E402 - found only now
from qmoe_core.runtime.store import keep_apart  # noqa: E402

keep_apart(public.store)
st.set_page_config(page_title="qmoe lab", page_icon=str(Path(__file__).with_name("icon.svg")), layout="wide")
theme = widgets.theme()
widgets.style(theme)
pages = bar.menu()
home = next(iter(pages.values()))


def first() -> None:
    """The first page by its name: Streamlit serves it at the root only, and else says that there is none."""
    st.switch_page(home, query_params=st.query_params.to_dict())


named = st.Page(first, title="Listen", url_path="listen", visibility="hidden")
page = st.navigation([*pages.values(), named], position="top")
linked.enter(page.title)
shown = next((file for file, one in pages.items() if one is page or one.url_path == page.url_path), None)
if shown is not None:
    bar.bar(shown)
page.run()
widgets.follow_theme(theme)
