"""What encoders want to be told, what they run on, and what memory they take."""

from __future__ import annotations

import os
from dataclasses import dataclass

from teco.core.errors import TecoError
from teco.core.names import did_you_mean

PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow",
)  # fmt: skip

_DEVICES = {
    "_nvenc": "an NVIDIA GPU with an encoder",
    "_qsv": "an Intel GPU",
    "_vaapi": "a GPU with a VA-API driver",
    "_amf": "an AMD GPU",
    "_videotoolbox": "a Mac",
    "_v4l2m2m": "a Video4Linux encoder",
    "_mf": "Windows' Media Foundation",
}
"""Ends of encoders' names -> what they run on."""

_LOOKAHEAD = {
    "libx264": (0, 0, 10, 20, 30, 40, 50, 60, 60),
    "libx265": (5, 10, 15, 15, 15, 20, 25, 40, 40),
}
"""Frames that an encoder holds before it decides on one, by preset (x264 --fullhelp, x265's
documentation)."""

_SHORTEST = {"libx265": (4, 4, 5, 5, 5, 5, 5, 9, 9)}
"""Frames that an encoder must look ahead: x265 one more than it has B-frames in a row."""

BYTES_AHEAD = 3.25
"""Bytes a pixel of each frame that is looked ahead: measured at 3840x2160 with x264, 40, 10 and 5
frames of it: 176, 80 and 63 bytes a pixel in all."""

_BYTES = {"libx264": 47.0, "libx265": 128.0}
"""Bytes a pixel without looking ahead, from the same runs; x265 from one of medium, 193 in all."""

_BYTES_FASTEST = 22.0
"""Of x264's ultrafast, which filters nothing and refers to one frame."""

_BYTES_OTHERS = 100.0
"""Assumed of encoders that were not measured."""


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """What is asked of the encoder of an output.

    Attributes:
        codec: libav's name of it; None for the usual one of the output's container.
        crf: quality where the encoder knows it, lower is better.
        preset: one of :data:`PRESETS`, where the encoder knows it.
        pix_fmt: such as yuv420p, yuv444p, yuv420p10le.
    """

    codec: str | None = None
    crf: float = 16
    preset: str = "medium"
    pix_fmt: str = "yuv420p"

    def codec_for(self, suffix: str) -> str:
        """The encoder of a video file whose name ends so, such as ".webm"."""
        return self.codec or ("libvpx-vp9" if suffix.lower() == ".webm" else "libx264")


USUAL = EncoderSettings()
"""What is asked where nothing is said."""


_CALLED = {
    "h264": "libx264", "avc": "libx264", "h265": "libx265", "hevc": "libx265", "av1": "libsvtav1",
    "vp9": "libvpx-vp9", "vp8": "libvpx", "prores": "prores_ks", "nvenc": "h264_nvenc",
}  # fmt: skip
"""What formats are called -> an encoder of theirs, by its name in libavcodec."""


def encoder_meant(word: str) -> str:
    """As :func:`teco.core.names.did_you_mean`, of encoders, by the names of formats too."""
    plain = word.lower().replace(".", "").replace("-", "").replace("_", "").replace("x26", "h26")
    if plain in _CALLED:
        return f"did you mean {_CALLED[plain]}? "
    return did_you_mean(word, (*_CALLED.values(), "ffv1", "mpeg4", "hevc_nvenc", "av1_nvenc"))


def device_of(codec: str) -> str | None:
    """What a hardware encoder runs on, such as "a Mac"; None for software."""
    return next((what for end, what in _DEVICES.items() if codec.endswith(end)), None)


def lookahead(codec: str, preset: str) -> int:
    """Frames that an encoder looks ahead; 0 where that is not known."""
    return _LOOKAHEAD[codec][PRESETS.index(preset)] if codec in _LOOKAHEAD else 0


def encoder_bytes(codec: str, preset: str, width: int, height: int, ahead: int) -> int:
    """Memory that an encoder takes for pictures of this size, looking ahead by so many frames."""
    if device_of(codec):
        return 0
    each = _BYTES.get(codec, _BYTES_OTHERS)
    if codec == "libx264" and preset == "ultrafast":
        each = _BYTES_FASTEST
    return round(width * height * (each + BYTES_AHEAD * ahead))


def lookahead_within(codec: str, preset: str, width: int, height: int, room: int) -> int:
    """The longest lookahead, at most the preset's, for which an encoder takes no more than ``room``
    bytes; at least what the encoder cannot do without."""
    usual = lookahead(codec, preset)
    least = _SHORTEST[codec][PRESETS.index(preset)] if codec in _SHORTEST else 0
    over = encoder_bytes(codec, preset, width, height, usual) - room
    return max(least, min(usual, usual - -(-over // round(width * height * BYTES_AHEAD))))


def encoder_options(codec: str, settings: EncoderSettings) -> dict[str, str]:
    """Quality and speed in the words of the encoder; none for encoders we do not know.

    Args:
        codec: libav's name; the settings may name none.
        settings: ``crf`` and ``preset`` of them.

    Raises:
        TecoError: the quality or the preset is none that there is; exit code 2.
    """
    crf, preset = settings.crf, settings.preset
    if preset not in PRESETS:
        raise TecoError(
            f"the preset is {preset}, expected one of {', '.join(PRESETS)}", exit_code=2
        )
    highest = 63 if codec in ("libvpx-vp9", "libsvtav1") else 51
    if not 0 <= crf <= highest:
        raise TecoError(f"the quality is {crf:g}, {codec} takes 0 (best) to {highest}", exit_code=2)
    pace = PRESETS.index(preset)
    quality = f"{crf:g}"
    if codec == "libx265":
        return {"crf": quality, "preset": preset, "x265-params": "log-level=error"}
    if codec.startswith("libx264"):
        return {"crf": quality, "preset": preset}
    if codec == "libvpx-vp9":
        pace = max(0, 8 - pace)
        return {
            "crf": quality,
            "b": "0",
            "deadline": "good",
            "cpu-used": f"{min(pace, 5)}",
            "row-mt": "1",
        }
    if codec == "libsvtav1":
        # The encoder talks on standard error unless its own variable forbids it.
        os.environ.setdefault("SVT_LOG", "1")
        return {"crf": quality, "preset": f"{12 - pace}"}
    if codec.endswith("_nvenc"):
        return {"rc": "vbr", "cq": quality, "b": "0", "preset": f"p{max(1, min(7, pace))}"}
    return {}
