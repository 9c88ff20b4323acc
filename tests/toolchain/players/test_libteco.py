"""libteco: its pictures are those of `teco upscale`, and what is wrong is said, never a crash."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from libteco import (
    ARGUMENT,
    CONTRACT,
    LIBRARY,
    MODEL,
    SIZE,
    SOURCE,
    Handle,
    Image,
    Info,
    Library,
    TecoCallError,
    build,
    image,
    need,
    nv12,
    ort_library,
)
from native_players import shared_library
from paths import SUPPORT

import teco
from teco.model.manifest import METADATA_KEY
from teco.video.colour import Colour, Converter

WIDTH, HEIGHT = 36, 28
EXERCISE = SUPPORT / "libteco_exercise.c"


@pytest.fixture(scope="module")
def library() -> Library:
    need("cmake", "cc")
    return Library(shared_library())


@pytest.fixture
def open_handle(library) -> Iterator[Callable[..., Handle]]:
    """Open models that are closed when the test ends."""
    handles: list[Handle] = []

    def opened(model: object, **options) -> Handle:
        handles.append(library.open(str(model), library=ort_library(), **options))
        return handles[-1]

    yield opened
    for handle in handles:
        handle.close()


def with_manifest(source: Path, target: Path, edit: Callable[[str], str | None]) -> Path:
    """A copy of an ONNX file whose manifest inside is another text, or none."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(source)
    texts = {p.key: p.value for p in model.metadata_props}
    del model.metadata_props[:]
    if (text := edit(texts[METADATA_KEY])) is not None:
        model.metadata_props.add(key=METADATA_KEY, value=text)
    onnx.save(model, target)
    return target


@pytest.fixture
def manifest_of(tmp_path, tiny_onnx) -> Callable[[Callable[[str], str | None]], Path]:
    count = iter(range(1000))
    return lambda edit: with_manifest(tiny_onnx, tmp_path / f"edited{next(count)}.onnx", edit)


@pytest.fixture
def shots(texture) -> list[np.ndarray]:
    """Two shots, the first one with a held frame."""
    first, second = texture(5, WIDTH, HEIGHT), texture(4, WIDTH, HEIGHT, seed=9)
    return [*first[:3], first[2].copy(), *first[3:], *second]


def streamed(model: object, pictures: list[np.ndarray], **options) -> list[np.ndarray]:
    with teco.Stream.open(str(model), runtime="onnxruntime", threads=1, **options) as stream:
        return [stream.push(picture) for picture in pictures]


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


# --- pictures --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "live", "real-cpu", "teco-x4-b3-c64-bp-lk"])
def test_pictures_are_those_of_the_stream_bit_for_bit(name, tiny_onnx, open_handle, shots):
    from teco.model.opening import open_model

    model = tiny_onnx if name == "tiny" else open_model(name).onnx
    handle = open_handle(model)
    assert same(handle.run(shots), streamed(model, shots))
    info = handle.info
    assert (info.frames, info.scenes, info.repeats) == (len(shots), 2, 1)
    assert (info.scale, info.minimum, info.width, info.height) == (4, 8, 0, 0)
    assert info.library.decode() == str(ort_library())


