"""`teco emit web` and `teco serve` without a browser: files, server, onnxruntime-web, errors."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import carried_over
import javascript
import pytest
from paths import ROOT
from web_page import serve

from teco.core.errors import TecoError
from teco.model.opening import open_model
from teco.players.web import onnxruntime_web, trial
from teco.players.web.onnxruntime_web import FILES, VERSION
from teco.players.web.server import Server
from teco.players.web.site import site, web_models

PAGE = Path(onnxruntime_web.__file__).parent / "page"


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    at = urlsplit(server.url)
    connection = http.client.HTTPConnection(str(at.hostname), at.port or 0, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        answer.body = answer.read()  # type: ignore[attr-defined]
        return answer


# --- the folder ------------------------------------------------------------------------------


def test_emit_writes_a_complete_folder(teco, tmp_path, fake_ort_web) -> None:
    out = tmp_path / "page"
    teco("emit", "web", "-o", out, "--no-check").says("a page for browsers")
    listed = json.loads((out / "site.json").read_text())
    assert listed["models"][0]["name"] == "real-cpu", "the real-time model is the one to begin with"
    names = [x["name"] for x in listed["models"]]
    ordinary = ["real-cpu", "real-cpu-textured", "real-cpu-x2"]
    assert names[:3] == ordinary, "what is for clips comes first"
    assert "teco-x4-b3-c64-bp-lk" in names
    assert len({x["title"] for x in listed["models"]}) == len(names)
    groups = {x["name"]: x["group"] for x in listed["models"]}
    assert not {groups[name] for name in ordinary} & {groups[name] for name in names[3:]}
    assert listed["runtime"] == "9.9.9"
    for model in listed["models"]:
        opened = open_model(str(out / model["file"]))  # hashes, weights and manifest agree
        kind = model["name"].partition("-")[0]
        assert model["gap"] == {"real": 4, "bd": 4, "live": 8}.get(kind, 0)
        assert str(f"{opened.variant.cost(180, 320).params['total']:,}") in model["about"]
    for name in listed["shell"]:
        assert (out / name).is_file(), name
    licence = (out / "licences" / "onnxruntime-web.txt").read_text()
    assert "MIT" in licence
    assert "Copyright (c) Microsoft Corporation" in licence
    assert "Apache License" in (out / "LICENSE").read_text()
    readme = (out / "README.md").read_text()
    assert "teco serve ." in readme
    assert 'new URL("models/real-cpu-web.onnx"' in readme
    assert {p.name for p in (out / "ort").iterdir()} == set(FILES)


def test_everything_a_page_names_is_there(tmp_path, fake_ort_web) -> None:
    files = site(web_models("live"), onnxruntime_web.find())
    shipped = {
        p.name
        for p in PAGE.iterdir()
        if p.suffix in {".js", ".css", ".html", ".svg", ".wasm", ".mp4"}
    }
    assert shipped <= set(files), "a file of the page is not in its table"
    html = (PAGE / "index.html").read_text()
    named = set(re.findall(r'(?:src|href)="([^"#:]+)"', html))
    for script in PAGE.glob("*.js"):
        named |= set(re.findall(r'(?:from |import\()"\./([^"]+)"', script.read_text()))
    assert named - {"README.md"} <= set(files)
    # What the page loads of onnxruntime-web is what is fetched of it.
    text = (PAGE / "session.js").read_text()
    assert set(re.findall(r'"(ort[^"]+\.(?:mjs|wasm))"', text)) == set(FILES)


def test_policy_of_page_and_server_are_one() -> None:
    from teco.players.web.server import HEADERS

    html = (PAGE / "index.html").read_text()
    match = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert match is not None
    assert HEADERS["Content-Security-Policy"] == f"{match[1]}; frame-ancestors 'none'"


def test_one_version_of_onnxruntime_web() -> None:
    package = json.loads((PAGE.parent / "package.json").read_text())
    assert package["devDependencies"]["onnxruntime-web"] == VERSION


@pytest.mark.slow
def test_own_model_is_alone(tiny_web, fake_ort_web) -> None:
    assert [m.name for m in web_models(str(tiny_web))] == ["tiny"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("teco-x4-b10-c64-bp-lk", ("not shipped in a form for browsers", "--for web")),
        ("onnx", ("tiny was exported for onnxruntime", "--for web")),
    ],
)
def test_models_in_other_forms_are_refused(
    teco, tmp_path, fake_ort_web, tiny_onnx, model, words
) -> None:
    spec = tiny_onnx if model == "onnx" else model
    teco("emit", "web", "--model", spec, "-o", tmp_path / "page").refuses(2, *words)
    assert not (tmp_path / "page").exists()


def test_options_of_other_players_are_refused(teco, tmp_path, fake_ort_web) -> None:
    out = tmp_path / "page"
    teco("emit", "web", "--threads", 2, "-o", out).refuses(2, "the page has choices of its own")
    assert not out.exists()


def test_emit_wants_a_folder(teco, fake_ort_web) -> None:
    teco("emit", "web").refuses(2, "-o DIR")


def test_the_sample_is_the_example_clip() -> None:
    """One clip, which examples/README.md says where from."""
    assert (PAGE / "sample.mp4").read_bytes() == (ROOT / "examples" / "city.mp4").read_bytes()


# --- what is lost ----------------------------------------------------------------------------


def losses(**facts: object) -> list[str]:
    """What the page says of a clip of 320x180 that is shown as it is, but for these facts."""
    size = {"width": 320, "height": 180}
    whole = {
        "shown": 10, "dropped": 0, "clip": size, "from": size, "height": 720, "rate": 1,
        "tracks": {"picture": 1, "sound": 1, "subtitles": 0}, "silenced": False,
        "soundless": False, "hdr": False, "slow": False, "secure": True,
    }  # fmt: skip
    return javascript.run_module(
        f"""
        import {{ losses }} from {json.dumps((PAGE / "lost.js").as_uri())};
        import {{ readFileSync }} from "node:fs";
        console.log(JSON.stringify(losses(JSON.parse(readFileSync(0, "utf8")))));
        """,
        whole | facts,
    )


def test_nothing_is_lost() -> None:
    assert losses() == []
    assert losses(tracks=None, height=0) == []


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"dropped": 30}, "30 frames left out (75 %)"),
        ({"rate": 0.5}, "0.50 of its speed"),
        ({"silenced": True}, "Sound is off"),
        ({"soundless": True}, "does not play"),
        ({"hdr": True}, "HDR"),
        ({"tracks": {"picture": 1, "sound": 1, "subtitles": 1}}, "subtitles are not shown"),
        ({"tracks": {"picture": 1, "sound": 3, "subtitles": 0}}, "One of 3 tracks of sound"),
        ({"slow": True}, "load the page again"),
        ({"slow": True, "secure": False}, "by plain http"),
        ({"clip": {"width": 640, "height": 360}}, "Shrunk from 640×360 to 320×180"),
        ({"clip": {"width": 1280, "height": 720}}, "no larger than the clip"),
    ],
)
def test_a_loss_is_told(facts, words) -> None:
    (said,) = losses(**facts)
    assert words in said


def tracks_of(*files: Path) -> list[dict[str, int] | None]:
    return javascript.run_module(
        f"""
        import {{ tracksOf }} from {json.dumps((PAGE / "tracks.js").as_uri())};
        import {{ readFileSync }} from "node:fs";
        const names = JSON.parse(readFileSync(0, "utf8"));
        const found = names.map((name) => tracksOf(new Blob([readFileSync(name)])));
        console.log(JSON.stringify(await Promise.all(found)));
        """,
        [str(file) for file in files],
    )


@pytest.mark.parametrize("route", carried_over.ROUTES[:4], ids=str)
def test_tracks_are_counted(tmp_path, make_clip, route) -> None:
    """With the table of contents first and last; chapters and covers are no subtitles."""
    suffix = route.into.removeprefix(".").replace("webm", "mkv")
    whole = carried_over.fill(tmp_path / f"full{route.into}", route)
    plain = make_clip(tmp_path / f"plain.{suffix}", audio=True)
    silent = make_clip(tmp_path / f"silent.{suffix}", faststart=suffix != "mkv")
    sound = make_clip(tmp_path / f"sound.{suffix}", audio=True, picture=False)
    assert tracks_of(whole, plain, silent, sound) == [
        {"picture": 1, "sound": 2, "subtitles": 1},
        {"picture": 1, "sound": 1, "subtitles": 0},
        {"picture": 1, "sound": 0, "subtitles": 0},
        {"picture": 0, "sound": 1, "subtitles": 0},
    ]


def test_tracks_of_what_is_no_clip_are_not_known(tmp_path, make_clip) -> None:
    clips = [make_clip(tmp_path / f"clip.{suffix}") for suffix in ("mp4", "mkv", "avi")]
    cut = [tmp_path / f"cut{clip.suffix}" for clip in clips]
    for clip, short in zip(clips, cut, strict=True):
        short.write_bytes(clip.read_bytes()[: 40 if clip.suffix == ".mkv" else 400])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "zeros.mp4").write_bytes(bytes(100))
    (tmp_path / "text.mp4").write_text("no clip, but longer than eight bytes")
    others = [tmp_path / name for name in ("empty.mp4", "zeros.mp4", "text.mp4")]
    assert tracks_of(*cut, clips[2], *others) == [None] * 7


def test_boxes_that_reach_beyond_their_parent_are_not_read_over_and_over(tmp_path) -> None:
    """Each of these holds all that follow, by its own word: 2^60 readings."""
    box = struct.pack(">I4s", 8, b"trak") + struct.pack(">I4s", 2**16, b"trak")
    moov = box * 60
    hostile = tmp_path / "hostile.mp4"
    hostile.write_bytes(
        struct.pack(">I4s8x", 16, b"ftyp") + struct.pack(">I4s", 8 + len(moov), b"moov") + moov
    )
    nested = tmp_path / "nested.mp4"
    inner = b"".join(struct.pack(">I4s", 16 + 4096, b"trak") + bytes(8) for _ in range(60))
    nested.write_bytes(
        struct.pack(">I4s8x", 16, b"ftyp") + struct.pack(">I4s", 8 + len(inner), b"moov") + inner
    )
    none = {"picture": 0, "sound": 0, "subtitles": 0}
    assert tracks_of(hostile, nested) == [none, none]


# --- onnxruntime-web -------------------------------------------------------------------------


def test_a_named_folder_without_the_files(teco, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TECO_ORT_WEB", str(tmp_path))
    teco("emit", "web", "-o", tmp_path / "page").refuses(
        2, f"TECO_ORT_WEB names {tmp_path}", "does not hold", f"onnxruntime-web@{VERSION}"
    )
    teco("serve", "--ort-web", tmp_path / "none").refuses(2, "--ort-web names", "does not exist")


def fake_program(path: Path, script: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{script}")
    path.chmod(0o755)
    return path


def test_nothing_kept_and_no_network(teco, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("TECO_ORT_WEB", raising=False)
    monkeypatch.setenv("TECO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_registry", (tmp_path / "offline").as_uri())
    teco("emit", "web", "-o", tmp_path / "page").refuses(
        3, f"onnxruntime-web {VERSION} is needed and could not be fetched", "TECO_ORT_WEB",
        "teco fetch web --from", after=("onnxruntime-web",),
    )  # fmt: skip
    assert not (tmp_path / "page").exists()


# --- the server ------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "index.html").write_text("<p>page")
    (folder / "a.wasm").write_bytes(b"\0asm")
    (folder / "m.mjs").write_text("")
    (folder / ".secret").write_text("no")
    (folder / "sub").mkdir()
    (tmp_path / "outside.txt").write_text("no")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    with serve(folder) as running:
        yield running


def test_headers_and_types(server) -> None:
    answer = ask(server, "/")
    assert answer.status == 200
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Python" not in (answer.headers["Server"] or "")
    assert ask(server, "/a.wasm").headers["Content-Type"] == "application/wasm"
    assert ask(server, "/m.mjs").headers["Content-Type"].startswith("text/javascript")
    same = ask(server, "/", **{"If-Modified-Since": answer.headers["Last-Modified"]})
    assert same.status == 304
    assert ask(server, "/", "HEAD").status == 200
    assert ask(server, "/", "POST").status == 501


@pytest.mark.parametrize(
    "path",
    [
        "/../outside.txt",
        "/%2e%2e/outside.txt",
        "/.secret",
        "/link.txt",
        "/sub/",
        "/none",
        "//etc/passwd",
        "/%00",
    ],
)
def test_nothing_but_the_folder_is_served(server, path) -> None:
    answer = ask(server, path)
    assert answer.status == 404
    assert answer.body != b"no"  # type: ignore[attr-defined]
    assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8360", 200),
        ("127.0.0.1", 200),
        ("[::1]:8360", 200),
        ("evil.example:8360", 421),
        ("127.0.0.1.evil.example", 421),
        ("192.168.1.2", 421),
        ("[", 421),
    ],
)
def test_only_names_of_this_machine_are_answered(server, host, status) -> None:
    """DNS rebinding: a page elsewhere whose name points here is not given the folder."""
    answer = ask(server, "/", Host=host)
    assert answer.status == status
    assert (answer.body == b"<p>page") == (status == 200)  # type: ignore[attr-defined]


def test_a_server_for_others_answers_to_every_name(tmp_path) -> None:
    (tmp_path / "index.html").write_text("<p>page")
    with serve(tmp_path, host="0.0.0.0") as wide:
        assert ask(wide, "/", Host="box.lan:8360").status == 200


def test_loopback_unless_told_otherwise(server) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.is_local
    with Server(Path(server_folder(server)), "0.0.0.0", 0) as wide:
        assert not wide.is_local


def server_folder(server: Server) -> str:
    return server.RequestHandlerClass.keywords["directory"]  # type: ignore[attr-defined]


def test_a_taken_port(teco, server) -> None:
    port = server.server_address[1]
    teco("serve", server_folder(server), "--port", port).refuses(
        2, f"cannot listen on 127.0.0.1 port {port}", "--port 0"
    )


def test_a_folder_without_a_page(teco, tmp_path) -> None:
    teco("serve", tmp_path).refuses(2, "holds no index.html", "teco emit web")
    teco("serve", tmp_path, "--model", "live").refuses(2, "--model", "is made already")


def test_serve_says_where_and_ends_by_ctrl_c(fake_ort_web, teco_environment) -> None:
    """The command itself, which makes a page for as long as it runs."""
    environment = {**teco_environment, "TECO_ORT_WEB": str(fake_ort_web)}
    running = subprocess.Popen(
        [sys.executable, "-m", "teco", "serve", "--port", "0"], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert running.stdout is not None
        url = running.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        at = urlsplit(url)
        connection = http.client.HTTPConnection(str(at.hostname), at.port or 0, timeout=10)
        connection.request("GET", "/site.json")
        assert json.loads(connection.getresponse().read())["models"][0]["name"] == "real-cpu"
        connection.close()
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=20)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 0, said
    assert "Traceback" not in said


# --- the trial -------------------------------------------------------------------------------


def test_trial_hears_what_the_page_says(tmp_path) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "index.html").write_text("")
    visit = (
        "import sys, urllib.request as u\n"
        "url = sys.argv[-1]; base = url.rsplit('/', 1)[0]\n"
        "assert b'teco-trial.js' in u.urlopen(url).read()\n"
        "assert b'width: 24, height: 16' in u.urlopen(base + '/teco-trial.js').read()\n"
        "u.urlopen(base + '/teco-trial-says?' + WORD).read()\n"
        "import time; time.sleep(60)\n"
    )
    for word, refused in (("'yes'", False), ("'it%20is%20damaged'", True)):
        program = fake_program(tmp_path / "browser", visit.replace("WORD", word))
        expected = (
            pytest.raises(TecoError, match="it is damaged") if refused else contextlib.nullcontext()
        )
        with expected:
            trial.trial(str(program), folder, (16, 24))


def test_trial_of_a_browser_that_ends_at_once(tmp_path) -> None:
    (tmp_path / "index.html").write_text("")
    program = fake_program(tmp_path / "browser", "import sys; sys.exit(7)")
    with pytest.raises(TecoError, match="it ended with code 7"):
        trial.trial(str(program), tmp_path, (16, 24))
    assert os.access(tmp_path, os.R_OK)
