"""Smaller networks of trained ones: pruning, sharing, sparsity, growing, blending."""
