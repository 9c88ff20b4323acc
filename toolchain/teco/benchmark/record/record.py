"""The record of a benchmark: what was measured, with every sample, readable for years.

These classes are the layout of the JSON; :mod:`teco.benchmark.record.store` reads and writes it,
and ``record.schema.json`` beside this file says the same to programs that are not teco. Every time
is in milliseconds and every size in bytes where a name does not say otherwise. A field that is None
was not measured; ``notes`` of its row say why.

Quality lies in :mod:`teco.benchmark.record.quality`, so that this file keeps to speed and memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from teco.benchmark.record.quality import ClipRecord, DistanceRecord, Quality
from teco.core.machine import Machine
from teco.measurement.records import Latency, NoiseFloor, Ratio, Samples, TimingWarning

KIND = "teco bench"
SCHEMA = 3
"""Version of the layout. 2 had other names for some fields and is read
(:func:`teco.benchmark.record.store.upgrade`); 1 had seconds and no blocks and is refused."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """The file that a row ran.

    Attributes:
        name: of the model, to show.
        file: name of the file, without its folder.
        kind: what it is.
        sha256: of the file.
        bytes: of the file, and of the weights beside it that it reads.
        variant: canonical name.
        precision: the label: fp32, fp16 or int8.
        precision_found: what bears the label out: tensors by element type for an ONNX file, layers
            by type for an engine; empty for weights, which are computed in float32.
        proof: the same as a sentence; "" for weights.
        size: "HxW" of a file for one size, "dynamic" for any.
        io: what its ports take: fp32, fp16 or uint8.
        weights_sha256: of the weights it was made from; "" where that is not known.
    """

    name: str
    file: str
    kind: Literal["onnx", "weights", "engine"]
    sha256: str
    bytes: int
    variant: str
    precision: str
    precision_found: dict[str, int]
    proof: str
    size: str
    io: str
    weights_sha256: str


@dataclass(frozen=True, kw_only=True)
class EndToEnd:
    """From a video file to a video file: decoding, step and encoding at the same time.

    Attributes:
        frames: that were written.
        seconds: from the first frame asked for to the last one encoded.
        fps: frames / seconds.
        gaps: ms between one finished frame and the next.
        step_ms: mean time inside the runtime, of the same run.
        encoder: codec and preset of the output.
        source: what was decoded.
    """

    frames: int
    seconds: float
    fps: float
    gaps: Samples
    step_ms: float
    encoder: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Playback:
    """Frames enlarged at the clip's rate, as for a player: each has a time at which it is due.

    Attributes:
        rate: frames a second of the clip.
        frames: of the clip that was played.
        shown: enlarged in time.
        late: enlarged after they were due.
        dropped: left out of the network because they were overdue.
        late_ms: by how much each enlarged frame was late, 0 for those in time.
        buffer: frames that the player keeps ready.
    """

    rate: float
    frames: int
    shown: int
    late: int
    dropped: int
    late_ms: tuple[float, ...]
    buffer: int


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Of a process that runs this candidate and nothing else, in bytes.

    Attributes:
        peak: largest resident size.
        private: anonymous resident memory after the steps.
        base: resident size before the model was opened: interpreter and libraries.
        steps: after which these were read.
        device: of the GPU that were taken; None without one.
        growth_per_1000: by how much resident memory grows in 1,000 frames, from a line through the
            second half of the steps; None where there were too few.
        growth_steps: steps that the line went through.
        growth_size: LR "HxW" of those; a small one where steps are long.
        weights, activations: what the network needs by itself, from :mod:`teco.estimates`.
        note: what could not be told, "" if nothing.
    """

    peak: int | None
    private: int | None
    base: int | None
    steps: int
    device: int | None
    growth_per_1000: int | None
    growth_steps: int
    growth_size: str
    weights: int
    activations: int
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """The highest rate that was measured on this machine.

    Attributes:
        kind: "gemm" in multiply-adds a second, "copy" in bytes a second (read and written).
        library: that was measured.
        device: "cpu" or the GPU's name.
        precision: that it computed in; "" for copies.
        value: best of the samples.
        ms: samples.
        method: size and calls, in a sentence.
    """

    kind: Literal["gemm", "copy"]
    library: str
    device: str
    precision: str
    value: float
    ms: tuple[float, ...]
    method: str


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """A step beside the least time that its operations and its bytes take on this machine.

    Attributes:
        macs: multiply-adds of the convolutions that really run.
        bytes: that a step must move: weights, LR and HR frame, state, each once.
        tensor_bytes: that it would move if no tensor stayed in a cache: each written once and read
            by each of its readers. It is no limit: a runtime that fuses layers moves less.
        gemm, copy: ceilings used, as indices of ``Record.ceilings``.
        compute_ms: macs at the ceiling.
        memory_ms: bytes at the ceiling.
        bound: which of the two is longer.
        share: the longer of the two / the measured median; 1 means that nothing can be gained.
    """

    macs: int
    bytes: int
    tensor_bytes: int
    gemm: int
    copy: int
    compute_ms: float
    memory_ms: float
    bound: Literal["compute", "memory"]
    share: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One artifact on one runtime at one size.

    Attributes:
        key: names the row within its record: "MODEL on RUNTIME", with the file where two share it.
        artifact: what ran.
        runtime: as users type it.
        runtime_version: of its package.
        details: what the session says it runs on.
        device: "cpu" or the GPU's name.
        precision: computed in, such as fp32, bf16, fp16, int8.
        exact: whether the runtime computes in float32.
        size: LR "HxW".
        measured_as: key of the row whose speed and memory these are, because both run the same
            graph with other weights, whose values do not change the time; "" for a row that was
            measured itself.
        latency, end_to_end, playback, memory, roofline, quality: what was measured.
        distance: from the float32 reference.
        notes: why something was not measured, in sentences.
    """

    key: str
    artifact: Artifact
    runtime: str
    runtime_version: str
    details: str
    device: str
    precision: str
    exact: bool
    size: str
    measured_as: str = ""
    latency: Latency | None = None
    end_to_end: EndToEnd | None = None
    playback: Playback | None = None
    memory: Memory | None = None
    roofline: Roofline | None = None
    quality: Quality | None = None
    distance: DistanceRecord | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Static:
    """An artifact that was not run here, with what its file tells.

    Attributes:
        artifact: with the proof of its precision.
        size: LR "HxW" the figures are for.
        macs, weights, activations: of a step, from :mod:`teco.estimates`.
        why: it was not run, in a sentence.
    """

    artifact: Artifact
    size: str
    macs: int
    weights: int
    activations: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Unavailable:
    """What was asked for and not run.

    Attributes:
        runtime: name.
        model: name, "" where the runtime runs nothing here.
        why: in a sentence.
    """

    runtime: str
    model: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """How it was measured.

    Attributes:
        threads: CPU threads that each candidate was given.
        affinity: processors that the process was bound to.
        pinning: the same in a sentence, environment variables that change threads included.
        governor: CPU frequency governor; None where the system does not tell.
        load_before, load_after: one-minute load averages.
        busy_share: of the processors' time, what other programs took while measuring; None where
            the system does not tell.
        throttled: times that processors or the GPU slowed themselves meanwhile; None if not told.
        clock: what measured.
        timer_overhead_ns: median cost of one reading of it.
        timer_resolution_ns: its smallest step.
        block: steps of one candidate in a row, at most.
        seed: of the blocks' order.
        budget_s: seconds that samples were allotted from; None where a number was asked for.
        repetitions: samples of each that were asked for; None where they were allotted.
    """

    threads: int
    affinity: tuple[int, ...]
    pinning: str
    governor: str | None
    load_before: float | None
    load_after: float | None
    busy_share: float | None
    throttled: int | None
    clock: str
    timer_overhead_ns: float
    timer_resolution_ns: float
    block: int
    seed: int
    budget_s: float | None
    repetitions: int | None


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run of ``teco bench``.

    Attributes:
        command: as typed.
        created: UTC, ISO 8601.
        complete: whether all that was asked for was done.
        stopped: why not, in a sentence; "" for a complete one.
        seconds: the whole run took.
        machine: where.
        conditions: how.
        clip: on which quality was measured; None without one.
        rows: the candidates that ran.
        static: artifacts that were not run.
        unavailable: runtimes that cannot run here.
        interpolations: bicubic and bilinear on the same clip, as quality only.
        ceilings: of the machine, from the same run.
        noise: the noise floor, one entry for each candidate that was measured twice.
        ratios: every row against the fastest.
        warnings: what makes figures less sure.
        gate: verdicts of the temporal gate, by :meth:`GateResult.as_dict`.
        kind, schema: what this record is, and its layout's version.
    """

    command: str
    created: str
    complete: bool
    stopped: str
    seconds: float
    machine: Machine
    conditions: Conditions
    clip: ClipRecord | None
    rows: tuple[Row, ...] = ()
    static: tuple[Static, ...] = ()
    unavailable: tuple[Unavailable, ...] = ()
    interpolations: tuple[Quality, ...] = ()
    ceilings: tuple[Ceiling, ...] = ()
    noise: tuple[NoiseFloor, ...] = ()
    ratios: tuple[Ratio, ...] = ()
    warnings: tuple[TimingWarning, ...] = ()
    gate: tuple[dict[str, Any], ...] = field(default=())
    kind: str = KIND
    schema: int = SCHEMA

    def row(self, key: str) -> Row:
        """The row of that key.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if row.key == key:
                return row
        raise KeyError(key)
