"""The command line as such: help, imports, exit codes, and the commands' output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from teco.cli import COMMANDS, SECTIONS, options
from teco.runtimes import auto
from teco_models import zoo

HEAVY = ("torch", "onnxruntime", "cv2", "av", "openvino", "onnx", "lpips", "numpy")


def imported_by(*arguments: str) -> set[str]:
    """Which heavy modules a teco command imports, looked up in its own process at its end."""
    program = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('HEAVY', *[m for m in {HEAVY!r} if m in sys.modules]))\n"
        f"sys.argv = ['teco', *{list(arguments)!r}]\n"
        "from teco.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = [x for x in done.stdout.splitlines() if x.startswith("HEAVY")]
    return set(line.split()[1:])


def test_help_imports_nothing_heavy() -> None:
    assert imported_by("--help") == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_commands_imports_nothing_heavy(command: str) -> None:
    assert imported_by(command, "--help") == set()


def test_upscale_does_not_import_torch(tmp_path: Path, make_clip, tiny_onnx) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    arguments = ("--model", str(tiny_onnx), "--threads", "1", "--runtime", "onnxruntime")
    found = imported_by("upscale", str(clip), str(tmp_path / "out.mp4"), *arguments)
    assert "onnxruntime" in found
    assert not {"torch", "onnx", "openvino", "lpips"} & found
    assert (tmp_path / "out.mp4").exists()


def test_every_command_has_help_and_is_listed(teco) -> None:
    listed = teco("--help").stdout.decode()
    for name, text in (x for _, names in SECTIONS.values() for x in names.items()):
        assert name in listed
        assert text in listed
        assert "Usage" in teco(name, "--help").stdout.decode()


def test_an_unknown_command_names_the_nearest(teco) -> None:
    done = teco("upscal", "a", "b")
    assert done.code == 2
    assert "Did you mean upscale?" in done.stderr


def test_a_bug_is_said_to_be_one(teco, monkeypatch) -> None:
    from teco.cli.deploy import doctor

    def broken(**_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(doctor.command, "callback", broken)
    done = teco("doctor")
    assert done.code == 1
    assert "internal error, ZeroDivisionError" in done.stderr
    assert "TECO_DEBUG" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_device_without_memory_is_no_bug(teco, monkeypatch) -> None:
    import torch

    from teco.cli.deploy import doctor

    def full(**_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")

    monkeypatch.setattr(doctor.command, "callback", full)
    done = teco("doctor")
    done.refuses(1, "out of memory on the device: CUDA out of memory. Tried to allocate 9 GiB.")
    assert "more" not in done.stderr


def test_doctor_lists_every_runtime_with_its_state(teco) -> None:
    from teco.runtimes import RUNTIMES

    facts = json.loads(teco("doctor", "--json").stdout)
    assert facts["runtimes"] == {r.name: r.why_unavailable() for r in RUNTIMES}
    assert facts["machine"]["cores"] >= 1
    text = teco("doctor").stdout.decode()
    for runtime in RUNTIMES:
        assert f" {runtime.name} " in text
    assert "teco-x4-b3-c64-bp-lk" in text


def test_info_says_what_a_network_is_for(teco) -> None:
    for name, purpose in (("l8-bd", "papers"), ("l8-real", "ordinary clips")):
        assert purpose in teco("info", f"teco-x4-b3-c64-{name}").stdout.decode().splitlines()[0]


def test_info_of_a_file(teco, tiny_onnx, tiny_weights) -> None:
    facts = json.loads(teco("info", tiny_onnx, "--json").stdout)
    assert facts["variant"] == "teco-x4-b1-c16-f8-shuffle"
    assert facts["manifest"]["size"] == "dynamic"
    text = teco("info", tiny_onnx).stdout.decode()
    assert "parity with PyTorch" in text
    assert "hr_prev (1 x 3 x 4*h x 4*w)" in text
    assert json.loads(teco("info", tiny_weights, "--json").stdout)["variant"] == facts["variant"]
    assert json.loads(teco("info", facts["variant"], "--json").stdout)["params"] == facts["params"]


def test_export_prints_the_path_and_the_next_command(teco, tiny_weights, tmp_path: Path) -> None:
    done = teco("export", "--weights", tiny_weights, "-o", tmp_path, "--size", "16x24")
    assert done.code == 0, done.stderr
    path = Path(done.stdout.decode().strip())
    assert path.exists()
    assert f"next: teco bench {path}" in done.stderr
    done = teco("export", "--weights", tiny_weights, "-o", tmp_path, "--size", "16x24",
                "--force", "--json")  # fmt: skip
    assert json.loads(done.stdout)["size"] == "16x24"


def test_export_wants_one_source(teco) -> None:
    for arguments in ((), ("--blocks", "3", "--model", "teco-x4-b3-c64-bp-lk")):
        teco("export", *arguments).refuses(2, "--blocks, --model or --weights")
    teco("export", "--blocks", "99").refuses(2, "99 blocks", "10, 7, 5, 3, 1", "teco train")


def test_eval_equals_a_computation_by_hand(teco, tiny_onnx, tmp_path: Path, make_clip) -> None:
    """PSNR of the model and of bicubic from teco eval, recomputed from the definitions."""
    import numpy as np

    from teco.model.opening import open_model
    from teco.runtimes import SessionOptions, find
    from teco.video.clips import open_source
    from teco_calibration.degrade import bicubic_bd, degrade_bd

    clip = make_clip(tmp_path / "truth.mp4", width=112, height=96, frames=9)
    record = tmp_path / "eval.json"
    done = teco("eval", "--model", tiny_onnx, "--clip", clip, "--metrics", "psnr", "--runtime",
                "onnxruntime", "--threads", "1", "--no-recurrence", "--json", record)  # fmt: skip
    assert done.code == 0, done.stderr
    rows = {r["method"]: r for r in json.loads(record.read_text())["rows"]}

    session = find("onnxruntime").open(open_model(str(tiny_onnx)), SessionOptions(threads=1))
    state = None
    sums: dict[str, list[float]] = {"tiny": [], "tiny, no recurrence": [], "bicubic": []}
    with open_source(clip) as source:
        truths = [f.pixels for f in source]
    for n, truth in enumerate(truths):
        lr = degrade_bd(truth)
        tensor = np.ascontiguousarray(lr.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
        out, state = session.step(tensor, state)
        alone, _ = session.step(tensor, None)
        pictures = {"tiny": out, "tiny, no recurrence": alone}
        made = {
            k: np.clip(np.rint(v[0] * 255), 0, 255).transpose(1, 2, 0) for k, v in pictures.items()
        }
        made["bicubic"] = bicubic_bd(lr).astype(float)
        if not 2 <= n < len(truths) - 2:
            continue
        # 96x112 -> window 64x96, offset (16, 8).
        weights = np.array([65.481, 128.553, 24.966]) / 255
        for name, picture in made.items():
            d = (picture - truth.astype(float))[16:80, 8:104] @ weights
            sums[name].append(10 * np.log10(255**2 / np.mean(d**2)))
    for name, values in sums.items():
        assert rows[name]["frames"] == 5
        assert rows[name]["frame_average"]["psnr"] == pytest.approx(np.mean(values), abs=2e-3)
    gain = np.mean(sums["tiny"]) - np.mean(sums["tiny, no recurrence"])
    said = float(done.stdout.decode().split("temporal gain: ")[1].split()[0])
    assert said == pytest.approx(gain, abs=5e-3)


def test_the_rate_is_that_of_the_steps_not_of_what_came_before(monkeypatch, capfd) -> None:
    """Exports before the first timed step, work of an earlier sitting, and a second count."""
    from teco.cli import options

    now = 1000.0
    monkeypatch.setattr(options.time, "monotonic", lambda: now)
    with options.progress("timing", "steps") as tell:
        now += 300  # of exporting
        tell(3, 117)
        now += 12
        tell(27, 117)
        now += 600  # the next networks
        tell(3, 54)
        now += 20
        tell(8, 54)
    with options.progress("training", "iterations") as tell:
        tell(5000, 6000)
        now += 50
        tell(5100, 6000)
    assert capfd.readouterr().err.splitlines() == [
        "timing: 3 of 117 steps",
        "timing: 27 of 117 steps, 2.00/s, 45 s left",
        "timing: 3 of 54 steps",
        "timing: 8 of 54 steps, 0.25/s, 184 s left",
        "training: 5100 of 6000 iterations, 2.00/s, 450 s left",
    ]


# --- what people type --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1.5", 1.5),
        ("0:01", 1),
        ("1:02.5", 62.5),
        ("00:00:01", 1),
        ("1:00:03.25", 3603.25),
        ("62:03", 3723),
    ],
)
def test_moments(text: str, seconds: float) -> None:
    assert options.ClipTime().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["1:99", "a", "1:2:3:4", ":3", "1:", ""])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time"):
        options.ClipTime().convert(text, None, None)


@pytest.mark.parametrize("answer", [True, False])
def test_a_portrait_is_asked_about_on_a_terminal(monkeypatch, answer: bool) -> None:
    """854x480 is meant width first by nearly everybody."""
    asked: list[str] = []

    def confirm(text: str, **_: object) -> bool:
        asked.append(text)
        return answer

    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(options.click, "confirm", confirm)
    size = options.Size().convert("854x480", None, None)
    assert size == ((854, 480) if answer else (480, 854))
    assert "480 wide and 854 high" in asked[0]
    assert options.Size().convert("480x854", None, None) == (480, 854)
    assert len(asked) == 1


def test_a_portrait_is_said_elsewhere_and_a_picture_has_a_name(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    assert options.Size().convert("854x480", None, None) == (854, 480)
    assert "frames 480 wide and 854 high" in capsys.readouterr().err
    assert options.Size().convert("720p", None, None) == (180, 320)
    assert "frames 320 wide and 180 high" in capsys.readouterr().err


def test_models_lists_what_there_is(teco) -> None:
    rows = json.loads(teco("models", "--no-time", "--json").stdout)
    assert {row["purpose"] for row in rows} == {"ordinary clips"}
    text = teco("models", "--no-time", "--all").stdout.decode()
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert {e.name for e in zoo.entries()} <= set(lines)
    assert lines["real-cpu"].endswith("the default")
    assert lines["real-cpu-x2"].endswith("--scale 2")
    assert lines["real-cpu-textured"].endswith("--look textured")


@pytest.mark.slow
def test_models_are_timed_once(teco, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TECO_CACHE", str(tmp_path))
    first = json.loads(teco("models", "--json", "--threads", 1).stdout)
    assert all(row[kind]["ms"] > 0 for row in first for kind in ("float32", "fast"))
    monkeypatch.setattr(auto, "_trial", lambda *_: pytest.fail("measured again"))
    assert json.loads(teco("models", "--json", "--threads", 1).stdout) == first


def test_completion_knows_models_and_runtimes() -> None:
    command = click.Command("x", params=[])
    context = click.Context(command)
    names = [item.value for item in options.complete_models(context, None, "real-cpu-")]
    assert names == ["real-cpu-textured", "real-cpu-x2"]
    assert options.complete_models(context, None, "./")[0].type == "file"
    assert options.complete_runtimes(context, None, "auto,openvino-g") == [
        "auto,openvino-gpu", "auto,openvino-gpu-fp16",
    ]  # fmt: skip
