"""The verbs of the command line, for programs: ``teco.upscale``, ``export``, ``bench``, ``models``.

They take what the commands take, by the same names, and raise
:class:`teco.core.errors.TecoError` with the sentence, the hint and the exit code that a command
would end with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from teco.core.errors import USAGE, TecoError
from teco.core.names import did_you_mean

if TYPE_CHECKING:
    from teco.benchmark.record.record import Record
    from teco.exporting.options import Precision
    from teco.inference.beside import Comparison
    from teco.inference.output_size import OutputSize
    from teco.inference.upscale import Prospect, UpscaleResult
    from teco.model.choice import Look, Quality, Shipped
    from teco_models.deploy.ports import Io

Name = str | PathLike[str]
"""A path, or the name of a shipped model."""


@dataclass(frozen=True)
class Progress:
    """How far a job is; as text "12 of 300 frames".

    Attributes:
        done: frames.
        total: frames of the whole, an estimate where the container does not tell; None: unknown.
    """

    done: int
    total: int | None

    def __str__(self) -> str:
        return f"{self.done}{'' if self.total is None else f' of {self.total}'} frames"


@dataclass(frozen=True)
class Ahead:
    """What is left of a long job, once a few frames have been timed.

    Attributes:
        prospect: frames, their size, the seconds.
        memory: bytes that the process will take; None where nothing is known of the runtime's.
    """

    prospect: Prospect
    memory: int | None

    def __str__(self) -> str:
        p = self.prospect
        memory = "" if self.memory is None else f" and {self.memory / 2**30:.1f} GiB of memory"
        return f"about {p.frames} frames of {p.width}x{p.height} will take about {p.time}{memory}"


def upscale(
    source: Name,
    target: Name,
    *,
    model: Name | None = None,
    quality: Quality | None = None,
    look: Look | None = None,
    scale: int | None = None,
    to: str | None = None,
    runtime: str = "auto",
    threads: int | None = None,
    tile: tuple[int, int] | Literal["auto"] | None = "auto",
    start: float | None = None,
    end: float | None = None,
    frames: int | None = None,
    rate: float | None = None,
    codec: str | None = None,
    crf: float = 16.0,
    preset: str = "medium",
    pix_fmt: str = "yuv420p",
    scene_cuts: bool = True,
    deinterlace: bool = True,
    reverse_warm_up: int = 0,
    compare: Comparison | None = None,
    overwrite: bool = False,
    progress: Callable[[Progress], object] | None = None,
    tell: Callable[[str], object] | None = None,
    go_on: Callable[[Ahead], bool] | None = None,
) -> UpscaleResult:
    """Enlarge a clip.

    Args:
        source: a video file, a picture, a folder of pictures, or "-" for y4m on standard input.
        target: a video file, a picture, a name without suffix for a folder of PNGs, or "-". It
            appears only when it is complete.
        model: a shipped model's name, an ONNX file, weights or an engine; None for what
            ``quality``, ``look`` and ``scale`` choose.
        quality: "fast", "balanced" or "best", see :mod:`teco.model.choice`; None is balanced, and
            on an NVIDIA GPU float16 too, where an exported form passed its gate.
        look: "faithful" or "textured".
        scale: 2 or 4; None for what the model does, or what ``to`` needs.
        to: the size to end at: "1080p", "1920x1080" or "2x".
        runtime: "auto", or one of ``teco doctor``.
        threads: of the network on a CPU; None for all.
        tile: LR (h, w) of tiles, "auto" where memory is short, None for never.
        start, end: seconds of the clip.
        frames: at most so many.
        rate: frames a second of a folder of pictures.
        codec, crf, preset, pix_fmt: of the output.
        scene_cuts: start the recurrence afresh at cuts.
        deinterlace: make progressive frames of interlaced ones.
        reverse_warm_up: coming frames run backwards, and dropped, at a scene's start.
        compare: "side" or "split": bicubic on the left.
        overwrite: replace an existing target, and unfinished work of other options.
        progress: told after each frame; ``print`` will do.
        tell: given each sentence that a command would say: what runs, and what cannot be kept.
        go_on: asked before work of more than a minute; False gives it up.

    Returns:
        Frames, scenes, seconds and notices.

    Raises:
        TecoError, ClipError, ModelError: something is not as it must be, in one sentence.
    """
    from teco.estimates.room import Encoding, open_in_room
    from teco.inference.beside import Comparison
    from teco.inference.output_size import OutputSize
    from teco.inference.upscale import UpscaleOptions, written_size
    from teco.inference.upscale import upscale as run
    from teco.model.choice import TEXTURED, Look, Quality, choose
    from teco.model.opening import (
        DEFAULT_OF_SCALE,
        check_frame_size,
        for_papers,
        identity_of,
        open_for_scale,
    )
    from teco.runtimes import Session, SessionOptions
    from teco.video.file.encoders import EncoderSettings
    from teco.video.frames import FrameSource
    from teco.video.segments import unfinished

    source, target = str(source), str(target)
    for value, words, what in (
        (quality, Quality, "quality"), (look, Look, "look"), (compare, Comparison, "compare"),
    ):  # fmt: skip
        _one_of(value, words, what)
    if threads is not None and threads < 1:
        raise TecoError(f"threads is {threads}, expected 1 or more", exit_code=USAGE)

    def say(text: str) -> None:
        if tell is not None:
            tell(text)

    def show(done: int, total: int | None) -> None:
        if progress is not None:
            progress(Progress(done, total))

    if source != "-" and not Path(source).exists() and Path(target).is_file():
        raise TecoError(
            f"there is no file {source}, and {target} is there already",
            hint=f"the clip comes first: teco upscale {target} {source}",
            exit_code=USAGE,
        )
    wanted = None if to is None else OutputSize.parse(str(to))
    if wanted is not None and model is None and scale is None:
        scale = _scale_for(wanted, source, TEXTURED if look == "textured" else DEFAULT_OF_SCALE)
    choice = choose(None if model is None else str(model), scale, quality, look)
    opened = open_for_scale(choice.model, scale)
    encoder = EncoderSettings(codec=codec, crf=crf, preset=preset, pix_fmt=pix_fmt)
    will_take: int | None = None
    taken = opened
    options = UpscaleOptions(
        start=start, end=end, max_frames=frames, rate=rate, scene_cuts=scene_cuts,
        reverse_warm_up=reverse_warm_up, deinterlace=deinterlace, encoder=encoder, compare=compare,
        to=wanted, overwrite=overwrite,
    )  # fmt: skip

    def make_session(clip: FrameSource) -> Session:
        nonlocal will_take, taken
        h, w = clip.height, clip.width
        check_frame_size(opened, h, w)
        # Unfinished work goes on as it was begun: what was found fastest or had room may differ.
        begun = None if overwrite else unfinished(Path(target))
        among = "" if begun is None else begun.choice
        size = written_size(options, clip, opened.variant.scale)
        encoding = Encoding.of(target, encoder, clip, held=reverse_warm_up, written=size)
        session, taken, will_take = open_in_room(
            opened, runtime, SessionOptions(threads=threads), (h, w), encoding,
            begun.window if begun is not None and tile == "auto" else tile, wish=choice.wish,
            among=among, tell=lambda text: say(f"note: {text}"),
        )  # fmt: skip
        say(f"{opened.name} on {session.runtime} ({session.details})")
        if note := for_papers(opened):
            say(f"note: {note}")
        return session

    return run(
        make_session, source, target, options,
        show,
        tell=lambda text: say(f"note: {text}"),
        model_id=lambda: identity_of(taken),
        scale=opened.variant.scale,
        centred=opened.variant.centred,
        planes=opened.planes,
        go_on=None if go_on is None else lambda ahead: go_on(Ahead(ahead, will_take)),
    )  # fmt: skip


def _scale_for(wanted: OutputSize, source: str, scales: Iterable[int]) -> int | None:
    """The smallest of these scales that reaches a size from a clip, or the largest of them; None
    where the clip cannot be asked."""
    from teco.video.clips import open_source

    if wanted.factor is not None:
        factor = float(wanted.factor)
    elif source == "-":
        return None
    else:
        with open_source(source, forgiving=True) as clip:
            size = wanted.of(clip.width, clip.height, clip.pixel_aspect)
        factor = size[1] / clip.height
    return next((scale for scale in sorted(scales) if factor <= scale), max(scales))


def _one_of(value: object, known: object, what: str) -> None:
    """Raise TecoError for a word that is none of a Literal's; None says nothing."""
    words = get_args(known)
    if value is not None and value not in words:
        raise TecoError(
            f"{what} is {value!r}, expected one of {', '.join(map(repr, words))}",
            hint=did_you_mean(str(value), words).strip(),
            exit_code=USAGE,
        )


