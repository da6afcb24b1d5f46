"""What SECURITY.md promises: hostile names do nothing, recordings leave no trace, strangers stay outside."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import csv
import functools
import gzip
import http.client
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from dashboard import guard
from dashboard.components import microphone
from dashboard.components.microphone import Recording
from dashboard.room import Room
from dashboard.session import live_state, public
from dashboard.views import tables
from dashboard.views.tables import Column
from qmoe_core import bundles, cli
from qmoe_core.audio import synth
from qmoe_core.audio.decode import SAMPLE_RATE
from qmoe_core.errors import BundleError, UserError
from qmoe_core.live.sessions import registry
from qmoe_core.live.sources import HeldSource
from qmoe_core.runtime.jobs import Train
from qmoe_core.runtime.store import VISITORS, Store, lab_root
from tests.browser.server import TOKEN, cookie, served
from tests.pages.test_listen import wav
from tests.test_package import imports

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "**bold** [click](javascript:alert(1)) $x$",
    '=HYPERLINK("http://example.org")',
)


def open_at(page: str, **link: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "dashboard" / "app.py"), default_timeout=120).run()
    app.query_params.update(link)
    app.switch_page(f"../pages/{page}.py").run()
    assert not app.exception
    return app


# Names


@pytest.fixture
def hostile(tiny_run: Any) -> str:
    """The name of a bundle among the lab's own whose classes and clips are called what nobody would."""
    folder = lab_root() / "bundles" / "hostile"
    shutil.copytree(tiny_run.bundle, folder)
    described = json.loads((folder / "bundle.json").read_text())
    described["title"] = described["provenance"]["dataset"] = HOSTILE[0]
    described["classes"][: len(HOSTILE)] = HOSTILE[: len(described["classes"])]
    for clip, name in zip(described["clips"], HOSTILE, strict=False):
        clip["name"] = clip["source"] = name
    (folder / "bundle.json").write_text(json.dumps(described))
    return "hostile"


