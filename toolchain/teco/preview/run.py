"""``teco preview``: bicubic and every choice over one moment, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from teco.core.errors import TecoError
from teco.core.memory import free_bytes, taken_bytes
from teco.core.pixels import Pixels
from teco.estimates.room import Encoding, open_in_room
from teco.inference.upscale import Prospect
from teco.model.opening import Model, check_frame_size, for_papers
from teco.page.viewer import Crop
from teco.preview.measure import CODEC, WARM, BicubicSession, Measured, measure
from teco.preview.moment import Moment
from teco.runtimes import SessionOptions, find
from teco.video.file.encoders import USUAL
from teco_models import zoo

SHOWN = 3
"""Pictures of each choice on the page."""

PIXELS = 9_000_000
"""Of all pictures of a page together: lossless, they take about a byte of each, and a third more as
text."""

BICUBIC = "bicubic"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A row of the preview.

    Attributes:
        name: of the model, or "bicubic".
        spec: what ``--model`` takes for it; "" for bicubic.
        runtime: what it ran on; "" for bicubic.
        measured: what it did.
        whole: the whole clip, or an hour of one whose length is not known.
        memory: bytes that it will take, None where nothing is known of the runtime's.
        note: what to know of the model, or "".
    """

    name: str
    spec: str
    runtime: str
    measured: Measured
    whole: Prospect
    memory: int | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A model that could not be tried, and why."""

    name: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Preview:
    """All that a preview found.

    Attributes:
        moment: of the clip.
        scale: of the models.
        runtime: that was asked for, or "auto".
        choices: bicubic first.
        refused: the others.
        frames: numbers in the moment that every choice has a picture of, at most :data:`SHOWN`.
        crop: what of them.
    """

    moment: Moment
    scale: int
    runtime: str
    choices: tuple[Choice, ...]
    refused: tuple[Refused, ...]
    frames: tuple[int, ...]
    crop: Crop

    def pictures(self) -> dict[str, list[Pixels]]:
        """Choice -> what is shown of each of the frames."""
        return {c.name: [c.measured.pictures[n] for n in self.frames] for c in self.choices}


def preview(
    moment: Moment,
    models: Sequence[Model],
    runtime: str = "auto",
    *,
    patient: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Preview:
    """Try bicubic and models of one scale.

    Args:
        moment: of the clip.
        models: at least one.
        runtime: of all of them.
        patient: as :func:`teco.preview.measure.measure` takes it.
        tell: told what is tried, before it is.

    Raises:
        TecoError: the clip cannot be read, there is no such runtime, or none of the models can be
            tried: what was wrong with the first.
    """
    if runtime != "auto":
        find(runtime)  # a slip is known before the work
    scale = models[0].variant.scale
    h, w = moment.height, moment.width
    crop = Crop.middle(scale * h, scale * w, PIXELS // SHOWN // (len(models) + 1))
    found: list[_Tried] = []
    refused: list[Refused] = []
    errors: list[TecoError] = []
    encoding = Encoding(CODEC, USUAL.preset, moment.count)

    tell(BICUBIC)
    needs = taken_bytes() + encoding.bytes(h, w, scale, free_bytes())
    base = measure(moment, BicubicSession(scale), crop, scale, patient=patient)
    found.append(_Tried(BICUBIC, "", base, needs))
    if moment.count is None and not moment.start and (base.length or moment.frames) < moment.frames:
        moment = replace(moment, count=base.length)  # it ended by itself

    least: int | None = None
    for model in models:
        try:
            check_frame_size(model, h, w)
            # What `teco upscale` with nothing but --model would take.
            session, _, memory = open_in_room(
                model, runtime, SessionOptions(), (h, w), encoding, wish="gated", tell=tell
            )
            try:
                # What earlier choices left in memory is nothing that this one takes.
                now = taken_bytes()
                least = now if least is None else min(least, now)
                tell(f"{model.name} on {session.runtime} ({session.details})")
                measured = measure(moment, session, crop, scale, patient=patient)
            finally:
                session.close()
        except TecoError as error:
            refused.append(Refused(name=model.name, why=error.message))
            errors.append(error)
            continue
        if memory is not None:
            memory -= now - least
        found.append(_Tried(model.name, session.runtime, measured, memory, model))
    if len(found) == 1:
        raise errors[0]

    found = _alike(found)
    frames = moment.count or round(3600 * moment.rate)
    size = scale * w, scale * h
    choices = tuple(
        Choice(
            name=t.name, spec=t.spec, runtime=t.runtime, measured=t.measured, memory=t.memory,
            whole=Prospect(frames, *size, frames * t.measured.frame_s),
            note="" if t.model is None else for_papers(t.model),
        )
        for t in found
    )  # fmt: skip
    return Preview(
        moment=moment, scale=scale, runtime=runtime, choices=choices, refused=tuple(refused),
        frames=_shown([c.measured for c in choices]), crop=crop,
    )  # fmt: skip


@dataclass(frozen=True)
class _Tried:
    """A choice, before it is known how far the whole goes."""

    name: str
    runtime: str
    measured: Measured
    memory: int | None
    model: Model | None = None

    @property
    def spec(self) -> str:
        """See :class:`Choice`."""
        if self.model is None:
            return ""
        shipped = zoo.find(self.name)
        if shipped is not None and shipped.onnx == self.model.onnx:
            return self.name
        return str(self.model.engine or self.model.onnx or self.model.weights)

    @property
    def graph(self) -> object:
        """What decides on its time: equal for networks that differ in their weights alone."""
        if self.model is None or self.model.manifest is None:
            return self.name
        m = self.model.manifest
        return self.runtime, m.variant, m.size, m.contract, m.rewrites, m.precision_found


def _alike(found: Sequence[_Tried]) -> list[_Tried]:
    """Networks of one graph take one time: that of their frames together is nearer to it than that
    of each."""

    def with_mean(one: _Tried) -> _Tried:
        kin = [t.measured for t in found if t.graph == one.graph]
        timed = sum(m.timed for m in kin)
        frame_s = sum(m.frame_s * m.timed for m in kin) / timed
        step_s = sum(m.step_s * m.timed for m in kin) / timed
        return replace(one, measured=replace(one.measured, frame_s=frame_s, step_s=step_s))

    return [with_mean(one) for one in found]


def _shown(all_measured: Sequence[Measured]) -> tuple[int, ...]:
    """Some frames that all have, spread; later than a scene's first ones, if there are such."""
    common = sorted(set.intersection(*(set(m.pictures) for m in all_measured)))
    warm = [n for n in common if n >= WARM] or common[-1:]
    picks = np.linspace(0, len(warm) - 1, min(SHOWN, len(warm))).round().astype(int)
    return tuple(warm[n] for n in picks)
