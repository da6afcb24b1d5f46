"""A button that copies the page's address, and says where that address works."""

from __future__ import annotations

import streamlit as st
from streamlit.components.v2 import component

_component = component(
    "qmoe_copy_link",
    html="""<button type="button"><svg viewBox="0 0 24 24" width="18" height="18" aria-hidden="true">
      <path d="M10 14a4 4 0 0 0 6 0l3-3a4 4 0 0 0-6-6l-1 1M14 10a4 4 0 0 0-6 0l-3 3a4 4 0 0 0 6 6l1-1"
        fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round"/></svg><b>Copy link</b>
      </button><span role="status"></span>""",
    css="""
        :host, div { font: 0.875rem/1.35 var(--st-font); color: var(--st-text-color); }
        button { font: inherit; color: inherit; cursor: pointer; min-height: 2.5rem; padding: 0.25rem 0.75rem;
          background: var(--st-background-color); border: 1px solid var(--st-border-color);
          border-radius: var(--st-button-radius); white-space: nowrap; }
        button { display: flex; align-items: center; gap: 0.4rem; }
        b { font-weight: 400; }
        button:hover { border-color: var(--st-primary-color); }
        button:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
        div { position: relative; }
        span:not(:empty) { position: absolute; right: 0; top: 100%; z-index: 10; width: max-content;
          max-width: min(22rem, 80vw); margin-top: 0.25rem; padding: 0.4rem 0.6rem;
          background: var(--st-background-color); border: 1px solid var(--st-border-color);
          border-radius: var(--st-button-radius); }
        @media (max-width: 640px) {
          button { padding: 0.25rem 0.6rem; }
          b { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
        }
    """,
    js="""
        async function copied(text) {
            try {
                await navigator.clipboard.writeText(text);
            } catch {  // the browser gives its clipboard to secure pages only
                const area = document.createElement("textarea");
                area.value = text;
                document.body.append(area);
                area.select();
                const done = document.execCommand("copy");
                area.remove();
                return done;
            }
            return true;
        }
        export default function ({ data, parentElement }) {
            const here = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
            parentElement.querySelector("button").onclick = async () => {
                const done = await copied(location.href);
                const where = here ? data.here : data.elsewhere;
                parentElement.querySelector("span").textContent = done ? `Copied. ${where}` : location.href;
            };
        }
    """,
)

HERE = "This address works only on the machine that runs the lab."
ELSEWHERE = "It opens in browsers that have opened this lab by the address it printed when it started."


def button(public: bool) -> None:
    """The button.

    Args:
        public: whether everybody may open the lab.
    """
    with st.container(width="content"):
        _component(key="copy_link", data={"here": HERE, "elsewhere": "" if public else ELSEWHERE})
