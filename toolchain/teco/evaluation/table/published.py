"""Published figures, each with where it stands and under which conditions. None is ours.

Two tables: the one of the study that this project starts from (its table 3), and the figures on
Vid4 and ToS3 under BD that follow the official TecoGAN metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from teco_models.variant import Variant

STUDY = (
    'Kim, Lee, Park: "A Study on Lightweight and Optimizing with Generative Adversarial Network '
    'Based Video Super-resolution Model", Kyungpook National University, table 3'
)
STUDY_CONDITIONS = (
    "x4, Gaussian blur then subsampling; trained on REDS for 300,000 iterations a model, tested on "
    "ToS3 and Vid4; which of the two, and which average, the figures are of is not stated here"
)
STUDY_BLOCKS_NOTE = (
    "Blocks: the study's text prunes to 9, 7, 5, 3 and 1; its table 3 has vanilla TecoGAN, the "
    "PyTorch port's network of 10 blocks, and 7, 5, 3 and 1, and no row for 9."
)
STUDY_NOTE = (
    "The parameter column of the published table cannot come from removing blocks: one block is "
    "73,856 parameters and the flow network alone 1,745,506, which is more than 1.6 M and 1.3 M "
    "allow for. 2.5 M fits 10 blocks cut off (2,589,093) and 9 rounded (2,515,237). Ours are "
    "counted."
)
OFFICIAL_SOURCE = (
    "Chu et al., Learning Temporal Coherence via Self-Supervision for GAN-based Video Generation, "
    "ACM TOG 39(4), 2020; github.com/thunil/TecoGAN"
)
PORT_SOURCE = "github.com/skycrapers/TecoGAN-PyTorch, benchmark"
EGVSR_SOURCE = "github.com/Thmen/EGVSR, benchmarks"
BD_CONDITIONS = "x4, BD (Gaussian sigma 1.5, every fourth pixel), official TecoGAN metrics"

Tail = Literal["transposed", "egvsr"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published row.

    Attributes:
        method: as its authors call it, with its residual blocks.
        test_set: ``Vid4``, ``ToS3``, or ``study`` for the study's own table.
        source: where it stands.
        conditions: under which it was measured.
        blocks: residual blocks of 64 channels.
        tail: how it enlarges, see :class:`teco_models.variant.Variant`.
        params_m: million parameters as printed; None where none are.
        values: metric -> figure, in the units of :data:`teco_calibration.metrics.quality.UNITS`.
        digits: decimals that figures are printed with, but PSNR, which has two.
        average: over frames or over folders; None where the source does not say.
    """

    method: str
    test_set: str
    source: str
    conditions: str
    blocks: int
    tail: Tail = "transposed"
    params_m: float | None = None
    values: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    digits: int = 3
    average: Literal["frame", "folder"] | None = None

    def is_like(self, variant: Variant) -> bool:
        """Whether a variant has the blocks, widths, tail and degradation of this row.

        It may have back-projection and a refined flow besides, which its name says.
        """
        return (
            variant.blocks == self.blocks
            and (variant.channels, variant.flow_channels) == (64, 32)
            and variant.tail == self.tail
            and variant.degradation == "bd"
        )

    def differs_from(self, variant: Variant) -> tuple[str, ...]:
        """In what a variant that :meth:`is_like` this row is not the published network, in words.

        Empty where the network is the same; what it was trained on no variant says.
        """
        parts = {
            "back-projection": variant.back_projection,
            "a Lucas-Kanade step": variant.lucas_kanade,
            "normalised flow inputs": variant.flow_norm != "raw",
        }
        return tuple(name for name, has in parts.items() if has)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, marked as published."""
        return {
            "published": True,
            "method": self.method,
            "set": self.test_set,
            "source": self.source,
            "conditions": self.conditions,
            "blocks": self.blocks,
            "tail": self.tail,
            "params_m": self.params_m,
            "average": self.average,
            "values": dict(self.values),
        }


def _study(
    method: str, blocks: int, params: float, psnr: float, lpips: float, tof: float
) -> Published:
    return Published(
        method=method,
        test_set="study",
        source=STUDY,
        conditions=STUDY_CONDITIONS,
        blocks=blocks,
        params_m=params,
        values=MappingProxyType({"psnr": psnr, "lpips": lpips, "tof": tof}),
        digits=4,
    )


STUDY_ROWS: tuple[Published, ...] = (
    _study("Vanilla TecoGAN (10 blocks)", 10, 2.5, 30.75, 0.0901, 0.2677),
    _study("7 blocks", 7, 2.2, 30.34, 0.0836, 0.2605),
    _study("5 blocks", 5, 1.9, 29.88, 0.0984, 0.3460),
    _study("3 blocks", 3, 1.6, 29.85, 0.1130, 0.3843),
    _study("1 block", 1, 1.3, 29.78, 0.1020, 0.3434),
)


def _bd(
    method: str,
    test_set: str,
    source: str,
    blocks: int,
    figures: tuple[float, float, float, float],
    tail: Tail = "transposed",
    average: Literal["frame"] | None = None,
) -> Published:
    """``figures``: PSNR, LPIPS, tOF, tLP."""
    return Published(
        method=method,
        test_set=test_set,
        source=source,
        conditions=BD_CONDITIONS,
        blocks=blocks,
        tail=tail,
        values=MappingProxyType(dict(zip(("psnr", "lpips", "tof", "tlp"), figures, strict=True))),
        average=average,
    )


_FRVSR, _TECO = "FRVSR (official)", "TecoGAN (official, {} blocks)"
_PORT = "TecoGAN (PyTorch port, 10 blocks)"
_EGVSR = "EGVSR (10 blocks)"

# FRVSR's blocks: note 2 of the port's benchmark. EGVSR's: experiments_BD/EGVSR/001/test.yml.
SET_ROWS: tuple[Published, ...] = (
    _bd(_FRVSR, "Vid4", OFFICIAL_SOURCE, 10, (26.91, 0.251, 0.209, 0.957)),
    _bd(_TECO.format(10), "Vid4", OFFICIAL_SOURCE, 10, (25.89, 0.174, 0.208, 0.718)),
    _bd(_TECO.format(16), "Vid4", OFFICIAL_SOURCE, 16, (25.57, 0.162, 0.190, 0.668)),
    _bd(_PORT, "Vid4", PORT_SOURCE, 10, (26.01, 0.152, 0.194, 0.515), average="frame"),
    _bd(_EGVSR, "Vid4", EGVSR_SOURCE, 10, (25.84, 0.138, 0.188, 0.447), tail="egvsr"),
    _bd(_FRVSR, "ToS3", OFFICIAL_SOURCE, 10, (34.01, 0.145, 0.145, 0.541)),
    _bd(_TECO.format(16), "ToS3", OFFICIAL_SOURCE, 16, (32.75, 0.108, 0.133, 0.661)),
    _bd(_PORT, "ToS3", PORT_SOURCE, 10, (33.26, 0.090, 0.136, 0.205), average="frame"),
    _bd(_EGVSR, "ToS3", EGVSR_SOURCE, 10, (31.89, 0.121, 0.138, 0.221), tail="egvsr"),
)


def rows_for(test_set: str) -> tuple[Published, ...]:
    """The published rows on an official set; none for any other."""
    return tuple(row for row in SET_ROWS if row.test_set == test_set)
