"""The page of a preview: the answer, the table, and the pictures in the viewer."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from teco import __version__
from teco.core import machine
from teco.core.files import write_beside
from teco.page.document import document, section, table
from teco.page.viewer import SCRIPT, Crop, Pane, Shown, data, data_uri, viewer
from teco.preview.measure import CODEC, LEAST, WARM
from teco.preview.run import BICUBIC, Choice, Preview
from teco.video.file.encoders import USUAL, lookahead

MOST_BYTES = 14_000_000
"""Of a page. Where lossless pictures come out larger, less of them is shown."""

HEADER = ("choice", "ms a frame", "the whole", "memory")
"""Of the table, in the terminal and on the page."""


def write_page(path: Path, found: Preview) -> None:
    """Write the page under its final name.

    Raises:
        WriteError: it cannot be written.
    """
    write_beside(path, page(found).encode())


def page(found: Preview) -> str:
    """The page as text."""
    shown = _shown(found)
    labels = _labels(found)
    panes = [Pane("left", labels, BICUBIC), Pane("right", labels, found.choices[1].name)]
    moment = found.moment
    frames = [
        (str(n), f"{spoken_moment(moment.start + frame / float(moment.rate))}")
        for n, frame in enumerate(shown.frames)
    ]
    main = [
        section("cost-title", "What it takes", _table(found) + _notes(found)),
        section("pictures-title", "Look closely", _where(found, shown.crop)
                + viewer(panes, frames, _what(found, shown.crop))),
        section("next-title", "Enlarge it", _commands(found)),
        section("method-title", "How it was measured", _method(found)),
    ]  # fmt: skip
    return document(
        title=f"Preview of {moment.path.name}",
        head=f'<p class="answer">{escape(answer(found))}</p>',
        main="".join(main),
        footer=f"<p>Made by teco {escape(__version__)}. This file needs no network.</p>",
        data={"shown": json.dumps(data(shown, panes))},
        scripts=[SCRIPT],
        style=files("teco.preview").joinpath("preview.css").read_text(encoding="utf-8"),
    )


def answer(found: Preview) -> str:
    """What somebody wants to know first, in a sentence."""
    whole = found.choices[0].whole
    bicubic, *networks = found.choices
    what = found.moment.path.name
    if found.moment.count is None:
        what = f"An hour of {what}"
    elif found.moment.count > 1:
        what = f"{what}, {whole.frames:,} frames,"
    by_time: dict[str, list[str]] = {}
    for choice in networks:
        by_time.setdefault(choice.whole.time, []).append(choice.name)
    takes = _listed([f"{time} with {' or '.join(names)}" for time, names in by_time.items()])
    return (
        f"{what} takes about {takes} on this machine, at {whole.width}x{whole.height}; "
        f"bicubic takes {bicubic.whole.time}."
    )


def rows(found: Preview) -> list[list[str]]:
    """The table's lines: every choice, then what could not be tried."""
    tried = [
        [c.name, _ms(c.measured.frame_s), c.whole.time,
         "-" if c.memory is None else f"{c.memory / 2**30:.1f} GiB"]
        for c in found.choices
    ]  # fmt: skip
    return tried + [[r.name, "-", "-", "-"] for r in found.refused]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.{0 if seconds > 0.01 else 1}f}"


def notes(found: Preview) -> list[str]:
    """What limits the answer, in sentences."""
    moment, some = found.moment, [*found.moment.notices]
    if moment.kind == "folder":
        some.append(
            f"the pictures of {moment.path} are taken for the frames of one clip, "
            f"{float(moment.rate):g} a second"
        )
    if moment.kind == "picture":
        some.append(f"{moment.path} is one picture: the network sees no past, and opening is timed")
    if moment.count is None:
        some.append(f"{moment.path} does not say how long it is: times are for an hour of it")
    repeats = found.choices[0].measured.repeats
    if repeats > 0.25:
        some.append(
            f"{repeats:.0%} of these frames repeat the one before and cost nothing: where the clip "
            "moves it takes longer; choose another --at"
        )
    some += [c.note for c in found.choices if c.note]
    some += [f"{r.name} was not tried: {r.why}" for r in found.refused]
    return some


def command_of(found: Preview, choice: Choice) -> list[str]:
    """What to type to have the whole clip so, word by word."""
    path = found.moment.path
    suffix = ".mkv"
    if found.moment.kind != "clip":
        suffix = ".png" if found.moment.kind == "picture" else ""
    elif path.suffix.lower() in (".mp4", ".mov"):
        suffix = path.suffix
    target = f"{path.name.removesuffix(path.suffix)}_x{found.scale}{suffix}"
    words = ["teco", "upscale", str(path), target, "--model", choice.spec]
    if found.runtime != "auto":
        words += ["--runtime", found.runtime]
    return [shlex.quote(word) for word in words]


