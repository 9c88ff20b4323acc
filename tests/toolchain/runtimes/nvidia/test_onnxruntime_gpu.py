"""ONNX Runtime's GPU providers as far as they go without a GPU: options, checks, bindings."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

from teco.core.errors import MACHINE, USAGE, TecoError
from teco.model.opening import Model, open_model
from teco.runtimes import SessionOptions, find
from teco.runtimes.base import FrameSession, moving_frames
from teco.runtimes.nvidia import linked, onnxruntime_gpu
from teco.runtimes.nvidia.onnxruntime_binding import (
    BoundFrameSession,
    BoundSession,
    Place,
    plugin_devices,
)
from teco.runtimes.nvidia.onnxruntime_gpu import (
    engine_cache,
    load_libraries,
    nodes_on_other_providers,
    provider_options,
    session_entries,
    shape_profile,
)
from teco.verification.temporal_gate import default_frames

GPU_NAMES = ("onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-rtx")


@pytest.fixture
def model(tiny_onnx: Path, tmp_path, monkeypatch) -> Model:
    monkeypatch.setenv("TECO_CACHE", str(tmp_path / "cache"))
    return open_model(str(tiny_onnx))


def static(model: Model, size: str = "16x24", **changes: object) -> Model:
    assert model.manifest is not None
    return replace(model, manifest=replace(model.manifest, size=size, **changes))


# --- options ---------------------------------------------------------------------------------


def test_nothing_may_fall_back_in_silence() -> None:
    for kind in ("cuda", "tensorrt", "rtx"):
        for fixed in (True, False):
            entries = session_entries(kind, static=fixed)
            assert entries["session.record_ep_graph_assignment_info"] == "1"
            none_at_all = entries.get("session.disable_cpu_ep_fallback") == "1"
            assert none_at_all is (fixed or kind != "cuda")
            settings = ort.SessionOptions()
            for key, value in entries.items():  # ONNX Runtime takes them
                settings.add_session_config_entry(key, value)


def test_graphs_only_where_sizes_are_fixed(model: Model) -> None:
    assert provider_options("cuda", model) == {"use_tf32": "0", "enable_cuda_graph": "0"}
    assert provider_options("cuda", static(model))["enable_cuda_graph"] == "1"


def test_a_cache_is_never_anothers(model: Model) -> None:
    """Not for another size, another file or another provider (onnxruntime#32254)."""
    models = [static(model), static(model, "32x48"), static(model, sha256="0" * 64), model]
    folders = {engine_cache(kind, m) for kind in ("tensorrt", "rtx") for m in models}
    assert len(folders) == 8
    assert all(folder.is_dir() for folder in folders)
    options = provider_options("tensorrt", static(model))
    assert options["trt_engine_cache_path"] == str(engine_cache("tensorrt", static(model)))
    # ONNX Runtime 1.31.1's Python layer refuses "1" and "0" for these.
    assert {k: v for k, v in options.items() if k.endswith("_enable")} == {
        "trt_engine_cache_enable": "True", "trt_timing_cache_enable": "True",
        "trt_fp16_enable": "False", "trt_int8_enable": "False",
    }  # fmt: skip
    whole = provider_options("tensorrt", static(model, precision_asked="int8"))
    assert whole["trt_int8_enable"] == "True"


def test_a_cache_folder_that_cannot_be_made(model: Model, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TECO_CACHE", str(tmp_path / "file"))
    with pytest.raises(TecoError, match="cannot be made") as error:
        engine_cache("rtx", model)
    assert "TECO_CACHE" in error.value.hint


def test_profiles_cover_every_input(model: Model) -> None:
    assert shape_profile("trt", static(model)) == {}
    assert shape_profile("nv", model) == {
        "nv_profile_min_shapes": "lr:1x3x8x8,lr_prev:1x3x8x8,hr_prev:1x3x32x32",
        "nv_profile_opt_shapes": "lr:1x3x180x320,lr_prev:1x3x180x320,hr_prev:1x3x720x1280",
        "nv_profile_max_shapes": "lr:1x3x1080x1920,lr_prev:1x3x1080x1920,hr_prev:1x3x4320x7680",
    }


def test_half_precision_files_are_not_given_to_a_provider_that_chooses_types(model: Model) -> None:
    half = static(model, precision_asked="fp16")
    reason = find("onnxruntime-tensorrt").why_not(half)
    assert reason is not None
    assert "--formats tensorrt" in reason
    assert find("onnxruntime-cuda").why_not(half) is None
    eighths = static(model, precision_asked="int8")
    assert "--int8 --formats rtx" in (find("onnxruntime-cuda").why_not(eighths) or "")
    assert find("onnxruntime-tensorrt").why_not(eighths) is None
    assert find("onnxruntime-rtx").why_not(half) is None


# --- what was obtained -----------------------------------------------------------------------


def real_session(model: Model) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return ort.InferenceSession(str(model.onnx), settings, providers=["CPUExecutionProvider"])


def test_what_runs_elsewhere_is_known_by_name(model: Model) -> None:
    """ONNX Runtime itself says where each node went."""
    session = real_session(model)
    if not hasattr(session, "get_provider_graph_assignment_info"):
        pytest.skip(f"onnxruntime {ort.__version__} cannot tell")
    assert nodes_on_other_providers(session, "CPUExecutionProvider", frozenset()) == []
    found = nodes_on_other_providers(session, "CUDAExecutionProvider", onnxruntime_gpu.SHAPE_OPS)
    assert "Conv on CPUExecutionProvider" in found
    assert "GridSample on CPUExecutionProvider" in found
    assert not any(x.startswith("Shape on") for x in found)


def test_an_onnxruntime_that_cannot_tell() -> None:
    assert nodes_on_other_providers(SimpleNamespace(), "CUDAExecutionProvider", frozenset()) == []


@pytest.fixture
def pretend(monkeypatch):
    """A machine that has everything, and an InferenceSession that is chosen."""

    def install(make) -> None:
        monkeypatch.setattr(onnxruntime_gpu.OnnxRuntimeGpu, "why_unavailable", lambda self: None)
        monkeypatch.setattr(onnxruntime_gpu, "first_gpu", object)
        monkeypatch.setattr(ort.SessionOptions, "add_provider_for_devices", lambda *_: None)
        monkeypatch.setattr(ort, "InferenceSession", make)

    return install


@pytest.mark.parametrize("name", GPU_NAMES)
def test_a_provider_that_was_not_obtained_is_an_error(name, model, pretend, monkeypatch) -> None:
    """The real ONNX Runtime, asked for a provider it lacks, opens the file on the CPU."""
    plugin = SimpleNamespace(
        __spec__=object(), __version__="0.5.0", get_ep_name=lambda: "NvTensorRTRTXExecutionProvider"
    )
    monkeypatch.setitem(sys.modules, onnxruntime_gpu.PLUGIN, plugin)
    real = ort.InferenceSession
    asked = []

    def make(path, settings, **arguments):
        asked.append(arguments)
        return real(path, settings, providers=["CPUExecutionProvider"])

    pretend(make)
    chosen = replace(model) if name == "onnxruntime-cuda" else None
    if chosen is None:
        # These two refuse the CPU already when the session is made.
        with pytest.raises(TecoError, match=r"would be left to the CPU|Conflicting") as error:
            find(name).open(model, SessionOptions())
    else:
        with pytest.raises(TecoError, match="ONNX Runtime gave CPUExecutionProvider") as error:
            find(name).open(chosen, SessionOptions())
    assert error.value.exit_code == MACHINE
    assert asked[0]["enable_fallback"] == 0


def test_nodes_left_to_the_cpu_are_an_error(model, pretend) -> None:
    real = real_session(model)

    def make(path, settings, **arguments):
        return SimpleNamespace(
            get_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
            get_provider_graph_assignment_info=real.get_provider_graph_assignment_info,
        )

    pretend(make)
    with pytest.raises(TecoError, match=r"left .*GridSample on CPUExecutionProvider.* to others"):
        find("onnxruntime-cuda").open(model, SessionOptions())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nodes on the CPU EP, but fallback to CPU EP has been explicitly disabled by the user.",
         "some of it would be left to the CPU"),
        ("libcublasLt.so.12: cannot open shared object file\nmore", "libcublasLt.so.12: cannot"),
    ],
)  # fmt: skip
def test_sessions_that_cannot_be_made(text, words, model, pretend) -> None:
    def make(*_, **__):
        raise RuntimeError(text)

    pretend(make)
    with pytest.raises(TecoError) as error:
        find("onnxruntime-cuda").open(model, SessionOptions())
    assert words in error.value.message
    assert "\n" not in error.value.message
    assert error.value.exit_code == MACHINE


