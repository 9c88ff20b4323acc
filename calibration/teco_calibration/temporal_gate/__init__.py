"""The temporal gate: whether another precision drifts from float32 over time."""
