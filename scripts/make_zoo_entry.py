"""Turn trained weights into a shipped model: float16 weights, verified ONNX, manifest.

    python scripts/make_zoo_entry.py runs/b3/weights.safetensors
    python scripts/make_zoo_entry.py runs/live/weights.safetensors --name live --for openvino

The model card is written by hand: it says what no program knows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from teco.core import log
from teco.export.onnx import export_onnx
from teco.export.options import ExportOptions
from teco_models import zoo
from teco_models.checkpoint import build_any, load_weights, save_weights
from teco_models.deploy.step import TARGETS


def main() -> None:
    log.to_stderr(print, verbose=False)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--name", help="of the entry; the variant's if not given")
    parser.add_argument("--for", dest="target", choices=sorted(TARGETS), default="onnxruntime")
    arguments = parser.parse_args()
    weights = load_weights(arguments.weights)
    entry = zoo.Entry(arguments.name or weights.variant.name)
    entry.folder.mkdir(exist_ok=True)
    save_weights(entry.weights, build_any(weights), metadata=weights.metadata, half=True)
    # From the rounded weights, so that both files are the same network.
    options = ExportOptions(
        half_weights=True,
        frames=30,
        shared_with=entry.weights,
        name=entry.name,
        target=arguments.target,
    )
    rounded = load_weights(entry.weights)
    path = export_onnx(rounded, entry.folder, options, overwrite=True)
    print(path, f"{path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
