"""The dashboard's entry: `streamlit run dashboard/app.py`. Lists the pages, a file each in pages/."""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # in a wheel, `dashboard` lies inside the package and is found only this way
    sys.path.insert(0, str(ROOT))

from dashboard.session import linked, public  # noqa: E402 - found only now
from dashboard.views import widgets  # noqa: E402 - found only now
from qmoe_core.runtime.store import keep_apart  # noqa: E402

# File and title of each page, in the order of the menu; the first opens first.
PAGES = [
    ("listen.py", "Listen"),
    ("live.py", "Live"),
    ("compare.py", "Compare"),
    ("dataset.py", "Dataset"),
    ("sounds.py", "Your sounds"),
    ("train.py", "Train"),
    ("sweep.py", "Sweep"),
    ("formats.py", "Formats"),
    ("efficiency.py", "Efficiency"),
    ("claims.py", "Claims"),
    ("method.py", "Method"),
]

keep_apart(public.store)
st.set_page_config(page_title="qmoe lab", page_icon=str(Path(__file__).with_name("icon.svg")), layout="wide")
theme = widgets.theme()
widgets.style(theme)
pages = [
    st.Page(
        widgets.PAGES / file, title=title, url_path=file.removesuffix(".py") if i else "home", default=i == 0
    )
    for i, (file, title) in enumerate(PAGES)
]


def first() -> None:
    """The first page by its name: Streamlit serves it at the root only, and else says that there is none."""
    st.switch_page(pages[0], query_params=st.query_params.to_dict())


named = st.Page(first, title="Listen", url_path="listen", visibility="hidden")
page = st.navigation([*pages, named], position="top")
linked.enter(page.title)
page.run()
widgets.follow_theme(theme)
