"""Engines as sessions, run on a GPU made of host memory; the real one is test_gpu_sessions.py."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import numpy as np
import pytest
from engine_files import HOST, make, make_tensorrt
from fake_gpu import STREAM, FakeDevice, Kind, Made, bindings, step

from teco.core import gpu
from teco.core.errors import FAILED, MACHINE, USAGE, TecoError
from teco.core.planes import packed, planes_of
from teco.model.contract import StreamContract
from teco.model.conversion import Conversion
from teco.model.engine import api, preflight
from teco.model.opening import open_model
from teco.runtimes import SessionOptions, find, of_engine, open_session
from teco.runtimes.base import FrameSession, PlaneSession
from teco.runtimes.nvidia import device as device_module
from teco.runtimes.nvidia import tensorrt_rtx as tensorrt_rtx_module
from teco_models.variant import Variant

FREE = StreamContract.of(Variant.parse("teco-x4-b1-c16-f0-shuffle"))


@pytest.fixture
def made(tmp_path, monkeypatch) -> Made:
    """A machine with a GPU and both of NVIDIA's runtimes, all of them fake."""
    made = Made(FakeDevice())
    trt = bindings(made)
    monkeypatch.setenv("TECO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(preflight, "look", lambda targets: HOST)
    monkeypatch.setattr(gpu, "find", lambda: HOST.gpus)
    monkeypatch.setattr(api, "is_installed", lambda target: True)
    monkeypatch.setattr(api, "load", lambda target, purpose: trt)
    monkeypatch.setattr("teco.model.engine.validity.load", lambda target, purpose: trt)
    monkeypatch.setattr(device_module, "open_device", lambda purpose="": made.device)
    monkeypatch.setattr(device_module, "why_unavailable", lambda purpose: None)
    return made


def open_engine(folder, made: Made, *, target: str = "rtx", **changes):
    """A session, opened the way the commands do."""
    if made.size is None:
        changes = {"size": "dynamic", "profile": ("8x8", "16x24", "32x48")} | changes
    path = make(folder, **changes) if target == "rtx" else make_tensorrt(folder, **changes)
    return open_session(open_model(str(path)), "auto", SessionOptions())


def frames(count: int, h: int = 16, w: int = 24, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.random((1, 3, h, w), np.float32) for _ in range(count)]


class Reference:
    """The recurrence as the contract says it, with nothing shared."""

    def __init__(self, contract: StreamContract) -> None:
        self.contract = contract

    def __call__(self, lr: np.ndarray, state: dict | None) -> tuple[np.ndarray, dict]:
        c, (h, w) = self.contract, lr.shape[2:]
        if state is None:
            from teco.runtimes.ports import shape_of

            state = {s.input: np.zeros(shape_of(s.shape, h, w), np.float32) for s in c.states}
        out = {c.frame: lr, **step({c.frame: lr, **state}, c)}
        return out[c.picture], {s.input: out[s.source] for s in c.states}


def follows(
    session, contract: StreamContract, clip: list[np.ndarray], tolerance: float = 0
) -> None:
    state = expected_state = None
    reference = Reference(contract)
    for lr in clip:
        expected, expected_state = reference(lr, expected_state)
        found, state = session.step(lr, state)
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() <= tolerance


# --- the recurrence --------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["rtx", "tensorrt"])
@pytest.mark.parametrize("size", [(16, 24), None])
@pytest.mark.parametrize("contract", [StreamContract(), FREE], ids=["flow", "free"])
@pytest.mark.parametrize("can_capture", [True, False])
def test_follows_the_contract(tmp_path, made, target, size, contract, can_capture, monkeypatch):
    made.size, made.contract, made.device.can_capture = size, contract, can_capture
    if contract is FREE:
        monkeypatch.setattr("engine_files.StreamContract", lambda: FREE)
        monkeypatch.setattr(StreamContract, "of", classmethod(lambda cls, variant, io="fp32": FREE))
    session = open_engine(tmp_path, made, target=target)
    assert session.runtime == ("tensorrt-rtx" if target == "rtx" else "tensorrt")
    for seed in (0, 1):  # the second clip starts afresh
        follows(session, contract, frames(7, seed=seed))
    assert ("without CUDA graphs" in session.details) is not can_capture
    session.close()
    made.device.assert_empty()


def test_two_graphs_take_turns_and_nothing_else_runs(tmp_path, made):
    session = open_engine(tmp_path, made)
    _, state = session.step(frames(1)[0], None)
    assert made.device.count("begin_capture") == 2
    (context,) = made.contexts
    runs, before = context.runs, len(made.device.log)
    for lr in frames(6):
        _, state = session.step(lr, state)
    log = made.device.log[before:]
    launched = [entry[1] for entry in log if entry[0] == "launch"]
    assert context.runs == runs, "the engine itself is not asked again"
    assert len(set(launched)) == 2
    assert launched[0::2] == [launched[0]] * 3
    assert launched[1::2] == [launched[1]] * 3
    assert not {"alloc", "free", "alloc_host", "begin_capture", "zero", "copy"} & {
        x[0] for x in log
    }
    session.close()


def test_state_never_leaves_the_device(tmp_path, made, monkeypatch):
    """Only frames go up and only pictures come down, through page-locked memory."""
    made.contract = FREE
    monkeypatch.setattr("engine_files.StreamContract", lambda: FREE)
    monkeypatch.setattr(StreamContract, "of", classmethod(lambda cls, variant, io="fp32": FREE))
    session = open_engine(tmp_path, made)
    follows(session, FREE, frames(4))
    down = [entry for entry in made.device.log if entry[0] == "download"]
    up = [entry for entry in made.device.log if entry[0] == "upload"]
    assert [entry[2] for entry in down] == [3 * 64 * 96 * 4] * 4
    assert [entry[2] for entry in up] == [3 * 16 * 24 * 4] * 4
    assert len({entry[1] for entry in down}) == 2
    assert made.device.pinned == 4
    session.close()


def test_a_new_scene_is_zeros_on_the_device(tmp_path, made):
    session = open_engine(tmp_path, made)
    clip = frames(3)
    first, state = session.step(clip[0], None)
    kept = first.copy()
    session.step(clip[1], state)
    before = len(made.device.log)
    again, _ = session.step(clip[0], None)
    assert np.array_equal(again, kept)
    zeroed = sorted(x[2] for x in made.device.log[before:] if x[0] == "zero")
    assert zeroed == [3 * 16 * 24 * 4, 3 * 64 * 96 * 4]
    session.close()


def test_an_output_lives_until_the_step_after_next_and_beyond_close(tmp_path, made):
    session = open_engine(tmp_path, made)
    clip = frames(3)
    first, state = session.step(clip[0], None)
    kept = first.copy()
    second, state = session.step(clip[1], state)
    assert np.array_equal(first, kept)
    kept = second.copy()
    session.close()
    assert np.array_equal(second, kept)
    del first, second
    gc.collect()
    made.device.assert_empty()


def with_ports(made, monkeypatch, io: str) -> StreamContract:
    """The fake engine and its manifest with such ports."""
    contract = StreamContract.of(Variant(), io)
    kinds = {"float32": Kind.FLOAT, "float16": Kind.HALF, "uint8": Kind.UINT8}
    made.contract = contract
    made.kinds = dict.fromkeys((*contract.frames, *contract.pictures), kinds[contract.dtype])
    made.kinds |= {s.input: kinds[s.dtype] for s in contract.states}
    monkeypatch.setattr("engine_files.StreamContract", lambda: contract)
    return contract


def test_half_precision_ports(tmp_path, made, monkeypatch):
    contract = with_ports(made, monkeypatch, "fp16")
    session = open_engine(tmp_path, made)
    follows(session, contract, frames(4), tolerance=2e-3)
    session.close()


@pytest.mark.parametrize("size", [(16, 24), None])
def test_pictures_go_in_and_come_out(tmp_path, made, monkeypatch, size):
    """8-bit frames and pictures at the ports; between steps the float state is what counts."""
    contract = with_ports(made, monkeypatch, "uint8")
    made.size = size
    session = open_engine(tmp_path, made)
    assert isinstance(session, FrameSession)
    rng = np.random.default_rng(0)
    clip = [rng.integers(0, 256, (16, 24, 3), np.uint8) for _ in range(5)]
    state, past = None, (np.zeros((1, 16, 24, 3), np.uint8), np.zeros((1, 3, 64, 96), np.float32))
    kept = []
    for frame in clip:
        values = {contract.frame: frame[None]}
        values |= {s.input: x for s, x in zip(contract.states, past, strict=True)}
        out = step(values, contract)
        picture, state = session.enlarge(frame, state)
        assert picture.dtype == np.uint8
        kept.append((picture, out[contract.picture][0]))
        past = (frame[None], out["hr"])
    for found, expected in kept:  # pictures are the caller's to keep
        assert np.array_equal(found, expected)
    down = {entry[2] for entry in made.device.log if entry[0] == "download"}
    assert down == {64 * 96 * 3, 4}, "the picture and its check, never the state"
    # As floats: rounded to levels on the way in.
    lr = clip[0].transpose(2, 0, 1)[None] / np.float32(255)
    found, _ = session.step(lr, None)
    assert np.array_equal(found[0], kept[0][0].transpose(2, 0, 1) / np.float32(255))
    with pytest.raises(FloatingPointError):
        session.enlarge(np.full((16, 24, 3), 13, np.uint8), None)
    with pytest.raises(TecoError, match="expected 1xHEIGHTxWIDTHx3"):
        session.enlarge(np.zeros((3, 16, 24), np.uint8), None)
    session.close()
    del found
    gc.collect()
    made.device.assert_empty()


@pytest.mark.parametrize("io", ["nv12", "i420"])
@pytest.mark.parametrize("size", [(16, 24), None])
def test_planes_go_in_and_come_out(tmp_path, made, monkeypatch, size, io):
    """Every plane by its own port, the conversion beside them, one packed picture out."""
    contract = with_ports(made, monkeypatch, io)
    made.size = size
    session = open_engine(tmp_path, made)
    assert isinstance(session, PlaneSession)
    assert not isinstance(session, FrameSession)
    rng = np.random.default_rng(0)
    clip = [rng.integers(0, 256, (24, 24), np.uint8) for _ in range(5)]
    with pytest.raises(TecoError, match="matrix and the range"):
        session.enlarge_planes(clip[0], None)
    conversions = [Conversion.of("bt601", full) for full in (False, True)]
    kept, state, past = [], None, np.zeros((1, 3, 64, 96), np.float32)
    for n, picture in enumerate(clip):
        conversion = conversions[n > 2]
        session.convert_by(conversion)
        values = {contract.states[1].input: past}
        planes = planes_of(picture, session.layout)
        values |= {p: x[None] for p, x in zip(contract.frames, planes, strict=True)}
        values |= dict(zip(contract.conversion, conversion.inputs, strict=True))
        out = step(values, contract)
        found, state = session.enlarge_planes(picture, state)
        kept.append((found, packed(*(out[name] for name in contract.pictures))))
        past = out["hr"]
    for found, expected in kept:  # pictures are the caller's to keep
        assert np.array_equal(found, expected)
    down = [entry[2] for entry in made.device.log if entry[0] == "download"]
    assert sum(down) == 5 * (64 * 96 * 3 // 2 + 4), "the planes and the check, never the state"
    with pytest.raises(FloatingPointError):
        session.enlarge_planes(np.full((24, 24), 13, np.uint8), None)
    with pytest.raises(TecoError, match=f"{io} ports"):
        session.step(np.zeros((1, 3, 16, 24), np.float32), None)
    session.close()
    made.device.assert_empty()


def test_timings_come_from_events(tmp_path, made):
    session = open_engine(tmp_path, made)
    assert session.last_step_ms is None
    session.step(frames(1)[0], None)
    assert session.last_step_ms == 1.5
    session.close()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("old", "the state is that of step 1 and the last step was 2"),
        (7, "not one of this session"),
    ],
)
def test_a_state_that_is_gone_is_refused(tmp_path, made, state, words):
    session = open_engine(tmp_path, made)
    clip = frames(3)
    _, old = session.step(clip[0], None)
    session.step(clip[1], old)
    with pytest.raises(TecoError, match=words):
        session.step(clip[2], old if state == "old" else state)
    session.close()
    with pytest.raises(TecoError, match="is closed"):
        session.step(clip[0], None)


