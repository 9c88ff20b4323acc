"""Preflight: an engine is refused before a runtime sees it, each time with its own reason."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import nvidia_driver
import pytest
from engine_files import ADA, HOST, make, make_tensorrt, mutate, rtx_plan

from teco.core import gpu
from teco.core.errors import FAILED, MACHINE, USAGE, TecoError
from teco.core.gpu import Gpu
from teco.model.contract import StreamContract
from teco.model.engine import preflight
from teco.model.engine.preflight import Host, check
from teco.model.manifest import manifest_path


def refusal(path: Path, machine: Host = HOST, **arguments) -> TecoError:
    with pytest.raises(TecoError) as error:
        check(path, machine, **arguments)
    assert "\n" not in error.value.message
    return error.value


def test_engine_that_fits(tmp_path):
    manifest = check(make(tmp_path), HOST, size=(16, 24))
    assert manifest.target == "rtx"
    assert manifest.model.contract == StreamContract()


def test_tensorrt_engine_that_fits(tmp_path):
    assert check(make_tensorrt(tmp_path), HOST).target == "tensorrt"


# --- mutations -------------------------------------------------------------------------------

MUTATIONS = {
    "label fp32": ({"precision_asked": "fp32"}, "labelled fp32 and 4 of its 5 layers are fp16"),
    "label int8": ({"precision_asked": "int8"}, "labelled int8 and its convolutions are fp16"),
    "sha": ({"sha256": "a" * 64}, "its sha256 is"),
    "size": ({"size": "32x48"}, "size is '32x48', its ONNX file's is '16x24'"),
    "profile": ({"profile": ["8x8", "16x24", "16x24"]}, "its profile 8x8, 16x24, 16x24"),
    "sm": ({"compute_capabilities": [75, 86]}, "says SM 75, 86, the engine's own header SM 75, 89"),
    "release": ({"runtime_version": "1.6.1.120"}, "says TensorRT-RTX 1.6.1.120, the engine's own"),
    "target": ({"target": "tensorrt"}, "is an engine of TensorRT-RTX"),
    "length": ({"length": 5000}, "is cut off: 1064 bytes of 5000"),
    "shorter length": ({"length": 50}, "says 50 bytes, step-16x24-fp16-rtx.plan has 1064"),
    "schema": ({"schema": 9}, "schema 9"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_mutated_manifest_is_refused(tmp_path, mutation):
    changes, words = MUTATIONS[mutation]
    path = make(tmp_path)
    check(path, HOST)
    mutate(path, **changes)
    error = refusal(path)
    assert error.exit_code == FAILED
    assert words in error.message
    assert "teco export" in error.hint


def test_each_mutation_has_its_own_message():
    words = [words for _, words in MUTATIONS.values()]
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("position", [0, 20, 33, 500, -1])
def test_mutated_plan_is_refused(tmp_path, position):
    path = make(tmp_path)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    assert "is not the engine that step-16x24-fp16-rtx.json describes" in refusal(path).message


# --- files -----------------------------------------------------------------------------------


def test_truncated(tmp_path):
    path = make(tmp_path)
    path.write_bytes(path.read_bytes()[:500])
    error = refusal(path)
    assert f"{path} is cut off: 500 bytes of 1064" in error.message
    assert "--formats rtx" in error.hint


def test_truncated_without_manifest_is_known_by_its_header(tmp_path):
    path = tmp_path / "x.plan"
    path.write_bytes(rtx_plan()[:500])
    assert "500 bytes long where it should have 1064" in refusal(path).message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file"),
        (b"\x08\x0a\x12\x07pytorch" + bytes(50), "an ONNX file, not an engine"),
        (b"PK\x03\x04" + bytes(50), "a zip archive"),
        (struct.pack("<Q", 20) + b'{"a": 1}' + bytes(50), "a safetensors file"),
        (b'{"schema": 1}', "a JSON file"),
        (b"\x7fELF" + bytes(50), "no engine: it begins with 7f 45 4c 46"),
        (b"x", "no engine: it begins with 78"),
        (b'\x09\x00\x00\x00{"a": 1}ftrt' + bytes(50), "as Ultralytics writes"),
    ],
)
@pytest.mark.parametrize("with_manifest", [True, False])
def test_foreign_or_renamed_file(tmp_path, data, words, with_manifest):
    path = make(tmp_path)
    path.write_bytes(data)
    if not with_manifest:
        manifest_path(path).unlink()
    error = refusal(path)
    assert words in error.message
    assert str(path) in error.message


def test_engine_under_another_engines_name(tmp_path):
    path = make(tmp_path)
    path.write_bytes(rtx_plan()[:-1] + b"?")
    assert "its sha256 is" in refusal(path).message
    path.write_bytes(b"ftrt" + bytes(2000))
    assert "is an engine of TensorRT, step-16x24-fp16-rtx.json describes one of" in (
        refusal(path).message
    )


def test_bare_rtx_engine_gets_what_its_header_tells(tmp_path):
    path = make(tmp_path)
    manifest_path(path).unlink()
    error = refusal(path)
    assert "has no manifest beside it (step-16x24-fp16-rtx.json)" in error.message
    assert "TensorRT-RTX 1.7.1.116 for SM 75, 89 by its header" in error.message
    assert "--formats rtx" in error.hint


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"ftrt" + bytes(100), "a TensorRT engine by its first four bytes"),
        (b"vtrt" + bytes(100), "a TensorRT-RTX engine by its first four bytes"),
        (b"vtrt", "a TensorRT-RTX engine by its first four bytes"),
        (rtx_plan()[:32] + b"\xff" * 100, "a TensorRT-RTX engine by its first four bytes"),
    ],
)
def test_bare_engine_of_unknown_layout(tmp_path, data, words):
    path = tmp_path / "x.plan"
    path.write_bytes(data)
    error = refusal(path)
    assert words in error.message
    assert "not documented" in error.message


def test_no_file(tmp_path):
    error = refusal(tmp_path / "none.plan")
    assert error.exit_code == USAGE
    assert "does not exist" in error.message
    assert "is a folder" in refusal(tmp_path).message


@pytest.mark.parametrize("text", [b"\xff\xfe", b"{", b"{}"])
def test_manifest_that_is_none(tmp_path, text):
    path = make(tmp_path)
    manifest_path(path).write_bytes(text)
    assert "step-16x24-fp16-rtx.json" in refusal(path).message


def test_unreadable_manifest(tmp_path):
    path = make(tmp_path)
    manifest_path(path).unlink()
    manifest_path(path).mkdir()
    assert "cannot be read: Is a directory" in refusal(path).message


# --- sizes -----------------------------------------------------------------------------------


def test_another_size(tmp_path):
    error = refusal(make(tmp_path), size=(16, 32))
    assert error.exit_code == USAGE
    assert "was built for 16x24 frames (height x width), these are 16x32" in error.message
    assert "--size 16x32" in error.hint
    assert "--sm 75,89 --fp16" in error.hint


@pytest.mark.parametrize(("size", "fits"), [((8, 8), 1), ((90, 120), 1), ((7, 8), 0), ((91, 9), 0)])
def test_dynamic_sizes(tmp_path, size, fits):
    path = make(tmp_path, size="dynamic", profile=("8x8", "16x24", "90x120"))
    if fits:
        check(path, HOST, size=size)
    else:
        error = refusal(path, size=size)
        assert "frames from 8x8 to 90x120" in error.message
        assert f"--size {size[0]}x{size[1]}" in error.hint


# --- machines --------------------------------------------------------------------------------


def test_another_release(tmp_path):
    error = refusal(make(tmp_path), replace(HOST, versions={"rtx": "1.8.0.12"}))
    assert error.exit_code == MACHINE
    assert "TensorRT-RTX 1.7.1.116 and runs on that version, 1.8.0.12 is" in error.message
    assert error.hint.endswith("--formats rtx --size 16x24 --sm 75,89 --fp16`")


@pytest.mark.parametrize(
    ("installed", "compatible", "fits"),
    [
        ("11.4.0.106", False, True),
        ("11.4.0.106.post1", False, True),
        ("11.5.0.1", False, False),
        ("11.3.0.99", False, False),
        ("10.13.3.9", False, False),
        ("11.5.0.1", True, True),
        ("12.0.0.1", True, True),
        ("11.3.0.99", True, False),
    ],
)
def test_tensorrt_versions(tmp_path, installed, compatible, fits):
    path = make_tensorrt(tmp_path, version_compatible=compatible)
    machine = replace(HOST, versions={"tensorrt": installed})
    if fits:
        check(path, machine)
    else:
        error = refusal(path, machine)
        assert error.exit_code == MACHINE
        assert f"11.4.0.106 and runs on that version{' or later' * compatible}" in error.message
        assert installed in error.message


def test_runtime_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "load", lambda target, purpose: None)
    error = refusal(make(tmp_path), replace(HOST, versions={}))
    assert error.exit_code == MACHINE
    assert "needs TensorRT-RTX, which is not installed" in error.message
    assert error.hint == "pip install 'teco[rtx]'"


@pytest.mark.parametrize(
    ("os", "arch", "fits"),
    [
        ("Linux", "x86_64", True),
        ("Windows", "AMD64", True),
        ("Linux", "aarch64", False),
        ("Darwin", "x86_64", False),
    ],
)
def test_rtx_engines_run_on_linux_and_windows(tmp_path, os, arch, fits):
    machine = replace(HOST, os=os, arch=arch)
    if fits:
        check(make(tmp_path), machine)
    else:
        error = refusal(make(tmp_path), machine)
        assert error.exit_code == MACHINE
        assert f"Linux or Windows x86_64 only, this is {os} {arch}" in error.message


def test_tensorrt_engines_run_where_they_were_built(tmp_path):
    error = refusal(make_tensorrt(tmp_path), replace(HOST, os="Windows", arch="AMD64"))
    assert "runs it on Linux x86_64 only, this is Windows x86_64" in error.message
    assert "--formats tensorrt" in error.hint


def test_no_gpu(tmp_path):
    error = refusal(make(tmp_path), replace(HOST, gpus=()))
    assert error.exit_code == MACHINE
    assert "needs an NVIDIA GPU and driver; nvidia-smi finds none" in error.message


def test_gpu_that_the_engine_was_not_built_for(tmp_path):
    machine = replace(HOST, gpus=(Gpu("NVIDIA GeForce RTX 5090", 120),))
    error = refusal(make(tmp_path), machine)
    assert error.exit_code == MACHINE
    assert "was built for SM 75, 89" in error.message
    assert "NVIDIA GeForce RTX 5090 (compute capability 12.0)" in error.message
    assert "--sm 75,89,120" in error.hint


def test_one_gpu_that_fits_is_enough(tmp_path):
    check(make(tmp_path), replace(HOST, gpus=(Gpu("H100", 90), ADA)))


@pytest.mark.parametrize(
    ("hardware", "capability", "fits"),
    [
        ("none", 89, True),
        ("none", 86, False),
        ("same-compute-capability", 89, True),
        ("same-compute-capability", 120, False),
        ("ampere-plus", 120, True),
        ("ampere-plus", 80, True),
        ("ampere-plus", 75, False),
    ],
)
def test_hardware_compatibility(tmp_path, hardware, capability, fits):
    path = make_tensorrt(tmp_path, hardware=hardware)
    machine = replace(HOST, gpus=(Gpu("GPU", capability),))
    if fits:
        check(path, machine)
    else:
        words = "SM 80 and above" if hardware == "ampere-plus" else "SM 89"
        assert f"was built for {words}, this machine has GPU" in refusal(path, machine).message


def test_this_machine_is_looked_at_when_none_is_given(tmp_path, monkeypatch):
    asked = []

    def look(targets):
        asked.append(tuple(targets))
        return HOST

    monkeypatch.setattr(preflight, "look", look)
    check(make(tmp_path))
    assert asked == [("rtx",)]


# --- GPUs ------------------------------------------------------------------------------------


def test_look_never_fails(tmp_path, monkeypatch):
    nvidia_driver.only_programs(tmp_path, monkeypatch)
    found = preflight.look(())
    assert found.gpus == ()
    assert found.versions == {}


def test_a_gpu_that_does_not_tell_its_capability_is_none_for_an_engine(monkeypatch):
    monkeypatch.setattr(gpu, "find", lambda: (Gpu("Old"), Gpu("New", 89)))
    assert preflight.look(()).gpus == (Gpu("New", 89),)
