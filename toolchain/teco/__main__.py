"""``python -m teco``."""

from teco.cli import main

main()