# --- sizes -----------------------------------------------------------------------------------


def test_another_size_is_captured_again(tmp_path, made):
    made.size = None
    session = open_engine(tmp_path, made)
    follows(session, made.contract, frames(3))
    held = len(made.device.live)
    follows(session, made.contract, frames(3, 9, 40))
    assert made.device.count("begin_capture") == 4
    assert len(made.device.live) == held
    assert made.device.graphs == 2
    follows(session, made.contract, frames(3, 9, 40))
    assert made.device.count("begin_capture") == 4
    state = session.step(frames(1)[0], None)[1]
    with pytest.raises(TecoError, match="the frame is 9x40 and the scene's are 16x24"):
        session.step(frames(1, 9, 40)[0], state)
    session.close()
    made.device.assert_empty()


@pytest.mark.parametrize("size", [(16, 24), None])
def test_a_size_it_was_not_built_for(tmp_path, made, size):
    made.size = size
    session = open_engine(tmp_path, made)
    with pytest.raises(TecoError, match=r"was built for .*, these are 33x24") as error:
        session.step(frames(1, 33, 24)[0], None)
    assert error.value.exit_code == USAGE
    assert made.device.count("alloc") == 0
    for wrong in (np.zeros((3, 16, 24), np.float32), np.zeros((1, 4, 16, 24), np.float32)):
        with pytest.raises(TecoError, match="expected 1x3xHEIGHTxWIDTH"):
            session.step(wrong, None)
    follows(session, made.contract, frames(2))
    session.close()


