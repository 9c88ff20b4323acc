"""Damaged files of every kind that teco opens: a sentence, never a traceback, a hang, or a file
under a final name.

The seeds are fixed. TECO_MUTATIONS multiplies how many there are, for a nightly job.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.clips import make, moving

TIMES = int(os.environ.get("TECO_MUTATIONS", "1"))
SLOWEST = 20.0
RUNTIME = ("--runtime", "onnxruntime", "--threads", 1)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One of the ways in which disks, networks and people damage files."""
    copy = bytearray(data)
    kind = rng.randrange(6)
    # Heads decide most: half of all damage lies in the first 512 bytes.
    limit = len(copy) if rng.random() < 0.5 else min(512, len(copy))
    if kind == 0:
        for _ in range(rng.choice((1, 4, 32))):
            copy[rng.randrange(limit)] = rng.randrange(256)
    elif kind == 1:
        del copy[rng.randrange(len(copy)) :]
    elif kind == 2:
        at = rng.randrange(limit)
        copy[at:at] = rng.randbytes(rng.choice((1, 7, 300)))
    elif kind == 3:
        at = rng.randrange(limit)
        del copy[at : at + rng.choice((1, 5, 64))]
    elif kind == 4:
        at = rng.randrange(limit)
        copy[at : at + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7))
    else:
        a, b = sorted(rng.randrange(len(copy)) for _ in range(2))
        copy = copy[:a] + copy[b:] + copy[a:b]
    return bytes(copy)


def mutated_text(data: bytes, rng: random.Random) -> bytes:
    """JSON with one value changed, so that most of it is still read; or damaged like any file."""
    if rng.random() < 0.3:
        return mutated(data, rng)
    text = data.decode()
    places = [n for n, c in enumerate(text) if c == ":"]
    at = rng.choice(places) + 1
    end = min(x for x in (text.find(",", at), text.find("\n", at), len(text)) if x >= 0)
    value = rng.choice(
        ("null", "-1", "1e999", '""', "[]", "{}", "true", '"\\u001b[2J"', "99999999999999999999",
         '"../../x"', "[[[]]]", "0.5", '"9x9"', '{"a": 1}')
    )  # fmt: skip
    return (text[:at] + " " + value + text[end:]).encode()


Damage = Callable[[bytes, random.Random], bytes]


@pytest.fixture
def kinds(tmp_path, tiny_onnx, tiny_weights, teco) -> dict[str, tuple[Path, Damage, list[tuple]]]:
    """Name -> file, how it is damaged, and the commands that open it."""
    base = tmp_path / "good"
    base.mkdir()
    out = tmp_path / "out.mkv"

    def enlarge(clip: object) -> tuple:
        return ("upscale", clip, out, "--model", tiny_onnx, *RUNTIME, "--preset", "ultrafast")

    found: dict[str, tuple[Path, Damage, list[tuple]]] = {}
    for suffix, codec, options in (
        (".mp4", "libx264", None), (".mkv", "libx264", None), (".avi", "mpeg4", {}),
        (".ts", "libx264", None), (".webm", "libvpx", {}), (".mpg", "mpeg2video", {}),
    ):  # fmt: skip
        clip = make(
            base / f"clip{suffix}", moving(6), codec=codec, options=options,
            sound=suffix not in (".webm", ".mpg"),
        )  # fmt: skip
        found[clip.name] = clip, mutated, [enlarge(clip)]
    y4m = base / "clip.y4m"
    y4m.write_bytes(
        b"YUV4MPEG2 W32 H24 F25:1 C420jpeg\n" + 3 * (b"FRAME\n" + bytes(32 * 24 * 3 // 2))
    )
    found[y4m.name] = y4m, mutated, [enlarge(y4m)]
    folder = base / "pictures"
    folder.mkdir()
    for name in ("0.png", "1.jpg", "2.webp"):
        cv2.imwrite(str(folder / name), moving(1)[0])
        found[name] = folder / name, mutated, [enlarge(folder)]

    clip = base / "whole.mkv"
    shutil.copy(base / "clip.mkv", clip)
    for file in (tiny_onnx, tiny_onnx.with_suffix(".json"), tiny_weights):
        shutil.copy(file, base / file.name)
    onnx, weights = base / tiny_onnx.name, base / tiny_weights.name
    run = ("upscale", clip, out, "--frames", 1, "--model", onnx, *RUNTIME)
    look = [("info", onnx), run, ("verify", onnx, "--model", "live")]
    found["onnx"] = onnx, mutated, look
    found["manifest"] = onnx.with_suffix(".json"), mutated_text, look
    torch_run = (
        "upscale", clip, out, "--frames", 1, "--model", weights, "--runtime", "pytorch",
    )  # fmt: skip
    found["weights"] = weights, mutated, [("info", weights), torch_run]
    pth = base / "weights.pth"
    _as_pth(weights, pth)
    found["pth"] = pth, mutated, [("info", pth)]
    record = base / "record.json"
    done = teco(
        "bench", tiny_onnx, "--runtime", "onnxruntime", "--size", "16x16", "--latency-only",
        "--repetitions", 2, "--json", record,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    shutil.copy(record, base / "other.json")
    found["record"] = record, mutated_text, [
        ("compare", record, base / "other.json"), ("catalogue", "check", record),
    ]  # fmt: skip
    return found


def _as_pth(weights: Path, path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(weights), path)


@pytest.mark.slow
def test_no_damage_is_answered_with_a_traceback(kinds, tmp_path, teco) -> None:
    each = 50 * TIMES
    faults: list[str] = []
    opened = tried = 0
    for name, (path, damage, commands) in kinds.items():
        good = path.read_bytes()
        for seed in range(each):
            rng = random.Random(f"{name} {seed}")
            path.write_bytes(damage(good, rng))
            for command in commands:
                began = time.monotonic()
                done = teco(*command, *(("--force",) if command[0] == "upscale" else ()))
                took = time.monotonic() - began
                tried += 1
                opened += done.code == 0
                where = f"{name}, seed {seed}, {command[0]}"
                if done.code not in (0, 1, 2, 3) or "internal error" in done.stderr:
                    faults.append(f"{where}: {done.code} {done.stderr[-300:]}")
                elif "Traceback" in done.stderr:
                    faults.append(f"{where}: {done.stderr[-300:]}")
                if took > SLOWEST:
                    faults.append(f"{where}: {took:.0f} s")
                out = tmp_path / "out.mkv"
                if out.exists() != (done.code == 0 and command[0] == "upscale"):
                    faults.append(f"{where}: {out} and exit code {done.code}")
                out.unlink(missing_ok=True)
                left = [p.name for p in tmp_path.iterdir() if p.name.startswith(".out")]
                if left:
                    faults.append(f"{where}: left {left}")
        path.write_bytes(good)
    assert tried >= 1000
    # Some damage is none, or is forgiven: the test would see nothing if all were refused.
    assert opened > tried // 20
    assert not faults, f"{len(faults)} of {tried}:\n" + "\n".join(faults[:20])


def test_the_damage_is_damage() -> None:
    data = bytes(np.arange(1000, dtype=np.uint16).tobytes())
    changed = [mutated(data, random.Random(n)) != data for n in range(100)]
    assert sum(changed) > 90
