"""The weights of an embedder that is not on this machine: what they are, their licence, a button for them."""

from __future__ import annotations

import streamlit as st

from dashboard.views import widgets
from qmoe_core.embedders import models
from qmoe_core.errors import UserError


def offer(embedder: str) -> bool:
    """Offer to download an embedder's weights where they are missing; whether it can be used as it is."""
    if models.path(embedder) is not None:
        return True
    said = models.MN04
    st.info(
        widgets.plain(
            f"{embedder} is {said['title']}. Its weights are not on this machine: {said['bytes'] / 1e6:.0f} "
            f"MB from its authors’ release on GitHub. Licence: {said['licence']}. Cite: {said['citation']}."
        )
    )
    if st.button("Download its weights", icon=":material/download:"):
        try:
            with st.spinner("Downloading …"):
                models.download(embedder)
        except UserError as error:
            st.error(widgets.plain(str(error)))
            st.caption(f"Or take them from a file: qmoe models download {embedder} --from FILE")
        else:
            st.rerun()
    return False
