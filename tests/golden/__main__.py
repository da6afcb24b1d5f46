"""What the default bundle says of known sounds, kept in esc10.json so that a change of it is noticed.

After the default bundle was made again (needs ESC-10, see README), from the repository's root:

    python -m tests.golden
"""

from __future__ import annotations

import json
from pathlib import Path

from qmoe_core import bundles, datasets, serve
from qmoe_core.audio import decode, synth
from qmoe_core.bundles import Bundle
from qmoe_core.datasets.manifest import Manifest

KEPT = Path(__file__).with_name("esc10.json")


def judge(clip: decode.Clip, loaded: Bundle) -> dict[str, str | float]:
    """Label and probability, rounded to 4 places."""
    whole = serve.classify(clip, loaded).whole
    return {"label": whole.label, "probability": round(whole.probability, 4)}


def gallery(loaded: Bundle) -> dict[str, dict[str, str | float]]:
    """Every synthesised sound."""
    return {
        name: judge(decode.from_samples(synth.render(name), decode.SAMPLE_RATE, name=name), loaded)
        for name in synth.GALLERY
    }


def recordings(loaded: Bundle, manifest: Manifest) -> dict[str, dict[str, str | float]]:
    """Two clips of every class: its first in the first fold, and its last in the last."""
    by_class = [[e for e in manifest.entries if e.label == label] for label in range(len(manifest.classes))]
    chosen = [entry for entries in by_class for entry in (min(entries, key=_place), max(entries, key=_place))]
    return {entry.name: judge(decode.load(entry.path), loaded) for entry in chosen}


def _place(entry: datasets.DatasetClip) -> tuple[int, str]:
    return entry.fold or 0, entry.name


def main() -> None:
    loaded = bundles.load()
    document = {
        "bundle": loaded.digest,
        "gallery": gallery(loaded),
        "recordings": recordings(loaded, datasets.open_dataset("esc10")),
    }
    KEPT.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{KEPT}: {len(document['gallery'])} synthesised sounds, {len(document['recordings'])} recordings")


if __name__ == "__main__":
    main()
