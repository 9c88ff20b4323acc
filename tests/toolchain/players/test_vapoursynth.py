"""The VapourSynth filter, in the real VapourSynth."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from embeddings import read_video
from paths import SUPPORT
from vapoursynth_home import Home, home

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def at() -> Home:
    found = home()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture(scope="module")
def static_onnx(tmp_path_factory, tiny_weights) -> Path:
    from teco.exporting.onnx import ExportOptions, export_onnx
    from teco_models.checkpoint import load_weights

    folder = tmp_path_factory.mktemp("static")
    return export_onnx(load_weights(tiny_weights), folder, ExportOptions(name="s", size=(32, 48)))


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    return (done.stdout + done.stderr).decode()


def test_inside(at: Home, tiny_onnx: Path, static_onnx: Path, tmp_path: Path) -> None:
    """tests/inside_vapoursynth.py, in that Python."""
    done = at.run(
        at.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest",
        "-o", "addopts=", f"--basetemp={tmp_path / 'inside'}", SUPPORT / "inside_vapoursynth.py",
        TECO_TEST_MODEL=str(tiny_onnx), TECO_TEST_STATIC=str(static_onnx),
    )  # fmt: skip
    assert done.returncode == 0, said(done)
    assert " passed" in said(done)
    assert "skipped" not in said(done)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_the_same_ycbcr_as_the_command(
    at: Home, pix_fmt: str, tmp_path: Path, tiny_onnx: Path, make_clip, texture, run_teco
) -> None:
    """Matrix and range are undone and redone the way `teco upscale` does it, bit for bit."""
    clip = make_clip(tmp_path / "in.mkv", pixels=texture(6, 48, 32), codec="ffv1", pix_fmt=pix_fmt)
    script = run_teco("emit", "vapoursynth", "--model", tiny_onnx, "--runtime", "onnxruntime",
                      "--threads", 1)  # fmt: skip
    script.says()
    (tmp_path / "sr.vpy").write_bytes(script.stdout)
    done = at.run(
        at.vspipe, "-a", f"source={clip}", "-c", "y4m", tmp_path / "sr.vpy", tmp_path / "vs.y4m"
    )
    assert done.returncode == 0, said(done)
    run_teco("upscale", clip, tmp_path / "teco.y4m", "--model", tiny_onnx, "--runtime",
             "onnxruntime", "--threads", 1, "--pix-fmt", pix_fmt).says()  # fmt: skip
    found, expected = read_video(tmp_path / "vs.y4m"), read_video(tmp_path / "teco.y4m")
    assert len(found) == 6
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_emitted_folder_is_accepted_and_plays(
    at: Home, tmp_path: Path, make_clip, run_teco, monkeypatch
) -> None:
    path = f"{Path(at.vspipe).parent}:/usr/bin:/bin"
    for name, value in (("PATH", path), ("XDG_CONFIG_HOME", at.environment["XDG_CONFIG_HOME"]),
                        ("PYTHONPATH", at.environment["PYTHONPATH"])):  # fmt: skip
        monkeypatch.setenv(name, value)
    from teco.model.opening import open_model
    from teco.players import find
    from teco.players.base import EmitRequest
    from teco.players.emit import write

    monkeypatch.setattr("teco.players.vapoursynth.sys.executable", "/nowhere/python")
    request = EmitRequest(model=open_model("live"), spec="live", runtime="onnxruntime", threads=1)
    folder = tmp_path / "folder"
    assert "ran it" in write(find("vapoursynth"), request, folder, force=False, check=True)
    moved = folder.rename(tmp_path / "elsewhere")
    clip = make_clip(tmp_path / "in.mp4", width=48, height=32, frames=3)
    done = at.run(at.vspipe, "-a", f"source={clip}", moved / "sr.vpy", ".")
    assert done.returncode == 0, said(done)
    assert "3 frames" in said(done)


def test_a_script_without_a_clip_says_what_to_add(at: Home, tmp_path: Path, run_teco) -> None:
    (tmp_path / "sr.vpy").write_bytes(run_teco("emit", "vapoursynth").stdout)
    done = at.run(at.vspipe, tmp_path / "sr.vpy", ".")
    assert done.returncode != 0
    assert "-a source=FILE" in said(done)
