"""Rank and world size of this process, from the environment variables of torchrun, SLURM's srun or `htc train
--devices`. Needs no torch.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """Rank of this process among the processes of a distributed training."""

    rank: int = 0
    """Global rank, from 0."""
    ranks: int = 1
    local_rank: int = 0
    """Rank on this machine, from 0: the index of this process's GPU."""
    local_ranks: int = 1

    @property
    def nodes(self) -> int:
        """Number of machines."""
        return self.ranks // self.local_ranks


def here(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Read the ranks from the environment; a single process if they are not set.

    SLURM's variables are used only within a step (`srun`): the batch script has them too, but runs once.
    """
    if {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"} <= environment.keys():
        return Ranks(*(int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))
    if {"SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"} <= environment.keys():
        ranks, nodes = int(environment["SLURM_NTASKS"]), int(environment.get("SLURM_NNODES", "1"))
        return Ranks(int(environment["SLURM_PROCID"]), ranks, int(environment["SLURM_LOCALID"]), ranks // nodes)
    return Ranks()
