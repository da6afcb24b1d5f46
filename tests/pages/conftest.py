"""The dashboard without a browser: Streamlit's AppTest on a bundle of log-mel statistics that stays as it is.

Tests say figures and words of it. The bundle that ships changes with the weights of its embedder; it is what
tests/golden and the browser tests look at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard.views import words
from qmoe_core import bundles, serve
from qmoe_core.audio import decode, synth
from qmoe_core.bundles import Bundle
from qmoe_core.decision import Classification
from tests.tiny import FROZEN

APP = Path(__file__).resolve().parents[2] / "dashboard" / "app.py"


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder data/ with the bundle and the results on it that stay as they are."""
    folder = tmp_path_factory.mktemp("shipped")
    for path in bundles.shipped().iterdir():
        kept = FROZEN / path.name
        (folder / path.name).symlink_to(kept if kept.exists() else path)
    return folder


@pytest.fixture(autouse=True)
def _frozen(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmoe_core.bundles.shipped", lambda: shipped)


@pytest.fixture(scope="session")
def bundle(shipped: Path) -> Bundle:
    return bundles.load(shipped / bundles.DEFAULT_NAME)


@pytest.fixture(scope="session")
def dog(bundle: Bundle) -> Classification:
    """A gallery sound, judged by every expert, with the bundle's own settings."""
    clip = decode.from_samples(synth.render("dog-bark"), decode.SAMPLE_RATE, name="dog.wav")
    return serve.decide(serve.observe(clip, bundle, run_all=True), bundle, bundle.settings())


@pytest.fixture(scope="session")
def heard_as(bundle: Bundle) -> Callable[[str], str]:
    """What the bundle takes a gallery sound for, as a headline begins; another may hear other things."""

    def answer(name: str) -> str:
        clip = decode.from_samples(synth.render(name), decode.SAMPLE_RATE)
        return words.capital(words.readable(serve.classify(clip, bundle).whole.label))

    return answer


@pytest.fixture(autouse=True)
def _no_cache_between_tests() -> Iterator[None]:
    yield
    st.cache_data.clear()


@pytest.fixture
def visit() -> Callable[..., AppTest]:
    """Open the dashboard as somebody who follows a link: `visit(alpha="10")`."""

    def opened(**link: str) -> AppTest:
        app = AppTest.from_file(str(APP), default_timeout=60)
        app.query_params.update(link)
        return app.run()

    return opened
