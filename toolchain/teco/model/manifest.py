"""The manifest: what a file says of itself, beside it and inside it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teco.core.errors import USAGE, TecoError
from teco.model.contract import EXTENT, StatePort, StreamContract
from teco_models.errors import ModelError
from teco_models.variant import SCALE, Variant

if TYPE_CHECKING:
    from teco.model.int8 import Int8
    from teco_calibration.temporal_gate.verdict import Verdict


SCHEMA = 1
"""Version of the manifest's layout; a reader refuses what it does not know."""


METADATA_KEY = "teco.manifest"


_SIZE = re.compile(r"dynamic|\d+x\d+")


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
            data: dict[str, Any] = json.loads(text)
            schema = data["schema"]
        except (ValueError, KeyError, TypeError) as error:
            raise TecoError(f"{source} is no teco manifest: {error!r}", hint=again) from error
        if schema != SCHEMA:
            raise TecoError(
                f"{source} has manifest schema {schema}, this teco reads {SCHEMA}", hint=again
            )
        try:
            contract: dict[str, Any] = data.pop("contract")
            states: list[dict[str, Any]] = contract.pop("states")
            for state in states:
                state["shape"] = tuple(state["shape"])
            contract["states"] = tuple(StatePort(**state) for state in states)
            contract["range"] = tuple(contract["range"])
            parity: dict[str, Any] | None = data.pop("parity")
            if parity is not None:
                parity["sizes"] = tuple(parity["sizes"])
            gate, int8 = data.pop("gate", None), data.pop("int8", None)
            manifest = cls(
                **data,
                gate=None if gate is None else _verdict(gate),
                int8=None if int8 is None else _int8(int8),
                contract=StreamContract(**contract),
                parity=None if parity is None else Parity(**parity),
            )
            manifest.check()
        except (TypeError, KeyError, ValueError, AttributeError, ModelError) as error:
            raise TecoError(f"{source} is not a complete manifest: {error}", hint=again) from error
        return manifest

    def check(self) -> None:
        """Raise TypeError, ValueError or ModelError for what its readers could not use."""
        for name, kind in (
            ("variant", str), ("size", str), ("sha256", str),
            ("precision_asked", str), ("precision_found", dict), ("versions", dict),
            ("data_sha256", dict), ("gate_size", str), ("target", str),
        ):  # fmt: skip
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} is {getattr(self, name)!r}")
        if bad := [name for name in self.data_sha256 if Path(name).name != name]:
            raise ValueError(f"data_sha256 names {bad[0]!r}, which is not beside the file")
        self._check_precision()
        ours = StreamContract.of(Variant.parse(self.variant), self.contract.io)
        if not _SIZE.fullmatch(self.size):
            raise ValueError(f"size is {self.size!r}")
        contract = self.contract
        if contract.scale != SCALE:
            raise ValueError(f"scale is {contract.scale!r}")
        for name in ("multiple_of", "minimum", "colour", "range", "layout"):
            # A runner that ignored these would give wrong pictures without a word.
            if getattr(contract, name) != getattr(ours, name):
                raise ValueError(
                    f"{name} is {getattr(contract, name)!r}, which this teco cannot do"
                )
        if bool(contract.check) != bool(ours.check):
            raise ValueError(f"check is {contract.check!r} with {contract.dtype} ports")
        sources = (contract.frame, contract.picture, *ours.carried)
        for state in contract.states:
            if state.source not in sources:
                raise ValueError(f"the source of state {state.input} is {state.source!r}")
            ported = state.source in (contract.frame, contract.picture) or contract.io == "fp16"
            if state.dtype != (contract.dtype if ported else "float32"):
                raise ValueError(f"the dtype of state {state.input} is {state.dtype!r}")
            if len(state.shape) != 4 or not all(EXTENT.fullmatch(x) for x in state.shape):
                raise ValueError(f"the shape of state {state.input} is {list(state.shape)}")

    def _check_precision(self) -> None:
        """The label against the types it lies beside; a file may say nothing of its types."""
        half = self.precision_found.get("float16", 0)
        if self.precision_found and (self.precision_asked == "fp16") != bool(half):
            raise ValueError(
                f"precision_asked is {self.precision_asked!r} and {half or 'none'} of the file's "
                "tensors are float16"
            )
        whole = self.precision_found.get("int8", 0)
        if self.precision_found and (self.precision_asked == "int8") != bool(whole):
            raise ValueError(
                f"precision_asked is {self.precision_asked!r} and {whole or 'none'} of the file's "
                "tensors are int8"
            )
        if self.gate is not None and not self.gate.accepted:
            raise ValueError(f"the gate did not accept it: {self.gate.reasons[0]}")


def _verdict(data: object) -> Verdict:
    # Not at the top: NumPy and OpenCV come with it, which no command's help needs.
    from teco_calibration.temporal_gate.verdict import Verdict

    return Verdict.from_dict(data)


def _int8(data: object) -> Int8:
    from teco.model.int8 import Int8

    return Int8.of(data)


def manifest_path(path: Path) -> Path:
    """``model.onnx`` -> ``model.json``."""
    return path.with_suffix(".json")


def check_target(path: Path, overwrite: bool) -> None:
    """Raise TecoError where a model file and its manifest cannot or should not be written."""
    folder = path.parent
    if not folder.is_dir():
        message, hint = f"the output folder {folder} does not exist", f"mkdir -p {folder}"
        if folder.exists():
            message, hint = f"-o {folder} is a file, expected a folder", "give another -o"
    elif not os.access(folder, os.W_OK):
        message, hint = f"the output folder {folder} cannot be written", "give another -o"
    elif not overwrite and (taken := [p for p in (path, manifest_path(path)) if p.exists()]):
        message, hint = f"{taken[0]} exists already", "add --force to replace it"
    else:
        return
    raise TecoError(message, hint=hint, exit_code=USAGE)
