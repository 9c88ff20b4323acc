"""A chain of commands: what is done is skipped, what was stopped goes on, nothing is replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from teco.core.errors import Interrupted, TecoError
from teco.core.files import lock_file, unlock
from teco.reproduction.steps import Journal, Step, run_steps

WRITER = """
import pathlib, sys, time
folder, name, text, *more = sys.argv[1:]
folder = pathlib.Path(folder)
with (folder / "calls").open("a") as calls:
    calls.write(name + "\\n")
if "sleep" in more:
    (folder / "asleep").touch()
    time.sleep(float(more[more.index("sleep") + 1]))
if "fail" in more:
    sys.exit(2)
if "nothing" not in more:
    (folder / name).write_text(text)
"""


class Chain:
    """Steps that write files by a program that counts its calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = (sys.executable, "-c", WRITER)
        self.told: list[str] = []

    def step(self, name: str, *more: str, needs: str = "", machine: tuple[str, ...] = ()) -> Step:
        return Step(
            name=name, command=(str(self.folder), name, "text", *more),
            makes=(self.folder / name,), machine=machine,
            needs=(self.folder / needs,) if needs else (),
        )  # fmt: skip

    def run(self, *steps: Step) -> None:
        run_steps(steps, Journal(self.folder / "steps.json"), self.told.append, self.program)

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().split()


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path)


def test_what_is_done_is_skipped(chain: Chain) -> None:
    steps = (chain.step("a"), chain.step("b", needs="a"))
    chain.run(*steps)
    chain.run(*steps)
    assert chain.calls == ["a", "b"]
    assert chain.told[-2:] == ["[1/2] a: done", "[2/2] b: done"]


def test_where_and_how_fast_a_step_runs_does_not_matter(chain: Chain) -> None:
    chain.run(chain.step("a", machine=("sleep", "0")))
    chain.run(chain.step("a", machine=("sleep", "0.01")))
    assert chain.calls == ["a"]


def test_a_failure_stops_and_the_same_steps_go_on(chain: Chain) -> None:
    first, broken, last = chain.step("a"), chain.step("b", machine=("fail",)), chain.step("c")
    with pytest.raises(TecoError, match="step b ended with exit code 2") as caught:
        chain.run(first, broken, last)
    assert caught.value.exit_code == 2
    chain.run(first, replace(broken, machine=()), last)
    assert chain.calls == ["a", "b", "b", "c"]


def test_a_step_must_make_what_it_says(chain: Chain) -> None:
    with pytest.raises(TecoError, match="did not make"):
        chain.run(chain.step("a", "nothing"))


def test_what_came_about_otherwise_is_refused(chain: Chain) -> None:
    a, b = chain.step("a"), chain.step("b", needs="a")
    (chain.folder / "a").write_text("somebody's")
    with pytest.raises(TecoError, match="no step here made it") as caught:
        chain.run(a, b)
    assert caught.value.exit_code == 2
    (chain.folder / "a").unlink()
    chain.run(a, b)
    with pytest.raises(TecoError, match="another command made it"):
        chain.run(chain.step("a", "more"), b)
    (chain.folder / "b").write_text("cut off")
    with pytest.raises(TecoError, match="altered since"):
        chain.run(a, b)
    (chain.folder / "b").unlink()
    chain.run(a, b)
    # A first step that is made again, and comes out otherwise, is not what b was made from.
    (chain.folder / "a").unlink()
    with pytest.raises(TecoError, match="from other files"):
        Journal(chain.folder / "steps.json").is_done(b)
    other = replace(a, command=(*a.command[:2], "other"))
    with pytest.raises(TecoError, match="from other files"):
        chain.run(other, b)
    assert chain.calls == ["a", "b", "b", "a"]


