"""What ``teco emit`` asks of a target: files, a command to run, a check by the target's program."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from teco.core.errors import USAGE, TecoError
from teco.core.files import sha256_of
from teco.model.manifest import manifest_path
from teco.model.opening import Model, open_model
from teco_models import zoo

CHECK_SECONDS = 120
"""How long a target's program may take over one check."""


def plain_name(text: str) -> str:
    """A name without what means something to a shell, a script or a terminal."""
    return re.sub(r"[^\w.+-]", "_", text, flags=re.ASCII)


@dataclass(frozen=True, kw_only=True)
class EmitRequest:
    """What is emitted.

    Attributes:
        model: what the user named.
        spec: how they named it: a shipped model's name or a path.
        runtime: as ``--runtime``; for targets that run Python.
        threads: CPU threads of the network; None for all.
        pre_roll: frames run and dropped after a seek, where the player can give earlier frames.
    """

    model: Model
    spec: str
    runtime: str = "auto"
    threads: int | None = None
    pre_roll: int = 0

    @property
    def title(self) -> str:
        """The model's name for text in scripts, profiles and pages: a file may be called anything,
        and not every language has a quoting that is safe."""
        return plain_name(self.model.name)


@dataclass(frozen=True, kw_only=True)
class Emission:
    """A folder as a target wants it written.

    Attributes:
        main: name of the file that the player is given.
        files: name in the folder, with / between parts -> its text, its bytes or a file to copy.
            Model, manifest, licence and README are added to it (:func:`teco.players.emit.write`).
        commands: lines to type in the folder, the first one plays a clip.
        notes: what else the README says, Markdown.
        with_model: whether the model's own files are copied; False where ``files`` holds another.
    """

    main: str
    files: Mapping[str, str | bytes | Path]
    commands: Sequence[str]
    notes: str = ""
    with_model: bool = True


class EmitTarget(Protocol):
    """A player that ``teco emit`` makes files for. One file each, listed in ``TARGETS``."""

    @property
    def name(self) -> str:
        """As users type it."""
        ...

    @property
    def summary(self) -> str:
        """One line for ``teco emit --help``."""
        ...

    def text(self, request: EmitRequest) -> str | None:
        """What goes to stdout without ``-o``: a script that finds the model by itself.

        None: this target is a folder, and needs ``-o``.
        """
        ...

    def emission(self, request: EmitRequest) -> Emission:
        """The folder's files.

        Raises:
            TecoError: this model cannot be used there.
        """
        ...

    def check(self, folder: Path, request: EmitRequest) -> str:
        """Have the target's own program accept the folder.

        Returns:
            A sentence: what was checked, or why nothing was, such as a program that is absent.

        Raises:
            TecoError: the program does not accept it.
        """
        ...


def model_files(model: Model) -> dict[str, Path]:
    """Everything of a model that must lie together, by name; the file to open comes first.

    Raises:
        TecoError: it is a weights file, which players cannot open, or takes planes, which none of
            them hands over.
    """
    if model.manifest is not None and model.planes is not None:
        raise TecoError(
            f"{model.name} has {model.manifest.contract.io} ports, and players hand over RGB",
            hint="export it with --io uint8 or fp32; `teco upscale` and `teco play` take this one",
            exit_code=USAGE,
        )
    main = model.onnx or model.engine
    if main is None:
        raise TecoError(
            f"{model.name} is {model.kind}, players open ONNX files",
            hint="make one with `teco export --weights FILE`",
            exit_code=USAGE,
        )
    name = plain_name(main.name)
    files = {name: main}
    beside = manifest_path(main)
    if beside.is_file():
        files[manifest_path(Path(name)).name] = beside
    if model.manifest is not None and model.onnx is not None:
        files |= {name: main.with_name(name) for name in model.manifest.data_sha256}
    return files


def manifest_text(model: Model) -> str:
    """The manifest, for a model that has it only inside."""
    assert model.manifest is not None
    return model.manifest.to_json()


def card_of(model: Model) -> Path | None:
    """The model card of a shipped model: what it was trained on, and under which licences."""
    entry = zoo.find(model.name.removesuffix("-web"))
    if entry is None or not entry.card.is_file() or model.onnx is None:
        return None
    # Anybody may call a file so; the card belongs to the bytes, and to what they say they are.
    forms = [open_model(str(path)) for path in entry.folder.glob("*.onnx")]
    own = sha256_of(model.onnx)
    return entry.card if any(_same(form, model, own) for form in forms) else None


def _same(shipped: Model, other: Model, sha256: str) -> bool:
    return (
        shipped.manifest is not None
        and other.manifest is not None
        and shipped.manifest.sha256 == sha256
        and shipped.manifest.weights_sha256 == other.manifest.weights_sha256
    )


def licence_text() -> str:
    """teco's licence, Apache-2.0.

    Raises:
        TecoError: the installation has lost it.
    """
    found = None
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        # Where PEP 639 puts it; an editable install has it too.
        found = importlib.metadata.distribution("teco").read_text("licenses/LICENSE")
    source = Path(__file__).parents[3] / "LICENSE"  # run from a source tree
    if not found and source.is_file():
        found = source.read_text(encoding="utf-8")
    if not found:
        raise TecoError(
            "teco's licence is not in this installation, and nothing is emitted without it",
            hint="install teco again",
        )
    return found


def record(request: EmitRequest, target: str, version: str) -> str:
    """``teco-emit.json``: who made the folder and of what; and that it may be replaced."""
    data = {
        "target": target,
        "teco": version,
        "model": request.model.name,
        "runtime": request.runtime,
        "threads": request.threads,
        "pre_roll": request.pre_roll,
    }
    return json.dumps(data, indent=2) + "\n"


def accepts(command: Sequence[str], what: str, **options: Any) -> str:
    """Run a target's program, which is installed, on what was emitted.

    Args:
        command: program and arguments.
        what: the thing that is accepted or not, to begin the error with.
        options: of subprocess.run, such as cwd and env.

    Returns:
        Its standard output and error together.

    Raises:
        TecoError: it ends with another code than 0, or takes longer than :data:`CHECK_SECONDS`.
    """
    try:
        done = subprocess.run(
            [*command], capture_output=True, text=True, errors="replace", check=False,
            stdin=subprocess.DEVNULL, timeout=CHECK_SECONDS, **options,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TecoError(
            f"{what}: {command[0]} did not finish within {CHECK_SECONDS} s",
            hint="add --no-check to write the folder all the same",
        ) from error
    said = done.stdout + done.stderr
    if done.returncode != 0:
        last = [line.strip() for line in said.splitlines() if line.strip()]
        raise TecoError(
            f"{what} was not accepted by {command[0]}: {last[-1][:300] if last else 'no word why'}",
            hint="add --no-check to write the folder all the same",
        )
    return said
