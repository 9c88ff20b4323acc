"""``python -m teco.train``: the same as ``teco train``, in the form that torchrun starts."""

import sys

from teco.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
