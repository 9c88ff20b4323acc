"""The family's commands: they parse, follow from each other, and the model cards hold them."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from paths import SCRIPTS

from teco_models import zoo

SCRIPT = SCRIPTS / "train_family.py"


@pytest.fixture(scope="module")
def family() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_family", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def steps(family: ModuleType, *schedule: Any) -> list:
    clips = (Path("clips"), Path("sharp"), Path("runs"), "gopro_max_heromode.mp4", "1.5")
    return list(family.steps(*clips, *schedule))


@pytest.mark.parametrize("schedule", ["FULL", "SMALL"])
def test_every_command_parses_and_finds_what_it_needs(family: ModuleType, schedule: str) -> None:
    from teco.cli.research.blend import command as blend
    from teco.cli.research.prune import command as prune
    from teco.cli.research.train import command as train

    made: set[str] = set()
    chosen = steps(family, getattr(family, schedule))
    for step in chosen:
        command = {"train": train, "prune": prune, "blend": blend}[step.command[0]]
        # Raises for an option that does not exist or a value of the wrong kind.
        context = command.make_context(step.command[0], list(step.command[1:]))
        needed = [context.params.get(x) for x in ("init", "teacher", "discriminator")]
        weights = context.params.get("weights") or ()
        needed += [weights] if isinstance(weights, str) else weights
        needed = [str(path) for path in needed if path]
        for path in needed:
            assert path in made, f"{step.name} needs {path}"
        assert sorted(map(str, step.needs)) == sorted(needed)
        # Where it runs is no part of what it makes.
        assert "--device" not in step.command
        out = str(context.params.get("output") or context.params["out"])
        made |= {out, f"{out}/weights.safetensors"}
        if "--gan-iterations" in step.command:
            made.add(f"{out}/discriminator.safetensors")
        assert step.makes[0].is_relative_to(out)
    names = [step.name for step in chosen]
    assert len(set(names)) == len(names)
    on_gpu = ("--device", "cuda") if schedule == "FULL" else ()
    assert {step.machine for step in chosen} == {(), on_gpu}
    assert {s.machine for s in chosen if re.fullmatch(r"b\d+(-scratch|-gan)?", s.name)} == {on_gpu}


def test_cards_hold_the_commands(family: ModuleType) -> None:
    texts = {step.name: step.text for step in steps(family)}
    for entry in zoo.entries():
        if match := re.fullmatch(rf"teco-x4-(b\d+)-{family.KIND}(-gan)?", entry.name):
            name = match[1] + (match[2] or "")
        elif entry.name == "live":
            name = "live"
        else:
            continue  # shipped before the family
        card = re.sub(r"\s+", " ", entry.card.read_text().replace("\\\n", " "))
        assert texts[name] in card, entry.name
        after = [one.name for one in family.AFTER_GAN]
        if f"{name}-blend" in after:  # it is what is shipped: all rounds that led to it
            for later in (x for x in after if re.match(rf"{name}[\d-]", x)):
                assert texts[later] in card, f"{entry.name}: {later}"


def test_the_clips_are_those_that_the_zoo_names() -> None:
    clips = SCRIPT.parent / "clips"
    sums = dict(reversed(x.split("  ")) for x in (clips / "SHA256SUMS").read_text().splitlines())
    assert all(re.fullmatch(r"[0-9a-f]{64}", x) for x in sums.values())
    assert set(tomllib.loads((clips / "clips.toml").read_text())["clips"]) < set(sums)
    page = (zoo.entries()[0].card.parents[1] / "README.md").read_text()
    named = [
        x for row in re.findall(r"^\|([^|]+)\| [\d, ]+\|", page, re.MULTILINE) for x in row.split()
    ]
    for name in sums:
        stem, suffix = name.split(".")
        assert any(x.strip(",") in (name, stem, stem.removeprefix("sam2_")) for x in named), name
        assert suffix in ("mpg", "mp4")


def test_done_steps_are_skipped_and_dry_runs_run_nothing(
    tmp_path: Path, family: ModuleType
) -> None:
    arguments = ["--data", "none", "--val", "none.mp4", "--out", str(tmp_path / "runs")]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPT), *arguments, *more]
        return subprocess.run(command, capture_output=True, text=True)

    dry = run("--dry-run")
    assert dry.returncode == 0
    assert not (tmp_path / "runs").exists()
    lines = [line for line in dry.stdout.splitlines() if line.startswith("teco ")]
    assert len(lines) == len(steps(family))
    assert all(shlex.split(line)[0] == "teco" for line in lines)
    wrong = run("--only", "b4")
    assert wrong.returncode == 2
    assert "b10-gan" in wrong.stderr
    # Weights that nobody knows the command of are neither used nor trained over.
    done = tmp_path / "runs" / "base" / "weights-recurrent.safetensors"
    done.parent.mkdir(parents=True)
    done.touch()
    found = run("--only", "base")
    assert found.returncode == 2
    assert "no step here made it" in found.stderr
    # In such a folder the steps that are left can be taken by name. One that fails stops the
    # family with its own exit code; the clip is missing.
    failed = run("--small", "--only", "b10")
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
