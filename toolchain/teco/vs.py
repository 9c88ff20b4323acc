"""The VapourSynth filter.

    from teco.vs import upscale
    upscale(clip, model="live").set_output()

Frames come out as :class:`teco.inference.stream.Stream` makes them, in whatever order and from
however many threads they are asked for. VapourSynth promises no order, and a Python callback that
asks for frames itself may hang; so each call is given the frames before its own as well, which
VapourSynth has in its cache, and the stream takes of these what it has not seen.

Y'CbCr is converted by the code that ``teco upscale`` uses, so that both give the same bits.
"""

from __future__ import annotations

import gc
import importlib
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from teco.core.errors import TecoError
from teco.core.pixels import Pixels
from teco.inference.stream import CATCH_UP, Stream
from teco.model.opening import DEFAULT_MODEL, Model, check_frame_size, open_model
from teco.runtimes import Session, SessionOptions, open_session
from teco.video.colour import Colour, Converter, Siting, guess_matrix
from teco_models.errors import ModelError
from teco_models.variant import check_size

vs: Any = importlib.import_module("vapoursynth")
"""Its type stubs are made for each installation, plugins included; so types end here."""

MARGIN = 4
"""Frames that VapourSynth may ask for out of order beyond one for each of its threads."""

_SUBSAMPLED = {(0, 0): "444", (1, 0): "422", (1, 1): "420", (2, 0): "411", (2, 2): "410",
               (0, 1): "440"}  # fmt: skip
"""log2 of the chroma's subsampling, across and down -> how libav calls it."""

_DEEP = {("444", 10), ("422", 10), ("420", 10), ("444", 12), ("422", 12), ("420", 12),
         ("444", 16), ("422", 16), ("420", 16)}  # fmt: skip
"""More than 8 bits, as libav has them."""

_MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020nc"}
"""Frame property _Matrix, a number of H.273."""
_UNSPECIFIED = 2

_SITINGS: tuple[Siting, ...] = ("left", "center", "topleft", "top", "bottomleft", "bottom")
"""Frame property _ChromaLocation, a number of H.273; 0 where it is not said."""


def upscale(
    clip: Any,
    *,
    model: str = DEFAULT_MODEL,
    runtime: str = "auto",
    threads: int | None = None,
    pre_roll: int = 0,
    scene_cuts: bool = True,
    serial: bool = False,
    warmup: int = 0,
) -> Any:
    """Enlarge a clip four times, or as many as the model does.

    Format, matrix, range, place of chroma and frame properties stay, the pixels' aspect among them;
    a matrix that was not said is, since players guess it from the size. Clips of more than 8 bits
    go through the network in 16. Frames of two fields (``_FieldBased``) are refused.

    A scene begins where a frame's property ``_SceneChangePrev`` is 1; where a frame has none,
    teco's own detector says. Set ``core.num_threads`` before, not after: it is how far out of order
    frames may be asked for.

    Args:
        clip: of constant format and size, RGB, Y'CbCr or grey.
        model: a shipped model's name, an ONNX file or an engine.
        runtime: as ``teco upscale --runtime``.
        threads: CPU threads of the network; None for all.
        pre_roll: frames before the wanted one that are run and dropped after a seek.
        scene_cuts: look for cuts in frames without that property.
        serial: frames are asked for in order, one at a time, and none before the last one can be
            had: mpv. Then nothing but the wanted frame is asked of ``clip``.
        warmup: the older name of ``pre_roll``.

    Raises:
        vapoursynth.Error: the clip or the model cannot be used; what to do is in the text.
    """
    try:
        used = _Filter(
            clip, model=model, runtime=runtime, threads=threads,
            pre_roll=pre_roll or warmup, scene_cuts=scene_cuts, serial=serial,
        )  # fmt: skip
        return used.output(clip.format)
    except (TecoError, ModelError) as error:
        raise _vs_error(error) from error


