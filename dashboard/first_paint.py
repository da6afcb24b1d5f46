"""What a page's head holds before Streamlit draws: the headings' font, our style, and what is loaded at once.

Streamlit brings our style, and its own parts one by one, after the page's frame: what is drawn first would
move when they come. And its own serif fonts are 780 kB.
"""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path

import streamlit

FONT = Path(__file__).with_name("fonts") / "lab-serif.woff2"
"""Letters of the headings, Latin and Greek; for others Streamlit's font is loaded."""
STYLE = Path(__file__).with_name("views") / "style.css"
_STATIC = Path(streamlit.__file__).with_name("static")
EARLY = (
    *("StreamlitMarkdown", "Html", "PageLink", "Selectbox", "Slider", "ButtonGroup", "BidiComponent"),
    *("Audio", "Button"),
)
"""Streamlit's modules of what every page, or the first, begins with."""
_STYLE = """
[data-testid="stMainBlockContainer"].stMainBlockContainer {
  width: 100%; max-width: 1320px; padding: 4.25rem 5rem 4rem; }
@media (max-width: 640px) { [data-testid="stMainBlockContainer"].stMainBlockContainer {
  padding-left: 1rem; padding-right: 1rem; } }
"""


@cache
def head() -> str:
    """HTML for the page's head: the font, the width, and Streamlit's icons, asked for at once."""
    font = base64.b64encode(FONT.read_bytes()).decode()
    face = (
        '@font-face { font-family: "Lab Serif"; font-weight: 100 900; font-display: block; '
        f'src: url(data:font/woff2;base64,{font}) format("woff2"); }}'
    )
    icons = "".join(
        f'<link rel="preload" href="./{file.relative_to(_STATIC).as_posix()}" as="font" type="font/woff2" '
        "crossorigin>"
        for file in _STATIC.glob("static/media/MaterialSymbols-Rounded.*.woff2")
    )
    modules = "".join(
        f'<link rel="modulepreload" href="./{file.relative_to(_STATIC).as_posix()}" crossorigin>'
        for name in EARLY
        for file in _STATIC.glob(f"static/js/{name}.*.js")
    )
    return f"{icons}{modules}<style>{face}{_STYLE}{STYLE.read_text(encoding='utf-8')}</style>"
