"""Recipes: training options as readable TOML files.

A recipe is flat; its keys are the fields of :class:`teco.training.options.TrainOptions`. What it
leaves out stays at the default, and what the command line says goes before it. Shipped ones lie in
``teco/training/recipes`` and are found by name.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from teco.core.errors import USAGE, TecoError
from teco.core.names import did_you_mean
from teco.training.options import TrainOptions

FOLDER = Path(__file__).parent / "recipes"


def shipped() -> tuple[str, ...]:
    """Names of the recipes that come with teco."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load_recipe(which: str) -> dict[str, Any]:
    """Options that a recipe sets, by field name.

    Args:
        which: a TOML file, or the name of a shipped recipe.

    Raises:
        TecoError: there is no such recipe, it is no TOML, or a key is unknown or of another type.
    """
    path = Path(which)
    if not path.suffix and not path.is_file():  # a folder may be called so
        path = FOLDER / f"{which}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        meant = did_you_mean(Path(which).stem, shipped())
        raise TecoError(
            f"the recipe {which} cannot be read: {getattr(error, 'strerror', None) or error}",
            hint=f"{meant}give a .toml file, or one of {', '.join(shipped())}",
            exit_code=USAGE,
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise TecoError(f"the recipe {which} is no TOML: {error}", exit_code=USAGE) from error
    return {key: _checked(which, key, value) for key, value in table.items()}


def _checked(which: str, key: str, value: Any) -> Any:
    """The value as the field wants it."""
    names = [f.name for f in fields(TrainOptions)]
    if key not in names:
        near = difflib.get_close_matches(key, names, n=1, cutoff=0.0)[0]
        raise TecoError(
            f"the recipe {which} has an unknown key {key!r}",
            hint=f"the nearest known key is {near!r}",
            exit_code=USAGE,
        )
    wanted = get_type_hints(TrainOptions)[key]
    if wanted is float and type(value) is int:
        value = float(value)
    if wanted == tuple[int, ...] and isinstance(value, list):
        value = tuple(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    choices = get_args(wanted)
    if wanted in (int, float, str, bool):
        fits = type(value) is wanted
        expected = wanted.__name__
    elif wanted == tuple[int, ...]:
        fits = isinstance(value, tuple) and all(type(n) is int for n in value)  # pyright: ignore[reportUnknownVariableType]
        expected = "a list of whole numbers"
    else:
        fits = value in choices
        expected = "one of " + ", ".join(repr(choice) for choice in choices)
    if not fits:
        raise TecoError(
            f"the recipe {which} has {key} = {value!r}, expected {expected}", exit_code=USAGE
        )
    return value
