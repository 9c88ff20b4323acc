"""What people type at first: each mistake is answered with what to type next."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

CLIP = "in.mp4"

MISTAKES = [
    # the wrong order, the wrong thing, a missing thing
    ("upscale other.mp4 in.mp4", "the clip comes first: teco upscale in.mp4 other.mp4"),
    ("upscale in.mp4", "Missing argument 'OUT'"),
    ("upscale in.mp4 in.mp4", "give the output another name"),
    ("upscale im.mp4 out.mp4", "check the spelling"),
    ("upscale notes.txt out.mp4", "file notes.txt"),
    ("upscale in.mp4 nowhere/out.mp4", "mkdir -p nowhere"),
    ("upscale in.mp4 out.mp5", ".mp4, .webm"),
    ("upscale in.mp4 out.mp5", ".jpg"),
    ("upscale https://a.b/in.mp4?x&y out.mp4", "ffmpeg -i 'https://a.b/in.mp4?x&y' -c copy"),
    ("upscale in.mp4 out.png", "--frames 1 takes the first"),
    ("upscale in.mp4 notes.txt", ".mkv"),
    ("bench in.mp4", "teco upscale in.mp4 OUT"),
    ("play", "Missing argument 'CLIP'"),
    ("eval", "Missing option '--clip'"),
    ("info", "teco info --blocks 3"),
    ("train", "--data DIR"),
    ("verify notes.txt", "shipped models: real-cpu"),
    ("export", "teco export --blocks 3"),
    ("export --blocks 4", "there are 10, 7, 5, 3, 1"),
    ("export live --model real-cpu", "give one"),
    # misspelt commands and options, and the words of other tools
    ("upsale in.mp4 out.mp4", "Did you mean upscale?"),
    ("benhc", "Did you mean bench?"),
    ("model", "Did you mean models?"),
    ("enlarge in.mp4 out.mp4", "Did you mean upscale?"),
    ("benchmark", "Did you mean bench?"),
    ("frobnicate", "`teco --help` lists all"),
    ("upscale in.mp4 out.mp4 --scalee 2", "'--scale'"),
    ("upscale in.mp4 out.mp4 --resolution 1080p", "Did you mean '--to'?"),
    ("upscale in.mp4 out.mp4 --size 1080p", "Did you mean '--to'?"),
    ("upscale in.mp4 out.mp4 --gpu", "Did you mean '--runtime'?"),
    ("upscale in.mp4 out.mp4 --fps 30", "Did you mean '--rate'?"),
    ("upscale in.mp4 out.mp4 --encoder libx265", "Did you mean '--codec'?"),
    ("upscale in.mp4 out.mp4 -y", "Did you mean '--force'?"),
    ("export --block 3", "Did you mean '--blocks'?"),
    ("export --blocks 3 --half", "Did you mean '--fp16'?"),
    ("bench --network live", "No such option '--network'"),
    # misspelt names and values
    ("upscale in.mp4 out.mp4 --model real_cpu", "did you mean real-cpu?"),
    ("upscale in.mp4 out.mp4 --model b3", "teco models --all"),
    ("upscale in.mp4 out.mp4 --model mine.plan", "check the path"),
    ("upscale in.mp4 out.mp4 --runtime openvno", "did you mean openvino?"),
    ("upscale in.mp4 out.mp4 --runtime cuda", "onnxruntime-cuda"),
    ("upscale in.mp4 out.mp4 --codec h265", "did you mean libx265?"),
    ("upscale in.mp4 out.mp4 --preset quick", "veryfast"),
    ("upscale in.mp4 out.mp4 --pix-fmt yuv42p", "yuv420p"),
    ("upscale in.mp4 out.mp4 --quality high", "'fast', 'balanced', 'best'"),
    ("upscale in.mp4 out.mp4 --look sharp", "'faithful', 'textured'"),
    ("upscale in.mp4 out.mp4 --scale 3", "expected 2 or 4"),
    ("upscale in.mp4 out.mp4 --runtime openvino-int8", "`teco export --int8`"),
    ("upscale in.mp4 out.mp4 --to 720", "--to 720p"),
    ("upscale in.mp4 out.mp4 --to 1280*720", "--to 1280x720"),
    ("upscale in.mp4 out.mp4 --to x2", "--to 2x"),
    ("upscale in.mp4 out.mp4 --to large", "--to 1080p"),
    ("estimate realcpu", "did you mean real-cpu?"),
    ("upscale in.mp4 out.mp4 --to 640x480", "--to 480p"),
    ("upscale in.mp4 out.mp4 --start 1m", "1:02.5"),
    ("upscale in.mp4 out.mp4 --scale 2 --look textured", "--scale 4"),
    ("emit vapoursyth", "did you mean vapoursynth?"),
    ("export --model realcpu", "did you mean real-cpu?"),
    ("export --blocks 3 --formats engine", "--formats onnx,rtx"),
    ("bench --size 320", "HEIGHTxWIDTH such as 180x320"),
    ("bench --clip in.mp4 --metrics lpip", "did you mean lpips?"),
    ("bench --fail-if p99>40", "p99_ms"),
    ("train --data . --config real2", "did you mean real?"),
    ("fetch lpip", "'lpips'"),
    ("compare a.json", "Missing argument 'AFTER'"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mistakes")
    shutil.copy(Path(__file__).parents[3] / "examples" / "city.mp4", place / CLIP)
    (place / "notes.txt").write_text("hello\n")
    return place


@pytest.mark.parametrize(("typed", "answer"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_answered_with_what_to_type(
    typed: str, answer: str, folder: Path, teco, monkeypatch
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(p.name for p in folder.iterdir())
    done = teco(*typed.split())
    assert done.code in (1, 2, 3), done.stderr
    assert answer in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 900, done.stderr
    assert sorted(p.name for p in folder.iterdir()) == before
