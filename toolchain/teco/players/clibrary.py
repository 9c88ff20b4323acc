"""libteco as sources to build into a program, with the model and an example."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from teco.core.errors import TecoError
from teco.players import native
from teco.players.base import CHECK_SECONDS, Emission, EmitRequest, accepts


@dataclass(frozen=True, kw_only=True)
class CLibrary:
    """See the module."""

    name: str = "c"
    summary: str = "libteco: a C library for programs, with an example"

    def text(self, request: EmitRequest) -> str | None:
        return None

    def emission(self, request: EmitRequest) -> Emission:
        scale = request.model.variant.scale
        return Emission(
            main="include/teco.h",
            files={
                **native.onnx_files(request.model),
                **native.sources("include", "src", "example"),
            },
            commands=(
                "cmake -B build && cmake --build build",
                f"export TECO_ORT_LIBRARY={native.runtime_folder()}",
                "ffmpeg -i in.mp4 -f rawvideo -pix_fmt rgb24 - | build/teco-example "
                f"{native.MODEL} 320 180 | "
                f"ffplay -f rawvideo -pixel_format rgb24 -video_size {320 * scale}x{180 * scale} "
                "-i -",
            ),
            notes=(
                f"The numbers are the size of in.mp4 and {scale} times that. The network runs in "
                "ONNX Runtime's shared library, 1.17 or newer, which is opened at run time: name "
                "it by `TECO_ORT_LIBRARY` (the folder or the file), or lay it beside libteco. "
                "`include/teco.h` says the rest: errors, threads, formats. "
                "`-DBUILD_SHARED_LIBS=OFF` makes a static library."
            ),
            with_model=False,
        )

    def check(self, folder: Path, request: EmitRequest) -> str:
        if reason := native.why_no_compiler():
            return f"not tried: {reason}"
        h, w = request.model.static_size or (24, 32)
        with tempfile.TemporaryDirectory(prefix="teco-emit-") as build:
            accepts(["cmake", "-S", str(folder), "-B", build], "libteco")
            accepts(["cmake", "--build", build, "--parallel", "2"], "libteco")
            done = subprocess.run(
                [Path(build) / "teco-example", folder / native.MODEL, str(w), str(h)],
                input=bytes(2 * 3 * h * w), capture_output=True, check=False, timeout=CHECK_SECONDS,
                env={**os.environ, "TECO_ORT_LIBRARY": str(native.runtime_library())},
            )  # fmt: skip
        if done.returncode != 0 or len(done.stdout) != 2 * 3 * 16 * h * w:
            raise TecoError(
                f"the example did not enlarge two frames: {done.stderr.decode().strip()[-300:]}",
                hint="add --no-check to write the folder all the same",
            )
        return "it compiled, and the example enlarged two frames"
