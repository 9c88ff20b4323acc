"""The manifest: what a file says of itself, beside it and inside it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from teco.core.errors import TecoError
from teco.core.text import from_json
from teco.model.contract import StreamContract
from teco.model.int8 import Int8
from teco_calibration.records import from_data
from teco_calibration.temporal_gate.verdict import Verdict
from teco_models.errors import ModelError
from teco_models.variant import MIN_SIZE, Variant

SCHEMA = 1
"""Version of the manifest's layout; a reader refuses what it does not know."""


METADATA_KEY = "teco.manifest"


_DATA_NAME = re.compile(r"[\w][\w.+-]*\.safetensors")
"""What a file of weights beside an ONNX file may be called."""

_SIZE = re.compile(r"dynamic|[0-9]{1,5}x[0-9]{1,5}")

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Parity:
    """How close the file comes to the float32 PyTorch step.

    Attributes:
        frames: recurrent frames compared.
        sizes: LR sizes, "HxW", at which they were.
        max_abs: largest difference of any value, pictures in [0, 1]; where pictures are 8-bit, of
            the float32 state (features relative to their largest).
        max_steps: the same in 8-bit steps after rounding.
        min_psnr: lowest PSNR of a frame in dB; None when all are equal.
    """

    frames: int
    sizes: tuple[str, ...]
    max_abs: float
    max_steps: int
    min_psnr: float | None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything a runtime or a person must know about a model file.

    Attributes:
        variant: canonical name.
        precision_asked: what the export was asked for.
        precision_found: what the file's own tensor types say, with their counts.
        size: static "HxW" or "dynamic".
        contract: how to drive it.
        rewrites: exact rewrites of the deploy form that were used.
        parity: measured against PyTorch; None inside a file that is still being verified.
        weights_sha256: of the weights it was made from, independent of their container.
        versions: of the programs that made it.
        sha256: of the file; "" inside the file itself.
        data_sha256: of each file beside it that holds weights of it, by name; usually none.
        gate: the temporal gate's verdict, for precisions that change the values; else None.
        gate_size: LR "HxW" at which the gate ran; "" where it did not.
        int8: how a file in int8 came to its integers, and how fast it is; else None.
        target: whose form it is, what ``teco export --for`` was told; "" in older manifests.
        schema: layout version.
    """

    variant: str
    precision_asked: str
    precision_found: dict[str, int]
    size: str
    contract: StreamContract
    rewrites: dict[str, bool]
    parity: Parity | None
    weights_sha256: str
    versions: dict[str, str]
    sha256: str = ""
    data_sha256: dict[str, str] = field(default_factory=dict[str, str])
    gate: Verdict | None = None
    gate_size: str = ""
    int8: Int8 | None = None
    target: str = ""
    schema: int = SCHEMA

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the verdict with its judgement spelt out."""
        data = asdict(replace(self, gate=None)) | {"contract": self.contract.as_dict()}
        return data if self.gate is None else data | {"gate": self.gate.as_dict()}

    def to_json(self) -> str:
        return json.dumps(self.as_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str) -> Manifest:
        """Inverse of :meth:`to_json`.

        Raises:
            TecoError: no JSON, another schema version, or fields missing or of another kind.
        """
        again = "make it again with `teco export`"
        try:
            data: dict[str, Any] = from_json(text)
            schema = data["schema"]
        except (ValueError, KeyError, TypeError) as error:
            raise TecoError(f"{source} is no teco manifest: {error!r}", hint=again) from error
        if schema != SCHEMA:
            raise TecoError(
                f"{source} has manifest schema {schema}, this teco reads {SCHEMA}", hint=again
            )
        try:
            manifest = from_data(cls, data, "manifest", defaults=True)
            manifest.check()
        except (ValueError, ModelError) as error:
            raise TecoError(f"{source} is not a complete manifest: {error}", hint=again) from error
        return manifest

    def check(self) -> None:
        """Raise ValueError or ModelError for what its readers could not use."""
        if self.schema != SCHEMA:  # of one that lies inside another record
            raise ValueError(f"manifest schema {self.schema}, this teco reads {SCHEMA}")
        # A closed list: what a model names is copied beside scripts and libraries.
        if bad := [name for name in self.data_sha256 if not _DATA_NAME.fullmatch(name)]:
            raise ValueError(
                f"data_sha256 names {bad[0]!r}, expected a .safetensors file beside it"
            )
        # Hashes name folders of the cache. Inside the file itself there is none of its own.
        hashes = {"weights_sha256": self.weights_sha256, **self.data_sha256}
        hashes |= {"sha256": self.sha256} if self.sha256 else {}
        for name, value in hashes.items():
            if not SHA256.fullmatch(value):
                raise ValueError(f"{name} is {value[:80]!r}, expected 64 hexadecimal digits")
        self._check_precision()
        if not _SIZE.fullmatch(self.size) or (
            self.size != "dynamic" and min(map(int, self.size.split("x"))) < MIN_SIZE
        ):
            raise ValueError(f"size is {self.size!r}")
        contract = self.contract
        contract.check_drivable()
        ours = StreamContract.of(Variant.parse(self.variant), contract.io)
        sources = (contract.frame, contract.picture, *ours.carried)
        for state in contract.states:
            if state.source not in sources:
                raise ValueError(f"the source of state {state.input} is {state.source!r}")

    def _check_precision(self) -> None:
        """The label against the types it lies beside; a file may say nothing of its types."""
        for label, kind in (("fp16", "float16"), ("int8", "int8")):
            count = self.precision_found.get(kind, 0)
            # What is not in int8 is in float16 in an engine's file, and in float32 in others.
            if label == "fp16" and self.precision_asked == "int8" and self.target == "tensorrt":
                continue
            if self.precision_found and (self.precision_asked == label) != bool(count):
                raise ValueError(
                    f"precision_asked is {self.precision_asked!r} and {count or 'none'} of the "
                    f"file's tensors are {kind}"
                )
        if self.gate is not None and not self.gate.accepted:
            raise ValueError(f"the gate did not accept it: {self.gate.reasons[0]}")


def manifest_path(path: Path) -> Path:
    """``model.onnx`` -> ``model.json``."""
    return path.with_suffix(".json")
