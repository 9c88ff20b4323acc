"""The benchmark: measure, report, render."""
