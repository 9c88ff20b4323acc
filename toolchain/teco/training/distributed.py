"""Several processes on one model: what torchrun says, and gradients that are the whole batch's.

Each process takes an equal part of the batch, and every loss is a mean over its part, so the mean
of the processes' gradients, which DistributedDataParallel forms, is the gradient of the whole
batch. The one thing that would differ is batch normalisation, whose statistics are therefore taken
over all processes.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from teco.core.errors import TecoError

TIMEOUT = timedelta(minutes=60)
"""The other processes wait while the first one validates."""


@dataclass(frozen=True)
class Processes:
    """This process among its peers.

    Attributes:
        rank: from 0; process 0 logs, validates and saves.
        world: how many there are.
        local_rank: among those of this machine; the index of its GPU.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def mean(self, value: float) -> float:
        """Mean of a number over all processes, the same in each."""
        if self.world == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        if dist.get_backend() == "nccl":
            tensor = tensor.float().cuda()
        dist.all_reduce(tensor)
        return float(tensor) / self.world

    def any(self, value: bool) -> bool:
        """Whether it holds in any process."""
        return self.mean(float(value)) > 0


@contextmanager
def process_group(device: str) -> Generator[Processes]:
    """The processes torchrun started, connected; a single one where it did not.

    Args:
        device: ``"cuda"`` connects by NCCL, one GPU each, anything else by Gloo.

    Raises:
        TecoError: the processes cannot be connected.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Processes()
        return
    here = Processes(
        int(os.environ["RANK"]),
        int(os.environ["WORLD_SIZE"]),
        int(os.environ.get("LOCAL_RANK", "0")),
    )
    backend = "nccl" if device == "cuda" else "gloo"
    try:
        if device == "cuda":
            torch.cuda.set_device(here.local_rank)
        dist.init_process_group(backend, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise TecoError(
            f"the training processes could not be connected: {str(error).splitlines()[0]}",
            hint="start them with torchrun --nproc-per-node N -m teco train ...",
        ) from error
    try:
        yield here
        # Together, because process 0 hosts the store: one that lost it while it was still at work
        # was seen to abort on its way out ("terminate called without an active exception").
        dist.barrier()
    finally:
        dist.destroy_process_group()


@contextmanager
def wait_for_first(processes: Processes) -> Generator[None]:
    """Process 0 goes first, the others after it: what it decodes, they find decoded."""
    if processes.world > 1 and not processes.first:
        dist.barrier()
    yield
    if processes.world > 1 and processes.first:
        dist.barrier()


def parallel(module: nn.Module, processes: Processes) -> nn.Module:
    """``module`` with its gradients averaged over the processes."""
    if processes.world == 1:
        return module
    # Buffers are constants and statistics that are the same everywhere already; broadcasting them
    # before each call would change, in place, what an earlier call's gradient needs.
    ddp: Any = nn.parallel.DistributedDataParallel
    # torch 2.14 calls it by another name. No device_ids: inputs lie on this process's GPU already.
    new = "forward_sync_buffers" in inspect.signature(ddp).parameters
    option = "forward_sync_buffers" if new else "broadcast_buffers"
    return cast(nn.Module, ddp(module, **{option: False}))


class _Sum(torch.autograd.Function):
    """Sum of a tensor over all processes; its gradient is the sum of theirs.

    torch's own differentiable all-reduce is deprecated, and what replaces it is private.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        total = grad_outputs[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def _sum(x: Tensor) -> Tensor:
    total: Any = _Sum.apply(x)  # pyright: ignore[reportUnknownMemberType]
    return cast(Tensor, total)


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the batches of all processes.

    torch's SyncBatchNorm does the same on GPUs only. The sums' gradients are summed in turn, so the
    result is that of one process with the whole batch. Every process must hold an equal part.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(M, C, H, W) -> the same shape."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        world = dist.get_world_size()
        count = x.shape[0] * x.shape[2] * x.shape[3] * world
        mean = _sum(x.sum(dim=(0, 2, 3))) / count
        centred = x - mean.view(1, -1, 1, 1)
        variance = _sum(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        y = centred * torch.rsqrt(variance + self.eps).view(1, -1, 1, 1)
        y = y * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return y.to(input.dtype)


def share_batch_norm(module: nn.Module) -> None:
    """Replace every BatchNorm2d inside by one over all processes, keeping its tensors' names."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            shared = SharedBatchNorm(child.num_features, child.eps, child.momentum)
            shared.to(child.weight.device, child.weight.dtype)
            shared.load_state_dict(child.state_dict())
            setattr(module, name, shared)
        else:
            share_batch_norm(child)
