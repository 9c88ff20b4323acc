"""A GStreamer application for the tests, in the system's Python, which has gi and little else.

    gst_driver.py JSON-of-a-task

Buffers that reach the sink are written one after the other to ``out``; what is known of them, and
of whatever else was asked, goes to stdout as JSON.
"""

import json
import random
import sys
import time

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

Gst.init(None)
PATIENCE = 60 * Gst.SECOND


class Sink:
    """A fakesink that keeps what it is given."""

    def __init__(self, path, sync, qos):
        self.file = open(path, "wb")  # noqa: SIM115 - open until the process ends
        self.times, self.caps, self.marks = [], None, []
        self.element = Gst.ElementFactory.make("fakesink", None)
        for name, value in (("signal-handoffs", True), ("sync", sync), ("qos", qos)):
            self.element.set_property(name, value)
        self.element.connect("handoff", self.take)

    def take(self, _, buffer, pad):
        self.caps = pad.get_current_caps().to_string()
        self.times.append(buffer.pts)
        self.file.write(buffer.extract_dup(0, buffer.get_size()))

    def mark(self):
        """Remember how many there were; the seek that follows drops those on their way."""
        self.marks.append(len(self.times))


def wait(pipeline):
    """Until the end; the words of an error, or None, and its debug text."""
    kinds = Gst.MessageType.EOS | Gst.MessageType.ERROR
    message = pipeline.get_bus().timed_pop_filtered(PATIENCE, kinds)
    if message is None:
        return "nothing came for a minute", ""
    if message.type == Gst.MessageType.ERROR:
        error, debug = message.parse_error()
        return error.message, debug or ""
    return None, ""


def cut_off(pipeline, frames):
    """Mark frames on their way into the element as not following the ones before."""
    count = iter(range(10**9))

    def look(_, info):
        if next(count) in frames:
            info.get_buffer().set_flags(Gst.BufferFlags.DISCONT)
        return Gst.PadProbeReturn.OK

    pad = pipeline.get_by_name("t").get_static_pad("sink")
    pad.add_probe(Gst.PadProbeType.BUFFER, look)


def counted(pipeline):
    """The element's own numbers."""
    element = pipeline.get_by_name("t")
    if element is None:
        return {}
    names = [p.name for p in element.list_properties()]
    wanted = ("frames", "late-frames", "scenes")
    return {name: element.get_property(name) for name in wanted if name in names}


def play(task, sink):
    """A pipeline that ends in an open pad, from beginning to end, some times over."""
    result = {}
    for _ in range(task.get("times", 1)):
        # A new one each time: what gst-launch's syntax links late, it links once.
        pipeline = Gst.parse_launch(task["pipeline"] + " ! identity name=last")
        pipeline.add(sink.element)
        pipeline.get_by_name("last").link(sink.element)
        if "discont" in task:
            cut_off(pipeline, task["discont"])
        pipeline.set_state(Gst.State.PLAYING)
        result["error"], result["debug"] = wait(pipeline)
        query = Gst.Query.new_latency()
        if sink.element.get_static_pad("sink").peer_query(query):
            result["latency"] = query.parse_latency()
        result |= counted(pipeline)
        pipeline.set_state(Gst.State.NULL)
        pipeline.remove(sink.element)
        sink.mark()
        if result["error"]:
            break
    return result


def playbin(task, sink):
    """playbin with a video filter, and seeks while it plays."""
    pipeline = Gst.ElementFactory.make("playbin", None)
    pipeline.set_property("uri", Gst.filename_to_uri(task["clip"]))
    pipeline.set_property("flags", 1)  # pictures only
    pipeline.set_property(
        "video-filter", Gst.parse_bin_from_description(task["filter"] + " ! identity", True)
    )
    pipeline.set_property("video-sink", sink.element)
    pipeline.set_state(Gst.State.PAUSED)
    pipeline.get_state(PATIENCE)
    pipeline.set_state(Gst.State.PLAYING)
    flags = Gst.SeekFlags.FLUSH | Gst.SeekFlags.ACCURATE
    for target in task["seeks"]:
        before, patience = len(sink.times), time.monotonic() + 30
        while len(sink.times) < before + 4 and time.monotonic() < patience:
            time.sleep(0.005)
        pipeline.seek_simple(Gst.Format.TIME, flags, target * Gst.MSECOND)
        sink.mark()
    dice = random.Random(1)
    for _ in range(task.get("storm", 0)):
        pipeline.seek_simple(Gst.Format.TIME, flags, dice.randrange(task["length"]) * Gst.MSECOND)
    if "storm" in task:
        pipeline.seek_simple(Gst.Format.TIME, flags, task["last"] * Gst.MSECOND)
        sink.mark()
    error, debug = wait(pipeline)
    result = {"error": error, "debug": debug}
    pipeline.set_state(Gst.State.NULL)
    return result


def main():
    task = json.loads(sys.argv[1])
    sink = Sink(task["out"], task.get("sync", False), task.get("qos", False))
    result = {"play": play, "playbin": playbin}[task["kind"]](task, sink)
    sink.file.close()
    print(json.dumps({**result, "times": sink.times, "marks": sink.marks, "caps": sink.caps}))


main()
