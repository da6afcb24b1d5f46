"""A page with nothing but the microphone, for tests: what arrives is told, and saved when it is stopped.

`?slow=0.8` makes every handler take that long; `?use=clip` shows the recorder of clips instead.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import streamlit as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dashboard.components import microphone
from qmoe_core.live.sources import PushSource

SLOW_S = float(st.query_params.get("slow", "0"))


@st.fragment
def listen() -> None:
    source: PushSource = st.session_state.setdefault("source", PushSource())
    status = microphone.listen(source)
    ring = source.stream.ring if source.stream else None
    told = {
        "state": status.state,
        "sentence": status.sentence,
        "warnings": status.warnings,
        "rate": status.rate,
        "samples": ring.end if ring else 0,
        "lost": ring.lost if ring else 0,
        "repeated": ring.repeated if ring else 0,
        "dropped": status.dropped,
        "notes": [note.text for note in source.notes],
    }
    st.html(f'<pre id="told">{json.dumps(told)}</pre>')
    time.sleep(SLOW_S)
    if status.state == "idle" and ring and ring.end:
        out = Path(os.environ["QMOE_TEST_OUT"])
        if not out.exists():  # a packet may come twice, and the test reads it once it is there
            first, heard = ring.read(0)
            np.savez(out, first=first, heard=heard, gaps=np.array(ring.places, int).reshape(-1, 2))
        st.html('<p id="saved">saved</p>')


@st.fragment
def record() -> None:
    _, recording = microphone.clip(2.0)
    if recording:
        told = {"rate": recording.rate, "duration_s": recording.duration_s, "warnings": recording.warnings}
        st.html(f'<pre id="told">{json.dumps(told)}</pre>')
        st.audio(recording.wav)


record() if st.query_params.get("use") == "clip" else listen()