# --- the plugin ------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "between"), [("0.4.0", ","), ("0.5.0", ";"), ("1.0", ";")])
def test_the_plugin_separates_inputs_by_its_version(model, monkeypatch, version, between) -> None:
    monkeypatch.setitem(sys.modules, onnxruntime_gpu.PLUGIN, SimpleNamespace(__version__=version))
    options = provider_options("rtx", model)
    assert options["nv_profile_min_shapes"] == between.join(
        ("lr:1x3x8x8", "lr_prev:1x3x8x8", "hr_prev:1x3x32x32")
    )


def test_libraries_of_wheels_are_loaded_and_what_is_missing_is_not_printed(
    monkeypatch, capsys
) -> None:
    loaded: list[str] = []

    def preload() -> None:
        print("Failed to load libcublasLt.so.13")
        loaded.append("dlls")

    fake = SimpleNamespace(preload_dlls=preload)
    load_libraries(fake, tensorrt=False)
    assert loaded == ["dlls"]
    monkeypatch.setattr(onnxruntime_gpu.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(onnxruntime_gpu.importlib, "import_module", loaded.append)
    load_libraries(fake, tensorrt=True)
    assert loaded == ["dlls", "dlls", "tensorrt"]
    load_libraries(SimpleNamespace(), tensorrt=False)  # an ONNX Runtime before 1.21
    assert capsys.readouterr().out == ""


@pytest.fixture
def plugin(monkeypatch) -> Iterator[SimpleNamespace]:
    """A plugin, nothing registered, and an ONNX Runtime that offers ``count`` GPUs of it."""
    said = SimpleNamespace(
        get_library_path=lambda: "lib.so", get_ep_name=lambda: "its own", registered=[], count=2
    )

    def register(name: str, path: str) -> None:
        said.registered.append((name, path))
        if said.count < 0:
            raise RuntimeError("libcudart.so.13: cannot open shared object file")

    def offered() -> list[SimpleNamespace]:
        names = ["CPUExecutionProvider", *["its own"] * said.count]
        return [SimpleNamespace(ep_name=name, n=n) for n, name in enumerate(names)]

    fake = SimpleNamespace(get_ep_devices=offered, register_execution_provider_library=register)
    monkeypatch.setitem(sys.modules, onnxruntime_gpu.PLUGIN, said)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    plugin_devices.cache_clear()
    yield said
    plugin_devices.cache_clear()


def test_the_plugin_is_registered_once(plugin) -> None:
    assert onnxruntime_gpu.first_gpu().n == 1
    assert onnxruntime_gpu.first_gpu().n == 1
    assert plugin.registered == [("its own", "lib.so")]


@pytest.mark.parametrize("breaks", [True, False])
def test_a_plugin_without_a_gpu(plugin, breaks) -> None:
    plugin.count = -1 if breaks else 0
    words = "cannot be loaded: libcudart" if breaks else "offers no GPU here"
    for _ in range(2):
        with pytest.raises(TecoError, match=words) as error:
            onnxruntime_gpu.first_gpu()
        assert error.value.exit_code == MACHINE


@pytest.mark.parametrize("name", GPU_NAMES)
def test_what_would_make_it_work_here(name) -> None:
    reason = find(name).why_unavailable()
    if reason is None:
        pytest.skip("it works here")
    assert reason.startswith(name)
    assert "pip install" in reason or "GPU and driver" in reason


# --- stepping --------------------------------------------------------------------------------


class HostPlace(Place):
    """Memory of the host instead of the GPU: the rest is ONNX Runtime as it is."""

    def empty(self, shape, dtype):
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype.type, "cpu", 0)

    def download(self, source, shape, dtype):
        return source.numpy().copy()


