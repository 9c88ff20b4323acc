"""Intervals and verdicts: what is the same is not called different, what is slower is found."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from time import process_time, sleep

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teco.measurement import statistics
from teco.measurement.interleaving import (
    Block,
    RoundPlan,
    TimedCandidate,
    interleave,
    plan_repetitions,
    warm_up,
)
from teco.measurement.records import Samples, WarmUp
from teco.measurement.statistics import (
    noise_floor,
    percentile,
    ratio_across,
    ratio_within,
    samples_of,
    summarise,
)


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=50), st.floats(0.01, 1))
def test_percentile_is_the_nearest_rank(values: list[float], share: float) -> None:
    found = percentile(tuple(values), share)
    assert found in values
    assert sum(v <= found for v in values) >= share * len(values)
    smaller = [v for v in values if v < found]
    if smaller:
        assert sum(v <= max(smaller) for v in values) < share * len(values)


def test_a_summary_by_hand() -> None:
    found = summarise([[10.0, 12.0, 11.0], [10.0, 10.0, 50.0]])
    assert (found.count, found.p50, found.p90, found.p99) == (6, 10.0, 50.0, 50.0)
    assert found.mean == pytest.approx(103 / 6), "an outlier counts"
    assert found.outliers == 1
    # Neighbours of one block only: 2, 1, 0, 40.
    assert found.jitter == pytest.approx(43 / 4)
    assert found.fps == pytest.approx(100)
    assert found.low <= 10.5 <= found.high
    with pytest.raises(ValueError, match="no samples"):
        summarise([[]])
    # Single steps have neighbours in the rounds beside theirs.
    assert summarise([[10.0], [13.0], [12.0]]).jitter == pytest.approx(2)
    assert summarise([[10.0]]).jitter == 0


def test_quantiles_of_students_t() -> None:
    """Of any table."""
    table = {(1, 0.975): 12.706, (2, 0.995): 9.925, (3, 0.995): 5.841, (4, 0.995): 4.604,
             (9, 0.975): 2.262, (9, 0.995): 3.250, (30, 0.995): 2.750}  # fmt: skip
    for (freedom, share), expected in table.items():
        assert statistics._student(share, freedom) == pytest.approx(expected, abs=6e-4)


def made(rng: np.random.Generator, median: float, rounds: np.ndarray, own: float) -> list[Block]:
    """Blocks of three, with what all candidates share in a round and noise of their own."""
    return [
        Block(tuple(median * common * np.exp(own * rng.standard_normal(3)))) for common in rounds
    ]


@pytest.mark.parametrize(("shared", "own"), [(0.02, 0.02), (0.3, 0.03), (0.0, 0.1)])
def test_verdicts_on_made_samples(shared: float, own: float) -> None:
    """What slows both in a round cancels: the same is never different, a tenth is found."""
    rng = np.random.default_rng(1)
    wrong = found = 0
    for _ in range(20):
        rounds = np.exp(shared * np.abs(rng.standard_normal(20)))
        a, b, duplicate, slow = (
            samples_of([x.host for x in made(rng, m, rounds, own)]) for m in (1, 1, 1, 1.1)
        )
        noise = noise_floor("a", a, duplicate)
        assert noise.low <= noise.ratio <= noise.high
        assert noise.share >= 0
        wrong += ratio_within("a", "b", a, b, noise.share).verdict in ("faster", "slower")
        found += ratio_within("slow", "a", slow, a, noise.share).verdict == "slower"
    assert wrong == 0
    assert found >= 18 or own == 0.1, "a tenth is one noise of a step here: undecided is honest"


def test_few_rounds_are_judged_by_students_interval() -> None:
    """It is wide, and what it proves all the same is called so: 13 times of three rounds."""
    fast = samples_of([[1.0]] * 3)
    for compare in (ratio_within, ratio_across):
        found = compare("slow", "fast", samples_of([[12.6], [13.3], [14.0]]), fast, 0.0)
        logs = np.log([12.6, 13.3, 14.0])
        half = 9.925 * logs.std(ddof=1) / np.sqrt(3)
        assert np.log([found.low, found.high]) == pytest.approx(
            [logs.mean() - half, logs.mean() + half], abs=1e-3
        )
        assert found.verdict == "slower"
        two = compare("slow", "fast", samples_of([[1.0], [1.2]]), samples_of([[1.0]] * 2), 0.0)
        assert two.verdict == "undecided", "a tenth, of two rounds that differ by a fifth"
        one = compare("slow", "fast", samples_of([[2.0]]), fast, 0.0)
        assert (one.verdict, one.low, one.high) == ("undecided", 2.0, 2.0)


@pytest.mark.parametrize("rounds", [2, 3, 4])
def test_few_rounds_seldom_call_the_same_different(rounds: int) -> None:
    """At 99% four of 400 are expected."""
    rng = np.random.default_rng(5)

    def noisy() -> Samples:
        return samples_of([[float(np.exp(0.1 * rng.standard_normal()))] for _ in range(rounds)])

    verdicts = [ratio_within("a", "b", noisy(), noisy(), 0.0).verdict for _ in range(400)]
    assert sum(v in ("faster", "slower") for v in verdicts) <= 10


def test_words_of_verdicts() -> None:
    one = samples_of([[1.0, 1.0]] * 8)
    for median, verdict in ((1.1, "slower"), (0.9, "faster"), (1.01, "equal"), (1.04, "slower")):
        other = samples_of([[median] * 2] * 8)
        assert ratio_within("a", "b", other, one, 0.0).verdict == verdict
    # Between two runs, or where the same differs from itself as much, 4% say nothing.
    near = samples_of([[1.04] * 2] * 8)
    assert ratio_across("a", "b", near, one, 0.0).verdict == "equal"
    assert ratio_within("a", "b", near, one, 0.06).verdict == "equal"
    wide = samples_of([[x] for x in (0.5, 2.0, 0.6, 1.8, 0.4, 2.2, 1.0)])
    found = ratio_across("a", "b", wide, one, 0.0)
    assert found.verdict == "undecided"
    assert "too wide" in found.why


class Busy:
    """A step that computes for so long on this thread's own clock, whoever else is at work."""

    def __init__(self, milliseconds: float, clock: Callable[[], float] = process_time) -> None:
        self.milliseconds = milliseconds
        self.clock = clock

    def steps(self, count: int) -> Block:
        times: list[float] = []
        for _ in range(count):
            began = self.clock()
            while 1000 * (self.clock() - began) < self.milliseconds:
                np.dot(self._a, self._a)
            times.append(1000 * (self.clock() - began))
        return Block(tuple(times))

    _a = np.ones((24, 24), np.float32)


