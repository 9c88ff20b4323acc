"""Turn trained weights into a shipped model: float16 weights, verified ONNX, manifest.

    python scripts/make_zoo_entry.py runs/b3/weights.safetensors

The model card is written by hand: it says what no program knows.
"""

from __future__ import annotations

import sys
from pathlib import Path

from teco.export import ExportOptions, export_onnx
from teco_models import zoo
from teco_models.checkpoint import build, load_weights, save_weights


def main(weights_file: Path) -> None:
    weights = load_weights(weights_file)
    entry = zoo.Entry(weights.variant.name)
    entry.folder.mkdir(exist_ok=True)
    save_weights(entry.weights, build(weights), metadata=weights.metadata, half=True)
    # From the rounded weights, so that both files are the same network.
    options = ExportOptions(half_weights=True, frames=30, name=entry.name)
    rounded = load_weights(entry.weights)
    path = export_onnx(rounded, entry.folder, options, say=print, overwrite=True)
    print(path, f"{path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