@pytest.mark.slow
@pytest.mark.parametrize("has_flow", [True, False])
def test_files_with_8_bit_ports(has_flow, tmp_path, open_handle, shots):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from teco.exporting.onnx import ExportOptions, export_onnx
    from teco.training.init import initialise
    from teco_models.arch.generator import Generator
    from teco_models.checkpoint import infer
    from teco_models.variant import Variant

    torch.manual_seed(0)
    flow = 8 if has_flow else 0
    generator = Generator(Variant(blocks=1, channels=16, flow_channels=flow, tail="shuffle"))
    initialise(generator)
    weights = infer(generator.eval().state_dict(), source="test")
    model = export_onnx(weights, tmp_path, ExportOptions(size=(HEIGHT, WIDTH), io="uint8"))
    handle = open_handle(model)
    assert same(handle.run(shots), streamed(model, shots))
    assert (handle.info.width, handle.info.height) == (WIDTH, HEIGHT)
    with pytest.raises(TecoCallError, match=r"exported for 36x28 .* these are 28x36") as caught:
        handle.enlarge(np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    assert caught.value.status == SIZE


def test_scene_cuts_can_be_left_out(tiny_onnx, open_handle, shots):
    handle = open_handle(tiny_onnx, scene_cuts=0)
    assert same(handle.run(shots), streamed(tiny_onnx, shots, scene_cuts=False))
    assert handle.info.scenes == 1


@pytest.mark.parametrize("call", ["reset", "flush"])
def test_reset_and_flush_start_afresh(call, tiny_onnx, open_handle, shots):
    handle = open_handle(tiny_onnx)
    first = handle.run(shots[:3])
    getattr(handle, call)()
    assert same(handle.run(shots[:3]), first)
    # The same picture as the last one, which would otherwise be a held frame.
    getattr(handle, call)()
    assert np.array_equal(handle.enlarge(shots[2]), streamed(tiny_onnx, [shots[2]])[0])


def test_a_change_of_size_starts_a_scene(tiny_onnx, open_handle, texture):
    pictures = [*texture(3, 32, 24), *texture(3, 17, 13), *texture(2, 32, 24)]
    handle = open_handle(tiny_onnx)
    assert same(handle.run(pictures), streamed(tiny_onnx, pictures))
    assert handle.info.scenes == 3


def test_rows_may_lie_apart_or_upside_down_and_alpha_is_repeated(tiny_onnx, open_handle, shots):
    handle = open_handle(tiny_onnx)
    expected = handle.run(shots[:2])
    handle.reset()
    rng = np.random.default_rng(0)
    for n, picture in enumerate(shots[:2]):
        alpha = rng.integers(0, 256, (HEIGHT, WIDTH, 1), np.uint8)
        room = np.full((HEIGHT, WIDTH + 7, 4), 99, np.uint8)
        room[:, :WIDTH] = np.concatenate([picture, alpha], axis=2)
        target = np.full((4 * HEIGHT, 4 * WIDTH + 5, 4), 77, np.uint8)
        flipped = target[::-1, : 4 * WIDTH]
        handle.step(
            ctypes.byref(image(room[:, :WIDTH])),
            ctypes.byref(image(flipped)),
        )
        assert np.array_equal(flipped[..., :3], expected[n])
        assert np.array_equal(flipped[..., 3], alpha[..., 0].repeat(4, 0).repeat(4, 1))
        assert (target[:, 4 * WIDTH :] == 77).all()


def test_threads_that_share_a_handle_are_put_one_after_the_other(tiny_onnx, open_handle, shots):
    handle = open_handle(tiny_onnx)
    expected = streamed(tiny_onnx, [shots[0]])[0]
    found: list[np.ndarray] = []

    def work() -> None:
        found.append(handle.enlarge(shots[0]))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same(found, [expected] * 8)
    assert handle.info.repeats == 7


# --- NV12 ------------------------------------------------------------------------------------


def to_nv12(pixels: np.ndarray, matrix: str, full: bool) -> tuple[np.ndarray, np.ndarray]:
    """By swscale, as teco reads and writes clips."""
    frame = Converter(Colour(matrix, full)).from_rgb(pixels, "yuv420p")
    planes = frame.to_ndarray()
    h, w = pixels.shape[:2]
    u, v = planes[h:].reshape(2, h // 2, w // 2)
    return planes[:h].copy(), np.ascontiguousarray(np.stack([u, v], axis=2))


def of_nv12(luma: np.ndarray, chroma: np.ndarray, matrix: str, full: bool) -> np.ndarray:
    import av

    planes = np.concatenate([luma.ravel(), chroma[..., 0].ravel(), chroma[..., 1].ravel()])
    frame = av.VideoFrame.from_ndarray(planes.reshape(-1, luma.shape[1]), "yuv420p")
    return Converter(Colour(matrix, full)).to_rgb(frame)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("matrix", "number"), [("bt601", 0), ("bt709", 1), ("bt2020nc", 2)])
def test_nv12_stands_for_the_colours_that_swscale_reads(
    matrix, number, full, tiny_onnx, open_handle
):
    """In: like the RGB picture of the same colours. Out: read back, like the RGB output."""
    colours = [(200, 30, 60), (20, 180, 70), (40, 60, 220), (128, 128, 128), (250, 250, 5)]
    handle = open_handle(tiny_onnx)
    for colour in colours:
        pixels = np.full((16, 24, 3), colour, np.uint8)
        luma, chroma = to_nv12(pixels, matrix, full)
        given = of_nv12(luma, chroma, matrix, full)
        handle.reset()
        expected = handle.enlarge(given)
        out = np.empty_like(expected)
        handle.reset()
        handle.step(
            ctypes.byref(nv12(luma, chroma, matrix=number, full=full)),
            ctypes.byref(image(out)),
        )
        assert np.abs(out.astype(int) - expected).max() <= 2, colour
        luma4, chroma4 = np.empty((64, 96), np.uint8), np.empty((32, 48, 2), np.uint8)
        handle.reset()
        handle.step(
            ctypes.byref(image(given)),
            ctypes.byref(nv12(luma4, chroma4, matrix=number, full=full)),
        )
        # Luma pixel by pixel; of chroma what does not depend on how it is subsampled.
        luma_expected, chroma_expected = to_nv12(expected, matrix, full)
        assert np.abs(luma4.astype(int) - luma_expected).max() <= 2
        inside = np.s_[8:-8, 8:-8]
        difference = chroma4[inside].mean((0, 1)) - chroma_expected[inside].mean((0, 1))
        assert np.abs(difference).max() <= 1


def test_chroma_lies_on_the_left_column_between_two_rows(tiny_onnx, open_handle):
    """A ramp of colour, subsampled with that siting, comes back as the ramp."""
    w, h = 32, 16
    ramp = np.linspace(60, 190, w, dtype=np.float32)
    luma = np.full((h, w), 120, np.uint8)
    chroma = np.full((h // 2, w // 2, 2), 128, np.uint8)
    chroma[..., 1] = np.rint(ramp[0::2])
    handle = open_handle(tiny_onnx)
    out = np.empty((4 * h, 4 * w, 3), np.uint8)
    handle.step(ctypes.byref(nv12(luma, chroma, full=True)), ctypes.byref(image(out)))
    # What the network saw: red = luma + 1.402 (Cr - 128) at every column.
    red = np.clip(np.rint(120 + 1.402 * (ramp - 128)), 0, 255)
    green = np.clip(120 - 0.299 * 1.402 / 0.587 * (ramp - 128), 0, 255)
    seen = np.stack([red, green, np.full(w, 120)], axis=1)
    seen = np.broadcast_to(np.rint(seen).astype(np.uint8), (h, w, 3))
    handle.reset()
    expected = handle.enlarge(np.ascontiguousarray(seen))
    assert np.abs(out[:, 8:-16].astype(int) - expected[:, 8:-16]).max() <= 3


# --- what is wrong ---------------------------------------------------------------------------


def test_versions_agree(library):
    assert library.calls.teco_version().decode() == teco.__version__
    header = (SOURCE / "include" / "teco.h").read_text()
    assert f'#define TECO_VERSION "{teco.__version__}"' in header
    assert f"project(teco VERSION {teco.__version__} " in (SOURCE / "CMakeLists.txt").read_text()
    assert library.calls.teco_status_text(3) == b"no usable model file"
    assert library.calls.teco_status_text(99) == b"unknown status"


def test_structures_are_as_large_as_the_header_says(tmp_path):
    """Else the tests' view of them, and that of any binding, would lie."""
    need("cc")
    source = tmp_path / "sizes.c"
    source.write_text(
        '#include <stdio.h>\n#include "teco.h"\nint main(void) { printf("%zu %zu %zu\\n", '
        "sizeof(teco_image), sizeof(teco_options), sizeof(teco_info)); }\n"
    )
    subprocess.run(
        ["cc", "-std=c99", "-pedantic-errors", "-Wall", "-Wextra", "-Werror",
         f"-I{SOURCE / 'include'}", source, "-o", tmp_path / "sizes"], check=True,
    )  # fmt: skip
    said = subprocess.run([tmp_path / "sizes"], capture_output=True, text=True, check=True)
    options = ctypes.sizeof(ctypes.c_size_t) + 8 + ctypes.sizeof(ctypes.c_void_p)
    assert said.stdout.split() == [
        str(ctypes.sizeof(Image)), str(options), str(ctypes.sizeof(Info)),
    ]  # fmt: skip


def refusal(call: Callable[[], object]) -> TecoCallError:
    with pytest.raises(TecoCallError) as caught:
        call()
    assert "\n" not in caught.value.text
    return caught.value


@pytest.mark.parametrize(
    ("size", "status", "words"),
    [
        ((7, 20), SIZE, "20x7 (width x height) is too small; the network needs at least 8x8"),
        ((20, 7), SIZE, "7x20"),
    ],
)
def test_small_pictures(size, status, words, tiny_onnx, open_handle):
    handle = open_handle(tiny_onnx)
    error = refusal(lambda: handle.enlarge(np.zeros((*size, 3), np.uint8)))
    assert error.status == status
    assert words in error.text


def test_an_output_of_another_size(tiny_onnx, open_handle):
    handle = open_handle(tiny_onnx)
    lr, out = np.zeros((12, 16, 3), np.uint8), np.zeros((48, 63, 3), np.uint8)
    error = refusal(lambda: handle.step(ctypes.byref(image(lr)), ctypes.byref(image(out))))
    assert error.status == SIZE
    assert "out is 63x48 for a picture of 16x12" in error.text


def test_models_that_are_none(tmp_path, tiny_onnx, open_handle, manifest_of):
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(tiny_onnx.read_bytes()[:3000])
    for path, status, words in [
        (tmp_path / "none.onnx", MODEL, "none.onnx"),
        (tmp_path, MODEL, "cannot be loaded"),
        (damaged, MODEL, "damaged.onnx"),
        (manifest_of(lambda _: None), CONTRACT, "was not exported by teco"),
        (manifest_of(lambda text: text[:400]), CONTRACT, "is damaged"),
        ("", ARGUMENT, "no model is named"),
    ]:
        error = refusal(lambda path=path: open_handle(path))
        assert error.status == status, error
        assert words in error.text


EDITS = [  # what the graph itself contradicts; the rest is in test_contract_readers.py
    ("contract.warm_up", 3, "warm_up"),
    ("contract.states.0.source", "nothing", "no output nothing"),
    ("contract.states.0.input", "nothing", "no input nothing"),
    ("contract.states.0.input", 'a"\\\u00e9\n', "no input"),
]


@pytest.mark.parametrize(("path", "value", "words"), EDITS, ids=lambda v: str(v)[:24])
def test_contracts_of_another_kind(path, value, words, manifest_of, open_handle):
    def edit(text: str) -> str:
        data = json.loads(text)
        *way, last = path.split(".")
        at = data
        for key in way:
            at = at[int(key) if key.isdigit() else key]
        at[last] = value
        return json.dumps(data)

    error = refusal(lambda: open_handle(manifest_of(edit)))
    assert error.status == CONTRACT
    assert words in error.text


def test_a_state_more_than_the_manifest_says(manifest_of, open_handle):
    def edit(text: str) -> str:
        data = json.loads(text)
        del data["contract"]["states"][1]
        return json.dumps(data)

    assert "3 inputs, its manifest says 2" in refusal(lambda: open_handle(manifest_of(edit))).text


def test_pathological_manifests_end_in_an_error(manifest_of, open_handle):
    for text in ("", "[" * 5000, '{"a":' * 5000, '"\\u12', "nul", "1e999", '{"schema": 1} x'):
        path = manifest_of(lambda _, text=text: text)
        assert refusal(lambda path=path: open_handle(path)).status in (CONTRACT, MODEL)


# --- where ONNX Runtime is -------------------------------------------------------------------

SEARCH = """
import sys
sys.path.insert(0, {tests!r})
from libteco import Library
h = Library({library!r}).open({model!r}, library={named!r})
print(h.info.library.decode())
h.close()
"""


def searched(library: Library, model: Path, named: str | None = None, **variables: str):
    """Open in a process of its own; its stdout or the end of its stderr."""
    text = SEARCH.format(
        tests=str(SUPPORT),
        library=library.calls._name,
        model=str(model),
        named=named,
    )
    kept = {k: v for k, v in os.environ.items() if k not in ("TECO_ORT_LIBRARY", "VIRTUAL_ENV")}
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=False,
        env={**kept, "HOME": "/nowhere", **variables},
    )  # fmt: skip
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_the_library_is_looked_for(library, open_handle, tmp_path, tiny_onnx, monkeypatch):
    found = ort_library()

    def opened(named: Path | None, **variables: object) -> str:
        """Where it was found. The library reads this process's environment."""
        for name in ("TECO_ORT_LIBRARY", "VIRTUAL_ENV"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        handle = library.open(tiny_onnx, library=named)
        path = handle.info.library.decode()
        handle.close()
        return path

    assert opened(found) == opened(found.parent) == str(found)
    assert opened(None, TECO_ORT_LIBRARY=found) == str(found)
    assert opened(None, TECO_ORT_LIBRARY=found.parent) == str(found)
    environment = tmp_path / "a [1]*"  # a name with every sign that means something in a pattern
    capi = environment / "lib" / "python3.99" / "site-packages" / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    (capi / found.name).symlink_to(found)
    assert opened(None, VIRTUAL_ENV=environment) == str(capi / found.name)
    # What is named must be there: nothing else is taken in its place.
    other = tmp_path / "no.so"
    other.write_bytes(b"\x7fELF no")
    for named in (other, tmp_path / "missing.so", capi.parent):
        error = refusal(
            lambda named=named: opened(None, TECO_ORT_LIBRARY=named, VIRTUAL_ENV=environment)
        )
        assert error.status == LIBRARY
        assert f"TECO_ORT_LIBRARY names {named}" in error.text
    libm = next(iter(Path("/lib").glob("*/libm.so.6")), None)
    if libm is not None:
        assert "it has no OrtGetApiBase" in refusal(lambda: opened(libm)).text


def test_no_library_anywhere(library, tiny_onnx):
    said = searched(library, tiny_onnx)
    if "libonnxruntime" in said and said.startswith("/"):
        pytest.skip(f"there is one on this machine: {said}")
    assert "no ONNX Runtime library was found" in said
    assert "pip install onnxruntime" in said


FAKE = """
#include <stdint.h>
#include <stddef.h>
static void *status(int code, const char *text) { (void)code; return (void *)text; }
static int code(const void *s) { (void)s; return 3; }
static const char *text(const void *s) { return s; }
static void nothing(void *s) { (void)s; }
static void (*table[200])(void);
static const void *api(uint32_t version) {
    for (int i = 0; i < 200; i++) table[i] = (void (*)(void))nothing;
    table[0] = (void (*)(void))status; table[1] = (void (*)(void))code;
    table[2] = (void (*)(void))text;
    return version == 17 ? (const void *)table : NULL;
}
static const char *version(void) { return VERSION; }
static const void *base[] = {(const void *)api, (const void *)version};
const void *OrtGetApiBase(void) { return base; }
"""


@pytest.mark.parametrize(
    ("version", "words"),
    [("1.16.3", "is ONNX Runtime 1.16.3, expected 1.17 or newer"),
     ("1.99.0", "has another table of functions than expected")],
)  # fmt: skip
def test_libraries_of_another_kind(version, words, library, tmp_path, tiny_onnx):
    need("cc")
    source, fake = tmp_path / "fake.c", tmp_path / "libfake.so"
    source.write_text(FAKE)
    subprocess.run(
        ["cc", "-shared", "-fPIC", f'-DVERSION="{version}"', source, "-o", fake], check=True
    )
    assert words in searched(library, tiny_onnx, str(fake))


# --- memory ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exercise(tmp_path_factory, tiny_onnx) -> Callable[[Path, int], list[str]]:
    """The command line of libteco_exercise.c, by the program and the number of frames."""
    folder = tmp_path_factory.mktemp("exercise")
    damaged = folder / "damaged.onnx"
    damaged.write_bytes(tiny_onnx.read_bytes()[:3000])
    # The smallest graph there is: it is loaded before it is refused, which valgrind makes slow.
    onnx = pytest.importorskip("onnx")
    ports = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "foreign", ports[:1], ports[1:])
    opset = [onnx.helper.make_opsetid("", 17)]
    foreign = folder / "foreign.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), foreign)
    strange = with_manifest(
        tiny_onnx, folder / "strange.onnx", lambda text: text.replace('"lr_prev"', '"other"')
    )
    files = [tiny_onnx, damaged, foreign, strange, ort_library()]
    return lambda program, frames: [str(program), *map(str, files), str(frames)]


def compiled(folder: Path, *flags: str, cmake: str) -> Path:
    """The exercise with a static libteco."""
    build(folder, "-DBUILD_SHARED_LIBS=OFF", "-DTECO_EXAMPLE=OFF", cmake)
    program = folder / "exercise"
    done = subprocess.run(
        ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-g", *flags, f"-I{SOURCE / 'include'}",
         EXERCISE, folder / "libteco.a", "-o", program, "-lpthread", "-ldl", "-lm"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.slow
def test_clean_under_address_sanitizer(tmp_path, exercise):
    program = compiled(tmp_path, "-fsanitize=address,undefined", cmake="-DTECO_SANITIZE=ON")
    done = subprocess.run(
        exercise(program, 100), capture_output=True, text=True, check=False,
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1:halt_on_error=1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.slow
def test_clean_under_valgrind(tmp_path, exercise):
    need("valgrind")
    program = compiled(tmp_path, cmake="-DCMAKE_BUILD_TYPE=RelWithDebInfo")
    done = subprocess.run(
        ["valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full",
         f"--suppressions={EXERCISE.with_name('libteco.supp')}",
         "--errors-for-leak-kinds=definite,indirect", *exercise(program, 100)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-4000:]
    assert done.stderr == ""


@pytest.mark.slow
def test_the_example_enlarges_raw_video(tmp_path, tiny_onnx, shots):
    folder = build(tmp_path / "build")
    done = subprocess.run(
        [folder / "teco-example", tiny_onnx, str(WIDTH), str(HEIGHT)],
        input=b"".join(p.tobytes() for p in shots), capture_output=True, check=False,
        env={**os.environ, "TECO_ORT_LIBRARY": str(ort_library())},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = np.frombuffer(done.stdout, np.uint8).reshape(-1, 4 * HEIGHT, 4 * WIDTH, 3)
    assert same(list(found), streamed(tiny_onnx, shots))
    done = subprocess.run(
        [folder / "teco-example", tiny_onnx, "36", "28"], input=b"half", capture_output=True,
        check=False, env={**os.environ, "TECO_ORT_LIBRARY": str(ort_library())},
    )  # fmt: skip
    assert done.returncode == 1
    assert b"the last picture is not whole" in done.stderr
