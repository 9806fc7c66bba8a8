"""Several processes that train one model together: what they tell each other. Alone, every function here is its own answer."""

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Kind = TypeVar("Kind")


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if count() > 1 else 0


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, the same on each; without gradient."""
    total = values.detach().clone()
    if count() > 1:
        dist.all_reduce(total)
    return total


def any_of(*flags: bool) -> tuple[bool, ...]:
    """Each flag as true everywhere as soon as it is true on one process."""
    if count() == 1:
        return flags
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return tuple(value > 0 for value in summed(torch.tensor(flags, dtype=torch.int64, device=device)).tolist())


def gathered(value: Kind) -> list[Kind]:
    """The values of all processes, in their order, on each."""
    if count() == 1:
        return [value]
    values: list[Kind | None] = [None] * count()
    dist.all_gather_object(values, value)
    return values  # pyright: ignore[reportReturnType] - filled by now
