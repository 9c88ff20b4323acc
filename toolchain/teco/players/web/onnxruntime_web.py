"""onnxruntime-web's own files: from a folder that is named, from the cache, or from npm.

They are Microsoft's, 41 MB, and not part of teco; :mod:`teco.core.npm_package` says how they come.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from teco.core import npm_package
from teco.core.npm_package import ONNXRUNTIME_WEB

VERSION = ONNXRUNTIME_WEB.version
FILES = tuple(PurePosixPath(name).name for name in ONNXRUNTIME_WEB.files)
"""What the page loads (``page/session.js``): the first two for WebGPU, the others without."""


@dataclass(frozen=True)
class WebRuntime:
    """The files that were found.

    Attributes:
        folder: that holds all of :data:`FILES`.
        version: as the package beside them says; "" where nothing says it.
    """

    folder: Path
    version: str

    @property
    def files(self) -> dict[str, Path]:
        return {name: self.folder / name for name in FILES}


def find(named: Path | None = None) -> WebRuntime:
    """onnxruntime-web's files; that they are downloaded is logged.

    Args:
        named: a folder that the user gave by ``--ort-web``. None looks at ``$TECO_ORT_WEB``, then
            the cache, then npm.

    Raises:
        TecoError: see :func:`teco.core.npm_package.find`.
    """
    found = npm_package.find(ONNXRUNTIME_WEB, named, option="--ort-web")
    return WebRuntime(next(iter(found.files.values())).parent, found.version)
