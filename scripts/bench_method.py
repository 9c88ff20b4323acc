"""Is the benchmark's method right on this machine? It should do nothing else meanwhile.

    python scripts/bench_method.py [--model live] [--size 90x160] [--runs 20]

Three questions, with a real network on ONNX Runtime, each candidate in a process of its own:

1. In how many of the runs is a candidate called different from itself? Expected: in none.
2. In how many is one that does a tenth more work in each step called slower? In 18 of 20 or more.
3. Does the median agree with that of a loop written by hand, in turns with it? Within 5%.

Exits with 1 where an answer is not the one expected.
"""

from __future__ import annotations

import argparse
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np

from teco.benchmark.measure.process import WorkerProcess
from teco.core.machine import inspect, usable_cores
from teco.measurement.interleaving import REST_S, Block, TimedCandidate, interleave, plan_budget
from teco.measurement.statistics import noise_floor, ratio_within
from teco.model.opening import open_model
from teco.runtimes import SessionOptions, find

RUNTIME = "onnxruntime"
SLOWER = 0.1
BUDGET_MS = 25_000.0
"""Of the timed steps of each run; `teco bench` allots its own, of 150 s, in the same way."""


class Slowed:
    """A candidate whose steps take a tenth longer: the time of it is spun away and added."""

    def __init__(self, process: WorkerProcess) -> None:
        self.process = process

    def steps(self, count: int) -> Block:
        times: list[float] = []
        for ms in self.process.steps(count).host:
            began = perf_counter()
            while 1000 * (perf_counter() - began) < SLOWER * ms:
                pass
            times.append(ms + 1000 * (perf_counter() - began))
        return Block(tuple(times))


def opened(model: str, size: list[int], threads: int) -> WorkerProcess:
    process = WorkerProcess(model, threads)
    process.ask("prepare", runtime=RUNTIME, affinity=[], threads=threads)
    process.ask("open", spec=model, runtime=RUNTIME, size=size, threads=threads)
    return process


def by_hand(model: str, size: list[int], threads: int, process: WorkerProcess) -> float:
    """The worker's median against that of a plain loop in this process, in turns.

    Each turn begins with a rest, for the other's threads to fall asleep, and one untimed step.
    """
    session = find(RUNTIME).open(open_model(model), SessionOptions(threads=threads))
    frame = np.random.default_rng(0).random((1, 3, *size), np.float32)
    state: Any = None
    for _ in range(5):
        _, state = session.step(frame, state)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(20):
        sleep(REST_S)
        process.steps(1)
        ours += process.steps(20).host
        sleep(REST_S)
        _, state = session.step(frame, state)
        for _ in range(20):
            began = perf_counter()
            _, state = session.step(frame, state)
            theirs.append(1000 * (perf_counter() - began))
    session.close()
    return median(ours) / median(theirs)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="live")
    parser.add_argument("--size", default="90x160", help="LR HEIGHTxWIDTH")
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    size = [int(x) for x in options.size.split("x")]
    here, threads = inspect(), usable_cores()
    print(f"{here.cpu}, {here.cores} cores, load {here.load}")
    processes = [opened(options.model, size, threads) for _ in range(4)]
    try:
        wrong = found = 0
        for run in range(options.runs):
            candidates = [
                TimedCandidate("first", processes[0]),
                TimedCandidate("second", processes[1]),
                TimedCandidate("duplicate", processes[2]),
                TimedCandidate("slower", Slowed(processes[3])),
            ]
            for timed in candidates:
                timed.warm()
            plan = plan_budget([timed.step_ms for timed in candidates], BUDGET_MS)
            interleave(candidates, plan, seed=run)
            a, b, duplicate, slow = (timed.measured().host for timed in candidates)
            noise = noise_floor("first", a, duplicate).share
            same = ratio_within("second", "first", b, a, noise)
            more = ratio_within("slower", "first", slow, a, noise)
            wrong += same.verdict in ("faster", "slower")
            found += more.verdict == "slower"
            print(
                f"run {run + 1}: the same {same.ratio:.3f} ({same.verdict}), a tenth slower "
                f"{more.ratio:.3f} ({more.verdict}), noise {noise:.1%}"
            )
        ratio = by_hand(options.model, size, threads, processes[0])
    finally:
        for process in processes:
            process.close()
    enough = 0.9 * options.runs
    print(f"the same called different in {wrong} of {options.runs} runs, expected 0")
    print(f"a tenth slower found in {found} of {options.runs}, expected {enough:.0f} or more")
    print(f"median against a loop by hand: {ratio:.3f}, expected 0.95 to 1.05")
    return int(wrong > 0 or found < enough or abs(ratio - 1) > 0.05)


if __name__ == "__main__":
    raise SystemExit(main())
