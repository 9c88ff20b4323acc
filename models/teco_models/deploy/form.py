"""The deploy form of either generator, and the rewrites that suit a runtime."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace

from torch import nn

from teco_models.arch.computed_alignment import AlignedGenerator
from teco_models.arch.generator import Generator
from teco_models.deploy.aligned import ALIGNED_TARGETS, AlignedRewrites, aligned_step
from teco_models.deploy.step import (
    TARGETS,
    EngineRewrites,
    Precision,
    Rewrites,
    deploy_step,
)
from teco_models.errors import ModelError
from teco_models.variant import Variant

AnyRewrites = Rewrites | AlignedRewrites


def rewrites_for(
    variant: Variant, target: str, without: Iterable[str] = (), *, int8: bool = False
) -> AnyRewrites:
    """What measured fastest on a runtime.

    Args:
        variant: decides which rewrites there are.
        target: a key of :data:`teco_models.deploy.step.TARGETS`.
        without: names of rewrites to switch off.
        int8: whether convolutions will be quantised.

    Raises:
        ModelError: there is no rewrite of that name.
    """
    off = dict.fromkeys(without, False)
    found: AnyRewrites = TARGETS[target]
    if variant.computed_alignment:
        found = ALIGNED_TARGETS[target]
    elif int8 and isinstance(found, EngineRewrites):
        # Nothing tells before it runs whether a quantised transposed convolution is one in int8,
        # and convolutions are; so in int8 the phases are worth their reads.
        found = replace(found, phase_up=True, phase_tail=True)
    known = [field.name for field in fields(found)]
    if odd := [name for name in off if name not in known]:
        raise ModelError(
            f"{variant.name} has no rewrite {odd[0]!r}", hint=f"it has {', '.join(known)}"
        )
    return replace(found, **off)


def deploy_form(
    generator: Generator | AlignedGenerator, rewrites: AnyRewrites, precision: Precision = "fp32"
) -> nn.Module:
    """The deploy form of a generator's step, in eval mode; arguments as of
    :func:`teco_models.deploy.step.deploy_step`."""
    if isinstance(generator, Generator):
        assert isinstance(rewrites, Rewrites)
        return deploy_step(generator, rewrites, precision)
    assert isinstance(rewrites, AlignedRewrites)
    return aligned_step(generator, rewrites, precision)
