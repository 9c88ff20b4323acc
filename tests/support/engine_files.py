"""Engine files and their manifests, made up, and the machine that they fit."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

from teco.core.files import sha256_of
from teco.core.gpu import Gpu
from teco.model.contract import StreamContract
from teco.model.engine import header
from teco.model.engine.manifest import EngineManifest
from teco.model.engine.precision_check import Proof
from teco.model.engine.preflight import Host
from teco.model.manifest import Manifest, manifest_path

ADA = Gpu("NVIDIA GeForce RTX 4090", 89)

HOST = Host((ADA,), "Linux", "x86_64", {"rtx": "1.7.1.116", "tensorrt": "11.4.0.106"})


def make(folder: Path, plan: bytes | None = None, **changes: object) -> Path:
    """An engine and its manifest: fp16, 16x24, TensorRT-RTX 1.7.1.116 for SM 75 and 89."""
    plan = rtx_plan() if plan is None else plan
    path = folder / "step-16x24-fp16-rtx.plan"
    path.write_bytes(plan)
    size = str(changes.get("size", "16x24"))
    model = Manifest(
        variant="teco-x4-b1-c8-f8-shuffle", precision_asked="fp16", precision_found={}, size=size,
        contract=StreamContract(), rewrites={}, parity=None, weights_sha256="0" * 64, versions={},
        sha256="2" * 64,
    )  # fmt: skip
    proof = Proof("network", {"fp16": 4, "fp32": 1}, {"fp16": 3}, {"fp32": 1}, {"fp32": 1}, {})
    manifest = EngineManifest(
        target="rtx", runtime_version="1.7.1.116", compute_capabilities=(75, 89), hardware="none",
        version_compatible=False, refittable=False, os="Linux", arch="x86_64", size=size,
        profile=("16x24",) * 3, precision_asked="fp16", proof=proof, built=None, model=model,
        onnx_sha256="2" * 64, sha256=sha256_of(path), length=len(plan),
    )  # fmt: skip
    manifest = replace(manifest, **changes)
    manifest_path(path).write_text(manifest.to_json())
    return path


def make_tensorrt(folder: Path, **changes: object) -> Path:
    """The same for TensorRT 11.4, built on a GPU of compute capability 8.9."""
    facts = {"target": "tensorrt", "runtime_version": "11.4.0.106", "compute_capabilities": (89,)}
    return make(folder, b"ftrt" + bytes(100), **(facts | changes))


def mutate(path: Path, **changes: object) -> None:
    """Change fields of the manifest as an editor would."""
    beside = manifest_path(path)
    beside.write_text(json.dumps(json.loads(beside.read_text()) | changes))


def rtx_plan(sms: tuple[int, ...] = (75, 89), release: tuple[int, ...] = (1, 7, 1, 116)) -> bytes:
    """A file with the header of a TensorRT-RTX plan and a body that is none.

    test_engines.py compares the layout with what the installed TensorRT-RTX writes.
    """
    body = bytes(range(256)) * 4
    mask = sum(1 << header.RTX_CAPABILITIES.index(sm) for sm in sms)
    head = struct.pack(
        "<4sIIIQ4B4sQ", b"vtrt", 0, 2, 0, header.LENGTH + len(body), *release, b"vtrt", mask
    )
    assert len(head) == header.LENGTH
    return head + body
