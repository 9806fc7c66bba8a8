"""Processes that train one model: how they meet, and the collective operations that training needs.

With one process, every function returns at once.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from htc.config import Config
from htc.errors import ConfigError, HTCError, ReportedElsewhereError
from htc.ranks import here

_T = TypeVar("_T")
PATIENCE = timedelta(hours=2)
"""How long a process waits for another, which may be converting data or measuring."""


def join_processes(device: str) -> None:
    """Meets the other processes that the environment names; `device` is cpu or cuda. Does nothing alone or when they
    have met.

    Raises `ConfigError` if this machine has fewer GPUs than processes.
    """
    ranks = here()
    if ranks.ranks == 1 or dist.is_initialized():
        return
    if device == "cuda":
        if ranks.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"{ranks.local_ranks} processes on a machine with {torch.cuda.device_count()} GPUs: give each its "
                f"own, as --devices says"
            )
        torch.cuda.set_device(ranks.local_rank)
    if "RANK" not in os.environ:  # SLURM: say what it says in the words that torch and Lightning read
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        slurm = SLURMEnvironment(auto_requeue=False)
        os.environ |= {"MASTER_ADDR": slurm.main_address, "MASTER_PORT": str(slurm.main_port)}
        os.environ |= {"RANK": str(ranks.rank), "WORLD_SIZE": str(ranks.ranks)}
        os.environ |= {"LOCAL_RANK": str(ranks.local_rank), "LOCAL_WORLD_SIZE": str(ranks.local_ranks)}
    os.environ.setdefault("GROUP_RANK", str(ranks.rank // ranks.local_ranks))
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)


@contextmanager
def joined(device: str) -> Iterator[None]:
    """`join_processes`, and parting at the end."""
    join_processes(device)
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if count() > 1 else 0


def leaves_parameters_unused(config: Config) -> bool:
    """Whether some trained parameters of this configuration's detector receive no gradient.

    With `semantic_fusion: none`, the semantic branch is trained for its loss alone and its embedding, which would feed
    the heads, is not part of the graph. It stays in the model: state dicts and the optimizer state of checkpoints list
    it. No other variant has such parameters; `tests/training/test_distributed_variants.py` trains each of them.
    """
    return config.semantic is not None and config.cascade.semantic_fusion == "none"


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


def gathered(value: _T) -> list[_T]:
    """The values of all processes, in their order, on each."""
    if count() == 1:
        return [value]
    values: list[_T | None] = [None] * count()
    dist.all_gather_object(values, value)
    return values  # pyright: ignore[reportReturnType] - filled by now


def by_first(work: Callable[[], _T]) -> _T:
    """What `work`, done by the first process alone, gives; on each.

    An `HTCError` there is raised on every process, as `ReportedElsewhereError` on the others.
    """
    if count() == 1:
        return work()
    error: HTCError | None = None
    answer: list[tuple[bool, _T | str | None]] = [(True, None)]
    if rank() == 0:
        try:
            answer = [(True, work())]
        except HTCError as failure:
            error, answer = failure, [(False, str(failure))]
    dist.broadcast_object_list(answer, src=0)
    done, value = answer[0]
    if error is not None:
        raise error
    if not done:
        raise ReportedElsewhereError(str(value))
    return value  # pyright: ignore[reportReturnType] - what `work` gave
