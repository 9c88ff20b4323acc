"""Fetch the backbone of the LPIPS metric: ``python scripts/fetch_lpips_backbone.py [--vgg]``.

The same as ``python -m teco_calibration.metrics.lpips_backbone fetch``, which an installed teco
has.
"""

import sys

from teco_calibration.metrics.lpips_backbone import main

if __name__ == "__main__":
    sys.exit(main(["fetch", *sys.argv[1:]]))
