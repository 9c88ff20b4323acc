"""Shipped weights. Each entry is a folder beside this file with what its name says:

``<name>.onnx`` and ``<name>.json`` (manifest) for running, ``<name>.safetensors`` (float16) for
training and export, ``<name>.md``, the model card; ``<name>-web.onnx`` and its manifest for
browsers and ``<name>-openvino.onnx`` for OpenVINO, where there is one. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Entry:
    """One shipped model."""

    name: str

    @property
    def folder(self) -> Path:
        return HERE / self.name

    @property
    def onnx(self) -> Path:
        return self.folder / f"{self.name}.onnx"

    def form(self, target: str) -> Path:
        """The form for a target of ``teco export --for``, its manifest beside it; there for some
        models only."""
        return self.folder / f"{self.name}-{target}.onnx"

    @property
    def web(self) -> Path:
        """The form for browsers."""
        return self.form("web")

    @property
    def weights(self) -> Path:
        return self.folder / f"{self.name}.safetensors"

    @property
    def card(self) -> Path:
        return self.folder / f"{self.name}.md"


def entries() -> tuple[Entry, ...]:
    """All shipped models, by name."""
    folders = sorted(p.name for p in HERE.iterdir() if (p / f"{p.name}.onnx").exists())
    return tuple(Entry(name) for name in folders)


def find(name: str) -> Entry | None:
    """The shipped model of that name."""
    return next((entry for entry in entries() if entry.name == name), None)
