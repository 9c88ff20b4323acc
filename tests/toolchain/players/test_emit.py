"""`teco emit`: what is written, what is refused, and that a folder is whole or not there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from teco.cli.watch.emit import SUMMARIES
from teco.core.errors import TecoError
from teco.model.opening import open_model
from teco.players import TARGETS, find, native
from teco.players.base import EmitRequest, accepts, card_of, licence_text
from teco.players.emit import MARK, write

pytestmark = pytest.mark.usefixtures("fake_ort_web")
EACH = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)


def request_of(model: str) -> EmitRequest:
    return EmitRequest(
        model=open_model(model), spec=model, runtime="onnxruntime", threads=2, pre_roll=4
    )


def test_help_knows_every_target(teco) -> None:
    assert {t.name: t.summary for t in TARGETS} == SUMMARIES
    said = " ".join(teco("emit", "--help").stdout.decode().split())
    for name, summary in SUMMARIES.items():
        assert f"{name} {summary}" in said


@EACH
def test_a_folder_is_complete(target, tmp_path: Path, monkeypatch) -> None:
    """Model, manifest, weights beside it, licence, card, README; and the model opens there."""
    # What is compiled is run in test_frei0r.py, which is slow.
    monkeypatch.setattr(native, "compiled", lambda *_: b"a plugin")
    folder = tmp_path / "out"
    said = write(target, request_of("live"), folder, force=False, check=False)
    assert said == "not checked, as asked"
    emission = target.emission(request_of("live"))
    assert (folder / emission.main).is_file()
    for name in emission.files:
        assert (folder / name).is_file(), name
    if emission.with_model:
        assert open_model(str(folder / "live.onnx")).variant == open_model("live").variant
    assert "Apache License" in (folder / "LICENSE").read_text()
    assert "live" in (folder / "MODEL.md").read_text()
    readme = (folder / "README.md").read_text()
    for command in emission.commands:
        assert command in readme
    # The index may have another package of that name, or none: see install_elsewhere().
    for line in re.findall(r"^.*\b(?:pip|npm|uv) (?:install|add) .*$", readme, re.MULTILINE):
        assert not re.search(r"\bteco(\[\w+\])?(\s|'|\"|`|$)(?! @)", line.split("#")[0]), line
    assert json.loads((folder / MARK).read_text())["target"] == target.name
    assert (folder.stat().st_mode & 0o777) == 0o755
    # It does not say where it was made.
    for path in folder.rglob("*"):
        if path.suffix in (".vpy", ".conf", ".md", ".json", ".html", ".js"):
            assert str(tmp_path) not in path.read_text(), path


@EACH
def test_stdout_is_the_script_or_a_request_for_a_folder(target, teco) -> None:
    done = teco("emit", target.name)
    text = target.text(request_of("live"))
    if text is None:
        done.refuses(2, "is a folder", "-o DIR")
    else:
        done.says()
        assert done.stdout.decode() == target.text(
            EmitRequest(model=open_model("real-cpu"), spec="real-cpu")
        )


def test_the_script_says_what_was_asked(teco, tiny_onnx, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tiny_onnx.parent)
    done = teco("emit", "vapoursynth", "--model", "tiny.onnx", "--pre-roll", 16, "--threads", 3,
                "--runtime", "openvino")  # fmt: skip
    script = done.stdout.decode()
    compile(script, "sr.vpy", "exec")
    # From wherever it is run: the file's own place, not one relative to this folder.
    assert f"model={str(tiny_onnx)!r}, runtime='openvino', threads=3, pre_roll=16" in script
    older = teco("emit", "vapoursynth", "--model", "tiny.onnx", "--warm-up", 16)
    assert "pre_roll=16" in older.stdout.decode()
    assert b"--warm-up" not in teco("emit", "--help").stdout


def test_an_unknown_target(teco) -> None:
    teco("emit", "vlc").refuses(2, "no emit target is called 'vlc'", "vapoursynth, mpv")


def test_weights_cannot_be_emitted(teco, tiny_weights, tmp_path) -> None:
    done = teco("emit", "vapoursynth", "--model", tiny_weights, "-o", tmp_path / "out")
    done.refuses(2, "players open ONNX files", "teco export")
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_replaced_only_if_teco_made_it(teco, tmp_path) -> None:
    out = tmp_path / "out"
    emit = ("emit", "mpv", "--model", "live", "--no-check", "-o", out)
    teco(*emit).says("not checked, as asked")
    teco(*emit).refuses(2, "exists already", "--force")
    (out / "stale").write_text("of before")
    teco(*emit, "--force").says()
    assert not (out / "stale").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    teco(*emit[:-1], mine, "--force").refuses(2, "holds files that teco did not emit")
    assert [p.name for p in mine.iterdir()] == ["thesis.txt"]


def test_places_that_cannot_be_written(teco, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    emit = ("emit", "mpv", "--model", "live", "--no-check", "-o")
    teco(*emit, tmp_path / "none" / "out").refuses(2, "does not exist", "mkdir -p")
    teco(*emit, tmp_path / "file").refuses(2, "is a file, expected a folder")
    empty = tmp_path / "empty"
    empty.mkdir()
    teco(*emit, empty).says()


def test_what_is_not_accepted_does_not_appear(tmp_path, monkeypatch) -> None:
    target = find("mpv")

    def refuse(*_: object) -> str:
        raise TecoError("teco.conf was not accepted by mpv: line 3")

    monkeypatch.setattr(type(target), "check", refuse)
    with pytest.raises(TecoError, match="line 3"):
        write(target, request_of("live"), tmp_path / "out", force=False, check=True)
    assert not list(tmp_path.iterdir())


def test_a_program_that_refuses_is_quoted() -> None:
    said = accepts(["sh", "-c", "echo fine"], "it")
    assert said == "fine\n"
    with pytest.raises(TecoError, match="it was not accepted by sh: no such filter"):
        accepts(["sh", "-c", "echo no such filter >&2; exit 3"], "it")


def test_programs_that_are_absent_are_said_to_be(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    for name in ("vapoursynth", "mpv"):
        out = tmp_path / name
        assert "not tried" in write(find(name), request_of("live"), out, force=False, check=True)


def test_a_stock_mpv_is_said_to_lack_the_filter(tmp_path, monkeypatch) -> None:
    fake = tmp_path / "mpv"
    fake.write_text("#!/bin/sh\necho '  scale: software scaler'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + ":/bin:/usr/bin")
    assert shutil.which("mpv") == str(fake)
    said = find("mpv").check(tmp_path, request_of("live"))
    assert "without the VapourSynth filter" in said


def test_the_licence_is_found() -> None:
    assert "Apache License" in licence_text()


HOSTILE = ('x"""+str(open("pwned","w"))+"""', "a\nscript=evil.lua\n#", "$(touch pwned)")


@pytest.mark.parametrize("stem", HOSTILE, ids=["python", "newline", "shell"])
@pytest.mark.parametrize("name", ["vapoursynth", "mpv"])
def test_a_files_name_becomes_no_code(name, stem, tmp_path) -> None:
    """It may be anything; in scripts, profiles and README it is letters, digits, . + - and _."""
    shipped = open_model("live")
    assert shipped.onnx is not None
    model = tmp_path / f"{stem}.onnx"
    shutil.copy(shipped.onnx, model)
    shutil.copy(shipped.onnx.with_suffix(".json"), tmp_path / f"{stem}.json")
    shutil.copy(shipped.onnx.with_suffix(".safetensors"), tmp_path)
    request = EmitRequest(model=open_model(str(model)), spec=str(model))
    write(find(name), request, tmp_path / "out", force=False, check=False)
    for path in (tmp_path / "out").iterdir():
        assert path.name.isprintable()
        if path.suffix in (".vpy", ".conf", ".md"):
            assert stem not in path.read_text(), path
            assert "\nscript=" not in path.read_text()
    (emitted,) = (tmp_path / "out").glob("*.onnx")
    assert open_model(str(emitted)).variant == shipped.variant


def test_the_card_belongs_to_the_shipped_file(tmp_path) -> None:
    """Not to whatever is called so."""
    shipped = open_model("live")
    assert shipped.onnx is not None
    for suffix in (".onnx", ".json", ".safetensors"):
        shutil.copy(shipped.onnx.with_suffix(suffix), tmp_path)
    own = str(tmp_path / "live.onnx")
    assert card_of(open_model(own)) is not None
    beside = tmp_path / "live.json"
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {"weights_sha256": "0" * 64}))
    assert card_of(open_model(own)) is None
