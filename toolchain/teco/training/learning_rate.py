"""The learning rate as a function of the iteration."""

from __future__ import annotations

import math

from teco.training.options import Stage, TrainOptions


def learning_rate_share(options: TrainOptions, stage: Stage, iteration: int) -> float:
    """Share of the peak learning rate at an iteration, in (0, 1].

    Args:
        options: the run's.
        stage: whose schedule.
        iteration: iterations of the stage that are done, from 0.
    """
    o, total = options, options.total(stage)
    share = 1.0
    if o.schedule == "cosine":
        share = o.lr_floor + (1 - o.lr_floor) * 0.5 * (1 + math.cos(math.pi * iteration / total))
    elif o.schedule == "steps" and stage == "recurrent":
        share = 0.5 ** sum(iteration >= milestone for milestone in o.milestones)
    if o.cool_down and o.schedule != "cosine":
        left = min(1.0, (total - iteration) / o.cool_down)
        share *= o.lr_floor + (1 - o.lr_floor) * left
    return share * min(1.0, (iteration + 1) / max(o.warm_up, 1))
