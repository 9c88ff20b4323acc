"""Table 3 as commands: they parse, follow from each other, and the small form goes to its end."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from teco.core.errors import TecoError
from teco.evaluation.table.published import STUDY_ROWS
from teco.reproduction.hours import MEASURED, PUBLISHED, estimates
from teco.reproduction.table3 import Protocol, check, measuring, needed, steps


def chain(out: Path, **changes: object) -> list:
    return steps(Protocol(out=out, **changes))


@pytest.mark.parametrize("small", [False, True])
def test_every_command_parses_and_finds_what_it_needs(tmp_path: Path, small: bool) -> None:
    from teco.cli.deploy.fetch import command as fetch
    from teco.cli.measure.table import command as table
    from teco.cli.research.prune import command as prune
    from teco.cli.research.train import command as train

    commands = {"fetch": fetch, "train": train, "prune": prune, "table": table}
    out = tmp_path / "out"
    out.mkdir()
    made: set[Path] = set()
    for step in chain(out, small=small):
        name, *arguments = step.arguments
        # Raises for an option that does not exist or a value of the wrong kind.
        context = commands[name].make_context(name, arguments)
        given = [context.params.get(x) for x in ("init", "weights")]
        given += context.params.get("models") or ()
        read = {Path(x) for x in given if x}
        assert read == set(step.needs)
        assert read <= made
        made |= set(step.makes)
    names = [step.name for step in chain(out, small=small)]
    blocks = [row.blocks for row in STUDY_ROWS]
    assert [n for n in names if n.startswith("b") and not n.endswith("cut")] == [
        f"b{b}" for b in blocks
    ]
    assert len(set(names)) == len(names)


def test_the_protocol_is_the_studys(tmp_path: Path) -> None:
    from teco.training.options import TrainOptions
    from teco.training.recipe import load_recipe

    trained = [s for s in chain(tmp_path) if s.iterations]
    assert len(trained) == len(STUDY_ROWS)
    options = TrainOptions(**load_recipe("paper"))
    assert options.variant == "teco-x4-b10-c64-raw"
    for step in trained:
        assert step.command[:3] == ("train", "--config", "paper")
        assert sum(step.iterations.values()) == 300_000
        assert step.iterations == {s: options.total(s) for s in ("recurrent", "gan")}
    table = chain(tmp_path)[-1].command
    assert [table[n + 1] for n, word in enumerate(table) if word == "--data"] == ["ToS3", "Vid4"]
    # What the text of the study names and its table has no row for.
    nine = [s.name for s in chain(tmp_path, blocks=(9, 7))]
    assert "b9" in nine


@pytest.mark.parametrize("blocks", [(), (10,), (0,), (7, 7)])
def test_other_numbers_of_blocks_are_refused(tmp_path: Path, blocks: tuple[int, ...]) -> None:
    with pytest.raises(TecoError):
        Protocol(out=tmp_path, blocks=blocks)


def test_reds_is_trained_on_one_part_and_validated_on_the_other(tmp_path: Path) -> None:
    def options(data: Path) -> dict[str, str]:
        command = next(s for s in chain(tmp_path, data=data) if s.name == "b10").command
        return dict(zip(command[1::2], command[2::2], strict=True))

    flat = tmp_path / "flat"
    (flat / "train_sharp").mkdir(parents=True)
    (other := tmp_path / "other").mkdir()
    assert options(tmp_path / "absent")["--data"].endswith("absent/train/train_sharp")
    assert options(tmp_path / "absent")["--val"].endswith("absent/val/val_sharp/000")
    assert options(flat)["--val"] == str(flat / "val_sharp" / "000")
    assert options(other)["--data"] == str(other)
    assert "--val" not in options(other)


def test_what_is_missing_is_said_before_the_first_day(tmp_path: Path) -> None:
    with pytest.raises(TecoError, match="REDS is not at") as caught:
        check(Protocol(out=tmp_path, data=tmp_path / "REDS"))
    assert "seungjunnah.github.io" in caught.value.hint
    assert [d.name for d in needed(Protocol(out=tmp_path))] == ["REDS", "ToS3", "Vid4"]


def log(run: Path, *lines: tuple[str, int, float]) -> None:
    run.mkdir()
    texts = [json.dumps({"stage": s, "iteration": n, "seconds": t}) for s, n, t in lines]
    torn = [b'{"stage": "gan", "iteration": 0, "seconds": 1}', b'{"stage": "gan", "iter\xff']
    (run / "log.jsonl").write_bytes(b"\n".join([*map(str.encode, texts), *torn]))


def test_hours_are_from_what_was_measured_nearest(tmp_path: Path) -> None:
    plan = chain(tmp_path, blocks=(1,))
    before = estimates(plan, tmp_path, "cpu")
    assert before["b10"].hours == pytest.approx(43)
    assert before["b10"].source == PUBLISHED
    cpu = MEASURED.format(device="cpu")
    log(tmp_path / cpu, ("recurrent", 4, 8.0), ("gan", 2, 20.0))
    assert estimates(plan, tmp_path, "cuda") == before, "another device's pace"
    measured = estimates(plan, tmp_path, "cpu")["b1"]
    assert measured.hours == pytest.approx(150_000 * (2 + 10) / 3600)
    assert cpu in measured.source
    # The run itself knows better: 0.5 s from iteration 50 on, whatever the start took.
    log(tmp_path / "b10", ("recurrent", 50, 100.0), ("recurrent", 90_000, 100 + 0.5 * 89_950))
    own = estimates(plan, tmp_path, "cpu")["b10"]
    assert (own.done, own.total) == (90_000, 300_000)
    assert own.hours == pytest.approx((60_000 * 0.5 + 150_000 * 10) / 3600)


def test_the_timed_run_is_the_recipe(tmp_path: Path) -> None:
    from teco.cli.research.train import command as train

    names: set[str] = set()
    for device in ("cpu", "cuda"):
        step = measuring(Protocol(out=tmp_path, device=device))[-1]
        context = train.make_context("train", list(step.arguments[1:]))
        assert context.params["config"] == "paper"
        assert context.params["out"].name == step.name == MEASURED.format(device=device)
        assert step.makes[0].parent == context.params["out"]
        names.add(step.name)
    assert len(names) == 2, "one device's run does not stand in the way of the other's"


def test_a_dry_run_lists_everything_and_writes_nothing(teco, untouched, tmp_path: Path) -> None:
    with untouched(tmp_path):
        done = teco("reproduce", "table-3", "--out", tmp_path / "runs", "--dry-run")
    assert done.code == 0
    text = done.stdout.decode()
    lines = [shlex.split(x) for x in text.splitlines() if x.startswith("     teco ")]
    assert [tuple(line[1:]) for line in lines] == [s.arguments for s in chain(tmp_path / "runs")]
    for words in ("REDS", "about 40 GB", "ToS3", "Vid4", "215 hours (9.0 days)", "no row for 9"):
        assert words in text, words


def test_mistakes_are_refused(teco, untouched, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with untouched(tmp_path):
        teco("reproduce", "table-3").refuses(2, "REDS is not at REDS", "--dry-run")
        teco("reproduce", "table-3", "--blocks", "seven").refuses(2, "7,5,3,1")
        teco("reproduce", "table-3", "--blocks", "10").refuses(2, "10 blocks cannot be left of 10")
        teco("reproduce", "table-4").refuses(2, "table-4")


@pytest.mark.slow
def test_the_small_form_goes_on_after_an_interrupt_and_to_its_end(
    tmp_path: Path, make_pictures, texture
) -> None:
    (tmp_path / "clips").mkdir()
    make_pictures(tmp_path / "clips" / "a", texture(12, 96, 112))
    clip = make_pictures(tmp_path / "test", texture(8, 96, 112, seed=1))
    out = tmp_path / "out"
    command = [
        *(sys.executable, "-m", "teco", "reproduce", "table-3", "--small", "--blocks", "1"),
        *("--data", str(tmp_path / "clips"), "--test", str(clip), "--out", str(out)),
        *("--workers", "0"),
    ]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 300
    while not (out / "b1-cut.safetensors").exists():
        assert first.poll() is None, first.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGINT)  # as a terminal's Ctrl-C
    _, said = first.communicate(timeout=120)
    assert first.returncode == 1, said
    assert "the same command goes on from there" in said
    assert not (out / "table.md").exists()
    again = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert again.returncode == 0, again.stderr
    assert "[1/4] b10: done" in again.stderr
    assert again.stdout.splitlines()[-1] == str(out / "table.md")
    record = json.loads((out / "table.json").read_text())
    assert {m["variant"] for m in record["models"]} == {"teco-x4-b10-c64-raw", "teco-x4-b1-c64-raw"}
    text = (out / "table.md").read_text()
    assert "| b1/weights-gan.safetensors | ours | 1.924 |" in text  # the study's own network
    once_more = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert [x.rsplit(" ", 1)[1] for x in once_more.stderr.splitlines() if x[0] == "["] == [
        "done"
    ] * 4