@pytest.mark.slow
def test_verdicts_on_steps_that_are_run() -> None:
    """20 runs: the same twice is never called different, a tenth slower is found 18 times or more.

    Timed by the processor's time, so that a busy machine does not decide; scripts/bench_method.py
    asks the same of real networks by the wall's clock, which wants an idle one.
    """
    wrong = found = 0
    for seed in range(20):
        candidates = [
            TimedCandidate(name, Busy(ms))
            for name, ms in (("a", 2), ("b", 2), ("c", 2), ("d", 2.2))
        ]
        for timed in candidates:
            timed.warm()
        interleave(candidates, plan_repetitions(4, 36), seed=seed)
        a, b, c, d = (timed.measured().host for timed in candidates)
        noise = noise_floor("a", a, c).share
        wrong += ratio_within("b", "a", b, a, noise).verdict in ("faster", "slower")
        found += ratio_within("d", "a", d, a, noise).verdict == "slower"
    assert wrong == 0
    assert found >= 18


# --- the order of steps ------------------------------------------------------------------------


class Noted:
    """Steps of fixed length that note when they ran."""

    def __init__(self, name: str, log: list[str], times: list[float] | None = None) -> None:
        self.name, self.log, self.times = name, log, times or [5.0]

    def steps(self, count: int) -> Block:
        self.log += [self.name] * count
        taken = [self.times.pop(0) if len(self.times) > 1 else self.times[0] for _ in range(count)]
        return Block(tuple(taken))


def test_rounds_are_whole_and_their_order_changes() -> None:
    log: list[str] = []
    candidates = [TimedCandidate(n, Noted(n, log)) for n in "abc"]
    told: list[tuple[int, int | None]] = []
    interleave(candidates, plan_repetitions(3, 17), progress=lambda d, t: told.append((d, t)))
    sizes = [3, 3, 3, 3, 3, 2]
    assert [len(b.host) for b in candidates[0].blocks] == sizes
    steps = iter(log)
    orders = set()
    for size in sizes:
        blocks = ["".join(islice(steps, size)) for _ in range(3)]
        assert sorted(blocks) == [c * size for c in "abc"], "each once, in a row"
        orders.add("".join(b[0] for b in blocks))
    assert len(orders) > 1
    assert told[-1] == (51, 51)
    # Few repetitions make short blocks: five rounds where there can be.
    assert [plan_repetitions(1, n).sizes for n in (3, 8, 11)] == [
        ((1, 1, 1),), ((1,) * 8,), ((2, 2, 2, 2, 2, 1),)
    ]  # fmt: skip


