"""The benchmark: measure, report, compare."""

from pathlib import Path

SHIPPED_CLIP = Path(__file__).with_name("city_hr.mp4")
"""A truth of 720x404, CC0, none of the shipped networks was trained on: ``examples/README.md``."""
