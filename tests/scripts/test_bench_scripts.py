"""What the benchmarks in scripts/ make of a peer that fails and of a runtime that is not there."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from paths import SCRIPTS

from teco.core.errors import TecoError

pytest.importorskip("torch")


def script(name: str) -> ModuleType:
    path = SCRIPTS / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "big"], "--size is big, expected HEIGHTxWIDTH"),
        (["--size", "0x320"], "--size is 0x320, expected HEIGHTxWIDTH"),
        (["--runtimes", "abacus"], "no runtime is called 'abacus'"),
        (["--runtimes", "onnxruntime"], "nothing was measured: none of onnxruntime can run here"),
        (["--teacher", "mine"], "mine"),
    ],
)
def test_the_cost_model_is_not_passed_unmeasured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments, words: str
) -> None:
    bench = script("bench_cost_model")
    from teco.runtimes import find

    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(type(find("onnxruntime")), "why_unavailable", lambda _: "it is not here")
    monkeypatch.setattr(bench, "calibrate", never)
    monkeypatch.setattr(sys, "argv", ["bench_cost_model.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code not in (0, None)
    assert words in f"{ended.value.code} {capsys.readouterr().err}"


def test_the_size_of_pictures_is_the_streams_own() -> None:
    live = script("bench_live")
    assert live.picture_bytes(b"YUV4MPEG2 W1280 H720 F25:1 Ip C420\n") == 1280 * 720 * 3 // 2
    assert live.picture_bytes(b"YUV4MPEG2 W5 H3 F25:1 Ip C420\n") == 15 + 2 * 3 * 2
    for bad in (b"", b"usage: teco", b"YUV4MPEG2 W12\n", b"YUV4MPEG2 Wx Hy\n"):
        with pytest.raises(TecoError, match="expected a y4m header"):
            live.picture_bytes(bad)
    assert len(live.picture_times(io.BytesIO(2 * (b"FRAME\n" + b"\n" * 6)), 6)) == 2
    for bad in (b"FRAME\n12345", b"NOISE\n123456"):
        with pytest.raises(TecoError, match="picture 0 of teco upscale is not 6 bytes"):
            live.picture_times(io.BytesIO(bad), 6)


def test_playback_that_fails_or_is_too_short_is_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    live = script("bench_live")
    stream = "sys.stdout.write('YUV4MPEG2 W4 H4 F25:1\\n' + {} * ('FRAME\\n' + 24 * 'x'))"
    real = subprocess.Popen
    program = ""

    def other(_command: object, **fields: Any) -> subprocess.Popen[bytes]:
        return real([sys.executable, "-c", f"import sys; {program}"], **fields)

    monkeypatch.setattr(live.subprocess, "Popen", other)
    program = stream.format(9)
    assert len(live.playback("m", "r", Path("c"), 2)) == 2 * 3
    program = stream.format(9) + "; sys.exit('it broke')"
    with pytest.raises(TecoError, match="ended with 1: it broke"):
        live.playback("m", "r", Path("c"), 1)
    program = "sys.exit('no such model')"
    with pytest.raises(TecoError, match="ended with 1: no such model"):
        live.playback("m", "r", Path("c"), 1)
    program = stream.format(6)
    with pytest.raises(TecoError, match="c gave 6 pictures, expected 7 or more"):
        live.playback("m", "r", Path("c"), 1)