# --- frames that lie on the GPU --------------------------------------------------------------


def on_device(device: FakeDevice, lr: np.ndarray, **changes: object) -> SimpleNamespace:
    address = device.alloc(lr.nbytes)
    device.live[address][:] = np.frombuffer(lr.tobytes(), np.uint8)
    interface = {
        "shape": lr.shape, "typestr": lr.dtype.str, "data": (address, False), "version": 3,
        "strides": None, "stream": None,
    }  # fmt: skip
    return SimpleNamespace(__cuda_array_interface__=interface | changes)


def test_frames_on_the_device_need_no_host(tmp_path, made):
    session = open_engine(tmp_path, made)
    reference, state, expected_state = Reference(made.contract), None, None
    for lr in frames(5):
        expected, expected_state = reference(lr, expected_state)
        array, state = session.step_on_device(on_device(made.device, lr, stream=9), state)
        interface = array.__cuda_array_interface__
        assert interface["stream"] == STREAM
        assert interface["typestr"] == "<f4"
        assert interface["shape"] == (1, 3, 64, 96)
        assert interface["version"] == 3
        found = made.device.at(interface["data"][0], array.shape, np.float32)
        assert np.array_equal(found, expected)
    assert made.device.count("upload") == made.device.count("download") == 0
    assert [x for x in made.device.log if x[0] == "wait_for"] == [("wait_for", 9)] * 5
    # What one step leaves on the device can be the next model's frame.
    assert array.nbytes == 3 * 64 * 96 * 4
    session.close()


