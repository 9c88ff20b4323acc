"""Write what is shipped of a model: its entry, or the form of it for another target.

    python scripts/make_zoo.py entry runs/b3/weights.safetensors
    python scripts/make_zoo.py entry runs/live/weights.safetensors --name live --for openvino
    python scripts/make_zoo.py form web live real-cpu teco-x4-b3-c64-bp-lk teco-x4-b3-c64-bp-lk-gan
    python scripts/make_zoo.py form openvino real-cpu

An entry has float16 weights, a verified ONNX file and its manifest; a form is one more ONNX file,
NAME-TARGET.onnx, that shares the weights. The model card is written by hand: it says what no
program knows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from teco.core import log
from teco.exporting.onnx import export_onnx
from teco.exporting.options import ExportOptions
from teco_models import zoo
from teco_models.checkpoint import build_any, load_weights, save_weights
from teco_models.deploy.step import TARGETS


def export(entry: zoo.Entry, name: str, target: str) -> None:
    """The entry's network as an ONNX file beside its weights."""
    # From the rounded weights, so that all files are the same network.
    options = ExportOptions(
        half_weights=True, frames=30, shared_with=entry.weights, name=name, target=target
    )
    path = export_onnx(load_weights(entry.weights), entry.folder, options, overwrite=True)
    print(path, f"{path.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    log.to_stderr(print, verbose=False)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    entry_parser = kinds.add_parser("entry", help="of trained weights")
    entry_parser.add_argument("weights", type=Path)
    entry_parser.add_argument("--name", help="of the entry; the variant's if not given")
    entry_parser.add_argument(
        "--for", dest="target", choices=sorted(TARGETS), default="onnxruntime"
    )
    form_parser = kinds.add_parser("form", help="of shipped models")
    form_parser.add_argument("target", choices=sorted(TARGETS))
    names = [e.name for e in zoo.entries()]
    form_parser.add_argument("names", nargs="+", choices=names, metavar="NAME")
    arguments = parser.parse_args()
    if arguments.kind == "form":
        for name in arguments.names:
            entry = zoo.Entry(name)
            export(entry, entry.form(arguments.target).stem, arguments.target)
        return
    weights = load_weights(arguments.weights)
    entry = zoo.Entry(arguments.name or weights.variant.name)
    entry.folder.mkdir(exist_ok=True)
    save_weights(entry.weights, build_any(weights), metadata=weights.metadata, half=True)
    export(entry, entry.name, arguments.target)


if __name__ == "__main__":
    main()