def _listed(value: Sequence[str] | str) -> tuple[str, ...]:
    """A word alone is a list of one, or of those between its commas."""
    return tuple(value.split(",")) if isinstance(value, str) else tuple(value)


def export(
    model: Name,
    folder: Name = ".",
    *,
    precision: Precision = "fp32",
    size: tuple[int, int] | None = None,
    io: Io = "fp32",
    formats: Sequence[str] | None = None,
    target: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Make a verified ONNX file of a model, and engines of it.

    Args:
        model: a shipped model's name, or weights: .safetensors, or a published .pth.
        folder: of the results; made where it is not there.
        precision: of the convolutions, "fp32", "fp16" or "int8".
        size: (h, w) of a static LR frame; None for any size.
        io: what crosses the ports, see ``teco export --io``.
        formats: some of "onnx", "rtx", "tensorrt"; None: ONNX, and an engine where there is an
            NVIDIA GPU.
        target: runtime whose form is written; None for what suits the formats.
        overwrite: replace files of the same name.

    Returns:
        The files, the ONNX file first; the manifest of each lies beside it.

    Raises:
        TecoError: something is missing, or the file is not what the weights are.
    """
    from teco.core.files import made_folder
    from teco.exporting.formats import Product, produce_all
    from teco.exporting.options import ExportOptions, Precision, Target
    from teco.exporting.request import (
        ExportRequest,
        default_formats,
        find_sources,
        parse_formats,
        parse_sm,
    )
    from teco.model.opening import WEIGHTS_SUFFIXES
    from teco_models.deploy.ports import Io

    _one_of(precision, Precision, "precision")
    _one_of(io, Io, "io")
    _one_of(target, Target, "target")
    path = Path(model)
    is_file = path.suffix in WEIGHTS_SUFFIXES
    sources = find_sources(None, None if is_file else str(model), path if is_file else None)
    chosen = (
        default_formats(target) if formats is None else parse_formats(",".join(_listed(formats)))
    )
    request = ExportRequest(
        formats=chosen,
        sm=parse_sm(None, chosen),
        onnx=ExportOptions(size=size, precision=precision, io=io),
        form=target,
        by_default=formats is None,
    )
    with made_folder(Path(folder)):
        made = list(produce_all(sources, [request], Path(folder), overwrite=overwrite))
    return [product.path for product in made if isinstance(product, Product)]


def bench(
    *models: Name,
    runtimes: Sequence[str] = ("all",),
    size: tuple[int, int] | None = None,
    clip: Name | None = None,
    shrink: float = 1.0,
    frames: int | None = None,
    metrics: Sequence[str] | None = None,
    repetitions: int | None = None,
    budget: float = 150.0,
    latency_only: bool = False,
    threads: int | None = None,
) -> Record:
    """Measure models side by side: latency, memory, and quality on a clip.

    Args:
        models: names or files; none for the default model. An engine alone is measured beside what
            it was made from.
        runtimes: names, or "all" or "auto" alone.
        size: LR (h, w); None for the clip's, or 180x320.
        clip: a ground truth to measure quality on.
        shrink: area-average the clip to 1/shrink of its size first.
        frames: of the clip, at most.
        metrics: names; None for all that can be measured here.
        repetitions: samples of each candidate; None allots them from the budget.
        budget: seconds, about how long the whole run may take.
        latency_only: time single steps alone.
        threads: of each candidate; None for all.

    Returns:
        The record, as ``teco bench --json`` writes it; every sample is in it.

    Raises:
        TecoError, ClipError, ModelError: something cannot be found, read or run here.
    """
    from teco.benchmark.options import BenchRequest, ClipRequest
    from teco.benchmark.prepare import prepare, raise_failures

    request = BenchRequest(
        models=tuple(str(model) for model in models),
        runtimes=_listed(runtimes),
        size=size,
        clip=ClipRequest(path=None if clip is None else Path(clip), shrink=shrink, frames=frames),
        metrics=None if metrics is None else ",".join(_listed(metrics)),
        repetitions=repetitions,
        budget_s=budget,
        latency_only=latency_only,
        threads=threads,
        command="teco.bench",
    )
    record = prepare(request).run()
    raise_failures(request, record)
    return record


def models() -> tuple[Shipped, ...]:
    """All shipped models, those for ordinary clips first; see ``teco models``."""
    from teco.model.choice import shipped

    return shipped()