def test_host_frames_in_a_row_without_waiting_do_not_overwrite_each_other(tmp_path, made):
    session = open_engine(tmp_path, made)
    _, state = session.step_on_device(frames(1)[0], None)
    before = made.device.count("synchronise")
    session.step_on_device(frames(1)[0], state)
    assert made.device.count("synchronise") == before + 1
    session.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"typestr": "<f2"}, "is float16, expected float32"),
        ({"typestr": "nonsense"}, "incomplete __cuda_array_interface__"),
        ({"data": None}, "incomplete __cuda_array_interface__"),
        ({"strides": (4608, 4, 288, 12)}, "not contiguous: its strides are 4608x4x288x12 bytes"),
        ({"mask": object()}, "is masked"),
        ({"data": (0, False)}, "has no memory"),
        ({"stream": 0}, "says stream 0, expected None, 1, 2 or a handle"),
        ({"stream": "7"}, "says stream '7'"),
    ],
)
def test_interfaces_that_are_refused(tmp_path, made, changes, words):
    session = open_engine(tmp_path, made)
    with pytest.raises(TecoError) as error:
        session.step(on_device(made.device, frames(1)[0], **changes), None)
    assert words in error.value.message
    assert error.value.exit_code == USAGE
    follows(session, made.contract, frames(2))
    session.close()


