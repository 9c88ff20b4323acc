"""The comparison table: every variant on a test set, beside interpolation and published figures."""