class _Filter:
    """One use of :func:`upscale`; lives as long as VapourSynth holds its callback."""

    def __init__(
        self,
        clip: Any,
        *,
        model: str,
        runtime: str,
        threads: int | None,
        pre_roll: int,
        scene_cuts: bool,
        serial: bool,
    ) -> None:
        _check_clip(clip)
        if threads is not None and threads < 1:
            raise TecoError(f"threads is {threads}, expected 1 or more", hint="leave it out")
        if pre_roll < 0:
            raise TecoError(f"pre_roll is {pre_roll}, expected 0 or more")
        opened = open_model(model)
        check_size(clip.height, clip.width)
        check_frame_size(opened, clip.height, clip.width)
        form = _inside(clip.format)
        self._scale = opened.variant.scale
        self._source = clip if clip.format.id == form.id else clip.resize.Point(format=form.id)
        self._codec = None if form.color_family == vs.RGB else _YuvCodec(form)
        self._reach = 0 if serial else max(pre_roll, CATCH_UP, vs.core.num_threads + MARGIN)
        lease = _SESSIONS.take(opened, model, runtime, threads)
        self._stream = Stream(
            lease.session,
            scene_cuts=scene_cuts,
            pre_roll=0 if serial else pre_roll,
            catch_up=self._reach,
            cache=2 * self._reach + 1,
        )
        weakref.finalize(self, _SESSIONS.give_back, lease).atexit = False

    def output(self, form: Any) -> Any:
        """The enlarged clip, in the format of the original."""
        source = self._source
        blank = source.std.BlankClip(
            width=self._scale * source.width, height=self._scale * source.height, keep=True
        )
        past = [_delayed(source, i) for i in range(1, self._reach + 1)]
        out = blank.std.ModifyFrame(clips=[blank, source, *past], selector=self._frame)
        out = out.std.CopyFrameProps(source)
        if self._codec is not None:
            out = out.std.ModifyFrame(clips=out, selector=_tagged(source))
        return _outside(out, form)

    def _frame(self, n: int, f: list[Any]) -> Any:
        """std.ModifyFrame's callback: f is the blank frame, frame n, n - 1, n - 2, ..."""
        blank, *given = f

        def cut_at(i: int) -> bool | None:
            said = given[n - i].props.get("_SceneChangePrev")
            return None if said is None else bool(said)

        try:
            picture = self._stream.at(n, lambda i: self._picture(given[n - i]), cut_at=cut_at)
            planes = self._planes(picture, given[0])
        except (TecoError, ModelError) as error:
            raise _vs_error(error) from error
        out = blank.copy()
        for plane, values in enumerate(planes):
            np.copyto(np.asarray(out[plane]), values)
        return out

    def _picture(self, frame: Any) -> Pixels:
        if int(frame.props.get("_FieldBased", 0)):
            raise TecoError(
                "the clip is interlaced (_FieldBased), expected progressive frames",
                hint="deinterlace it first, for example with vivtc or bwdif; or, where it is not, "
                "say so: clip.std.SetFieldBased(0)",
            )
        if self._codec is None:
            return np.stack([np.asarray(frame[plane]) for plane in range(3)], axis=2)
        return self._codec.picture(frame, _colour(frame, self._source), _siting(frame))

    def _planes(self, picture: Pixels, frame: Any) -> Sequence[NDArray[Any]]:
        if self._codec is None:
            return [picture[:, :, plane] for plane in range(3)]
        return self._codec.planes(picture, _colour(frame, self._source), _siting(frame))


def _check_clip(clip: Any) -> None:
    if not isinstance(clip, vs.VideoNode):
        raise TecoError(f"teco.vs.upscale was given {type(clip).__name__}, expected a video clip")
    if clip.format is None or not (clip.width and clip.height):
        raise TecoError(
            "the clip changes its format or its size, expected one of each",
            hint="resize it to one first: clip.resize.Bicubic(640, 360, format=vs.YUV420P8)",
        )


class _YuvCodec:
    """Frames of one Y'CbCr format to pictures and back. Any thread may call."""

    def __init__(self, form: Any) -> None:
        self._name = _libav(form) or ""
        self._type = np.uint8 if form.bits_per_sample == 8 else np.uint16
        self._local = threading.local()

    def picture(self, frame: Any, colour: Colour, siting: Siting) -> Pixels:
        """(h, w, 3) RGB, uint16 where the format has more than 8 bits and else uint8."""
        coded = av.VideoFrame(frame.width, frame.height, self._name)
        for number, plane in enumerate(coded.planes):
            values = np.asarray(frame[number])
            self._samples(plane)[:, : values.shape[1]] = values
        return self._converter(colour, siting).to_rgb(coded, deep=self._type is np.uint16)

    def planes(self, picture: Pixels, colour: Colour, siting: Siting) -> list[NDArray[Any]]:
        """Y, Cb and Cr of the enlarged picture."""
        coded = self._converter(colour, siting).from_rgb(picture, self._name)
        return [self._samples(plane)[:, : plane.width] for plane in coded.planes]

    def _samples(self, plane: Any) -> NDArray[Any]:
        """A plane's own memory, (height, samples a line); lines end in padding."""
        return np.frombuffer(plane, self._type).reshape(plane.height, -1)

    def _converter(self, colour: Colour, siting: Siting) -> Converter:
        # swscale's tables are for one thread at a time, and several threads write.
        known: dict[tuple[Colour, Siting], Converter]
        known = self._local.__dict__.setdefault("known", {})
        if (colour, siting) not in known:
            known[colour, siting] = Converter(colour, siting)
        return known[colour, siting]