def test_strides_that_say_contiguous_are_taken(tmp_path, made):
    session = open_engine(tmp_path, made)
    lr = frames(1)[0]
    found, _ = session.step(on_device(made.device, lr, strides=lr.strides), None)
    assert np.array_equal(found, Reference(made.contract)(lr, None)[0])
    session.close()


# --- memory ----------------------------------------------------------------------------------


def open_and_step(folder, made: Made, opened: list) -> None:
    """Both in one, for what may fail in either; ``opened`` gets the session as soon as it is."""
    opened.append(open_engine(folder, made))
    opened[0].step(frames(1)[0], None)


@pytest.mark.parametrize(
    ("call", "after"),
    [
        *(("alloc", n) for n in range(5)), *(("alloc_host", n) for n in range(4)),
        ("begin_capture", 0), ("begin_capture", 1), ("instantiate", 1), ("end_capture", 0),
        ("synchronise", 0), ("make_event", 0), ("make_event", 1),
    ],
)  # fmt: skip
def test_all_is_given_back_wherever_it_fails(tmp_path, made, call, after):
    made.device.fail = (call, after)
    opened = []
    with pytest.raises(TecoError, match="told to fail"):
        open_and_step(tmp_path, made, opened)
    session = opened[0] if opened else None
    made.device.fail = None
    if session is not None:
        assert made.device.live == {}
        follows(session, made.contract, frames(2))
        session.close()
        session.close()
    gc.collect()
    made.device.assert_empty()


def test_the_old_size_is_given_back_before_the_new_one_is_taken(tmp_path, made):
    made.size = None
    session = open_engine(tmp_path, made)
    session.step(frames(1)[0], None)
    made.device.fail = ("alloc", 2)
    with pytest.raises(TecoError, match="told to fail"):
        session.step(frames(1, 9, 40)[0], None)
    made.device.fail = None
    assert made.device.live == {}
    follows(session, made.contract, frames(2, 9, 40))
    session.close()
    made.device.assert_empty()


@pytest.mark.parametrize(
    ("refuse", "words"),
    [
        ("load", "could not load step-16x24-fp16-rtx.plan: the fake runtime was told to refuse"),
        ("context", "could not get ready to run step-16x24-fp16-rtx.plan: it gave no reason"),
        ("run", "the engine could not run: no reason given"),
        ("capture", "the engine could not be captured in a CUDA graph"),
    ],
)
def test_an_engine_that_refuses(tmp_path, made, refuse, words):
    made.refuse = refuse
    opened = []
    with pytest.raises(TecoError) as error:
        open_and_step(tmp_path, made, opened)
    session = opened[0] if opened else None
    assert words in error.value.message
    del error  # its traceback holds what the failed step had
    if session is not None:
        session.close()
    gc.collect()
    made.device.assert_empty()


