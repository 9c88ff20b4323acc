"""Write a shipped model's form for a target beside it, sharing its weights: NAME-TARGET.onnx.

python scripts/make_zoo_form.py web live real-cpu teco-x4-b3-c64-bp-lk teco-x4-b3-c64-bp-lk-gan
python scripts/make_zoo_form.py openvino real-cpu
"""

from __future__ import annotations

import argparse

from teco.core import log
from teco.export.onnx import export_onnx
from teco.export.options import ExportOptions
from teco_models import zoo
from teco_models.checkpoint import load_weights
from teco_models.deploy.step import TARGETS


def main() -> None:
    log.to_stderr(print, verbose=False)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("names", nargs="+", choices=[e.name for e in zoo.entries()], metavar="NAME")
    arguments = parser.parse_args()
    for name in arguments.names:
        entry = zoo.Entry(name)
        options = ExportOptions(
            half_weights=True,
            frames=30,
            shared_with=entry.weights,
            name=entry.form(arguments.target).stem,
            target=arguments.target,
        )
        weights = load_weights(entry.weights)
        path = export_onnx(weights, entry.folder, options, overwrite=True)
        print(path, f"{path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
