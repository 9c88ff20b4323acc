"""`teco eval --codec`: the input goes through a codec, the truth does not."""

from __future__ import annotations

import json

from paths import ROOT


def test_frames_that_went_through_a_codec(teco, tmp_path) -> None:
    clip = ROOT / "examples" / "city_hr.mp4"
    found = {}
    for name in ("", "x264:40"):
        file = tmp_path / f"of-{name[-2:]}.json"
        done = teco(
            "eval", "--model", "live", "--runtime", "onnxruntime", "--clip", clip, "--shrink", 2,
            "--frames", 6, "--metrics", "psnr", "--json", file, "--codec", name,
        )  # fmt: skip
        assert done.code == 0, done.stderr
        rows = json.loads(file.read_text())["rows"]
        found[name] = {row["method"]: row["frame_average"]["psnr"] for row in rows}
    assert all(found["x264:40"][m] < found[""][m] for m in ("live", "bicubic"))
    options = ("--clip", clip, "--metrics", "psnr")
    teco("eval", *options, "--codec", "x266:1").refuses(2, "x266", "x264")