def test_an_engine_that_cannot_be_captured_runs_without(tmp_path, made):
    made.capturable = False
    session = open_engine(tmp_path, made)
    follows(session, made.contract, frames(4))
    assert made.device.count("begin_capture") == 0
    assert session.details.endswith(", without CUDA graphs")
    session.close()
    made.device.assert_empty()


# --- the engine against its manifest ---------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": {"lr_prev": "before"}}, "has inputs before, hr_prev, lr, its manifest says"),
        ({"names": {"hr": "out"}}, "has outputs out, its manifest says hr"),
        ({"shapes": {"hr": (1, 3, 64, 95)}}, "hr of step-16x24-fp16-rtx.plan is 1x3x64x95"),
        ({"shapes": {"lr": (1, 3, 16)}}, "lr of step-16x24-fp16-rtx.plan is 1x3x16, its"),
        ({"size": (16, 25)}, "is 1x3x16x25, its manifest says 1x3x16x24"),
        ({"kinds": {"lr": Kind.BF16}}, "port lr of step-16x24-fp16-rtx.plan is BF16"),
        ({"kinds": {"lr": Kind.UINT8}}, "lr of step-16x24-fp16-rtx.plan is uint8, its manifest"),
        ({"kinds": {"hr": Kind.HALF}}, "hr of step-16x24-fp16-rtx.plan is float16, its manifest"),
    ],
)
def test_engines_that_are_not_what_their_manifest_says(tmp_path, made, changes, words):
    for name, value in changes.items():
        setattr(made, name, value)
    with pytest.raises(TecoError) as error:
        open_engine(tmp_path, made)
    assert words in error.value.message
    assert error.value.exit_code == FAILED
    made.device.assert_empty()


# --- TensorRT-RTX's cache --------------------------------------------------------------------


def test_what_was_compiled_is_kept(tmp_path, made):
    session = open_engine(tmp_path, made)
    folder = tmp_path / "cache" / "tensorrt-rtx"
    assert not folder.exists()
    session.step(frames(1)[0], None)
    (file,) = folder.iterdir()  # kept already: the program may be killed
    assert file.read_bytes() == b"kernels"
    session.close()
    made.device = FakeDevice()
    session = open_engine(tmp_path, made)
    assert made.cache.loaded == b"kernels"
    assert made.config.cuda_graph_strategy == "disabled"
    assert not hasattr(made.config, "dynamic_shapes_kernel_specialization_strategy")
    session.close()
    assert [x.name for x in folder.iterdir()] == [file.name]


def test_a_cache_of_another_machine_is_written_anew(tmp_path, made):
    session = open_engine(tmp_path, made)
    session.step(frames(1)[0], None)
    session.close()
    (file,) = (tmp_path / "cache" / "tensorrt-rtx").iterdir()
    file.write_bytes(b"of another driver")
    made.device, made.contexts = FakeDevice(), []
    session = open_engine(tmp_path, made)
    session.step(frames(1)[0], None)
    session.close()
    assert file.read_bytes() == b"kernels"


def test_each_engine_release_and_gpu_has_its_own_cache(tmp_path, made):
    manifest = preflight.read(make(tmp_path))
    path = tensorrt_rtx_module.cache_path
    places = {path(manifest, "1.7.1.116", "A"), path(manifest, "1.7.2.1", "A"),
              path(manifest, "1.7.1.116", "B")}  # fmt: skip
    assert len(places) == 3


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, made, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TECO_CACHE", str(tmp_path / "file"))
    session = open_engine(tmp_path, made)
    follows(session, made.contract, frames(2))
    session.close()
    made.device.assert_empty()


def test_sizes_that_vary_are_compiled_before_they_are_captured(tmp_path, made):
    made.size = None
    open_engine(tmp_path, made).close()
    assert made.config.dynamic_shapes_kernel_specialization_strategy == "eager"


# --- how it is reached -----------------------------------------------------------------------


