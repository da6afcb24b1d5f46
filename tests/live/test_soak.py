"""Three minutes of listening as fast as it goes: memory stays, and no thread is left.

Half an hour in real time, with a browser, is tests/soak_live.py.
"""

from __future__ import annotations

import base64
import gc
import threading

import numpy as np
import psutil

from dashboard.charts import live as live_charts
from dashboard.charts.palette import LIGHT
from dashboard.components import microphone
from qmoe_core.audio import decode, synth
from qmoe_core.bundles import Bundle
from qmoe_core.live.pipeline import Pipeline
from qmoe_core.live.sessions import Registry, Session
from qmoe_core.live.sources import PushSource

PACKETS_A_MINUTE = 240
CHUNK = decode.SAMPLE_RATE // 8
CLOCK_S = 1_700_000_000.0


def packet(number: int, pcm: list[str]) -> dict[str, object]:
    """The quarter of a second with this number, as the component sends it."""
    chunks = [
        {
            "sequence": i,
            "frame": i * CHUNK,
            "captured": CLOCK_S + (i + 1) / 8,
            "pcm": pcm[i % len(pcm)],
        }
        for i in (2 * number, 2 * number + 1)
    ]
    sent = CLOCK_S + (number + 1) / 4
    return {
        "packet": number,
        "stream": "a",
        "rate": decode.SAMPLE_RATE,
        "sent": sent,
        "state": "listening",
        "chunks": chunks,
    }


def test_three_minutes(bundle: Bundle) -> None:
    samples = np.concatenate([synth.render(name) for name in synth.GALLERY])
    whole = np.rint(np.clip(samples[: len(samples) // CHUNK * CHUNK], -1, 1) * 32767).astype("<i2")
    pcm = [base64.b64encode(part.tobytes()).decode() for part in whole.reshape(-1, CHUNK)]
    clock = [0.0]
    source = PushSource(now=lambda: clock[0], today=lambda: CLOCK_S + clock[0])
    pipeline = Pipeline(source, bundle)
    sizes = []
    for minute in range(3):
        for number in range(minute * PACKETS_A_MINUTE, (minute + 1) * PACKETS_A_MINUTE):
            clock[0] += 0.25
            _, parsed, _ = microphone.parse(packet(number, pcm))
            assert source.receive(parsed) == 2 * number + 1
            pipeline.step()
        live_charts.picture(pipeline.view(), bundle, None, LIGHT)
        gc.collect()
        sizes.append(psutil.Process().memory_info().rss)
    view = pipeline.view()
    assert (view.judged, view.stale, view.gaps, len(view.notes)) == (3 * PACKETS_A_MINUTE - 19, 0, 0, 0)
    assert sizes[-1] - sizes[0] <= 30 << 20  # with the sounds of all detections

    registry, session = Registry(), Session(pipeline)
    registry.touch(session)
    registry.close()
    assert [t.name for t in threading.enumerate() if t.name.startswith("qmoe-")] == []
