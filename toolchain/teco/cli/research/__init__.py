"""Commands for people who train: train, prune, blend."""
