"""Engines: an ONNX file compiled for NVIDIA's runtimes, with proof of its precision.

``build_rtx`` works on any machine, ``build_tensorrt`` on the GPU that is to run the engine;
``check`` says before anything is loaded whether an engine fits the machine. TensorRT itself is
imported by none of these until it is used.
"""

from teco.engines.build import BuildOptions
from teco.engines.manifest import EngineManifest
from teco.engines.precision import Proof
from teco.engines.preflight import Host, check
from teco.engines.rtx import RtxOptions, build_rtx
from teco.engines.tensorrt import TensorRtOptions, build_tensorrt

__all__ = [
    "BuildOptions",
    "EngineManifest",
    "Host",
    "Proof",
    "RtxOptions",
    "TensorRtOptions",
    "build_rtx",
    "build_tensorrt",
    "check",
]
