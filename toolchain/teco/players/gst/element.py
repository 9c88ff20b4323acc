# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""The element itself: buffers, events, queries and properties in GStreamer's terms.

Imported in GStreamer's own Python, which is the system's. Every function that GStreamer calls ends
in an answer: an exception that leaves one of them would be printed and taken for success.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, ClassVar

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstBase", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import GLib, GObject, Gst, GstBase, GstVideo  # noqa: E402

from teco.core.errors import TecoError  # noqa: E402
from teco.inference.stream import Stream  # noqa: E402
from teco.model.opening import DEFAULT_MODEL, open_model  # noqa: E402
from teco.players.gst.caps import (  # noqa: E402
    MOST,
    check_progressive,
    colour_of,
    fixated,
    layout_of,
    placed,
    raw_video,
    siting_of,
    transformed,
)
from teco.players.gst.formats import FrameFormat, Layout  # noqa: E402
from teco_models.errors import ModelError  # noqa: E402
from teco_models.variant import MIN_SIZE, SCALE, SCALES  # noqa: E402

DEFAULTS: dict[str, Any] = {
    "model": DEFAULT_MODEL,
    "runtime": "auto",
    "threads": 0,
    "pre-roll": 0,
    "reverse-warm-up": 0,
    "scene-cuts": True,
    "deadline": True,
}
"""Properties of an element that is told nothing; an emitted plugin sets its own."""

OLDER = {"warmup": "pre-roll", "look-ahead": "reverse-warm-up"}
"""Properties by the names they once had, which still work."""

_DROPPED = Gst.FlowReturn.CUSTOM_SUCCESS  # GST_BASE_TRANSFORM_FLOW_DROPPED


@dataclass(frozen=True, eq=False)
class _Moment:
    """A buffer's times; the buffer itself is GStreamer's again when a call returns."""

    pts: int
    dts: int
    duration: int
    offset: int
    offset_end: int
    is_shown: bool

    @classmethod
    def of(cls, buffer: Gst.Buffer, shown_from: int) -> _Moment:
        none = Gst.CLOCK_TIME_NONE
        end = buffer.pts if none in (buffer.pts, buffer.duration) else buffer.pts + buffer.duration
        is_shown = none in (shown_from, buffer.pts) or end > shown_from or buffer.pts == shown_from
        return cls(
            buffer.pts, buffer.dts, buffer.duration, buffer.offset, buffer.offset_end, is_shown
        )

    def give(self, buffer: Gst.Buffer) -> None:
        buffer.pts, buffer.dts, buffer.duration = self.pts, self.dts, self.duration
        buffer.offset, buffer.offset_end = self.offset, self.offset_end


