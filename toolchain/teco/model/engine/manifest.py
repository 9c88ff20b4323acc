"""The manifest of an engine: what it was built from, with and for.

It lies as JSON beside the plan and is all there is: TensorRT has no field of its own for it, and
most of a plan cannot be read without the GPU that it is for. So it is checked strictly, against
itself and against the plan's header, before a runtime may see the plan.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from teco.core.errors import TecoError
from teco.core.text import from_json
from teco.model.engine.api import PRODUCTS
from teco.model.engine.precision_check import LABELS, Proof, check_precision
from teco.model.engine.profile import usual_profile
from teco.model.manifest import SHA256, Manifest, manifest_path
from teco_calibration.records import from_data
from teco_models import zoo
from teco_models.errors import ModelError

SCHEMA = 1
"""Version of the layout; a reader refuses what it does not know."""

KIND = "engine"
"""Tells an engine's manifest from an ONNX file's."""

HARDWARE = ("none", "ampere-plus", "same-compute-capability")
"""TensorRT's hardware compatibility levels: the GPU it was built on and its like; any GPU of
compute capability 8.0 and above; any of the same compute capability."""

_SIZE = re.compile(r"[1-9]\d*x[1-9]\d*")
_VERSION = re.compile(r"\d+(\.\d+){2,}[.\w]*")


@dataclass(frozen=True, kw_only=True)
class EngineManifest:
    """Everything a session, a preflight or a person must know about an engine.

    Attributes:
        target: "rtx" for TensorRT-RTX, "tensorrt" for TensorRT.
        runtime_version: full version of the bindings that built it; RTX engines run on no other.
        compute_capabilities: GPUs it runs on, 89 for 8.9. RTX: what it was built for. TensorRT: the
            GPU it was built on; see ``hardware``.
        hardware: one of :data:`HARDWARE`; "none" for RTX.
        version_compatible: a later TensorRT may run it; never for RTX.
        refittable: its weights can be replaced, see :mod:`teco.exporting.refit`.
        os: system it was built on, as ``platform.system()`` says. TensorRT engines run on no other;
            RTX engines built for named GPUs run on Linux and Windows alike.
        arch: processor architecture, as ``platform.machine()`` says.
        size: static "HxW" or "dynamic".
        profile: least, usual and greatest LR size, each "HxW"; thrice the same for a static engine.
        precision_asked: the label, one of fp32, fp16, int8.
        proof: what the parsed network bears out.
        built: what the inspector said of the built layers; None for RTX, which compiles on the
            user's machine.
        model: manifest of the ONNX file, with the stream contract.
        onnx_sha256: of the ONNX file.
        versions: of the programs that made it.
        sha256: of the plan.
        length: bytes of the plan.
        kind, schema: what this record is, and its layout's version.
    """

    target: str
    runtime_version: str
    compute_capabilities: tuple[int, ...]
    hardware: str
    version_compatible: bool
    refittable: bool
    os: str
    arch: str
    size: str
    profile: tuple[str, str, str]
    precision_asked: str
    proof: Proof
    built: Proof | None
    model: Manifest
    onnx_sha256: str
    versions: dict[str, str] = field(default_factory=dict)
    sha256: str = ""
    length: int = 0
    kind: str = KIND
    schema: int = SCHEMA

    @property
    def product(self) -> str:
        """Its runtime's name, to show."""
        return PRODUCTS[self.target]

    @property
    def limits(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Least and greatest LR (h, w)."""
        return parse_size(self.profile[0]), parse_size(self.profile[2])

    @property
    def rebuild(self) -> str:
        """The command that builds this engine again on this machine.

        A model that teco ships is named; of another, only its user knows where the weights are.
        """
        words = ["teco export", _weights(self.model.weights_sha256)]
        words += [f"--formats {self.target}", f"--size {self.size}"]
        if self.target == "rtx":
            words.append(f"--sm {','.join(map(str, self.compute_capabilities))}")
        if self.size == "dynamic" and self.profile != usual_profile(self.model.contract.minimum):
            words.append(f"--profile {','.join(self.profile)}")
        if self.hardware != "none":
            words.append(f"--hardware {self.hardware}")
        words += ["--version-compatible"] if self.version_compatible else []
        words += ["--refittable"] if self.refittable else []
        if self.model.contract.io != "fp32":
            words.append(f"--io {self.model.contract.io}")
        words += {"fp16": ["--fp16"], "int8": ["--int8"]}.get(self.precision_asked, [])
        if (record := self.model.int8) is not None:
            words += record.arguments
        return " ".join(words)

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"model": self.model.as_dict()}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str) -> EngineManifest:
        """Inverse of :meth:`to_json`.

        Args:
            text: the JSON.
            source: names it in messages.

        Raises:
            TecoError: no JSON, an ONNX file's manifest, another schema version, fields missing, of
                another kind or in contradiction with each other, or a label that the proof does not
                bear out.
        """
        again = "build it again with `teco export --formats rtx` or tensorrt"
        try:
            data: dict[str, Any] = from_json(text)
            schema = data["schema"]
        except (ValueError, KeyError, TypeError) as error:
            raise TecoError(f"{source} is no teco manifest: {error!r}", hint=again) from error
        if data.get("kind") != KIND:
            raise TecoError(f"{source} is the manifest of no engine", hint=again)
        if schema != SCHEMA:
            raise TecoError(
                f"{source} has engine manifest schema {schema!r}, this teco reads {SCHEMA}",
                hint=again,
            )
        try:
            manifest = from_data(cls, data, "manifest", defaults=True)
            manifest.check()
        except (ValueError, ModelError) as error:
            raise TecoError(
                f"{source} is not a complete engine manifest: {error}", hint=again
            ) from error
        for found in (manifest.proof, manifest.built):
            if found is not None:
                check_precision(found, manifest.precision_asked, what=f"the engine of {source}")
        return manifest

    def check(self) -> None:
        """Raise ValueError or ModelError for what its readers could not use or must not believe."""
        self.model.check()
        if self.target not in PRODUCTS:
            raise ValueError(f"target is {self.target!r}, expected {' or '.join(PRODUCTS)}")
        if self.hardware not in HARDWARE:
            raise ValueError(f"hardware is {self.hardware!r}, expected {', '.join(HARDWARE)}")
        if self.precision_asked not in LABELS:
            raise ValueError(f"precision_asked is {self.precision_asked!r}")
        for name, pattern in (
            ("runtime_version", _VERSION), ("sha256", SHA256), ("onnx_sha256", SHA256),
        ):  # fmt: skip
            if not pattern.fullmatch(value := getattr(self, name)):
                raise ValueError(f"{name} is {value!r}")
        capabilities = self.compute_capabilities
        if not capabilities or not all(30 <= x < 1000 for x in capabilities):
            raise ValueError(f"compute_capabilities is {list(capabilities)}")
        self._check_size()

    def _check_size(self) -> None:
        if len(self.profile) != 3 or not all(_SIZE.fullmatch(x) for x in self.profile):
            raise ValueError(f"profile is {list(self.profile)}")
        if self.size != self.model.size:
            raise ValueError(f"size is {self.size!r}, its ONNX file's is {self.model.size!r}")
        if self.size != "dynamic" and set(self.profile) != {self.size}:
            raise ValueError(f"size is {self.size!r}, its profile {', '.join(self.profile)}")
        heights, widths = zip(*(parse_size(x) for x in self.profile), strict=True)
        if list(heights) != sorted(heights) or list(widths) != sorted(widths):
            raise ValueError(f"profile is {', '.join(self.profile)}, expected growing sizes")


def parse_size(text: str) -> tuple[int, int]:
    """(h, w) of "HxW": (180, 320) of "180x320"."""
    h, w = text.split("x")
    return int(h), int(w)


def shipped_of(digest: str) -> str | None:
    """Name of the shipped model with these weights; None where teco ships none.

    Args:
        digest: of :func:`teco.model.weights_digest.weights_digest`, as manifests have it.
    """
    for entry in zoo.entries():
        with suppress(OSError, ValueError, KeyError):
            shipped = json.loads(manifest_path(entry.onnx).read_text(encoding="utf-8"))
            if shipped["weights_sha256"] == digest:
                return entry.name
    return None


def _weights(digest: str) -> str:
    """The option of ``teco export`` that gives these weights."""
    name = shipped_of(digest)
    return f"--model {name}" if name else "--weights FILE"