def strings(value: Any) -> Iterator[str]:
    """All texts in a JSON document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)


@pytest.mark.parametrize(
    ("page", "link"),
    [
        ("dataset", {}),
        ("dataset", {"clip": HOSTILE[0]}),
        ("compare", {"view": "classes"}),
        ("sweep", {"alpha": "1000"}),
    ],
)
def test_names_are_names_wherever_they_are_shown(hostile: str, page: str, link: dict[str, str]) -> None:
    app = open_at(page, bundle=hostile, **link)

    shown = [html.body for html in app.html]
    assert not [body for body in shown if "<img" in body]
    said = [*app.markdown, *app.caption, *app.info, *app.warning, *app.error, *app.subheader]
    markdown = [element.value for element in said]
    markdown += [link.proto.label for link in app.get("page_link")]
    assert not [text for text in markdown if re.search(r"(?<!\\)(<img|\*\*bold|\[click\]|\$x)", text)]
    charts = [text for chart in app.get("plotly_chart") for text in strings(json.loads(chart.proto.spec))]
    assert charts
    assert not [text for text in charts if "<img" in text]
    seen = " ".join([*shown, *markdown, *charts])
    assert "onerror" in seen, "the page shows the name somewhere, or this proves nothing"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", " =", "＝", "＋", "－", "＠"])
def test_no_cell_is_a_formula(start: str) -> None:
    text = tables.as_csv([Column(f"{start}key", "")], [{f"{start}key": f"{start}1+1"}])

    cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
    assert cells == [f"'{start}key", f"'{start}1+1"]


@pytest.mark.parametrize("where", ["title", "classes", "clips", "licence", "f1"])
@pytest.mark.parametrize("name", ["\x1b[2J", "rain\u202eniar", "a\nb", "x" * 1001])
def test_names_that_could_move_the_cursor_are_refused(tiny_run: Any, tmp_path: Path, where: str, name: str):
    folder = tmp_path / "b"
    shutil.copytree(tiny_run.bundle, folder)
    described = json.loads((folder / "bundle.json").read_text())
    if where == "title":
        described["title"] = name
    elif where == "classes":
        described["classes"][0] = name
    elif where == "licence":
        described["provenance"]["licence"] = name
    elif where == "f1":
        described["provenance"]["f1"][name] = {"mean": 0.5, "std": 0.1, "n": 5}
    else:
        described["clips"][0]["source"] = name
    (folder / "bundle.json").write_text(json.dumps(described))

    with pytest.raises(BundleError, match="holds a name that cannot be shown") as refused:
        bundles.load(folder)
    assert str(refused.value).isprintable()


# Recordings

_written: list[str] = []
_watching = False


def _note_writing(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and path != os.devnull:
            _written.append(str(path))
    elif event in ("os.mkdir", "os.rename"):
        _written.append(str(arguments[0]))


@functools.cache
def _hook() -> None:
    """Once: an audit hook cannot be taken back."""
    sys.addaudithook(_note_writing)


@contextmanager
def nothing_is_written() -> Iterator[None]:
    """Every file that is opened for writing in this process meanwhile is a failure."""
    global _watching
    _hook()
    _watching = True
    try:
        yield
    finally:
        _watching = False
        written, _written[:] = list(_written), []
    assert written == []


def test_the_watch_sees_what_is_written(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"note\.txt"), nothing_is_written():
        (tmp_path / "note.txt").write_text("")


def test_a_recording_leaves_no_trace_on_the_disk() -> None:
    app = open_at("listen")
    with nothing_is_written():
        app.session_state["recording"] = Recording("recording.wav", wav("rain"), SAMPLE_RATE, 5.0)
        app.session_state["source"] = "Record"
        app.run()
        assert not app.exception
    assert "recorded here" in " ".join(caption.value for caption in app.caption)
    assert "stays in its memory while this page is open" in " ".join(c.value for c in app.caption).replace(
        "\\", ""
    )


def test_an_uploaded_file_leaves_no_trace_on_the_disk() -> None:
    app = open_at("listen")
    app.session_state["source"] = "Upload"
    app.run()
    with nothing_is_written():
        app.file_uploader(key="files").set_value([("rain.wav", wav("rain"), "audio/wav")])
        app.run()
        assert not app.exception
    assert "rain" in " ".join(caption.value for caption in app.caption)
    assert "nothing of them is kept" in " ".join(caption.value for caption in app.caption)


def test_what_live_hears_leaves_no_trace_until_somebody_asks_for_it() -> None:
    app = open_at("live")
    live: live_state.Live = app.session_state["live"]
    try:
        with nothing_is_written():
            source = live.pipeline.source = HeldSource("a file", SAMPLE_RATE)
            source.stream.ring.write(np.resize(synth.render("rain"), 12 * SAMPLE_RATE))
            live.pipeline.step()
            live.pipeline.pause()
            app.run()
            assert not app.exception
        (entry, *_) = live.log.entries()
        assert live.log.sound(entry.id)
        assert not lab_root().exists()

        app.toggle(key="live_keep").set_value(True).run()
        assert list((lab_root() / live_state.LOG_FOLDER / "sounds").iterdir())
    finally:
        registry.close()


# Strangers


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The command that `qmoe app` becomes."""
    command: list[str] = []
    monkeypatch.chdir(tmp_path)  # it goes to where the pages are
    monkeypatch.setattr(os, "execv", lambda _, arguments: command.extend(arguments))
    return command


def test_the_lab_is_its_owners_alone_unless_asked(started: list[str], capsys) -> None:
    cli.main(["app", "--no-browser"])

    assert started[started.index("--server.address") + 1] == "localhost"
    assert "--public" not in started
    assert capsys.readouterr().err == ""


