"""The Claims page in each of its states, and the figures that it is made of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.charts import claims as claims_charts
from dashboard.charts.palette import DARK, LIGHT, Theme
from dashboard.views import claims as claims_views
from dashboard.views import tables
from qmoe_core.errors import StoreError
from qmoe_core.paper import claims
from qmoe_core.paper.claim import ClaimFigure, Series
from qmoe_core.paper.claims import BY_ID, CLAIMS, Finding
from qmoe_core.paper.untested import STATEMENTS
from qmoe_core.runtime import jobs
from qmoe_core.runtime.store import Store

APP = Path(__file__).resolve().parents[2] / "dashboard" / "app.py"
EXPERIMENTS = [claim.id for claim in CLAIMS if claim.cost == "experiment"]


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Finding]:
    """What needs no experiment, found once."""
    store = Store(tmp_path_factory.mktemp("findings") / "store")
    ids = [claim.id for claim in CLAIMS if claim.id not in EXPERIMENTS]
    return {finding.claim.id: finding for finding in claims.run(ids, store)}


@pytest.fixture
def kept(findings: dict[int, Finding]) -> None:
    """A machine on which they were checked before."""
    for finding in findings.values():
        claims.keep(finding, Store())


def visit(**link: str) -> AppTest:
    """Open the page as somebody who follows a link."""
    app = AppTest.from_file(str(APP), default_timeout=60)
    app.query_params.update(link)
    return app.switch_page("../pages/claims.py").run()


def text(app: AppTest) -> str:
    """All that the page says, without the escapes."""
    assert not app.exception
    said = [element.value for element in [*app.markdown, *app.caption]]
    said += [html.body for html in app.html if "<style>" not in html.body]
    return "\n".join(said).replace("\\", "").replace("\xa0", " ")


def shown(app: AppTest) -> list[int]:
    """The claims on the page, in order."""
    cards = [html.body for html in app.html if "qm-claim" in html.body and "<article" in html.body]
    return [int(card.split('id="claim-')[1].split('"')[0]) for card in cards]


def test_the_first_visit_checks_what_needs_no_experiment() -> None:
    app = visit()
    said = text(app)
    assert f"{len(EXPERIMENTS)} were not checked on this machine yet" in said
    assert sorted(shown(app)) == [claim.id for claim in CLAIMS]
    assert any(f"Run the {len(EXPERIMENTS)} experiments" in button.label for button in app.button)
    assert len(claims.latest()) == len(CLAIMS) - len(EXPERIMENTS)
    assert not app.query_params
    assert all(one.statement in said and one.needs.split("`")[0] in said for one in STATEMENTS)


@pytest.mark.usefixtures("kept")
class TestChecked:
    """On a machine where some claims were checked."""

    def test_a_link_restores_the_filter(self) -> None:
        app = visit(verdict="unchecked", theme="protocol")
        assert shown(app) == [6, 7, 9]
        assert "… not checked yet" in text(app)

    def test_moving_the_filter_moves_the_link(self) -> None:
        app = visit()
        app.pills(key="claims.theme").set_value("statistics").run()
        assert shown(app) == [36, 25, 26, 27, 28, 29, 30, 32, 33, 34, 35]
        app.text_input(key="claims.search").set_value("Bonferroni").run()
        assert shown(app) == [27]
        assert dict(app.query_params) == {"theme": "statistics", "search": "Bonferroni"}

    def test_a_number_finds_its_claim_alone(self) -> None:
        assert shown(visit(search="5")) == [5]

    def test_nothing_fits_and_the_way_back(self) -> None:
        app = visit(search="no such words anywhere", theme="features")
        assert shown(app) == []
        assert "No claim fits this filter." in text(app)
        next(button for button in app.button if button.label == "Show all").click().run()
        assert len(shown(app)) == len(CLAIMS)
        assert not app.query_params

    def test_nonsense_in_a_link_is_answered(self) -> None:
        app = visit(verdict="perhaps", search="x" * 200)
        assert len(shown(app)) == len(CLAIMS)
        warned = " ".join(warning.value for warning in app.warning).replace("\\", "")
        assert "verdict = “perhaps”; accepted is holds, does-not-hold" in warned
        assert "search = " in warned

    def test_an_open_fold_tells_how_it_was_tested(self, findings: dict[int, Finding]) -> None:
        app = visit(search="28")
        assert not app.get("plotly_chart")
        app.session_state["fold:28"] = True
        app.run()
        said = text(app)
        assert BY_ID[28].test in said
        assert "Table 1, 15 rows. Measured just now" in said
        assert findings[28].machine in said
        assert len(app.get("plotly_chart")) == 1

    def test_running_a_check_asks_for_a_job(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[jobs.Claims] = []

        def submit(request: jobs.Claims) -> SimpleNamespace:
            asked.append(request)
            return SimpleNamespace(id="1")

        monkeypatch.setattr(jobs, "submit", submit)
        app = visit(search="13")
        app.session_state["fold:13"] = True
        app.run()
        app.button(key="run:13").click().run()
        next(button for button in app.button if "experiments that are left" in button.label).click().run()
        next(button for button in app.button if "Run all 42" in button.label).click().run()
        assert [request.only for request in asked] == [(13,), tuple(EXPERIMENTS), None]

    def test_a_job_that_runs_is_shown_and_can_be_stopped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stopped: list[str] = []
        folder = Path("nowhere")
        job = jobs.Job(
            "20260101-000000-00000000", "Check claim 13", jobs.Claims(only=(13,)), "running",
            0.0, 1.0, None, 1, None, False, folder,
        )  # fmt: skip
        events = [{"event": "stage", "stage": "claims", "done": 0, "total": 1, "message": "claim 13"}]
        monkeypatch.setattr(jobs, "list_jobs", lambda: [job])
        monkeypatch.setattr(jobs, "get", lambda name: job)
        monkeypatch.setattr(jobs, "events", lambda name: (events, 0))
        monkeypatch.setattr(jobs, "cancel", stopped.append)
        app = visit(search="13")
        assert not app.exception
        assert len(app.get("progress")) == 1  # in the tray
        assert sum("under Jobs, above" in caption.value for caption in app.caption) == 2
        app.button(key=f"stop:tray:{job.id}").click().run()
        assert stopped == [job.id]

    def test_the_store_cannot_be_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse() -> dict[int, Finding]:
            raise StoreError("the store cannot be read")

        monkeypatch.setattr(claims, "latest", refuse)
        app = visit()
        assert not app.exception
        assert "the store cannot be read" in app.error[0].value


def test_the_documents_are_those_of_the_command(findings: dict[int, Finding]) -> None:
    documents = claims_views.document(list(findings.values()))
    assert documents[0] == findings[1].to_json()
    lines = tables.as_csv(claims_views.COLUMNS, documents).splitlines()
    assert lines[0].startswith("id,theme,claim,source,test,paper,ours,verdict")
    assert len(lines) == len(findings) + 1


def test_the_summary_agrees_in_number(findings: dict[int, Finding]) -> None:
    assert claims_views.summary(CLAIMS[27:28], {28: findings[28]}).endswith("0 hold and 1 does not.")


def test_what_a_finding_says_is_escaped(findings: dict[int, Finding]) -> None:
    claim = claims.Claim(**{**vars(BY_ID[28]), "claim": "<b>bold</b> 4 %."})
    card = claims_views.card(claim, findings[28])
    assert "&lt;b&gt;bold&lt;/b&gt; 4\xa0%." in card
    assert "<b>" not in card


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_every_picture_is_drawn_and_said(findings: dict[int, Finding], theme: Theme) -> None:
    pictures = [f.figures.picture for f in findings.values() if f.figures and f.figures.picture]
    assert len(pictures) > 12
    for picture in pictures:
        drawn = claims_charts.draw(picture, theme)
        assert len(drawn.data) == len(picture.series)
        assert drawn.layout.showlegend is (1 < len(picture.series) <= claims_charts.MOST_NAMED)
        assert claims_charts.words(picture)


def test_bars_read_downwards_and_lines_keep_their_order() -> None:
    bars = ClaimFigure("bars", "", "p", (Series("printed", ["first", "second"], [0.1, 0.2]),), log="y")
    drawn = claims_charts.draw(bars, LIGHT)
    assert drawn.layout.yaxis.categoryarray == ("second", "first")
    assert drawn.layout.xaxis.type == "log"
    points = ClaimFigure("points", "a", "b", tuple(Series(str(i), [1.0], [2.0]) for i in range(6)), log="xy")
    assert {trace.marker.color for trace in claims_charts.draw(points, LIGHT).data} == {LIGHT.accent}
    assert claims_charts.words(points).startswith("0: 1, 2; 1: 1, 2")
