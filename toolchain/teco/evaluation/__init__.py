"""Quality on clips with a ground truth: metrics of sequences, baselines, tables."""