def test_one_of_several_files_is_somebodys(chain: Chain) -> None:
    one, other = chain.folder / "a", chain.folder / "b"
    step = replace(chain.step("a"), makes=(one, other))
    other.write_text("somebody's")
    with pytest.raises(TecoError, match="no step here made it"):
        chain.run(step)
    other.unlink()
    # It makes one of the two; the same command may take up what it left, another one may not.
    with pytest.raises(TecoError, match="did not make"):
        chain.run(step)
    assert not Journal(chain.folder / "steps.json").is_done(step)
    with pytest.raises(TecoError, match="another command made it"):
        chain.run(replace(step, command=(*step.command, "more")))
    other.write_text("text")
    chain.run(step)
    assert chain.calls == ["a"]
    journal = Journal(chain.folder / "steps.json")
    journal.end(step)
    one.unlink()
    assert not journal.is_done(step)
    other.write_text("altered")
    with pytest.raises(TecoError, match="altered since"):
        journal.is_done(step)


def test_where_teco_is_installed_does_not_matter(chain: Chain, monkeypatch) -> None:
    def step(installed: str) -> Step:
        monkeypatch.setattr("teco.reproduction.steps._INSTALLED", f"{installed}/")
        return chain.step("a", f"{installed}/benchmark")

    chain.run(step("/one/teco"))
    chain.run(step("/two/teco"))
    assert chain.calls == ["a"]
    with pytest.raises(TecoError, match="another command made it"):
        chain.run(chain.step("a", "/two/teco-more"))
    assert "/one" not in (chain.folder / "steps.json").read_text()


def test_a_process_that_died_behind_the_last_step_costs_nothing(chain: Chain) -> None:
    """Files are whole once they have their names, so the journal's last line may be missing."""
    step = chain.step("a")
    Journal(chain.folder / "steps.json").begin(step)
    (chain.folder / "a").write_text("text")
    (chain.folder / "calls").touch()
    chain.run(step)
    assert chain.calls == []


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_step_and_lets_nothing_follow(
    chain: Chain, which: signal.Signals
) -> None:
    steps = (chain.step("a", machine=("sleep", "1")), chain.step("b"))
    stop = threading.Event()

    def send() -> None:
        while not (chain.folder / "asleep").exists():
            if stop.wait(0.01):
                return
        os.kill(os.getpid(), which)

    sender = threading.Thread(target=send)
    sender.start()
    before = signal.getsignal(which)
    try:
        with pytest.raises(Interrupted, match="stopped in step a"):
            chain.run(*steps)
    finally:
        stop.set()
        sender.join()
    assert signal.getsignal(which) is before
    # SIGINT reached this process alone, so that the step came to its end; SIGTERM was passed on.
    assert (chain.folder / "a").exists() is (which == signal.SIGINT)
    chain.run(replace(steps[0], machine=()), steps[1])
    assert chain.calls == (["a", "b"] if which == signal.SIGINT else ["a", "a", "b"])


def test_sigterm_while_a_step_is_being_started_reaches_it(chain: Chain, monkeypatch) -> None:
    popen = subprocess.Popen

    def start(command: list[str]) -> subprocess.Popen[bytes]:
        os.kill(os.getpid(), signal.SIGTERM)
        return popen(command)

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(Interrupted):
        chain.run(chain.step("a", machine=("sleep", "20")))
    assert not (chain.folder / "a").exists()


def test_two_processes_do_not_take_the_same_steps(chain: Chain) -> None:
    lock = lock_file(chain.folder)
    try:
        with pytest.raises(TecoError, match="another process"):
            chain.run(chain.step("a"))
    finally:
        unlock(lock)
    chain.run(chain.step("a"))


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"steps": 1}', '{"steps": {"a": 3}}', '{"steps": [["a", {}]]}',
        '{"steps": {"a": {"command": ["x"]}}}', '{"steps": {"a": {"command": "x", "needs": {}}}}',
        '{"steps": {"a": {"command": [1], "needs": {}}}}',
        '{"steps": {"a": {"command": ["x"], "needs": {}, "makes": null}}}', "\xff",
    ],
)  # fmt: skip
def test_another_file_is_no_journal(tmp_path: Path, text: str) -> None:
    (tmp_path / "steps.json").write_text(text, encoding="latin-1")
    with pytest.raises(TecoError, match="no journal of steps"):
        Journal(tmp_path / "steps.json")
