"""CUDA behind one small protocol, through cuda-python or PyCUDA, whichever is installed.

Nothing of either is imported before a device is opened. None of it has yet been run on a GPU.
"""

from __future__ import annotations

import importlib.util

from teco.core.errors import MACHINE, TecoError
from teco.runtimes.nvidia.device.protocol import CudaError, Device

INSTALL = "pip install 'teco[cuda]'"
"""What provides the bindings; cuda-python comes as wheels, PyCUDA ('teco[pycuda]') is compiled."""


MODULES = {"cuda-python": "cuda.bindings.runtime", "pycuda": "pycuda.driver"}
"""Package -> what is imported of it, in the order in which they are taken."""


def is_there(package: str) -> bool:
    """Whether a package of :data:`MODULES` is installed; nothing is imported of it."""
    try:
        return importlib.util.find_spec(MODULES[package]) is not None
    except ModuleNotFoundError:  # the parent package is not there
        return False


def installed() -> str | None:
    """ "cuda-python" or "pycuda", the first that is installed."""
    return next((name for name in MODULES if is_there(name)), None)


def why_unavailable(purpose: str) -> str | None:
    """None when a device can be opened as far as packages tell, else one sentence.

    Args:
        purpose: what needs it, to begin the sentence with.
    """
    if installed() is not None:
        return None
    return f"{purpose} needs cuda-python or PyCUDA, and neither is installed: {INSTALL}"


def open_device(purpose: str = "this") -> Device:
    """The first GPU, as CUDA orders them (``CUDA_VISIBLE_DEVICES`` chooses).

    Args:
        purpose: what needs it, to begin the sentence with.

    Raises:
        TecoError: no bindings, no driver or no GPU; exit code 3.
    """
    found = installed()
    if found == "cuda-python":
        from teco.runtimes.nvidia.device.cuda_python import CudaPython

        return CudaPython()
    if found == "pycuda":
        from teco.runtimes.nvidia.device.pycuda import PyCuda

        return PyCuda()
    raise TecoError(
        f"{purpose} needs cuda-python or PyCUDA, and neither is installed",
        hint=INSTALL,
        exit_code=MACHINE,
    )


__all__ = ["INSTALL", "CudaError", "Device", "installed", "open_device", "why_unavailable"]