def test_an_engine_has_one_runtime(tmp_path, made):
    model = open_model(str(make(tmp_path)))
    only = of_engine(model)
    assert only is not None
    assert only.name == "tensorrt-rtx"
    for name in ("tensorrt", "onnxruntime", "pytorch", "openvino"):
        reason = find(name).why_not(model)
        assert reason is not None
        assert model.name in reason
    assert find("tensorrt").why_not(model) == (
        f"tensorrt runs engines of TensorRT, and {model.name} is one of TensorRT-RTX"
    )


def test_other_models_are_not_for_the_engines_runtimes(tiny_onnx, tiny_weights):
    for name in ("tensorrt", "tensorrt-rtx"):
        for path, kind in ((tiny_onnx, "an ONNX file"), (tiny_weights, "weights")):
            model = open_model(str(path))
            assert of_engine(model) is None
            with pytest.raises(TecoError, match=f"runs engines, and {model.name} is {kind}"):
                find(name).open(model, SessionOptions())


def test_the_preflight_comes_before_the_runtime(tmp_path, made, monkeypatch):
    """What would be refused anyway is never handed over, and no device is opened for it."""
    path = make(tmp_path, runtime_version="1.6.0.1", compute_capabilities=(75, 89))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TecoError, match="is cut off"):
        open_model(str(path))
    model = open_model(str(make(tmp_path)))
    monkeypatch.setattr(preflight, "look", lambda targets: HOST.__class__((), "Linux", "x86_64"))
    with pytest.raises(TecoError) as error:
        find("tensorrt-rtx").open(model, SessionOptions())
    assert error.value.exit_code == MACHINE
    assert made.device.closed == 0


@pytest.mark.parametrize("command", ["bench", "upscale"])
def test_commands_say_what_an_engine_lacks_here(tmp_path, teco, make_clip, monkeypatch, command):
    monkeypatch.setattr(preflight, "look", lambda targets: HOST.__class__(
        (), "Linux", "x86_64", HOST.versions))  # fmt: skip
    path = make(tmp_path)
    if command == "bench":
        run = teco("bench", path, "--size", "16x24")
    else:
        run = teco("upscale", make_clip(tmp_path / "in.mp4", 24, 16), tmp_path / "out.mp4",
                   "--model", path)  # fmt: skip
        assert not (tmp_path / "out.mp4").exists()
    run.refuses(3, f"running {path} needs an NVIDIA GPU and driver; nvidia-smi finds none")


def test_bench_and_upscale_run_an_engine(tmp_path, made, teco, make_clip, load_pictures):
    path = make(tmp_path)
    clip = make_clip(tmp_path / "in.mp4", 24, 16, 4)
    teco("upscale", clip, tmp_path / "out", "--model", path).says("on tensorrt-rtx (Fake GPU")
    assert len(load_pictures(tmp_path / "out")) == 4
    gc.collect()
    made.device.assert_empty()
    made.device = FakeDevice()
    refused = teco("bench", path, "--size", "24x16")
    refused.refuses(2, "was built for 16x24 frames", "these are 24x16", after=("note: 24x16 is",))


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_what_would_make_it_work(monkeypatch, name):
    runtime = find(name)
    monkeypatch.setattr(api, "is_installed", lambda target: False)
    reason = runtime.why_unavailable()
    assert reason is not None
    assert "is not installed: pip install 'teco[" in reason
    monkeypatch.setattr(api, "is_installed", lambda target: True)
    monkeypatch.setattr(device_module, "installed", lambda: None)
    assert "cuda-python or PyCUDA" in (runtime.why_unavailable() or "")
    monkeypatch.setattr(device_module, "installed", lambda: "cuda-python")
    monkeypatch.setattr(gpu, "find", lambda: ())
    assert "NVIDIA GPU and driver" in (runtime.why_unavailable() or "")
    monkeypatch.setattr(gpu, "find", lambda: HOST.gpus)
    assert runtime.why_unavailable() is None
