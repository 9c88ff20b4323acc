"""What the targets made of C share: sources, compiling, and ONNX Runtime's shared library."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

from teco.core.errors import MACHINE, USAGE, TecoError
from teco.core.machine import missing_extra
from teco.model.manifest import manifest_path
from teco.model.opening import Model
from teco.players.base import accepts, manifest_text, model_files

SOURCE = Path(__file__).with_name("c")
"""libteco as it is shipped."""

MODEL = "model.onnx"
"""What libteco's frei0r filter looks for beside itself."""


def sources(*parts: str) -> dict[str, Path]:
    """CMakeLists.txt and everything below these folders of :data:`SOURCE`, by name."""
    found = [SOURCE / "CMakeLists.txt"]
    for part in parts:
        found += [path for path in sorted((SOURCE / part).rglob("*")) if path.is_file()]
    return {path.relative_to(SOURCE).as_posix(): path for path in found}


def why_no_compiler(header: str = "") -> str | None:
    """None where C can be compiled here, with this header, else one sentence."""
    missing = [name for name in ("cmake", "cc") if shutil.which(name) is None]
    if missing:
        return f"there is no {' and no '.join(missing)} here"
    if header:
        command = ["cc", "-E", "-include", header, "-x", "c", "/dev/null"]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return f"there is no {header} here"
    return None


@functools.cache
def compiled(source: Path, name: str, *options: str) -> bytes:
    """Build with cmake in a folder of its own and read one product.

    Args:
        source: folder with the CMakeLists.txt.
        name: of the product in the build folder.
        options: for cmake.

    Raises:
        TecoError: it does not compile.
    """
    with tempfile.TemporaryDirectory(prefix="teco-emit-") as build:
        accepts(["cmake", "-S", str(source), "-B", build, *options], str(source))
        accepts(["cmake", "--build", build, "--parallel", "2"], str(source))
        return (Path(build) / name).read_bytes()


def runtime_folder() -> Path:
    """Where this environment's ONNX Runtime keeps its shared library.

    Raises:
        TecoError: it is not installed, or its wheel has none.
    """
    if reason := missing_extra("onnxruntime", "cpu", "libteco"):
        raise TecoError(reason, exit_code=MACHINE)
    import onnxruntime

    return Path(onnxruntime.__file__).parent / "capi"


def runtime_library() -> Path:
    """The library itself. Errors as :func:`runtime_folder`."""
    folder = runtime_folder()
    found = sorted(folder.glob("libonnxruntime.so*"))
    if not found:
        raise TecoError(
            f"this environment's onnxruntime has no libonnxruntime.so in {folder}",
            hint="pip install --force-reinstall onnxruntime",
            exit_code=MACHINE,
        )
    return found[-1]


def runtime_files() -> dict[str, Path]:
    """The library and its licences, to be copied: it is MIT and brings notices of others."""
    library = runtime_library()
    files = {library.name: library}
    for name in ("LICENSE", "ThirdPartyNotices.txt"):
        path = library.parents[1] / name
        if path.is_file():
            files[f"onnxruntime/{name}"] = path
    return files


def onnx_files(model: Model) -> dict[str, Path | str]:
    """A model's files as libteco wants them: the ONNX file by the name :data:`MODEL`.

    Raises:
        TecoError: there is no ONNX file, or one whose ports libteco does not drive.
    """
    files = model_files(model)
    if model.onnx is None or model.manifest is None:
        raise TecoError(
            f"{model.name} is {model.kind}, libteco opens ONNX files",
            hint="`teco export` makes one",
            exit_code=USAGE,
        )
    if model.manifest.contract.dtype == "float16":
        raise TecoError(
            f"{model.name} has float16 ports, libteco drives float32 and uint8",
            hint="export it with --io fp32 or --io uint8",
            exit_code=USAGE,
        )
    named: dict[str, Path | str] = {MODEL: model.onnx}
    named[manifest_path(Path(MODEL)).name] = manifest_text(model)
    named |= {name: files[name] for name in model.manifest.data_sha256}
    return named
