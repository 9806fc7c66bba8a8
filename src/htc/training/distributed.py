"""Distributed training: the process group and the collective operations that training needs.

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
"""Timeout of collective operations: another process may be converting data or evaluating."""


def join_processes(device: str) -> None:
    """Join the process group that the environment describes; `device` is cpu or cuda. Does nothing for a single
    process or if the group exists.

    Raises `ConfigError` if this machine has fewer GPUs than processes.
    """
    ranks = here()
    if ranks.ranks == 1 or dist.is_initialized():
        return
    if device == "cuda":
        if ranks.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"{ranks.local_ranks} processes on a machine with {torch.cuda.device_count()} GPUs: each process needs "
                f"its own GPU; start at most {torch.cuda.device_count()} (--devices)"
            )
        torch.cuda.set_device(ranks.local_rank)
    if "RANK" not in os.environ:  # SLURM: translate its variables into those that torch and Lightning read
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        slurm = SLURMEnvironment(auto_requeue=False)
        os.environ |= {"MASTER_ADDR": slurm.main_address, "MASTER_PORT": str(slurm.main_port)}
        os.environ |= {"RANK": str(ranks.rank), "WORLD_SIZE": str(ranks.ranks)}
        os.environ |= {"LOCAL_RANK": str(ranks.local_rank), "LOCAL_WORLD_SIZE": str(ranks.local_ranks)}
    os.environ.setdefault("GROUP_RANK", str(ranks.rank // ranks.local_ranks))
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the process group as `join_processes` does, and leave it at the end of the block."""
    join_processes(device)
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def count() -> int:
    """Return the world size: 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if count() > 1 else 0


def leaves_parameters_unused(config: Config) -> bool:
    """Return whether some trained parameters of this configuration's detector receive no gradient.

    With `semantic_fusion: none`, only the loss of the semantic branch is used, and its embedding, which would feed the
    heads, is not part of the graph. It stays in the model because state dicts and the optimizer state of checkpoints
    contain it. No other variant has such parameters; `tests/training/test_distributed_variants.py` trains each of them.
    """
    return config.semantic is not None and config.cascade.semantic_fusion == "none"


def summed(values: Tensor) -> Tensor:
    """Sum a tensor over all processes (all-reduce), without gradient."""
    total = values.detach().clone()
    if count() > 1:
        dist.all_reduce(total)
    return total


def any_of(*flags: bool) -> tuple[bool, ...]:
    """Combine each flag over all processes with a logical or."""
    if count() == 1:
        return flags
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return tuple(value > 0 for value in summed(torch.tensor(flags, dtype=torch.int64, device=device)).tolist())


def gathered(value: _T) -> list[_T]:
    """Gather the values of all processes, in the order of their ranks, on every process."""
    if count() == 1:
        return [value]
    values: list[_T | None] = [None] * count()
    dist.all_gather_object(values, value)
    return values  # pyright: ignore[reportReturnType] - filled by now


def by_first(work: Callable[[], _T]) -> _T:
    """Run `work` on the first process only and return its result on every process.

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
    return value  # pyright: ignore[reportReturnType] - the result of `work`
