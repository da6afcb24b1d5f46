"""Live: the log of detections, one of them to play and to mark, and the downloads."""

from __future__ import annotations

import time

import streamlit as st

from dashboard.session import linked, public
from dashboard.session.live_state import Live
from dashboard.views import tables, widgets, words
from dashboard.views.tables import Column
from qmoe_core import numbers
from qmoe_core.live import log as logs
from qmoe_core.live.log import LoggedDetection

SHOWN_LINES = 50


def the_log(listening: Live) -> None:
    """A fragment: the newest lines of the log, one of them to hear and to mark, and the exports."""
    log = listening.log
    with st.container(horizontal=True, vertical_alignment="center"):
        rejected = st.toggle("Show what was not accepted", key=linked.keep("live_rejected", True))
        kept = public.LIMITS is None and st.toggle(
            "Keep the log on this machine’s disk", key=linked.keep("live_keep", log.folder is not None)
        )
        if st.button("Clear", key="live_clear"):
            log.clear()
    if public.LIMITS is not None:
        st.caption(public.LOG)
    if problem := listening.keep(kept):
        widgets.warning(problem)
    entries = [entry for entry in reversed(log.entries()) if rejected or entry.accepted]
    if log.dropped:
        st.caption(f"The log holds {log.capacity} lines; {log.dropped:,} older ones were dropped.")
    if not entries:
        st.caption("Nothing yet: a detection is logged when it is over.")
        return
    st.html(table(entries[:SHOWN_LINES]))
    st.caption(
        f"Times are those of the machine that runs the lab ({logs.zone()}). Agree: experts that said "
        "the same in at least half of the windows."
    )
    if len(entries) > SHOWN_LINES:
        st.caption(f"The newest {SHOWN_LINES} of {len(entries):,} lines; the files have all.")
    listen_again(log, entries)
    with st.container(horizontal=True):
        for title, make, name, kind in (
            ("CSV", lambda: logs.as_csv(entries), "live.csv", "text/csv"),
            ("JSON", lambda: logs.as_json(entries), "live.json", "application/json"),
            ("Sounds (ZIP of FLAC)", lambda: logs.as_zip(log, entries), "live.zip", "application/zip"),
        ):
            st.download_button(title, make, name, kind, on_click="ignore")


def table(entries: list[LoggedDetection]) -> str:
    """The log as people read it, newest first."""
    today = logs.day(time.time())
    rows = []
    for entry in entries:
        on = logs.day(entry.start)
        rows.append(
            {
                "from": f"{'' if on == today else f'{on} '}{logs.clock(entry.start)}",
                "to": logs.clock(entry.end),
                "sound": words.readable(entry.label),
                "probability": numbers.percent(entry.probability),
                "prediction set": ", ".join(map(words.readable, entry.prediction_set)),
                "answered by": routed(entry),
                "agree": f"{sum(share >= 0.5 for share in entry.agreeing.values())} of {len(entry.agreeing)}",
                "accepted": "yes" if entry.accepted else f"no: {entry.reason}",
                "marked": entry.mark,
            }
        )
    return tables.html([Column(name, name, number=False) for name in rows[0]], rows, "Detections")


def routed(entry: LoggedDetection) -> str:
    """The experts that answered, those with the most first, each with its share where it is not all."""
    shares = sorted(entry.routed.items(), key=lambda item: -item[1])
    if len(shares) == 1:
        return shares[0][0]
    return ", ".join(f"{name} {numbers.percent(share)}" for name, share in shares if share >= 0.05)


def listen_again(log: logs.Log, entries: list[LoggedDetection]) -> None:
    """One detection: its five seconds of largest probability, and whether it was right."""
    by_id = {entry.id: entry for entry in entries}

    def line(entry_id: str) -> str:
        entry = by_id[entry_id]
        return (
            f"{logs.clock(entry.start)} {words.readable(entry.label)}, {numbers.percent(entry.probability)}"
        )

    chosen = st.selectbox("Play a detection", list(by_id), format_func=line, key="live_chosen")
    if chosen is None:
        return
    sound = log.sound(chosen)
    if sound is None:
        st.caption("Its sound had to make room for newer ones.")
    else:
        st.audio(sound, format="audio/flac")

    def marked() -> None:
        log.mark(chosen, st.session_state[f"live_mark:{chosen}"] or "")

    st.segmented_control(
        "Was that right?",
        ["right", "wrong"],
        default=by_id[chosen].mark or None,
        key=f"live_mark:{chosen}",
        on_change=marked,
    )
