"""Whether a file computes what the float32 network computes: parity and the temporal gate."""
