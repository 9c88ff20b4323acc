"""Driving a model over a clip: streams, scene cuts, deadlines, upscaling."""
