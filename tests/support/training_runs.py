"""Small trainings for tests: footage, networks, and ways to end a run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from teco.training.init import initialise
from teco_models.arch.generator import Generator
from teco_models.variant import Variant


def of_scale(variant: Variant, s: int) -> dict[str, torch.Tensor]:
    """Weights of a network like ``variant``, but for another scale than 4."""
    state = Generator(variant).state_dict()
    first = state["srnet.conv_in.0.weight"]
    others = first.shape[1] - 48
    state["srnet.conv_in.0.weight"] = torch.rand(first.shape[0], others + 3 * s * s, 3, 3)
    if variant.tail == "shuffle":
        for part, shape in (("weight", (variant.channels, 3, 3)), ("bias", ())):
            state[f"srnet.conv_shuffle.{part}"] = torch.rand(3 * s * s, *shape)
    return state


def footage(frames: int = 12, height: int = 96, width: int = 112, seed: int = 0) -> np.ndarray:
    """(N, H, W, 3) of a texture that moves by (2, 1) pixels a frame."""
    import cv2

    rng = np.random.default_rng(seed)
    texture = rng.random((height + 2 * frames, width + 2 * frames, 3)).astype(np.float32)
    texture = cv2.GaussianBlur(texture, (0, 0), 1.5)
    texture = 255 * (texture - texture.min()) / (texture.max() - texture.min())
    views = [texture[t : t + height, 2 * t : 2 * t + width] for t in range(frames)]
    return np.stack(views).astype(np.uint8)


def kill_in(stage: str, process: subprocess.Popen[bytes], checkpoint: Path) -> None:
    """SIGKILL at a random moment of a stage: after one of its first three checkpoints that are
    seen, before the next one is due. ``TECO_KILL_SEED`` repeats a choice; pytest shows it when the
    test fails."""
    seed = int(os.environ.get("TECO_KILL_SEED") or random.SystemRandom().randrange(10**6))
    print(f"TECO_KILL_SEED={seed}")
    rng = random.Random(seed)
    wanted = 1 + rng.randrange(3)
    deadline = time.monotonic() + 120
    known, seen, went_on, interval = 0, 0, 0.0, 0.0
    try:
        while seen < wanted:
            assert process.poll() is None, f"it was over before {stage} was seen {wanted} times"
            assert time.monotonic() < deadline
            time.sleep(0.001)
            if not checkpoint.exists() or checkpoint.stat().st_mtime_ns == known:
                continue
            # Reading it takes longer than an iteration, of which there are few.
            process.send_signal(signal.SIGSTOP)
            # Before the first one it started up.
            interval = time.monotonic() - went_on if went_on else 0.05
            known = checkpoint.stat().st_mtime_ns
            here = place_of(checkpoint)
            seen += here[0] == stage and here[1] > 0
            process.send_signal(signal.SIGCONT)
            went_on = time.monotonic()
        delay = rng.random() * interval
        time.sleep(delay)
        process.kill()
        print(f"killed {delay:.3f} s after the checkpoint of {here}")
        assert process.wait() == -signal.SIGKILL, "it was over before it was killed"
        assert place_of(checkpoint)[0] == stage
    finally:
        process.kill()  # whatever failed, it must not go on beside the tests that follow


def assert_went_alike(
    one: Mapping[str, torch.Tensor],
    two: Mapping[str, torch.Tensor],
    start: Mapping[str, torch.Tensor],
    share: float,
) -> None:
    """Two trainings differ by at most a share of what the first changed.

    Adam divides a gradient by its own size, so single values whose gradient is all rounding may go
    either way; over the network as a whole the two must have gone the same way.
    """
    a, b, began = (torch.cat([d[k].flatten() for k in one]) for d in (one, two, start))
    changed = float((a - began).norm())
    assert changed > 0
    assert float((a - b).norm()) <= share * changed


def untrained() -> dict[str, torch.Tensor]:
    """Where :func:`train_command` starts."""
    generator = Generator(Variant.parse(TINY))
    initialise(generator, 0)
    return generator.state_dict()


TINY = "teco-x4-b1-c16-f8-shuffle"


def place_of(checkpoint: Path) -> tuple[str, int]:
    """Stage and iteration."""
    state = torch.load(checkpoint, weights_only=True)
    return state["stage"], state["iteration"]