def _answers(otherwise: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Whatever is raised becomes an error on the bus, and ``otherwise`` the answer."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(self: Teco, *arguments: Any) -> Any:
            try:
                return function(self, *arguments)
            except (TecoError, ModelError) as error:
                hint = f" ({error.hint})" if error.hint else ""
                self.fail(f"teco: {error.message}{hint}", "")
            except Exception as error:
                self.fail(f"teco: internal error: {error}", traceback.format_exc())
            return otherwise

        return call

    return wrap


def _setting(spec: GObject.ParamSpec) -> str:
    name = str(spec.name)
    return OLDER.get(name, name)


class Teco(GstBase.BaseTransform):
    """``teco``: enlarges video as many times as its model, remembering the frames before."""

    __gtype_name__ = "GstTeco"
    __gstmetadata__ = (
        "teco",
        "Filter/Effect/Converter/Video/Scaler",
        "Recurrent video super-resolution, four times as wide and as high, or twice",
        "the authors of teco",
    )
    __gsttemplates__ = (
        Gst.PadTemplate.new(
            "sink", Gst.PadDirection.SINK, Gst.PadPresence.ALWAYS,
            raw_video(MIN_SIZE, MOST // min(SCALES)),
        ),
        Gst.PadTemplate.new(
            "src", Gst.PadDirection.SRC, Gst.PadPresence.ALWAYS,
            raw_video(MIN_SIZE * min(SCALES), MOST),
        ),
    )  # fmt: skip
    __gproperties__: ClassVar = {
        "model": (
            str, "Model", "A shipped model's name, or a file that teco opens", DEFAULT_MODEL,
            GObject.ParamFlags.READWRITE,
        ),
        "runtime": (
            str, "Runtime", "What runs it, by teco doctor's names; auto measures once", "auto",
            GObject.ParamFlags.READWRITE,
        ),
        "threads": (
            int, "Threads", "CPU threads of a step; 0 for all", 0, 1024, 0,
            GObject.ParamFlags.READWRITE,
        ),
        "pre-roll": (
            int, "Pre-roll", "Frames before the target of an accurate seek that are run, not shown",
            0, 64, 0, GObject.ParamFlags.READWRITE,
        ),
        "reverse-warm-up": (
            int, "Reverse warm-up", "Frames held back at a scene's start and first run backwards",
            0, 64, 0, GObject.ParamFlags.READWRITE,
        ),
        **{  # not marked DEPRECATED, a flag that PyGObject cannot pass on
            older: (
                int, older, f"The older name of {name}", 0, 64, 0, GObject.ParamFlags.READWRITE,
            )
            for older, name in OLDER.items()
        },
        "scene-cuts": (
            bool, "Scene cuts", "Start without a past at scene cuts", True,
            GObject.ParamFlags.READWRITE,
        ),
        "deadline": (
            bool, "Deadline", "Frames that the sink reports as late are enlarged without the "
            "network (with qos=true they are dropped instead)", True, GObject.ParamFlags.READWRITE,
        ),
        "frames": (
            GObject.TYPE_UINT64, "Frames", "Frames given out", 0, GLib.MAXUINT64, 0,
            GObject.ParamFlags.READABLE,
        ),
        "late-frames": (
            GObject.TYPE_UINT64, "Late frames", "Of these, enlarged without the network", 0,
            GLib.MAXUINT64, 0, GObject.ParamFlags.READABLE,
        ),
        "scenes": (
            GObject.TYPE_UINT64, "Scenes", "How often it started without a past", 0,
            GLib.MAXUINT64, 0, GObject.ParamFlags.READABLE,
        ),
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._settings = {OLDER.get(name, name): value for name, value in DEFAULTS.items()}
        self._stream: Stream | None = None
        self._format: FrameFormat | None = None
        self._incoming: Layout | None = None
        self._outgoing: Layout | None = None
        self._out_size = 0
        self._frame_time = 0  # ns; 0 where the rate is variable
        self._earliest = Gst.CLOCK_TIME_NONE  # running time before which frames are late
        self._shown_from = Gst.CLOCK_TIME_NONE  # frames that end before it are run and dropped
        self._targets: dict[int, int] = {}  # by the seek's number: where it was to go
        self._scale_of = ("", SCALE)  # a model's name and its scale
        self._probed = False
        self._fresh = True  # nothing was shown since the last reset

    # --- properties ----------------------------------------------------------------------------

    def do_get_property(self, spec: GObject.ParamSpec) -> Any:
        stats = self._stream.stats if self._stream is not None else None
        counted = {"frames": "frames", "late-frames": "fallbacks", "scenes": "resets"}
        if spec.name in counted:
            return getattr(stats, counted[spec.name]) if stats is not None else 0
        return self._settings[_setting(spec)]

    def do_set_property(self, spec: GObject.ParamSpec, value: Any) -> None:
        if value is None:  # a string property's default
            value = DEFAULTS[_setting(spec)]
        self._settings[_setting(spec)] = value

    # --- life ----------------------------------------------------------------------------------

    @_answers(False)
    def do_start(self) -> bool:
        settings = self._settings
        self._stream = Stream.open(
            settings["model"],
            runtime=settings["runtime"],
            threads=settings["threads"] or None,
            scene_cuts=settings["scene-cuts"],
            reverse_warm_up=settings["reverse-warm-up"],
        )
        self._earliest = self._shown_from = Gst.CLOCK_TIME_NONE
        self._fresh = True
        if not self._probed:
            # Not when the element is made: it would no longer be floating.
            kind = Gst.PadProbeType.QUERY_UPSTREAM | Gst.PadProbeType.PUSH  # before it is answered
            self.get_static_pad("src").add_probe(kind, self._on_query)
            self._probed = True
        return True

    @_answers(False)
    def do_stop(self) -> bool:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        return True

    def fail(self, text: str, debug: str) -> None:
        """An error on the bus; GStreamer stops the pipeline and the application shows it."""
        error = GLib.Error.new_literal(Gst.LibraryError.quark(), text, int(Gst.LibraryError.FAILED))
        self.post_message(Gst.Message.new_error(self, error, debug))

    # --- caps ----------------------------------------------------------------------------------

    def do_transform_caps(
        self, direction: Gst.PadDirection, caps: Gst.Caps, chosen: Gst.Caps | None
    ) -> Gst.Caps:
        larger = direction == Gst.PadDirection.SINK
        template = self.get_static_pad("src" if larger else "sink").get_pad_template_caps()
        return transformed(caps, self._scale(), larger, template, chosen)

    def _scale(self) -> int:
        """Of the model that is asked for, which caps are asked of before it is opened."""
        name = self._settings["model"]
        if self._scale_of[0] != name:
            try:
                self._scale_of = name, open_model(name).variant.scale
            except (TecoError, ModelError):  # starting it says what is wrong
                self._scale_of = name, SCALE
        return self._scale_of[1]

    def do_fixate_caps(
        self, direction: Gst.PadDirection, caps: Gst.Caps, other: Gst.Caps
    ) -> Gst.Caps:
        return fixated(caps, other, direction == Gst.PadDirection.SINK)

    @_answers(False)
    def do_set_caps(self, incoming: Gst.Caps, outgoing: Gst.Caps) -> bool:
        before = GstVideo.VideoInfo.new_from_caps(incoming)
        after = GstVideo.VideoInfo.new_from_caps(outgoing)
        check_progressive(before)
        self._incoming, self._outgoing = layout_of(before), layout_of(after)
        self._out_size = after.size
        self._format = FrameFormat(colour_of(before), siting_of(incoming))
        rate = (before.fps_n, before.fps_d)
        frame_time = Gst.SECOND * rate[1] // rate[0] if rate[0] > 0 else 0
        if frame_time != self._frame_time:
            self._frame_time = frame_time
            self.post_message(Gst.Message.new_latency(self))
        return True

    def do_get_unit_size(self, caps: Gst.Caps) -> tuple[bool, int]:
        info = GstVideo.VideoInfo.new_from_caps(caps)
        return (True, info.size) if info is not None else (False, 0)

    def do_transform_size(
        self, direction: Gst.PadDirection, caps: Gst.Caps, size: int, other: Gst.Caps
    ) -> tuple[bool, int]:
        return self.do_get_unit_size(other)

    # --- frames --------------------------------------------------------------------------------

    @_answers(Gst.FlowReturn.ERROR)
    def do_transform(self, incoming: Gst.Buffer, outgoing: Gst.Buffer) -> Gst.FlowReturn:
        stream, form = self._stream, self._format
        if stream is None or form is None or self._incoming is None:
            return Gst.FlowReturn.NOT_NEGOTIATED
        if incoming.has_flags(Gst.BufferFlags.DISCONT) and not self._fresh:
            if (flow := self._drain()) != Gst.FlowReturn.OK:
                return flow
            stream.reset()
        self._fresh = False
        with incoming.map(Gst.MapFlags.READ) as memory:
            frame = form.read(memory.data, placed(incoming, self._incoming))
        due = None
        if self._is_late(incoming):
            due = perf_counter()
            self._report_late(incoming)
        moment = _Moment.of(incoming, self._shown_from)
        done = stream.feed(frame, moment, due=due)
        return self._show(done, moment, outgoing)

    def _show(
        self,
        done: Iterable[tuple[_Moment, Any]],
        now: _Moment | None = None,
        outgoing: Gst.Buffer | None = None,
    ) -> Gst.FlowReturn:
        """Give frames out; the one that came just now in the buffer made for it."""
        given = _DROPPED if outgoing is not None else Gst.FlowReturn.OK
        for moment, enlarged in done:
            if not moment.is_shown:
                continue
            if outgoing is not None and moment is now:
                self._write(enlarged, outgoing)
                given = Gst.FlowReturn.OK  # always the last one
                continue
            buffer = Gst.Buffer.new_allocate(None, self._out_size, None)
            moment.give(buffer)
            self._write(enlarged, buffer)
            flow = self.get_static_pad("src").push(buffer)
            if flow != Gst.FlowReturn.OK:
                return flow
        return given

    def _write(self, frame: Any, buffer: Gst.Buffer) -> None:
        assert self._format is not None
        assert self._outgoing is not None
        with buffer.map(Gst.MapFlags.WRITE) as memory:
            self._format.write(frame, memory.data, placed(buffer, self._outgoing))

    def _drain(self) -> Gst.FlowReturn:
        return self._show(self._stream.drain()) if self._stream is not None else Gst.FlowReturn.OK

    # --- time ----------------------------------------------------------------------------------

    def _is_late(self, buffer: Gst.Buffer) -> bool:
        if not self._settings["deadline"] or self._earliest == Gst.CLOCK_TIME_NONE:
            return False
        running = self.segment.to_running_time(Gst.Format.TIME, buffer.pts)
        return running != Gst.CLOCK_TIME_NONE and running <= self._earliest

    def _report_late(self, buffer: Gst.Buffer) -> None:
        segment = self.segment
        running = segment.to_running_time(Gst.Format.TIME, buffer.pts)
        stream_time = segment.to_stream_time(Gst.Format.TIME, buffer.pts)
        message = Gst.Message.new_qos(
            self, False, running, stream_time, buffer.pts, buffer.duration
        )
        message.set_qos_values(self._earliest - running, 1.0, 1_000_000)
        self.post_message(message)

    def do_src_event(self, event: Gst.Event) -> bool:
        if event.type == Gst.EventType.QOS and self._settings["deadline"]:
            _, _, difference, timestamp = event.parse_qos()
            if timestamp != Gst.CLOCK_TIME_NONE:
                # As GstBaseTransform: what lies twice the lateness ahead can still be in time.
                ahead = 2 * difference + self._frame_time if difference > 0 else difference
                self._earliest = max(0, timestamp + ahead)
            # It ends here: a decoder that heard of it would leave frames out, which are cheap, and
            # the past would have gaps.
            return True
        if event.type == Gst.EventType.SEEK and (earlier := self._earlier(event)) is not None:
            return self.get_static_pad("sink").push_event(earlier)
        return GstBase.BaseTransform.do_src_event(self, event)

    def _earlier(self, event: Gst.Event) -> Gst.Event | None:
        """The seek that also brings the frames of the pre-roll; None where it stays as it is.

        Everything begins there, sound too, so that it stays in time; frames are shown from the
        target on. A seek to a key frame is for those who want a picture at once.
        """
        rate, form, flags, start_type, start, stop_type, stop = event.parse_seek()
        lead = self._settings["pre-roll"] * self._frame_time
        if (
            not lead or rate <= 0 or form != Gst.Format.TIME or start_type != Gst.SeekType.SET
            or not flags & Gst.SeekFlags.FLUSH or flags & Gst.SeekFlags.KEY_UNIT
        ):  # fmt: skip
            return None
        earlier = Gst.Event.new_seek(
            rate, form, flags, start_type, max(0, start - lead), stop_type, stop
        )
        earlier.set_seqnum(event.get_seqnum())
        self._targets = {event.get_seqnum(): start}
        return earlier

    @_answers(False)
    def do_sink_event(self, event: Gst.Event) -> bool:
        if event.type == Gst.EventType.FLUSH_STOP:
            self._forget()
        elif event.type in (Gst.EventType.SEGMENT, Gst.EventType.EOS, Gst.EventType.CAPS):
            self._drain()  # in the segment and the size they belong to
            if event.type == Gst.EventType.SEGMENT:
                self._forget()
                target = self._targets.pop(event.get_seqnum(), None)
                if target is not None:
                    target = event.parse_segment().position_from_stream_time(
                        Gst.Format.TIME, target
                    )
                self._shown_from = Gst.CLOCK_TIME_NONE if target is None else target
        return GstBase.BaseTransform.do_sink_event(self, event)

    def _forget(self) -> None:
        if self._stream is not None:
            self._stream.reset()
        self._earliest = Gst.CLOCK_TIME_NONE
        self._fresh = True

    @_answers(Gst.PadProbeReturn.OK)
    def _on_query(self, pad: Gst.Pad, info: Gst.PadProbeInfo) -> Gst.PadProbeReturn:
        """Latency, asked from downstream. A probe, because Python cannot override ``query`` here:
        two of the element's base classes have a function of that name."""
        query = info.get_query()
        if query.type != Gst.QueryType.LATENCY:
            return Gst.PadProbeReturn.OK
        if not self.get_static_pad("sink").peer_query(query):
            return Gst.PadProbeReturn.OK
        live, least, most = query.parse_latency()
        # A step may take as long as a frame is shown; with reverse warm-up, frames are held.
        own = self._frame_time * (1 + self._settings["reverse-warm-up"])
        known = most != Gst.CLOCK_TIME_NONE
        query.set_latency(live, least + own, most + own if known else most)
        return Gst.PadProbeReturn.HANDLED


GObject.type_register(Teco)
__gstelementfactory__ = ("teco", Gst.Rank.NONE, Teco)