def test_what_the_last_candidate_left_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rest before each block, and one untimed step where steps are short."""
    from teco.measurement import interleaving

    log: list[str] = []
    monkeypatch.setattr(interleaving, "sleep", lambda s: log.append(f"rest {s}"))
    # Each first step after another's block is slow, as with a cache that the other filled.
    short, long = Noted("a", log, [40.0]), Noted("b", log, [900.0])
    candidates = [TimedCandidate("a", short), TimedCandidate("b", long)]
    for timed, ms in zip(candidates, (40.0, 900.0), strict=True):
        timed.warm_up = WarmUp(steps=1, stable=True, ms=(ms,))
    short.times = [80.0, 40.0, 41.0, 70.0, 42.0, 43.0, 40.0]
    interleave(candidates, RoundPlan(((2, 2), (1, 1))))
    assert [b.host for b in candidates[0].blocks] == [(40.0, 41.0), (42.0, 43.0)]
    assert [b.host for b in candidates[1].blocks] == [(900.0,), (900.0,)]
    rest = f"rest {interleaving.REST_S}"
    text = " ".join(log)
    assert text.count(f"{rest} a a a") == 2
    assert text.count(f"{rest} b") == 2
    assert len(log) == 4 + 3 + 3 + 1 + 1
    # Very short ones for as long as a clock takes to rise.
    assert [interleaving.lead_in(ms) for ms in (0.0, 1.0, 4.0, 99.0, 100.0)] == [100, 10, 3, 1, 0]


def test_warm_up_goes_on_until_windows_agree() -> None:
    slow_start = Noted("a", [], [900.0, 700.0, 500.0, 400.0, 398.0, 1.0])
    found = warm_up(slow_start)
    assert found.stable
    assert found.ms == (900.0, 700.0, 500.0, 400.0, 398.0)
    restless = Noted("b", [], [1000.0, 2000.0] * 20)
    found = warm_up(restless, patience_ms=5000)
    assert not found.stable
    assert sum(found.ms) >= 5000


def test_a_budget_makes_rounds() -> None:
    from teco.measurement.interleaving import ENOUGH, ENOUGH_ROUNDS, REST_S, plan_budget
    from teco.measurement.statistics import FEWEST

    short = plan_budget([2.0, 90.0], 60_000)
    assert [sizes[0] for sizes in short.sizes] == [25, 3], "blocks of a quarter of a second"
    assert len(short.sizes[0]) == -(-ENOUGH // 3), "more samples than enough are not taken"
    quick = plan_budget([2.0, 3.0], 60_000)
    assert len(quick.sizes[0]) == ENOUGH_ROUNDS, "rounds make intervals narrow, so some are"
    long = plan_budget([1500.0, 800.0], 20_000)
    assert [sizes[0] for sizes in long.sizes] == [1, 1]
    assert len(long.sizes[0]) == int(20_000 / (2300 + 2000 * REST_S))
    # More time never makes fewer rounds, and three in a row only where there are enough of them.
    for steps in ([250.0, 250.0], [2.0, 3000.0], [30.0, 500.0]):
        rounds = [len(plan_budget(steps, 1000.0 * s).sizes[0]) for s in range(1, 130)]
        assert min(rounds[70:]) >= ENOUGH_ROUNDS
        enough = [min(r, ENOUGH_ROUNDS) for r in rounds]
        assert enough == sorted(enough)
    none = plan_budget([1500.0, 800.0], 0)
    assert len(none.sizes[0]) == FEWEST, "what a verdict needs is measured in any case"


def test_a_clock_of_the_wall_is_what_candidates_are_timed_by() -> None:
    """A sleep counts."""
    from teco.measurement.latency import StepTimer

    found = StepTimer(object(), lambda state: sleep(0.002)).steps(3)  # type: ignore[arg-type]
    assert len(found.host) == 3
    assert all(2.0 <= ms < 500 for ms in found.host)
    assert found.device == ()
