"""Engines: an ONNX file compiled for NVIDIA's runtimes, with proof of its precision.

``rtx.build_rtx`` works on any machine, ``tensorrt.build_tensorrt`` on the GPU that is to run the
engine. TensorRT itself is imported by none of these until it is used.
"""