@pytest.mark.parametrize("graphs", [False, True])
def test_bound_tensors_take_turns(model: Model, graphs) -> None:
    assert model.manifest is not None
    real = real_session(model)
    session = BoundSession(
        "bound", "host", real, model.manifest.contract, HostPlace(), graphs=False
    )
    ids: list[str | None] = []
    if graphs:
        plain = real.run_with_iobinding
        session._graphs = True

        def run(binding, options) -> None:
            ids.append(options.get_run_config_entry("gpu_graph_id"))
            plain(binding, ort.RunOptions())

        real.run_with_iobinding = run
    reference = find("onnxruntime").open(model, SessionOptions(threads=1))
    for h, w in ((16, 24), (11, 21), (16, 24)):
        state = expected_state = None
        for lr in moving_frames(h, w, 4):
            expected, expected_state = reference.step(lr, expected_state)
            found, state = session.step(lr, state)
            assert np.abs(found - expected).max() <= 1e-6
        pairs = session._sides.values()
        assert all(a.data_ptr() != b.data_ptr() for a, b in pairs)
    if graphs:
        assert ids == ["1", "2"] * 6
    array, state = session.step_on_device(moving_frames(16, 24, 1)[0], None)
    assert array.shape == (1, 3, 64, 96)
    with pytest.raises(TecoError, match=r"where the size changes|scene's are 16x24"):
        session.step(moving_frames(11, 21, 1)[0], state)
    with pytest.raises(TecoError, match="not one of this session's") as error:
        session.step(moving_frames(16, 24, 1)[0], object())
    assert error.value.exit_code == USAGE
    session.close()
    with pytest.raises(TecoError, match="is closed"):
        session.step(moving_frames(16, 24, 1)[0], None)