def spoken_moment(seconds: float) -> str:
    """A moment of a clip as players show it: 1:02:03.45, or 2:03.45."""
    minutes, rest = divmod(round(seconds, 2), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:05.2f}" if hours else f"{minutes}:{rest:05.2f}"


def _shown(found: Preview) -> Shown:
    """The pictures, coded; their middle where they would make the page too large."""
    pictures = found.pictures()
    full = found.crop
    inner = Crop(0, 0, full.height, full.width, full.height, full.width)
    while True:
        images = {
            name: tuple(data_uri(inner.of(p)) for p in some) for name, some in pictures.items()
        }
        size = sum(len(uri) for some in images.values() for uri in some)
        if size <= MOST_BYTES:
            break
        less = int(0.9 * inner.height * inner.width * MOST_BYTES / size)
        inner = Crop.middle(full.height, full.width, less)
    crop = Crop(
        full.top + inner.top, full.left + inner.left, inner.height, inner.width,
        full.full_height, full.full_width,
    )  # fmt: skip
    return Shown(found.frames, crop, images)


def _table(found: Preview) -> str:
    first = found.moment.start + found.frames[0] / float(found.moment.rate)
    whole = found.choices[0].whole
    caption = (
        f"At {spoken_moment(first)}, {found.moment.width}x{found.moment.height} to "
        f"{whole.width}x{whole.height}"
    )
    header = [*HEADER]
    header[2] = "an hour of it" if found.moment.count is None else f"{whole.frames:,} frames"
    names = dict(_labels(found))
    lines = [[names.get(row[0], row[0]), *row[1:]] for row in rows(found)]
    return table(header, lines, caption)


def _labels(found: Preview) -> list[tuple[str, str]]:
    """(name, what people read) of each choice."""
    return [(c.name, f"{c.name} on {c.runtime}" if c.runtime else c.name) for c in found.choices]


def _notes(found: Preview) -> str:
    some = notes(found)
    items = "".join(f"<li>{escape(text)}</li>" for text in some)
    return f'<ul class="notes">{items}</ul>' if some else ""


def _where(found: Preview, crop: Crop) -> str:
    """The whole frame with an outline of what is shown of it; nothing where that is all."""
    if crop.is_whole:
        return ""
    thumbnail = found.choices[0].measured.thumbnails[found.frames[0]]
    height, width = thumbnail.shape[:2]
    outline = "; ".join(
        f"{side}: {100 * part / whole:.2f}%"
        for side, part, whole in (
            ("top", crop.top, crop.full_height), ("left", crop.left, crop.full_width),
            ("height", crop.height, crop.full_height), ("width", crop.width, crop.full_width),
        )
    )  # fmt: skip
    return (
        f'<figure class="where"><div><img src="{data_uri(thumbnail)}" width="{width}" '
        f'height="{height}" alt="The whole frame as it came, shrunk"><span style="{outline}">'
        "</span></div><figcaption>The whole frame as it came, shrunk; the outline is what the "
        "viewer shows.</figcaption></figure>"
    )


def _what(found: Preview, crop: Crop) -> str:
    count = "One moment" if len(found.frames) == 1 else f"{len(found.frames)} moments"
    cut = "" if crop.is_whole else (
        f", of each the middle {crop.width}x{crop.height} of {crop.full_width}x{crop.full_height} "
        "pixels, to keep this file small"
    )  # fmt: skip
    return f"{count} by every choice, lossless{cut}."


def _commands(found: Preview) -> str:
    items = "".join(
        "<li><code>"
        + " ".join(f"<span>{escape(word)}</span>" for word in command_of(found, choice))
        + "</code></li>"
        for choice in found.choices[1:]
    )
    return f'<ul class="commands">{items}</ul>'


def _method(found: Preview) -> str:
    here = machine.inspect()
    timed = ", ".join(f"{c.measured.timed} with {c.name}" for c in found.choices)
    alone = ", ".join(f"{1000 * c.measured.step_s:.0f} ms with {c.name}" for c in found.choices[1:])
    how = (
        f"Frames were decoded, enlarged and encoded ({CODEC}, preset {USUAL.preset}, crf "
        f"{USUAL.crf:g}) at the same time, as teco upscale does it, after {WARM} that were not "
        f"timed and with the encoder already full ({lookahead(CODEC, USUAL.preset)} frames); the "
        f"frames timed were {timed}, at least {LEAST} where there were more than one. The network "
        f"alone takes {alone} a frame. A time for the whole supposes that the rest is like this "
        "moment and that the machine is as busy as now; networks that differ in their weights "
        "alone are given one time."
    )
    facts = [
        ("CPU", f"{here.cpu}, {here.cores} cores, {here.memory_gib:.0f} GiB"),
        ("GPU", ", ".join(here.gpus)),
        ("packages", ", ".join(f"{k} {v}" for k, v in here.packages.items())),
    ]
    told = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts if v)
    return f'<p>{escape(how)}</p><dl class="facts">{told}</dl>'


def _listed(parts: Sequence[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