def test_no_website_speaks_to_the_lab_of_this_machine() -> None:
    """Neither by the lab's address nor by a name of its own, made to mean this machine (DNS rebinding)."""
    with socket.socket() as far_away:
        far_away.bind(("127.0.0.1", 0))
        far_away.listen()
        far_away.settimeout(0.1)
        proxy = f"http://127.0.0.1:{far_away.getsockname()[1]}"
        with served(http_proxy=proxy, https_proxy=proxy, no_proxy="") as address:
            ours = urlsplit(address).netloc
            known = "{name}={value}".format_map(cookie(address))

            assert knock(ours, ours, address, known) == 101
            for host, origin in (
                (ours, "http://evil.example"),
                ("evil.example", "http://evil.example"),
                (ours, "http://127.0.0.1:1"),  # another program's page on this machine
                (ours, "http://localhost"),
                (ours, f"http://{ours}.evil.example"),
                ("127.0.0.1:1", "http://127.0.0.1:1"),
                (ours, None),  # a program
                (ours, "null"),
            ):
                assert knock(ours, host, origin, known) == 403, (host, origin)
            with pytest.raises(TimeoutError):  # nobody is asked who we are
                far_away.accept()

            # Other users of this machine do not know the token.
            assert knock(ours, ours, address) == knock(ours, ours, address, known[:-1]) == 403
            assert ask(ours, "/")[0] == ask(ours, "/?token=guessed")[0] == 403
            status, headers, body = ask(ours, "/media/x.wav")
            assert (status, "its owner’s alone" in body) == (403, True)
            status, headers, _ = ask(ours, f"//evil.example/sweep?alpha=3&token={TOKEN}")
            assert (status, headers["Location"]) == (303, "/evil.example/sweep?alpha=3")
            assert headers["Set-Cookie"] == f"{known}; Path=/; HttpOnly; SameSite=Strict"

            # What is answered is framed by nobody, and nothing is told about others.
            status, headers, _ = ask(ours, "/", known)
            assert (status, headers["X-Frame-Options"]) == (200, "DENY")
            assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
            assert json.loads(ask(ours, "/_stcore/host-config", known)[2])["allowedOrigins"] == []
            assert ask(ours, "/_stcore/metrics", known)[0] == 404
            assert ask(ours, "/_stcore/agent/openapi.json", known)[0] == 404
            assert ask(ours, "/_stcore/health")[2] == "ok"

            # What a browser loads of Streamlit is compressed, and is the same.
            page = ask(ours, "/", known)[2]
            (script, *_) = re.findall(r'src="[./]*(static/js/index[^"]+)"', page)
            for path in 2 * [f"{address}/{script}"]:
                asked = {"Cookie": known, "Accept-Encoding": "gzip"}
                with urllib.request.urlopen(urllib.request.Request(path, headers=asked)) as answer:
                    assert answer.headers["Content-Encoding"] == "gzip"
                    assert answer.headers["X-Content-Type-Options"] == "nosniff"
                    small = answer.read()
                with urllib.request.urlopen(
                    urllib.request.Request(path, headers={"Cookie": known})
                ) as answer:
                    whole = answer.read()
                assert gzip.decompress(small) == whole
                assert 3 * len(small) < len(whole)


def knock(at: str, host: str, origin: str | None, cookies: str = "") -> int:
    """The status of the answer to a page that wants to open a WebSocket."""
    connection = http.client.HTTPConnection(at, timeout=60)
    asked = {"Host": host, "Upgrade": "websocket", "Connection": "Upgrade", "Cookie": cookies}
    asked |= {} if origin is None else {"Origin": origin}
    asked |= {"Sec-WebSocket-Key": "x" * 22 + "==", "Sec-WebSocket-Version": "13"}
    with contextlib.closing(connection):
        connection.request("GET", "/_stcore/stream", headers=asked)
        return connection.getresponse().status


