"""Write a shipped model's form for browsers beside it, sharing its weights: NAME-web.onnx.

python scripts/make_zoo_web.py live teco-x4-b3-c64-bp-lk teco-x4-b3-c64-bp-lk-gan
"""

from __future__ import annotations

import argparse

from teco.core import log
from teco.export.onnx import export_onnx
from teco.export.options import WEB, ExportOptions
from teco_models import zoo
from teco_models.checkpoint import load_weights


def main() -> None:
    log.to_stderr(print, verbose=False)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=[e.name for e in zoo.entries()], metavar="NAME")
    for name in parser.parse_args().names:
        entry = zoo.Entry(name)
        options = ExportOptions(
            half_weights=True,
            frames=30,
            shared_with=entry.weights,
            name=entry.web.stem,
            target=WEB,
        )
        weights = load_weights(entry.weights)
        path = export_onnx(weights, entry.folder, options, overwrite=True)
        print(path, f"{path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
