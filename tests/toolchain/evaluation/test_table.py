"""The comparison table: what it finds on disk, what it measures, and how it shows it."""

from __future__ import annotations

import json
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.text import Text as MatplotlibText
from matplotlib.transforms import Bbox

from teco.core import machine
from teco.core.errors import TecoError
from teco.evaluation.quality import EvaluateOptions, QualityRow, evaluate
from teco.evaluation.table import published
from teco.evaluation.table.measure import make_table, measurable, open_models
from teco.evaluation.table.plot import check as check_plot
from teco.evaluation.table.plot import draw, panels, places, plot
from teco.evaluation.table.render import as_markdown, as_text, grids
from teco.evaluation.table.report import Entrant, MethodResult, SetResult, TableOptions, TableReport
from teco.evaluation.table.sets import OFFICIAL, ClipSet, SetClip, find_sets
from teco.measurement.latency import LatencyResult
from teco.measurement.records import Latency, WarmUp
from teco.measurement.statistics import samples_of
from teco.model.opening import open_model
from teco.runtimes import SessionOptions, find
from teco_calibration.degrade import crop_to_multiple, degrade
from teco_calibration.metrics.quality import Lpips, SequenceResult, Window
from teco_models import zoo
from teco_models.variant import Variant

CHEAP = ("psnr", "ssim", "tof")
SVG = "{http://www.w3.org/2000/svg}"


def options(**changes: object) -> TableOptions:
    """Quick ones: one thread, no times, no LPIPS."""
    base = TableOptions(
        metrics=CHEAP, size=(16, 24), runtime="onnxruntime", threads=1, repetitions=None
    )
    return replace(base, **changes)


@pytest.fixture
def lay_out(tmp_path: Path, make_pictures, texture) -> Callable[..., Path]:
    """Folders of pictures at the given paths below a folder; each clip is another scene."""

    def make(*names: str, frames: int = 6, width: int = 64, height: int = 48) -> Path:
        for seed, name in enumerate(names):
            folder = tmp_path / name
            folder.parent.mkdir(parents=True, exist_ok=True)
            make_pictures(folder, texture(frames, width, height, seed=seed))
        return tmp_path

    return make


