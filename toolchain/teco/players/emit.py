"""Write what a target asks for: a folder that is complete and accepted, or not there at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from teco import __version__
from teco.core.errors import USAGE, TecoError
from teco.core.files import writing
from teco.model.manifest import manifest_path
from teco.players import base
from teco.players.base import Emission, EmitRequest, EmitTarget

MARK = "teco-emit.json"
"""Only a folder that holds this file is ever replaced."""


def write(
    target: EmitTarget, request: EmitRequest, folder: Path, *, force: bool, check: bool
) -> str:
    """Make the folder.

    Args:
        target: for which player.
        request: of what.
        folder: its name; must not exist, or be empty, or with ``force`` be an earlier emission.
        force: replace an earlier emission.
        check: have the target's program accept it before it gets its name.

    Returns:
        The check's sentence.

    Raises:
        TecoError: the folder cannot be made, the model does not fit, or the program refuses it.
    """
    check_folder(folder, force)
    emission = target.emission(request)
    with writing(folder, folder=True) as part:
        _fill(part, target, request, emission)
        return target.check(part, request) if check else "not checked, as asked"


def check_folder(folder: Path, force: bool) -> None:
    """Raise TecoError where the folder cannot or should not be written."""
    if not folder.name:
        message, hint = f"-o {folder} has no name of its own", "give a new folder's name"
    elif not folder.parent.is_dir():
        message = f"the folder {folder.parent} does not exist"
        hint = f"mkdir -p {folder.parent}"
    elif not os.access(folder.parent, os.W_OK):
        message, hint = f"the folder {folder.parent} cannot be written", "give another -o"
    elif folder.exists() and not folder.is_dir():
        message, hint = f"-o {folder} is a file, expected a folder", "give another -o"
    elif folder.is_dir() and any(folder.iterdir()):
        if (folder / MARK).is_file():
            if force:
                return
            message, hint = f"{folder} exists already", "add --force to replace it"
        else:
            message = f"{folder} holds files that teco did not emit"
            hint = "give a new folder; such a one is never replaced"
    else:
        return
    raise TecoError(message, hint=hint, exit_code=USAGE)


def _fill(folder: Path, target: EmitTarget, request: EmitRequest, emission: Emission) -> None:
    files: dict[str, str | bytes | Path] = dict(emission.files)
    if emission.with_model:
        model = base.model_files(request.model)
        files |= model
        beside = manifest_path(Path(next(iter(model)))).name
        if beside not in files:
            files[beside] = base.manifest_text(request.model)
    if (card := base.card_of(request.model)) is not None:
        files["MODEL.md"] = card
    files["LICENSE"] = base.licence_text()
    files["README.md"] = _readme(target, request, emission)
    files[MARK] = base.record(request, target.name, __version__)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8")


def _readme(target: EmitTarget, request: EmitRequest, emission: Emission) -> str:
    commands = "\n".join(emission.commands)
    notes = f"\n{emission.notes.strip()}\n" if emission.notes.strip() else ""
    card = "`MODEL.md` says what the network was trained on and under which licences its clips " \
        "are.\n" if base.card_of(request.model) else ""  # fmt: skip
    return (
        f"# {request.title} for {target.name}\n\n"
        f"Made by teco {__version__} (`teco emit {target.name}`). In this folder:\n\n"
        f"```sh\n{commands}\n```\n{notes}\n"
        f"`{emission.main}` is what the player is given. teco is under Apache-2.0 (`LICENSE`). "
        f"{card}"
    )
