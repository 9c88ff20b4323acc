"""Commands that measure: bench, compare, eval, table."""
