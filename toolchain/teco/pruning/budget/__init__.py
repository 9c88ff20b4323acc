"""Pruning to a budget: the best variant that a machine, a runtime and a size leave time for."""
