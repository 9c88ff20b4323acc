"""Everything that needs an NVIDIA GPU, in one call of at most eight minutes.

    python scripts/gpu_check.py [--model NAME] [--minutes 8] [--json gpu_check.json]
    python scripts/gpu_check.py --prepare --folder F     # before, on any machine: the ONNX files

Prints what each runtime lacks, then works through stages, the most valuable first: at 1080p each
runtime's parity with float32 on the CPU, memory and time of a step, then the whole pipeline,
decoder to encoder; the same at 4K; a bench of the shipped model for the catalogue; the tests marked
``gpu``. What a step reaches of the roofline is told where `scripts/count_traffic.py` knows the GPU.

Each stage is a process of its own (``scripts/gpu_stages.py``) with a limit, so that one which hangs
or crashes costs only itself. The JSON file is written anew after each; it is whole whenever the
check ends, by Ctrl-C, SIGTERM or the end of its time too. The table is printed at the end, as
Markdown.

Exit code: 0 all ran, 1 a stage did not, 3 nothing can run here. With a GPU it has not yet run;
``--runtimes onnxruntime,openvino`` rehearses it on a processor.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from teco.benchmark.record.catalogue import name_of
from teco.benchmark.record.store import read
from teco.core import gpu
from teco.core.errors import MACHINE, USAGE, TecoError
from teco.core.files import as_json, write_beside
from teco.core.machine import inspect, version_of
from teco.measurement.statistics import percentile
from teco.model.contract import StreamContract
from teco.model.manifest import Manifest
from teco.model.opening import DEFAULT_MODEL, ENGINE_SUFFIX, Model, open_model
from teco.runtimes import find

RUNTIMES = (
    "tensorrt-rtx", "onnxruntime-cuda", "pytorch-cuda", "tensorrt", "onnxruntime-rtx",
    "onnxruntime-tensorrt",
)  # fmt: skip
"""In the order of what is worth most; those that build for minutes come last."""

OUTPUTS = {"1080p": (270, 480), "4k": (540, 960)}
"""Of a network of scale 4 -> LR (h, w)."""

PRECISIONS = ("fp16", "fp32")


WEIGHTS = {"export": 15, "count": 10, "reference": 15, "build": 20, "step": 15, "pipeline": 20,
           "bench": 50, "tests": 60}  # fmt: skip
"""About how many seconds a stage wants; what matters is how they compare."""

LEAST = 6.0
"""Seconds below which no stage is begun."""
GENEROSITY = 3.0
"""A stage may take as many times its share of the time that is left: most take less than theirs."""
FOUNDATION = 0.3
"""Of the time that is left, what a stage may take that others need: they are lost with it."""
RESERVE = 6.0
"""Seconds that are kept for ending a stage and writing the table."""
GRACE = 2.0
"""Seconds between the request to end and the end."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the check.

    Attributes:
        kind: what it does, a key of :data:`WEIGHTS`.
        output: a key of the outputs; "" where it is about none.
        runtime, precision, io: of the candidate or the file, "" where it is about none.
        needs: names of stages without which it is not begun.
    """

    kind: str
    output: str = ""
    runtime: str = ""
    precision: str = ""
    io: str = ""
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        words = (self.kind, self.runtime, self.precision, self.io, self.output)
        return " ".join(word for word in words if word)

    @property
    def row(self) -> tuple[str, str, str] | None:
        """The line of the table that it fills; None where it fills none."""
        if self.kind not in ("step", "pipeline"):
            return None
        return self.output, self.runtime, self.precision


def takes(runtime: str, spec: str, precision: str) -> bool:
    """Whether a runtime runs a model in a precision, by the file it would be given."""
    one, variant = find(runtime), open_model(spec).variant
    if not {".onnx", ENGINE_SUFFIX} & set(one.suffixes):
        return precision == "fp32"
    manifest = Manifest(
        variant=variant.name, precision_asked=precision, precision_found={}, size="dynamic",
        contract=StreamContract.of(variant), rewrites={}, parity=None, weights_sha256="",
        versions={},
    )  # fmt: skip
    model = Model("x", variant, onnx=Path("x.onnx"), manifest=manifest)
    return ENGINE_SUFFIX in one.suffixes or one.why_not(model) is None


def plan(
    spec: str, runtimes: Sequence[str], outputs: Sequence[str], *, extra: bool = True
) -> list[Stage]:
    """The stages in order: what an interruption leaves is the first of them.

    Args:
        spec: the model.
        runtimes: that can run here, the most valuable first.
        outputs: keys of the outputs, likewise.
        extra: with the bench and the tests.
    """
    able = {r: [p for p in PRECISIONS if takes(r, spec, p)] for r in runtimes}
    # Each runtime once, in the precision that it is there for; then the others.
    firsts = [(r, p[0]) for r, p in able.items() if p]
    candidates = firsts + [(r, p) for r, found in able.items() for p in found[1:]]
    stages: list[Stage] = []
    there: set[str] = set()

    def add(stage: Stage) -> str:
        if stage.name not in there:
            there.add(stage.name)
            stages.append(stage)
        return stage.name

    def file(runtime: str, precision: str, io: str, output: str) -> tuple[str, ...]:
        """What a candidate opens; () for weights."""
        suffixes = find(runtime).suffixes
        if not {".onnx", ENGINE_SUFFIX} & set(suffixes):
            return ()
        made = add(Stage(kind="export", output=output, precision=precision, io=io))
        if ENGINE_SUFFIX not in suffixes:
            return (made,)
        one = Stage(
            kind="build", output=output, runtime=runtime, precision=precision, io=io, needs=(made,)
        )
        return (add(one),)

    for output in outputs:
        fp32 = add(Stage(kind="export", output=output, precision="fp32", io="fp32"))
        truth = add(Stage(kind="reference", output=output, needs=(fp32,)))
        for runtime, precision in candidates:
            needs = (truth, *file(runtime, precision, "fp32", output))
            add(Stage(kind="step", output=output, runtime=runtime, precision=precision,
                      needs=needs))  # fmt: skip
        for runtime, precision in firsts:
            needs = file(runtime, precision, "nv12", output)
            add(Stage(kind="pipeline", output=output, runtime=runtime, precision=precision,
                      needs=needs))  # fmt: skip
        for precision in dict.fromkeys(p for _, p in candidates):
            add(Stage(kind="count", output=output, precision=precision))
    if extra:
        add(Stage(kind="bench"))
        add(Stage(kind="tests"))
    return stages


def limit(stage: Stage, after: Sequence[Stage], left: float) -> float | None:
    """Seconds that a stage may take; None where it is not to be begun.

    Args:
        stage: that is next.
        after: those that follow.
        left: seconds of the whole check.
    """
    able = left - RESERVE
    if able < LEAST:
        return None
    wanted = WEIGHTS[stage.kind]
    share = able * wanted / (wanted + sum(WEIGHTS[s.kind] for s in after))
    least = able * FOUNDATION if any(stage.name in s.needs for s in after) else LEAST
    return min(able, max(LEAST, least, GENEROSITY * share))


class Stopped(Exception):
    """SIGTERM or SIGINT came; the argument is its name."""


@dataclass
class Check:
    """The check under way.

    Attributes:
        stages: of :func:`plan`.
        seconds: that all may take together.
        command: makes the command of a stage, given its limit and its part file.
        folder: of files that stages hand on.
        target: of the JSON file.
        record: what is written there.
        say: told one line of each stage.
    """

    stages: list[Stage]
    seconds: float
    command: Callable[[Stage, float, Path], list[str]]
    folder: Path
    target: Path
    record: dict[str, Any] = field(default_factory=dict[str, Any])
    say: Callable[[str], None] = print

    def run(self) -> None:
        """Work through the stages; whatever ends it, the record is written."""
        began = time.monotonic()
        self.record |= {"complete": False, "stopped": "", "stages": [], "rows": []}
        self.write()
        states: dict[str, str] = {}
        for n, stage in enumerate(self.stages):
            lacking = [name for name in stage.needs if states.get(name) != "done"]
            left = self.seconds - (time.monotonic() - began)
            allowed = None if lacking else limit(stage, self.stages[n + 1 :], left)
            entry: dict[str, Any] = {"name": stage.name, "seconds": 0.0, "limit": allowed}
            self.record["stages"].append(entry)
            try:
                if lacking:
                    entry |= {"state": "left out", "reason": f"it needs {lacking[0]}"}
                elif allowed is None:
                    entry |= {"state": "left out", "reason": "no time was left"}
                else:
                    self._stage(stage, allowed, entry)
            except Stopped as stopped:
                entry |= {"state": "interrupted"}
                self.record["stopped"] = str(stopped)
                self.record["stages"] += [
                    {"name": s.name, "state": "left out", "reason": f"{stopped} came",
                     "seconds": 0.0, "limit": None}
                    for s in self.stages[n + 1 :]
                ]  # fmt: skip
                return
            finally:
                states[stage.name] = entry.get("state", "interrupted")
                self.record["passed_s"] = time.monotonic() - began
                self.write()
                reason = f": {entry['reason']}" if entry.get("reason") else ""
                self.say(f"{entry['seconds']:6.1f} s  {stage.name}: {entry.get('state')}{reason}")
        self.record["complete"] = all(s["state"] == "done" for s in self.record["stages"])
        self.write()

    def _stage(self, stage: Stage, allowed: float, entry: dict[str, Any]) -> None:
        part = self.folder / f"part-{os.getpid()}.json"
        part.unlink(missing_ok=True)
        log = self.folder / f"{stage.name.replace(' ', '-')}.log"
        began = time.monotonic()
        with log.open("wb") as said:
            # A session of its own, so that what it starts ends with it.
            process = subprocess.Popen(
                self.command(stage, allowed, part), stdin=subprocess.DEVNULL, stdout=said,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(allowed)
                entry |= {"state": "done"} if code == 0 else self._failure(code, log)
            except subprocess.TimeoutExpired:
                entry |= {"state": "out of time", "reason": f"stopped after {allowed:.0f} s"}
            finally:
                _end(process)
                entry["seconds"] = time.monotonic() - began
                found: dict[str, Any] = {}
                with suppress(OSError, ValueError):
                    found = json.loads(part.read_text())
                self._take(stage, found, entry)

    def _failure(self, code: int, log: Path) -> dict[str, str]:
        if code < 0:
            return {"state": "crashed", "reason": f"by {signal.Signals(-code).name}"}
        lines = log.read_text(errors="replace").strip().splitlines()
        return {"state": "failed", "reason": lines[-1][:300] if lines else f"exit code {code}"}

    def _take(self, stage: Stage, found: dict[str, Any], entry: dict[str, Any]) -> None:
        """Put what a stage told where it belongs; one that failed has told what came before."""
        if error := found.pop("error", None):
            entry["reason"] = error
            entry["hint"] = found.pop("hint", "")
        if stage.kind == "bench" and (made := self.folder / "bench.json").exists():
            # Also where it was stopped: `teco bench` writes what it has. The catalogue's own name.
            with suppress(TecoError):
                beside = self.target.with_name(name_of(read(made)))
                write_beside(beside, made.read_bytes())
                entry["file"] = beside.name
        if counted := found.pop("count", None):
            self.record.setdefault("counts", {})[f"{stage.precision} {stage.output}"] = counted
        if stage.row is None:
            entry |= {"found": found} if found else {}
            return
        key = dict(zip(("output", "runtime", "precision"), stage.row, strict=True))
        rows: list[dict[str, Any]] = self.record["rows"]
        row = next((r for r in rows if key.items() <= r.items()), None)
        if row is None:
            rows.append(row := key)
        row |= found

    def write(self) -> None:
        """The record as it is now."""
        write_beside(self.target, as_json(self.record))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a stage and what it started, also where the stage itself has ended: first asked, then
    killed."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + GRACE
        try:
            os.killpg(process.pid, sign)
            while time.monotonic() < until:
                process.poll()
                os.killpg(process.pid, 0)  # an error where nobody is left
                time.sleep(0.05)
        except ProcessLookupError:
            break
    process.wait()


# --------------------------------------------------------------------------- the table


def card_of(name: str, cards: Sequence[str]) -> str | None:
    """The key of :data:`count_traffic.CARDS` for a product's name; a Ti or a laptop's has none."""
    short = re.sub(r"^NVIDIA |GeForce |RTX ", "", name).strip()
    return short if short in cards else None


def roofline(row: dict[str, Any], record: dict[str, Any]) -> dict[str, Any] | None:
    """What a row reaches: GB and TFLOP a second, and of a known GPU the share of its roofline.

    By the kernel's own time; where that is not told by the host's, which makes it a lower bound.
    """
    counted = record.get("counts", {}).get(f"{row['precision']} {row['output']}")
    times = row.get("kernel_ms") or row.get("host_ms")
    if not counted or not times:
        return None
    ms = median(times)
    gpus = record.get("gpus") or [""]
    card = card_of(gpus[0], tuple(counted["allowed"]))
    return {
        "gb_s": 1000 * counted["gb"] / ms,
        "tflop_s": counted["gflop"] / ms,
        "share": None if card is None else 1000 / ms / counted["allowed"][card],
        "at_least": not row.get("kernel_ms"),
    }


HEADER = (
    "output", "runtime", "precision", "max diff", "worst PSNR dB", "kernel ms", "step ms", "p99",
    "pipeline fps", "GPU MiB", "roofline",
)  # fmt: skip


def cells(row: dict[str, Any], record: dict[str, Any]) -> tuple[str, ...]:
    """A line of the table; "-" where nothing was found."""
    parity, made = row.get("parity") or {}, row.get("pipeline")
    host, kernel, memory = (row.get(k) for k in ("host_ms", "kernel_ms", "memory_bytes"))
    worst = parity.get("min_psnr")
    reached, share = roofline(row, record), "-"
    if reached is not None:
        share = f"{reached['gb_s']:.0f} GB/s"
        if reached["share"] is not None:
            share = f"{'≥ ' if reached['at_least'] else ''}{reached['share']:.0%}, {share}"
    return (
        row["output"], f"`{row['runtime']}`", row["precision"],
        f"{parity['max_abs']:.1e}" if parity else "-",
        "-" if not parity else "equal" if worst is None else f"{worst:.1f}",
        f"{median(kernel):.2f}" if kernel else "-",
        f"{median(host):.2f}" if host else "-",
        f"{percentile(host, 0.99):.2f}" if host else "-",
        f"{made['fps']:.1f} ({made['io']}, {made['codec']})" if made else "-",
        "-" if memory is None else f"{memory / 2**20:.0f}",
        share,
    )  # fmt: skip


def markdown(record: dict[str, Any]) -> str:
    """The table as documentation takes it, with its conditions, and what was not done."""
    gpus = ", ".join(record["gpus"]) or "no NVIDIA GPU"
    lines = [
        f"`{record['model']}`, {gpus}; {record['machine']['cpu']}, {record['machine']['cores']} "
        f"cores; {record['began'][:10]}, {record['passed_s']:.0f} s of {record['budget_s']:.0f}",
        "",
    ]
    if record["rows"]:
        lines += [f"| {' | '.join(HEADER)} |", "|" + "---|" * len(HEADER)]
    lines += [f"| {' | '.join(cells(row, record))} |" for row in record["rows"]]
    undone = [s for s in record["stages"] if s.get("state") != "done"]
    lines += ["", *(f"- {s['name']}: {s.get('state')}, {s.get('reason', '')}" for s in undone)]
    return "\n".join(lines).rstrip()


# --------------------------------------------------------------------------- the command


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    made.add_argument("--model", default=DEFAULT_MODEL, help="shipped name or weights file")
    made.add_argument("--minutes", type=float, default=8.0, help="for all stages together")
    made.add_argument("--runtimes", default=",".join(RUNTIMES), help="names, separated by commas")
    made.add_argument("--outputs", default=",".join(OUTPUTS), help="of 1080p and 4k, or LR HxW")
    made.add_argument("--steps", type=int, default=200, help="timed steps of each, at most")
    made.add_argument("--json", type=Path, default=Path("gpu_check.json"))
    made.add_argument("--folder", type=Path, help="where files are kept that stages hand on")
    made.add_argument("--prepare", action="store_true", help="make the ONNX files, then stop")
    made.add_argument("--no-extra", action="store_true", help="neither bench nor tests")
    return made


def sizes_of(text: str) -> dict[str, tuple[int, int]]:
    """ "1080p,64x96" -> output -> LR (h, w)."""
    found: dict[str, tuple[int, int]] = {}
    for word in text.split(","):
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", word)
        if match is None and word not in OUTPUTS:
            raise TecoError(
                f"--outputs names {word!r}, expected 1080p, 4k or LR HEIGHTxWIDTH", exit_code=USAGE
            )
        found[word] = (int(match[1]), int(match[2])) if match else OUTPUTS[word]
    return found


def main() -> int:
    options = parser().parse_args()
    outputs = sizes_of(options.outputs)
    names = options.runtimes.split(",")
    lacking = {name: find(name).why_unavailable() for name in names}
    for name, reason in lacking.items():
        print(f"{name:21} {'can run' if reason is None else reason}", flush=True)
    able = [name for name, reason in lacking.items() if reason is None]
    if options.prepare:
        able = names
    elif not able:
        return MACHINE
    shipped = open_model(options.model).weights is not None and not Path(options.model).suffix
    stages = plan(options.model, able, tuple(outputs), extra=not options.no_extra)
    if options.prepare:
        stages = [s for s in stages if s.kind in ("export", "count")]
    # Of what the shipped model itself is: an ONNX file or weights.
    benched = [r for r in able if ENGINE_SUFFIX not in find(r).suffixes]
    if not (shipped and benched):
        stages = [s for s in stages if s.kind != "bench"]
    gpus = gpu.find()

    def command(stage: Stage, allowed: float, part: Path) -> list[str]:
        job = {
            "kind": stage.kind, "model": options.model, "folder": str(folder), "part": str(part),
            "seconds": allowed, "runtime": stage.runtime, "precision": stage.precision or "fp32",
            "io": stage.io or ("nv12" if stage.kind == "pipeline" else "fp32"),
            "size": outputs.get(stage.output, (180, 320)), "steps": options.steps,
            "sm": gpus[0].compute_capability if gpus else 0,
            "runtimes": benched,
        }  # fmt: skip
        path = folder / f"job-{os.getpid()}.json"
        write_beside(path, as_json(job))
        return [sys.executable, str(Path(__file__).with_name("gpu_stages.py")), str(path)]

    def stop(number: int, _frame: object) -> None:
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, signal.SIG_IGN)  # once is enough: what follows is short
        raise Stopped(signal.Signals(number).name)

    with tempfile.TemporaryDirectory(prefix="teco-gpu-") as place:
        folder = (options.folder or Path(place)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        check = Check(
            stages, 60 * options.minutes, command, folder, options.json,
            record={
                "schema": 1, "teco": version_of("teco"), "began": datetime.now(UTC).isoformat(),
                "model": options.model, "budget_s": 60 * options.minutes,
                "outputs": outputs, "steps": options.steps, "lacking": lacking,
                "gpus": [g.name for g in gpus], "machine": asdict(inspect()), "passed_s": 0.0,
            },
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )  # fmt: skip
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, stop)
        try:
            check.run()
        except Stopped as stopped:  # between two stages
            check.record["stopped"] = str(stopped)
            check.write()
    print(f"\n{markdown(check.record)}")
    print(f"\n{options.json}")
    return 0 if check.record["complete"] else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TecoError as caught:
        print(f"gpu_check: {caught.message}", file=sys.stderr)
        if caught.hint:
            print(f"  hint: {caught.hint}", file=sys.stderr)
        sys.exit(caught.exit_code)