class _Sessions:
    """Sessions by model and runtime, kept while nobody uses them.

    mpv evaluates the script anew at every seek; opening a network each time would take seconds.
    Two filters never share one: runtimes keep a scene's state in the session's own memory.
    """

    KEPT = 2
    """Idle sessions of one kind; more were of filters that lived at the same time."""

    def __init__(self) -> None:
        # Reentrant: collecting garbage within take() may give something back.
        self._lock = threading.RLock()
        self._idle: dict[tuple[object, ...], list[Session]] = {}
        self._used = 0

    def take(self, model: Model, spec: str, runtime: str, threads: int | None) -> _Lease:
        """A session nobody else has, from before if there is one."""
        file = model.onnx or model.engine or model.weights
        changed = file.stat().st_mtime_ns if file is not None else 0
        key = (str(file or spec), changed, runtime, threads)
        session = self._pop(key)
        if session is None and self._used:
            gc.collect()  # filters of an earlier script may only wait for this
            session = self._pop(key)
        if session is None:
            session = open_session(model, runtime, SessionOptions(threads=threads))
        with self._lock:
            self._used += 1
        return _Lease(session, key)

    def give_back(self, lease: _Lease) -> None:
        """What :meth:`take` gave; closed when enough of its kind are idle."""
        with self._lock:
            self._used -= 1
            idle = self._idle.setdefault(lease.key, [])
            if len(idle) < self.KEPT:
                idle.append(lease.session)
                return
        lease.session.close()

    def _pop(self, key: tuple[object, ...]) -> Session | None:
        with self._lock:
            idle = self._idle.get(key)
            return idle.pop() if idle else None


@dataclass(frozen=True)
class _Lease:
    session: Session
    key: tuple[object, ...]


_SESSIONS = _Sessions()


def _inside(form: Any) -> Any:
    """The format that frames are read and written in: RGB24 or RGB48, or a Y'CbCr that libav
    has."""
    is_deep = form.bits_per_sample > 8
    if form.color_family == vs.RGB:
        return vs.core.get_video_format(vs.RGB48 if is_deep else vs.RGB24)
    if form.color_family == vs.GRAY:
        return vs.core.get_video_format(vs.YUV444P16 if is_deep else vs.YUV444P8)
    if _libav(form) is not None:
        return form
    across, down = form.subsampling_w, form.subsampling_h
    deep = vs.core.query_video_format(vs.YUV, vs.INTEGER, 16, across, down)
    if _libav(deep) is not None:
        return deep
    if (across, down) in _SUBSAMPLED:
        return vs.core.query_video_format(vs.YUV, vs.INTEGER, 8, across, down)
    return vs.core.get_video_format(vs.YUV444P16)


def _libav(form: Any) -> str | None:
    """libav's name of a Y'CbCr format, None where it has none."""
    kind = _SUBSAMPLED.get((form.subsampling_w, form.subsampling_h))
    if form.color_family != vs.YUV or form.sample_type != vs.INTEGER or kind is None:
        return None
    bits = form.bits_per_sample
    if bits == 8:
        return f"yuv{kind}p"
    return f"yuv{kind}p{bits}le" if (kind, bits) in _DEEP else None


def _outside(clip: Any, form: Any) -> Any:
    """Back to the format the clip came in."""
    if clip.format.id == form.id:
        return clip
    if form.color_family == vs.GRAY:
        clip = clip.std.ShufflePlanes(planes=0, colorfamily=vs.GRAY)
    return clip if clip.format.id == form.id else clip.resize.Point(format=form.id)


def _delayed(clip: Any, frames: int) -> Any:
    """The clip, later by so many frames; the first one is repeated in front."""
    longer = clip.std.DuplicateFrames(frames=[0] * frames)
    return longer.std.Trim(length=clip.num_frames)


def _colour(frame: Any, clip: Any) -> Colour:
    """How a frame's samples stand for RGB. Raises TecoError for a matrix we cannot undo."""
    matrix = int(frame.props.get("_Matrix", _UNSPECIFIED))
    if matrix not in (_UNSPECIFIED, *_MATRICES):
        raise TecoError(
            f"the clip has matrix {matrix} (_Matrix), expected one of "
            + ", ".join(f"{number} {name}" for number, name in _MATRICES.items()),
            hint="convert it first: clip.resize.Bicubic(matrix_s='709')",
        )
    said = _MATRICES.get(matrix) or guess_matrix(clip.width, clip.height)
    return Colour(said, _is_full(frame.props))


def _siting(frame: Any) -> Siting:
    """Where a frame's chroma lies, and that of the enlarged one, which has the same properties."""
    said = int(frame.props.get("_ChromaLocation", 0))
    return _SITINGS[said] if 0 <= said < len(_SITINGS) else "left"


def _is_full(props: Any) -> bool:
    # _Range is the newer name, with the numbers the other way round.
    if "_Range" in props:
        return int(props["_Range"]) == 1
    return int(props.get("_ColorRange", 1)) == 0


def _tagged(clip: Any) -> Callable[[int, Any], Any]:
    """std.ModifyFrame's callback that names the matrix of frames that do not say theirs."""
    guess = {name: number for number, name in _MATRICES.items()}[
        guess_matrix(clip.width, clip.height)
    ]

    def tag(n: int, f: Any) -> Any:
        if int(f.props.get("_Matrix", _UNSPECIFIED)) != _UNSPECIFIED:
            return f
        out = f.copy()
        out.props["_Matrix"] = guess
        return out

    return tag


def _vs_error(error: TecoError | ModelError) -> Exception:
    hint = getattr(error, "hint", "")
    text: Exception = vs.Error(f"teco: {error.message}" + (f" ({hint})" if hint else ""))
    return text
