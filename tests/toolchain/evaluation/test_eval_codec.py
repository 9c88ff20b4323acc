"""`teco eval --codec`: the input goes through a codec, the truth does not."""

from __future__ import annotations

import json

from paths import ROOT


def test_frames_that_went_through_a_codec(teco, tmp_path) -> None:
    clip = ROOT / "examples" / "city_hr.mp4"
    file = tmp_path / "a.json"
    done = teco(
        "eval", "--model", "live", "--runtime", "onnxruntime", "--clip", clip, "--shrink", 2,
        "--frames", 6, "--metrics", "psnr", "--json", file, "--codec", "none", "--codec", "x264:40",
        "--no-recurrence",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    found = {
        (row["codec"], row["method"]): row["frame_average"]["psnr"]
        for row in json.loads(file.read_text())["rows"]
    }
    assert {codec for codec, _ in found} == {"", "x264:40"}
    for method in ("live", "live, no recurrence", "bicubic"):
        assert found["x264:40", method] < found["", method]
    shown = done.stdout.decode()
    assert sum("x264:40" in line and "bicubic" in line for line in shown.splitlines()) == 1
    assert "dB PSNR after x264:40" in shown
    options = ("--clip", clip, "--metrics", "psnr")
    teco("eval", *options, "--codec", "x266:1").refuses(2, "x266", "x264")