def inputs_beside(
    clip: Path, folder: Path, make_pictures, load_pictures, pad: bool = False
) -> None:
    """Low-resolution pictures as a set comes with them: BD of the truth, rounded up if padded."""
    small = []
    for truth in load_pictures(clip):
        height, width = truth.shape[:2]
        if pad:
            truth = np.pad(truth, ((0, -height % 4), (0, -width % 4), (0, 0)), mode="edge")
        small.append(degrade(np.ascontiguousarray(crop_to_multiple(truth, 4)), "bd"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    make_pictures(folder, small)


# --- sets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("truth", ["GT/", "", "gt/", "HR/"])
def test_official_sets_with_and_without_a_truth_folder(lay_out, name: str, truth: str) -> None:
    root = lay_out(*(f"here/{truth}{clip}" for clip in OFFICIAL[name]), frames=1) / "here"
    (found,) = find_sets([root])
    assert (found.name, found.official) == (name, True)
    assert tuple(clip.name for clip in found.clips) == OFFICIAL[name]
    assert all(clip.truth == root / truth / clip.name for clip in found.clips)
    (again,) = find_sets([root, root / truth])  # the same set twice is one
    assert again == found


def test_a_folder_of_sets_and_videos_in_the_place_of_folders(lay_out, make_clip) -> None:
    root = lay_out(*(f"Vid4/GT/{clip}" for clip in OFFICIAL["Vid4"]), frames=1)
    (root / "tos3").mkdir()
    for clip in OFFICIAL["ToS3"]:
        make_clip(root / "tos3" / f"{clip}.mp4", frames=2)
    (root / "other").mkdir()
    assert sorted(one.name for one in find_sets([root])) == ["ToS3", "Vid4"]


@pytest.mark.parametrize("part", ["train/train_sharp", "train_sharp"])
def test_reds4_is_found_among_the_training_clips(lay_out, part: str) -> None:
    names = [f"REDS/{part}/{n:03d}" for n in (0, 1, 11, 15, 20, 21)]
    given = [f"REDS/{part}_bicubic/X4/{clip}" for clip in OFFICIAL["REDS4"]]
    root = lay_out(*names, *given, frames=1)
    (found,) = find_sets([root / "REDS"])
    assert (found.name, len(found.clips)) == ("REDS4", 4)
    assert set(found.clips[1].given) == {"bi"}
    assert found.clips[1].given["bi"].name == "011"


def test_the_validation_clips_of_reds_are_no_reds4(lay_out) -> None:
    root = lay_out(*(f"val_sharp/{n:03d}" for n in (0, 11, 15, 20)), frames=1)
    (found,) = find_sets([root / "val_sharp"])
    assert (found.name, found.official) == ("val_sharp", False)


def test_two_copies_of_a_set_are_told_apart_and_names_make_no_set(lay_out) -> None:
    clips = OFFICIAL["ToS3"]
    root = lay_out(*(f"{n}/ToS3/{c}" for n in "ab" for c in clips), "ToS3 (mine)/x", frames=1)
    copies = find_sets([root / "a" / "ToS3", root / "b" / "ToS3"])
    assert len({one.name for one in copies}) == 2
    assert [one.kind for one in copies] == ["ToS3", "ToS3"]
    (mine,) = find_sets([root / "ToS3 (mine)"])
    assert not mine.official


def test_plain_clips(lay_out, make_clip) -> None:
    root = lay_out("set/frame2", "set/frame10", "Gvt/GT/a", "loose/b", frames=1)
    make_clip(root / "set" / "film.mp4", frames=2)
    make_clip(root / "b.mp4", frames=2)
    found = find_sets([root / "set", root / "Gvt", root / "loose" / "b", root / "b.mp4"])
    assert [one.name for one in found] == ["set", "Gvt", "clips"]
    assert [clip.name for clip in found[0].clips] == ["film", "frame2", "frame10"]
    assert found[1].clips[0].truth == root / "Gvt" / "GT" / "a"
    # Two clips of one name are told apart.
    assert len({clip.name for clip in found[2].clips}) == 2
    assert not any(one.official for one in found)


def test_pictures_beside_clips_are_ambiguous(lay_out, make_clip, teco) -> None:
    root = lay_out("films", "mixed", "mixed/walk", "all", "all/Vid4/GT/walk", frames=1)
    make_clip(root / "films" / "city.mp4", frames=2)
    for name, clip in (
        ("films", "city.mp4"), ("mixed", "walk"), ("all", "Vid4/GT/walk"),
    ):  # fmt: skip
        folder = root / name
        teco("table", "--data", folder).refuses(
            2, f"{folder} holds both pictures of its own and clips ({clip})",
            f"--data {folder / clip}",
        )  # fmt: skip
        # What the hint names works.
        (one,) = find_sets([folder / clip])
        assert one.clips[0].truth == folder / clip


def test_inputs_beside_the_truth_are_found(lay_out) -> None:
    clips = OFFICIAL["ToS3"]
    root = lay_out(
        *(f"GT/{c}" for c in clips), *(f"bdx4/{c}" for c in clips), "BIx4/face", frames=1
    )
    for path in (root, root / "GT"):
        (found,) = find_sets([path])
        assert [sorted(clip.given) for clip in found.clips] == [["bd"], ["bd", "bi"], ["bd"]]
        assert found.clips[0].given["bd"] == root / "bdx4" / "bridge"


def test_an_incomplete_set_says_what_is_missing(lay_out) -> None:
    root = lay_out("Vid4/GT/calendar", "Vid4/GT/city", "Vid4/GT/foliage", frames=1)
    (root / "Vid4/GT/walk").mkdir()
    with pytest.raises(TecoError) as error:
        find_sets([root / "Vid4"])
    assert "has calendar, city, foliage of Vid4 and lacks walk" in error.value.message
    assert "without pictures" in error.value.message
    assert str(root / "Vid4/GT/calendar") in error.value.hint
    # ... and the way out that the hint names works.
    (plain,) = find_sets([root / "Vid4/GT/calendar", root / "Vid4/GT/city"])
    assert (plain.name, len(plain.clips)) == ("clips", 2)


def test_a_wrong_layout_says_what_is_there_and_what_should_be(tmp_path: Path, teco) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / "notes.txt").write_text("no clip")
    (tmp_path / "empty").mkdir()
    teco("table", "--data", tmp_path / "a").refuses(2, "found b/, notes.txt", "GT/calendar")
    teco("table", "--data", tmp_path / "empty").refuses(2, "an empty folder", "expected")
    teco("table", "--data", tmp_path / "none").refuses(2, "does not exist")
    teco("table").refuses(2, "--data")


# --- measuring -------------------------------------------------------------------------------


def test_figures_equal_those_of_teco_eval(lay_out, tiny_onnx: Path) -> None:
    """Every frame's value of the model and of both interpolations, on two clips of a set."""
    root = lay_out("set/a", "set/b", frames=8, width=112, height=96)
    (clips,) = find_sets([root / "set"])
    report = make_table([clips], [str(tiny_onnx)], options())
    session = find("onnxruntime").open(open_model(str(tiny_onnx)), SessionOptions(threads=1))
    paths = [str(clip.truth) for clip in clips.clips]
    rows = evaluate(session, "tiny", paths, EvaluateOptions(metrics=CHEAP))
    session.close()
    ours = {judged.row.method: judged.row for judged in report.sets[0].methods}
    assert list(ours) == ["bicubic", "bilinear", "tiny"]
    for row in rows:
        assert row == ours[row.method]
    assert len({row.frame_average["psnr"] for row in rows}) == 3


def test_both_averages_and_every_clip_are_in_the_record(lay_out) -> None:
    root = lay_out("set/long", frames=12)
    lay_out("set/short", frames=6, width=96)
    report = make_table(find_sets([root / "set"]), ["bicubic"], options())
    record = json.loads(json.dumps(report.as_dict()))
    (one,) = record["sets"]
    method = one["methods"][0]
    clips = {plain["clip"]: plain for plain in method["per_clip"]}
    assert (clips["long"]["frames"], clips["short"]["frames"]) == (8, 2)
    values = [v for plain in clips.values() for v in plain["values"]["psnr"]]
    assert method["frame_average"]["psnr"] == pytest.approx(sum(values) / 10)
    means = [plain["means"]["psnr"] for plain in clips.values()]
    assert method["folder_average"]["psnr"] == pytest.approx(sum(means) / 2)
    assert method["frame_average"]["psnr"] != pytest.approx(method["folder_average"]["psnr"])
    folder = make_table(find_sets([root / "set"]), ["bicubic"], options(average="folder"))
    assert f"{means[0] / 2 + means[1] / 2:.2f}" in grids(folder)[0].rows[0]
    assert "folder average shown" in as_text(folder)


def test_bicubic_alone_needs_no_network(lay_out, teco) -> None:
    root = lay_out("a", frames=6)
    done = teco("table", "--data", root / "a", "--model", "bicubic", "--metrics", "psnr",
                "--no-published", "--plot", root / "p.svg")  # fmt: skip
    assert done.code == 0, done.stderr
    text = done.stdout.decode()
    assert "bicubic" in text
    assert "bilinear" in text
    assert " ms" not in text
    assert ET.parse(root / "p.svg").getroot().tag == f"{SVG}svg"
    assert open_models(["bicubic", "bilinear"]) == []


def test_every_shipped_model_is_the_default() -> None:
    from teco_models import zoo

    # But those that enlarge twice: a clip is made small for all of them alike.
    names = [entry.name for entry in zoo.entries() if not entry.name.endswith("-x2")]
    assert [spec for spec, _ in open_models([])] == names


def test_models_are_sorted_by_cost_and_timed_in_turns(
    lay_out, tiny_onnx: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    import torch

    from teco_models.arch.generator import Generator
    from teco_models.checkpoint import save_weights

    torch.manual_seed(0)
    larger = tmp_path / "larger.safetensors"
    save_weights(larger, Generator(Variant(blocks=2, channels=16, flow_channels=8)))
    root = lay_out("a", frames=6)
    o = options(runtime="pytorch", repetitions=4)
    report = make_table(find_sets([root / "a"]), [str(larger), str(tiny_weights)], o)
    assert [e.name for e in report.entrants] == ["tiny.safetensors", "larger.safetensors"]
    assert [j.row.method for j in report.sets[0].methods[2:]] == [e.name for e in report.entrants]
    for entrant in report.entrants:
        assert entrant.timing is not None
        assert entrant.timing.latency.host.summary.count == 4
        assert entrant.details
        record = entrant.as_dict()
        timing = record["timing"]
        assert timing["p50"] <= timing["p99"] == max(timing["samples"])
        cost = entrant.variant.cost(16, 24)
        assert record["gmac"] == cost.macs["total"] / 1e9
        row = next(r for r in grids(report)[0].rows if r[0] == entrant.name)
        assert row[1] == f"{cost.params['total'] / 1e6:.3f}"
        assert row[-1] == f"{entrant.timing.p50_ms:.1f}"
    assert any("p99" in warning for warning in report.warnings)
    # auto: an ONNX file and weights run on what each is for, and the table says on which.
    both = make_table(
        find_sets([root / "a"]), [str(tiny_onnx), str(larger)], options(runtime="auto")
    )
    assert {e.name: e.runtime for e in both.entrants}["larger.safetensors"] == "pytorch"
    assert grids(both)[0].header[-1] == "runtime"


def test_two_files_of_one_name_are_told_apart(tmp_path: Path, tiny_weights: Path, lay_out) -> None:
    for folder in ("psnr", "gan"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.safetensors").write_bytes(tiny_weights.read_bytes())
    specs = [str(tmp_path / folder / "x.safetensors") for folder in ("psnr", "gan")]
    root = lay_out("a", frames=5)
    report = make_table(
        find_sets([root / "a"]), specs, options(metrics=("psnr",), runtime="pytorch")
    )
    assert {e.name for e in report.entrants} == {"psnr/x.safetensors", "gan/x.safetensors"}


def test_each_degradation_has_interpolations_of_its_own(
    lay_out, tmp_path: Path, tiny_weights: Path
) -> None:
    from teco_models.arch.generator import Generator
    from teco_models.checkpoint import save_weights

    bi = tmp_path / "bi.safetensors"
    variant = Variant(blocks=1, channels=16, flow_channels=8, tail="shuffle", degradation="bi")
    save_weights(bi, Generator(variant))
    root = lay_out("a", frames=6)
    report = make_table(
        find_sets([root / "a"]), [str(bi), str(tiny_weights)],
        options(metrics=("psnr",), runtime="pytorch"),
    )  # fmt: skip
    rows = {j.row.method: j for j in report.sets[0].methods}
    assert list(rows)[:4] == ["bicubic (BD)", "bilinear (BD)", "bicubic (BI)", "bilinear (BI)"]
    assert rows["bi.safetensors"].degradation == "bi"
    # ... and inputs of its own: all three as teco eval has them.
    session = find("pytorch").open(open_model(str(bi)), SessionOptions(threads=1))
    o = EvaluateOptions(degradation="bi", metrics=("psnr",))
    network, *interpolations = evaluate(session, "bi", [str(root / "a")], o)
    session.close()
    assert network.per_clip == rows["bi.safetensors"].row.per_clip
    for row in interpolations:
        assert row.per_clip == rows[f"{row.method} (BI)"].row.per_clip
    assert interpolations[0].per_clip != rows["bicubic (BD)"].row.per_clip
    assert "compare each with its own bicubic" in as_text(report)
    assert len(panels(report)[0][0].lines) == 2


def test_given_inputs_equal_made_ones(
    lay_out, tiny_onnx: Path, make_pictures, load_pictures
) -> None:
    root = lay_out(*(f"GT/{clip}" for clip in OFFICIAL["ToS3"]), frames=6)
    for clip in OFFICIAL["ToS3"]:
        inputs_beside(
            root / "GT" / clip, root / "Gaussian4xLR" / clip, make_pictures, load_pictures
        )
    sets = find_sets([root])
    made = make_table(sets, [str(tiny_onnx)], options())
    given = make_table(sets, [str(tiny_onnx)], options(inputs="given"))
    assert made.sets[0].methods == given.sets[0].methods
    assert "were not used (--inputs given)" in as_text(made)
    assert "the BD pictures of the set" in as_text(given)


def test_given_inputs_cover_what_is_no_multiple_of_four(
    lay_out, make_pictures, load_pictures
) -> None:
    """As ToS3: 534 rows come with inputs of 134, and all of the truth is measured."""
    root = lay_out("set/GT/a", frames=6, height=54)
    inputs_beside(
        root / "set/GT/a", root / "set/Gaussian4xLR/a", make_pictures, load_pictures, pad=True
    )
    (clips,) = find_sets([root / "set"])
    report = make_table([clips], ["bicubic"], options(inputs="given"))
    (result,) = report.sets[0].methods[0].row.per_clip
    assert result.window == Window(11, 16, 32, 32)  # of all 54 rows; of 52 it would start at 10
    assert any("cut at the bottom" in note for note in result.notes)
    assert 15 < result.means["psnr"] < 50


def test_given_inputs_that_do_not_fit(lay_out, make_pictures, load_pictures, teco) -> None:
    root = lay_out("set/GT/a", frames=6)
    base = ("table", "--data", root / "set", "--model", "bicubic", "--metrics", "psnr")
    teco(*base, "--inputs", "given").refuses(
        2, "no BD inputs lie beside", "Gaussian4xLR or BDx4", after=("set: ",)
    )
    teco(*base, "--inputs", "given", "--shrink", 1.5).refuses(2, "--shrink", after=("set: ",))
    inputs_beside(root / "set/GT/a", root / "set/BDx4/a", make_pictures, load_pictures)
    (root / "set/BDx4/a/0005.png").unlink()
    teco(*base, "--inputs", "given").refuses(1, "fewer frames than", after=("set: ",))
    assert teco(*base, "--inputs", "given", "--frames", 5).code == 0
    small = cv2.imread(str(root / "set/BDx4/a/0000.png"))
    for file in (root / "set/BDx4/a").iterdir():
        cv2.imwrite(str(file), small[:-2])
    teco(*base, "--inputs", "given").refuses(1, "expected a quarter", after=("set: ",))


def test_without_lpips_the_column_is_left_out(lay_out, teco, monkeypatch) -> None:
    reason = 'LPIPS needs lpips: pip install "teco[torch]"'
    monkeypatch.setattr(Lpips, "why_unavailable", staticmethod(lambda: reason))
    assert measurable("psnr,lpips,tof,tlp") == (
        ("psnr", "tof"), (f"LPIPS and tLP are left out: {reason}",),
    )  # fmt: skip
    root = lay_out("a", frames=6)
    base = ("table", "--data", root / "a", "--model", "bicubic", "--no-published")
    done = teco(*base, "--markdown", root / "t.md")
    done.says(reason)
    assert reason in done.stdout.decode().replace("\n", " ")
    text = (root / "t.md").read_text()
    assert "LPIPS ↓" not in text
    assert "PSNR dB ↑" in text
    # Nothing else was asked for: then it is an error, as in teco eval.
    teco(*base, "--metrics", "lpips").refuses(3, reason)
    teco(*base, "--metrics", "psnr,beauty").refuses(2, "beauty")
    monkeypatch.setattr(Lpips, "why_unavailable", staticmethod(lambda: None))
    assert measurable("psnr, lpips,psnr") == (("psnr", "lpips"), ())


@pytest.mark.fetched
def test_lpips_and_tlp_equal_those_of_teco_eval(lay_out, tiny_onnx: Path) -> None:
    if reason := Lpips.why_unavailable():
        pytest.skip(reason)
    root = lay_out("a", frames=6)
    metrics = ("lpips", "tlp")
    report = make_table(find_sets([root / "a"]), [str(tiny_onnx)], options(metrics=metrics))
    session = find("onnxruntime").open(open_model(str(tiny_onnx)), SessionOptions(threads=1))
    rows = evaluate(session, "tiny", [str(root / "a")], EvaluateOptions(metrics=metrics))
    session.close()
    ours = {judged.row.method: judged.row for judged in report.sets[0].methods}
    for row in rows:
        assert row.frame_average == pytest.approx(ours[row.method].frame_average)


def test_what_cannot_be_measured_is_said_before_measuring(
    lay_out, teco, tiny_onnx: Path, tmp_path: Path
) -> None:
    root = lay_out("set/a", frames=5)
    lay_out("set/small", frames=5, width=24)
    base = ("table", "--data", root / "set", "--metrics", "psnr", "--threads", 1)
    said = ("set: ",)
    teco(*base, "--model", tiny_onnx).refuses(1, "too small", after=said)
    base = ("table", "--data", root / "set" / "a", "--metrics", "psnr", "--threads", 1)
    said = ("clips: ",)
    teco(*base, "--model", "nonsense").refuses(2, "no model is called", after=said)
    teco(*base, "--model", tiny_onnx, "--runtime", "pytorch").refuses(
        3, "tiny is an ONNX file", after=said
    )
    teco(*base, "--model", tiny_onnx, "--runtime", "no").refuses(2, "no runtime", after=said)
    teco(*base, "--model", "bicubic", "--shrink", 0.5).refuses(2, "--shrink", after=said)
    teco(*base, "--plot", tmp_path / "p.gif").refuses(2, ".svg or .png")
    teco(*base, "--markdown", tmp_path / "no" / "t.md").refuses(2, "does not exist")
    teco(*base, "--markdown", tmp_path).refuses(2, "is a folder")
    teco("table", "--data", root / "set" / "a", "--metrics", "ssim", "--plot", tmp_path / "p.svg"
         ).refuses(2, "PSNR and LPIPS")  # fmt: skip
    # Each kind of output has an ending of its own, so that no two are one file.
    teco(*base, "--json", tmp_path / "x.svg").refuses(2, "should end in .json")
    teco("table", "--data", "-").refuses(2, "give a file")
    assert not list(tmp_path.glob("*.svg"))


def test_a_static_model_sets_the_size_and_must_fit(lay_out, tiny_weights, tmp_path, teco) -> None:
    pytest.importorskip("onnxscript")
    from teco.exporting.onnx import ExportOptions, export_onnx
    from teco_models.checkpoint import load_weights

    static = export_onnx(
        load_weights(tiny_weights), tmp_path, ExportOptions(name="static", size=(12, 16))
    )
    root = lay_out("fits", "other", frames=6)
    record = tmp_path / "t.json"
    base = ("--model", static, "--runtime", "onnxruntime", "--metrics", "psnr", "--no-time")
    done = teco("table", "--data", root / "fits", *base, "--json", record)
    assert done.code == 0, done.stderr
    assert json.loads(record.read_text())["options"]["size"] == "12x16"
    lay_out("tall", frames=6, height=64)
    teco("table", "--data", root / "tall", *base).refuses(2, "12x16", after=("clips: ",))


def test_the_command_writes_what_it_prints(lay_out, teco, tiny_onnx: Path, tmp_path: Path) -> None:
    root = lay_out(*(f"Vid4/GT/{clip}" for clip in OFFICIAL["Vid4"]), frames=6)
    files = {n: tmp_path / f"t.{n}" for n in ("md", "json", "svg")}
    arguments = (
        "table", "--data", root / "Vid4", "--model", tiny_onnx, "--runtime", "onnxruntime",
        "--threads", 1, "--size", "16x24", "--repetitions", 3, "--metrics", "psnr,ssim",
        "--markdown", files["md"], "--json", files["json"], "--plot", files["svg"],
    )  # fmt: skip
    done = teco(*arguments)
    done.says("Vid4: calendar, city, foliage, walk", *map(str, files.values()))
    record = json.loads(files["json"].read_text())
    assert record["kind"] == "teco table"
    assert record["machine"]["cores"] >= 1
    assert record["command"].startswith("teco table --data")
    (model,) = record["models"]
    assert len(model["timing"]["samples"]) == 3
    assert model["sha256"] == open_model(str(tiny_onnx)).manifest.sha256
    psnr = record["sets"][0]["methods"][2]["frame_average"]["psnr"]
    text, markdown = done.stdout.decode(), files["md"].read_text()
    for shown in (text, markdown):
        assert f"{psnr:.2f}" in shown
        assert "median of 3 interleaved steps" in " ".join(shown.split())
        # Six frames are not what the published figures are of.
        assert "calendar was measured on 6 frames, Vid4's has 41" in shown
        assert "73,856 parameters" in " ".join(shown.split())
    assert markdown.startswith("![Quality against cost](t.svg)")
    assert max(map(len, text.splitlines())) <= 100
    assert [row["published"] for row in record["published"]] == [True] * 10
    teco(*arguments, "--plot", tmp_path / "p.png")
    picture = cv2.imread(str(tmp_path / "p.png"))
    assert picture.shape[1] == 2 * 470
    assert 0.001 < np.mean(np.any(picture != 255, axis=2)) < 0.2


# --- published figures -----------------------------------------------------------------------


def test_the_study_is_pinned() -> None:
    table = [
        (row.blocks, row.params_m, *(row.values[m] for m in ("psnr", "lpips", "tof")))
        for row in published.STUDY_ROWS
    ]
    assert table == [
        (10, 2.5, 30.75, 0.0901, 0.2677),
        (7, 2.2, 30.34, 0.0836, 0.2605),
        (5, 1.9, 29.88, 0.0984, 0.3460),
        (3, 1.6, 29.85, 0.1130, 0.3843),
        (1, 1.3, 29.78, 0.1020, 0.3434),
    ]
    # What the note says of its parameter column, from our own count.
    ten, nine = (Variant(blocks=b).cost(180, 320).params for b in (10, 9))
    assert f"{ten['total'] - nine['total']:,}" in published.STUDY_NOTE
    assert f"{ten['fnet']:,}" in published.STUDY_NOTE
    assert ten["fnet"] > 1.6e6


def test_the_rows_on_vid4_and_tos3_are_pinned() -> None:
    names = ("psnr", "lpips", "tof", "tlp")
    found = {
        (row.test_set, row.method): tuple(row.values[n] for n in names)
        for row in published.SET_ROWS
    }
    assert found == {
        ("Vid4", "FRVSR (official)"): (26.91, 0.251, 0.209, 0.957),
        ("Vid4", "TecoGAN (official, 10 blocks)"): (25.89, 0.174, 0.208, 0.718),
        ("Vid4", "TecoGAN (official, 16 blocks)"): (25.57, 0.162, 0.190, 0.668),
        ("Vid4", "TecoGAN (PyTorch port, 10 blocks)"): (26.01, 0.152, 0.194, 0.515),
        ("Vid4", "EGVSR (10 blocks)"): (25.84, 0.138, 0.188, 0.447),
        ("ToS3", "FRVSR (official)"): (34.01, 0.145, 0.145, 0.541),
        ("ToS3", "TecoGAN (official, 16 blocks)"): (32.75, 0.108, 0.133, 0.661),
        ("ToS3", "TecoGAN (PyTorch port, 10 blocks)"): (33.26, 0.090, 0.136, 0.205),
        ("ToS3", "EGVSR (10 blocks)"): (31.89, 0.121, 0.138, 0.221),
    }
    assert published.rows_for("clips") == ()
    for row in (*published.SET_ROWS, *published.STUDY_ROWS):
        assert row.source
        assert row.conditions
        assert row.as_dict()["published"] is True
    port = [r for r in published.SET_ROWS if "port" in r.method]
    assert all(row.average == "frame" for row in port)


def test_only_the_same_structure_is_like_a_published_row() -> None:
    row = published.STUDY_ROWS[0]
    assert row.is_like(Variant(blocks=10))
    assert row.is_like(Variant(blocks=10, flow_norm="raw"))
    for other in (
        Variant(blocks=9), Variant(blocks=10, channels=32), Variant(blocks=10, flow_channels=16),
        Variant(blocks=10, tail="shuffle"), Variant(blocks=10, degradation="bi"),
    ):  # fmt: skip
        assert not row.is_like(other)
    egvsr = next(r for r in published.SET_ROWS if r.method.startswith("EGVSR"))
    assert egvsr.is_like(Variant(blocks=10, tail="egvsr"))
    assert not egvsr.is_like(Variant(blocks=10))


# --- showing ---------------------------------------------------------------------------------


def sequence(values: dict[str, float], frames: int) -> SequenceResult:
    return SequenceResult(
        seen=frames + 4, frames=frames, first=2, window=Window(0, 0, 96, 96),
        values={k: (v,) * frames for k, v in values.items()}, notes=(),
    )  # fmt: skip


def figures(method: str, frame: dict[str, float], folder: dict[str, float]) -> QualityRow:
    return QualityRow(method, frame, folder, 5, 1, (sequence(frame, 5),))


def timing_of(name: str, ms: float) -> LatencyResult:
    """A model whose every step took as long."""
    latency = Latency(
        host=samples_of([[ms] * 3]), device=None, load_ms=1e3, first_ms=1e3,
        warm_up=WarmUp(steps=1, stable=True, ms=(ms,)),
    )  # fmt: skip
    return LatencyResult(model=name, runtime="openvino", details="", latency=latency)


def invented(
    models: dict[str, tuple[Variant, float, float, float]],
    sets: tuple[str, ...] = ("Vid4",),
    **changes: object,
) -> TableReport:
    """A report of models with (variant, ms, PSNR, LPIPS) that nobody measured."""
    entrants = [
        Entrant(
            name=name, spec=name, variant=variant, cost=variant.cost(180, 320), sha256="",
            runtime="openvino", details="",
            timing=timing_of(name, ms) if ms else None,
        )
        for name, (variant, ms, _, _) in models.items()
    ]  # fmt: skip
    results: list[SetResult] = []
    for one in sets:
        base = {"psnr": 27.46, "lpips": 0.44}
        methods = [MethodResult("bd", figures("bicubic", base, base))]
        for entrant in entrants:
            _, _, psnr, lpips = models[entrant.name]
            frame, folder = {"psnr": psnr, "lpips": lpips}, {"psnr": psnr + 1, "lpips": lpips}
            methods.append(MethodResult("bd", figures(entrant.name, frame, folder), entrant))
        results.append(
            SetResult(
                ClipSet(one, (SetClip("x", Path("x")),), None, one if one in OFFICIAL else ""),
                tuple(methods),
            )
        )
    o = TableOptions(metrics=("psnr", "lpips"), **changes)
    return TableReport(
        options=o, threads=2, entrants=tuple(entrants), sets=tuple(results),
        machine=machine.inspect(),
    )  # fmt: skip


FAMILY = {
    "teco-x4-live": (Variant(blocks=5, channels=32, tail="shuffle"), 36.0, 28.9, 0.36),
    "teco-x4-b3-c64": (Variant(blocks=3), 185.0, 29.5, 0.325),
    "teco-x4-b10-c64": (Variant(blocks=10), 300.0, 30.0, 0.30),
    "teco-x4-b10-c64-gan": (Variant(blocks=10), 301.0, 29.1, 0.18),
}


def test_published_rows_stand_beside_ours_of_the_same_structure() -> None:
    report = invented(FAMILY, average="folder")
    ours, on_set, study = grids(report)
    assert [row[0] for row in ours.rows] == ["bicubic", *FAMILY]
    assert not any("published" in cell for row in ours.rows for cell in row)
    assert {row[1] for row in on_set.rows} == {"published", "ours, other net"}
    after: dict[str, list[tuple[str, ...]]] = {}
    for row in on_set.rows:
        if row[1] == "published":
            after[current := row[0]] = []
        else:
            after[current].append(row)
    tens = ["teco-x4-b10-c64", "teco-x4-b10-c64-gan"]
    assert {k: [row[0] for row in v] for k, v in after.items()} == {
        "FRVSR (official) [1]": tens,
        "TecoGAN (official, 10 blocks) [1]": tens,
        "TecoGAN (official, 16 blocks) [1]": [],
        "TecoGAN (PyTorch port, 10 blocks) [2]": tens,
        "EGVSR (10 blocks) [3]": [],
    }
    # Folder averages are shown, but beside a frame average stands ours.
    assert after["FRVSR (official) [1]"][0][3] == "31.00"
    assert after["TecoGAN (PyTorch port, 10 blocks) [2]"][0][3] == "30.00"
    study_rows = [row for row in study.rows if row[1] == "ours, other net"]
    assert [row[0] for row in study_rows] == [f"{t} on Vid4" for t in (*tens, "teco-x4-b3-c64")]
    assert study_rows[0][2] == "2.589"
    assert published.STUDY_NOTE in study.notes


def test_elsewhere_only_parameters_stand_beside_the_study() -> None:
    report = invented(FAMILY, sets=("clips",))
    first, study = grids(report)
    assert first.title == "clips"
    ours = [row for row in study.rows if row[1] == "ours, other net"]
    assert [row[2:] for row in ours] == [("2.589", "-", "-", "-")] * 2 + [("2.072", "-", "-", "-")]
    assert len(grids(invented(FAMILY, sets=("clips",), published=False))) == 1


def test_another_network_than_the_published_is_called_so() -> None:
    """Every shipped network for papers is one; the one that the recipe `paper` trains is not."""
    raw = Variant(blocks=10, flow_norm="raw")
    models = {entry.name: (Variant.parse(entry.name), 0.0, 29.0, 0.3)
              for entry in zoo.entries() if entry.name.startswith("teco-x4-b10-c64-bp-lk")
              and not entry.name.endswith("-gan")}  # fmt: skip
    report = invented(models | {raw.name: (raw, 0.0, 30.0, 0.2)})
    for grid in grids(report)[1:]:
        whose = {row[0].removesuffix(" on Vid4"): row[1] for row in grid.rows}
        assert whose["teco-x4-b10-c64-bp-lk"] == "ours, other net"
        assert whose["teco-x4-b10-c64-raw"] == "ours"
        (note,) = [n for n in grid.notes if n.startswith("Other networks")]
        assert "with back-projection, a Lucas-Kanade step, normalised flow inputs besides" in note
        assert raw.name not in note
        assert any("REDS (their cards say)" in n for n in grid.notes)


def test_cut_measurements_are_not_called_comparable() -> None:
    assert "Not comparable" not in as_text(invented(FAMILY))
    text = as_text(invented(FAMILY, max_frames=9, shrink=1.5))
    assert "--shrink 1.5 and --frames 9" in text


def test_markdown_has_as_many_cells_in_every_row() -> None:
    odd = FAMILY | {"a|b_c*": (Variant(blocks=1), 0.0, float("inf"), 0.5)}
    text = as_markdown(invented(odd, sets=("Vid4", "clips")))
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(blocks) == 4
    for block in blocks:
        lines = block.splitlines()
        counts = {len(re.split(r"(?<!\\)\|", line)) for line in lines}
        assert len(counts) == 1
        assert re.fullmatch(r"(\| -{3}:? )+\|", lines[1])
    assert r"a\|b\_c\*" in text
    assert "equal" in text


def test_dots_lie_where_the_figures_say() -> None:
    figure = draw(invented(FAMILY, sets=("Vid4", "clips")))
    assert len(figure.axes) == 4
    for axes, column in zip(figure.axes, (2, 3, 2, 3), strict=True):
        (dots,) = axes.collections
        expected = [(model[1], model[column]) for model in FAMILY.values()]
        assert dots.get_offsets().tolist() == [list(point) for point in expected]
        assert axes.get_xscale() == "log"
        assert axes.get_yscale() == "linear"
        # bicubic is a level line across, and named.
        (level,) = axes.lines
        assert set(level.get_ydata()) == {27.46 if column == 2 else 0.44}
        named = [text.get_text() for text in axes.texts]
        assert named == ["bicubic", *(name.removeprefix("teco-x4-") for name in FAMILY)]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:2] == ["Vid4: PSNR in dB, higher is better", "Vid4: LPIPS, lower is better"]
    assert titles[2].startswith("clips: ")


def test_the_svg_stands_alone_and_holds_its_text() -> None:
    data = plot(invented(FAMILY), ".svg")
    assert data == plot(invented(FAMILY), ".svg"), "one report, one file"
    assert not re.search(r'href="[^#]|<script|<image|@import', data.decode())
    labels = [e.text for e in ET.fromstring(data).iter(f"{SVG}text")]
    for name in FAMILY:
        assert name.removeprefix("teco-x4-") in labels
    odd = {'a<b>&"c $x$': (Variant(blocks=1), 10.0, 28.0, 0.4)}
    root = ET.fromstring(plot(invented(odd), ".svg"))
    assert 'a<b>&"c $x$' in [e.text for e in root.iter(f"{SVG}text")]


def test_a_plot_is_refused_before_the_work_where_matplotlib_is_missing(monkeypatch) -> None:
    check_plot(("psnr",))
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TecoError, match="matplotlib") as refused:
        check_plot(("psnr",))
    assert refused.value.exit_code == 3
    assert "teco[plot]" in refused.value.hint


def test_cost_is_gmac_where_nothing_was_timed() -> None:
    untimed = {name: (v, 0.0, psnr, lpips) for name, (v, _, psnr, lpips) in FAMILY.items()}
    (row,) = panels(invented(untimed))
    assert "GMAC" in row[0].x_label
    assert [p.x for p in row[0].points] == [
        pytest.approx(v.cost(180, 320).macs["total"] / 1e9) for v, *_ in FAMILY.values()
    ]


@pytest.mark.parametrize("models", [{}, {"same": (Variant(), 40.0, 27.46, 0.44)}])
def test_few_figures_still_make_axes(models) -> None:
    for axes in draw(invented(models)).axes:
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            assert sum(low <= tick <= high for tick in axis.get_majorticklocs()) >= 3


@pytest.mark.parametrize("seed", range(20))
def test_labels_do_not_overlap(seed: int) -> None:
    """Twelve networks thrown at random, in pairs close together, in one panel."""
    rng = random.Random(seed)
    area, line = Bbox([[0, 0], [398, 240]]), Bbox([[0, 100], [398, 103]])
    dots = []
    for _ in range(6):
        x, y = rng.uniform(20, 380), rng.uniform(20, 220)
        dots += [(x, y), (x + rng.uniform(-12, 12), y + rng.uniform(-12, 12))]
    sizes = [(70.0 if n % 2 else 44.0, 13.0) for n in range(len(dots))]
    boxes = [place.box for place in places(sizes, dots, area, [line])]
    for i, (box, size) in enumerate(zip(boxes, sizes, strict=True)):
        assert box.size == pytest.approx(size)
        assert area.contains(box.x0, box.y0)
        assert area.contains(box.x1, box.y1)
        assert not box.overlaps(line)
        assert not box.count_overlaps(boxes[:i])
        assert not any(box.contains(*dot) for dot in dots)


def test_the_family_is_drawn_without_overlaps_and_on_the_page() -> None:
    figure = draw(invented(FAMILY, sets=("Vid4", "ToS3")))
    figure.draw_without_rendering()
    texts = [*figure.texts]
    for axes in figure.axes:
        texts += [*axes.texts, axes.xaxis.label, axes._left_title]
    boxes = [MatplotlibText.get_window_extent(text) for text in texts]
    for i, box in enumerate(boxes):
        assert figure.bbox.contains(box.x0, box.y0), texts[i]
        assert figure.bbox.contains(box.x1, box.y1), texts[i]
        for other, text in zip(boxes[:i], texts, strict=False):
            assert not box.overlaps(other), (texts[i], text)
