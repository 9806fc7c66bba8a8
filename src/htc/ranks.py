"""Which of several processes this one is, as torchrun, SLURM's srun or `htc train --devices` say in the environment.
Needs no torch.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """This process among those that train one model together."""

    rank: int = 0
    """Of all processes, from 0."""
    ranks: int = 1
    local_rank: int = 0
    """Of those on this machine, from 0: which of its GPUs is this process's."""
    local_ranks: int = 1

    @property
    def nodes(self) -> int:
        """Machines."""
        return self.ranks // self.local_ranks


def here(environment: Mapping[str, str] = os.environ) -> Ranks:
    """What the environment says; one process alone if it says nothing.

    SLURM's variables count within a step only (`srun`): the batch script has them too, but runs once.
    """
    if {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"} <= environment.keys():
        return Ranks(*(int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))
    if {"SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"} <= environment.keys():
        ranks, nodes = int(environment["SLURM_NTASKS"]), int(environment.get("SLURM_NNODES", "1"))
        return Ranks(int(environment["SLURM_PROCID"]), ranks, int(environment["SLURM_LOCALID"]), ranks // nodes)
    return Ranks()