def test_bound_pictures(tmp_path: Path) -> None:
    """8-bit ports: what the CPU session gives, bit for bit, in memory that takes turns."""
    torch = pytest.importorskip("torch")
    from teco.exporting.onnx import ExportOptions, export_onnx
    from teco_models.arch.generator import Generator
    from teco_models.checkpoint import Weights
    from teco_models.variant import Variant

    variant = Variant.parse("teco-x4-b1-c8-f0-shuffle")
    torch.manual_seed(0)
    weights = Weights(variant, Generator(variant).state_dict())
    options = ExportOptions(size=(12, 16), io="uint8")
    model = open_model(str(export_onnx(weights, tmp_path, options)))
    assert model.manifest is not None
    session = BoundFrameSession(
        "bound", "host", real_session(model), model.manifest.contract, HostPlace(), graphs=False
    )
    reference = find("onnxruntime").open(model, SessionOptions(threads=1))
    assert isinstance(session, FrameSession)
    assert isinstance(reference, FrameSession)
    state = expected_state = None
    for frame in default_frames(12, 16, 5):
        expected, expected_state = reference.enlarge(frame, expected_state)
        found, state = session.enlarge(frame, state)
        assert np.array_equal(found, expected)
    lr = moving_frames(12, 16, 1)[0]
    assert np.array_equal(session.step(lr, None)[0], reference.step(lr, None)[0])
    with pytest.raises(TecoError, match="expected 1xHEIGHTxWIDTHx3"):
        session.enlarge(np.zeros((3, 12, 16), np.uint8), None)
    session.close()