def ask(at: str, path: str, cookies: str = "", **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
    """Status, headers and body of the answer."""
    connection = http.client.HTTPConnection(at, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Cookie": cookies, **headers})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()


def test_a_public_lab_asks_for_no_token_and_answers_to_its_names(tmp_path: Path) -> None:
    store = tmp_path / "store"
    command = ("-m", "dashboard.launch", "--public", "--host", "lab.example.org")
    with served(*command, QMOE_STORE=str(store)) as address:
        ours = urlsplit(address).netloc
        assert knock(ours, ours, address) == 101
        assert knock(ours, "lab.example.org", "https://lab.example.org") == 101  # a proxy's
        assert knock(ours, "evil.example", "http://evil.example") == 403
        assert knock(ours, "lab.example.org", "https://lab.example.org:444") == 403
        assert "--host" in ask(ours, "/", Host="evil.example")[2]
        assert ask(ours, "/")[0] == 200
        assert ask(ours, "/_stcore/metrics")[0] == 404
        # Its visitors' folder is taken: another lab on the same store leaves it alone.
        (lock,) = (store / VISITORS).glob("*.lock")
        visitor = store / VISITORS / f"{lock.stem}-{'0' * 32}"
        visitor.mkdir()
        with served(*command, QMOE_STORE=str(store)):
            assert visitor.is_dir()
            assert len(list((store / VISITORS).glob("*.lock"))) == 2


def test_the_visitors_folder_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "precious" / "0a1b").mkdir(parents=True)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / VISITORS).symlink_to(tmp_path / "precious")

    ended = subprocess.run(
        [sys.executable, "-m", "dashboard.launch", "--public"],
        env=os.environ | {"QMOE_STORE": str(tmp_path / "store")},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "is a link or no folder" in ended.stderr
    assert (tmp_path / "precious" / "0a1b").is_dir()


def test_only_what_the_lab_made_for_visitors_is_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QMOE_STORE", str(tmp_path / "store"))
    folder, precious = tmp_path / "store" / VISITORS, tmp_path / "precious"
    precious.mkdir()
    gone = f"{'0' * 32}-{'1' * 32}"
    for name in (gone, "notes", "0a1b"):
        (folder / name).mkdir(parents=True)
    (folder / ("2" * 32)).symlink_to(precious)

    public.sweep()

    assert sorted(path.name for path in folder.iterdir()) == ["2" * 32, "notes"]
    assert precious.is_dir()


def test_one_recording_never_plays_for_another() -> None:
    head, other = bytes(70_000) + bytes(2_000_000), bytes(70_000) + b"\1" + bytes(1_999_999)
    assert guard.media_id(head, "audio/wav") != guard.media_id(other, "audio/wav")
    assert guard.media_id(head, "audio/wav") != guard.media_id(head, "audio/mpeg")
    assert guard.media_id(head, "audio/wav", "a") != guard.media_id(head, "audio/wava")
    # It is what Streamlit asks once the lab is started.
    said = (
        "from dashboard import guard; guard.install(hosts=());"
        "from streamlit.runtime.memory_media_file_storage import MemoryMediaFileStorage as S;"
        "from streamlit.runtime.media_file_storage import MediaFileKind as K; s = S('/media');"
        "a, b = bytes(2_070_000), bytes(70_000) + bytes([1]) + bytes(1_999_999);"
        "print(len({s.load_and_get_id(x, 'audio/wav', K.MEDIA) for x in (a, b)}))"
    )
    ended = subprocess.run([sys.executable, "-c", said], cwd=ROOT, capture_output=True, text=True)
    assert (ended.stdout, ended.returncode) == ("2\n", 0), ended.stderr


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (("runs", "list"), {"QMOE_STORE": "s3://KEY:SECRET@lab"}),
        (("runs", "--store", "s3://KEY:SEC/RET@lab/x", "list"), {}),
        (("classify", "x.wav", "--bundle", "no\x1b[2Jbundle"), {}),
        (("runs", "verify"), {"QMOE_STORE": "s3://\x1b[2J\x07"}),
    ],
)
def test_no_sentence_shows_secrets_or_moves_the_cursor(
    arguments: tuple[str, ...], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert cli.main(arguments) == 2

    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said[:-1].isprintable()
    assert "SEC" not in said
    assert "KEY" not in said


def test_no_page_names_a_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_at("train", scheduler="tcp://evil.example:8786")
    assert "Cluster" not in {box.label for box in [*app.selectbox, *app.text_input]}
    with pytest.raises(UserError, match="was not named when the lab was started"):
        public.submit(Train(dataset="tiny", scheduler="tcp://evil.example:8786"))

    monkeypatch.setenv(public.SCHEDULERS, "tcp://10.0.0.5:8786 tls://10.0.0.6:8786")
    app = open_at("train")
    (box,) = (box for box in app.selectbox if box.label == "Cluster")
    assert box.options == ["this machine", "tcp://10.0.0.5:8786", "tls://10.0.0.6:8786"]


def test_only_so_much_is_under_way() -> None:
    """Refused before a byte is read: `receive` is not called."""
    held: dict[str, int] = {}
    ended: list[str] = []
    bounds = guard.Bounds(sockets=3, per_address=2, session_bytes=100, total_bytes=150)
    opened = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await opened.wait()
        await send({"type": "http.response.start", "status": 204})

    place = Room(bounds.session_bytes, bounds.total_bytes, lambda: held, lambda name: name, ended.append)
    lab = guard.Guard(app, {"lab"}, bounds=bounds, room=place)

    async def one(session: str | None, size: str = "", address: str = "10.0.0.1") -> Any:
        headers = {b"host": b"lab", b"origin": b"http://lab", b"content-length": size.encode()}
        scope = {"headers": headers.items(), "client": (address, 1), "query_string": b""}
        scope |= {"type": "http", "method": "PUT", "path": f"{guard.UPLOADS}{session}/file"}
        scope |= {"type": "websocket", "path": "/_stcore/stream"} if session is None else {}
        said: list[Any] = []

        async def send(message: Any) -> None:
            said.append(message)

        async def receive() -> Any:
            pytest.fail("it was read")

        await lab(scope, receive, send)
        return said[0].get("status", "closed")

    async def all_of_it() -> None:
        assert [await one("a", size) for size in ("", "-1", "101", "100")] == [411, 411, 413, 204]
        held.update(a=100)
        assert [await one(*asked) for asked in (("a", "1"), ("b", "50"))] == [413, 204]
        assert ended == []
        assert await one("b", "51") == 204  # the other held more, and ended
        assert ended == ["a"]
        here = [asyncio.create_task(one(None)) for _ in range(2)]
        await asyncio.sleep(0)
        assert await one(None) == "closed"
        there = [asyncio.create_task(one(None, address="10.0.0.2"))]
        await asyncio.sleep(0)
        assert await one(None, address="10.0.0.2") == "closed"
        opened.set()
        await asyncio.gather(*here, *there)
        assert await one(None) == 204

    asyncio.run(all_of_it())


@pytest.mark.parametrize("moment", [1e308, -1e308, float("inf"), float("nan")])
def test_no_packet_has_a_time_that_no_clock_has(moment: float) -> None:
    chunk = {"sequence": 0, "frame": 0, "captured": moment, "pcm": ""}
    packet = {"packet": 0, "stream": "s", "rate": 48_000, "sent": 0.0, "state": "listening"}
    with pytest.raises(ValueError, match="a time or a rate is no number"):
        microphone.parse({**packet, "chunks": [chunk]})


def test_the_address_that_is_printed_lets_its_owner_in() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "qmoe_core", "app", "--no-browser", "--port", str(port)]
    environment = {k: v for k, v in os.environ.items() if k != "QMOE_TOKEN"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = next(line for line in server.stdout if "token=" in line)
            address = line.split()[-1]
            assert re.fullmatch(rf"http://localhost:{port}/\?token=[\w-]{{32,}}", address)
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            with opener.open(address, timeout=60) as page:
                assert (page.status, page.url) == (200, f"http://localhost:{port}/")
        finally:
            server.terminate()
            server.wait()


def test_leaving_the_machine_without_public_is_said(started: list[str], capsys) -> None:
    cli.main(["app", "--no-browser", "--address", "0.0.0.0"])
    assert "whoever reaches 0.0.0.0 can use this machine’s microphone" in capsys.readouterr().err

    started.clear()
    cli.main(["app", "--no-browser", "--public"])
    assert started[started.index("--server.address") + 1] == "localhost"  # a proxy's place is before it
    assert started[-1] == "--public"
    assert capsys.readouterr().err == ""


def test_a_public_lab_has_no_bucket(started: list[str], capsys, bucket: str, monkeypatch) -> None:
    monkeypatch.setenv("QMOE_STORE", bucket)
    cli.main(["app", "--no-browser"])
    assert started
    started.clear()
    assert cli.main(["app", "--no-browser", "--public"]) == 2
    assert "visitors cannot be kept apart; set QMOE_STORE to a folder" in capsys.readouterr().err
    assert started == []


def test_a_visitors_store_reads_what_is_published_and_adds_nothing_to_it(tmp_path: Path) -> None:
    lab, visitor = Store(tmp_path), Store(tmp_path / VISITORS / "0a1b")
    lab.put("experts", {"of": "the lab"}, {"w": np.zeros(2)})

    visitor.put("experts", {"of": "a visitor"}, {"w": np.ones(2)})

    assert [entry.fields["of"] for entry in visitor.list("experts")] == ["the lab", "a visitor"]
    assert visitor.get("experts", {"of": "the lab"}) is not None
    assert [entry.fields["of"] for entry in lab.list()] == ["the lab"]
    assert lab.get("experts", {"of": "a visitor"}) is None
    assert visitor.gc(0).entries[0].fields == {"of": "a visitor"}
    assert len(lab.list()) == 1


def test_pages_unpickle_and_evaluate_nothing() -> None:
    for path in [*(ROOT / "dashboard").rglob("*.py"), *(ROOT / "pages").glob("*.py")]:
        assert not imports(path, everywhere=True) & {"pickle", "joblib", "dill", "shelve", "marshal"}, path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), path
            if isinstance(node, ast.keyword) and node.arg in ("unsafe_allow_html", "unsafe_allow_javascript"):
                pytest.fail(f"{path}:{node.value.lineno}: {node.arg}")


def test_every_test_that_security_md_names_is_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")

    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)

    assert len(named) > 20
    for file, name in named:
        assert name == "" or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), (file, name)