def test_bound_planes(tmp_path: Path) -> None:
    """Planes: what the CPU session gives, bit for bit, in memory that takes turns."""
    torch = pytest.importorskip("torch")
    from teco.exporting.onnx import ExportOptions, export_onnx
    from teco.model.conversion import Conversion, as_planes
    from teco.runtimes.base import PlaneSession
    from teco.runtimes.nvidia.onnxruntime_binding import BoundPlaneSession
    from teco_models.arch.computed_alignment import AlignedGenerator
    from teco_models.checkpoint import Weights
    from teco_models.variant import Variant

    variant = Variant.aligned(blocks=1, channels=8, latent=4)
    torch.manual_seed(0)
    weights = Weights(variant, dict(AlignedGenerator(variant).state_dict()))
    model = open_model(str(export_onnx(weights, tmp_path, ExportOptions(size=(24, 32), io="nv12"))))
    assert model.manifest is not None
    session = BoundPlaneSession(
        "bound", "host", real_session(model), model.manifest.contract, HostPlace(), graphs=False
    )
    reference = find("onnxruntime").open(model, SessionOptions(threads=1))
    assert isinstance(session, PlaneSession)
    assert isinstance(reference, PlaneSession)
    conversion = Conversion.of("bt709", full_range=False)
    state = expected_state = None
    for one in (session, reference):
        one.convert_by(conversion)
    for frame in default_frames(24, 32, 5):
        picture = as_planes(frame, "NV12", conversion)
        expected, expected_state = reference.enlarge_planes(picture, expected_state)
        found, state = session.enlarge_planes(picture, state)
        assert np.array_equal(found, expected)
    with pytest.raises(TecoError, match="and 1xHALFxHALFx2"):
        session._run({"y8": np.zeros((1, 24, 32, 1), np.uint8),
                      "uv8": np.zeros((1, 24, 32, 2), np.uint8)}, None)  # fmt: skip
    session.close()


# --- which libraries -------------------------------------------------------------------------


def test_libraries_are_read_from_the_file(tmp_path: Path) -> None:
    """Of this interpreter's own extension modules, and of what is none."""
    import _ssl

    if not sys.platform.startswith("linux") or not getattr(_ssl, "__file__", None):
        pytest.skip("no shared library of the interpreter's here")
    found = linked.wanted_libraries(Path(_ssl.__file__))
    assert any(name.startswith("libssl.so") for name in found)
    data = Path(_ssl.__file__).read_bytes()
    for wrong in (b"", b"PK\x03\x04", b"\x7fELF\x01\x01" + bytes(60), data[:80], data[:4000]):
        file = tmp_path / "lib.so"
        file.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"lib\.so is"):
            linked.wanted_libraries(file)


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        ((11,), "this onnxruntime-gpu wants libnvinfer.so.10, you have 11: pip install 'tensorrt>"),
        ((), "wants libnvinfer.so.10, you have none"),
        ((9, 11), "you have 9 and 11"),
        ((10, 11), None),
    ],
)
def test_the_wrong_tensorrt_is_said(monkeypatch, tmp_path, installed, words) -> None:
    monkeypatch.setattr(linked, "provider_path", lambda: tmp_path / linked.PROVIDER)
    monkeypatch.setattr(
        linked, "wanted_libraries", lambda path: ("libcudart.so.12", "libnvinfer.so.10")
    )
    monkeypatch.setattr(linked, "installed_nvinfer", lambda: installed)
    monkeypatch.setattr(linked.sys, "platform", "linux")
    reason = linked.why_tensorrt_provider_cannot_load()
    assert reason is None if words is None else words in (reason or "")


def test_a_provider_that_is_not_there_is_no_reason(monkeypatch) -> None:
    monkeypatch.setattr(linked, "provider_path", lambda: None)
    assert linked.why_tensorrt_provider_cannot_load() is None


def test_libnvinfer_is_found_in_wheels_and_by_the_linker(monkeypatch, tmp_path) -> None:
    (tmp_path / "libnvinfer.so.11").write_text("")
    (tmp_path / "libnvinfer_plugin.so.9").write_text("")
    monkeypatch.setattr(linked, "_wheel_folders", lambda packages: [tmp_path])
    monkeypatch.setattr(linked, "_linker_cache", lambda: "libnvinfer.so.8 (libc6) => /x\n")
    assert linked.installed_nvinfer() == (8, 11)
