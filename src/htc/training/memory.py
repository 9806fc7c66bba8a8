"""How much memory there is, and how much was used."""

import os
import sys

import torch

GIB = 2**30


def total_memory(device: torch.device) -> float | None:
    """GiB of the device: a GPU's own, else the machine's; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / GIB
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB


def peak_memory(device: torch.device) -> float | None:
    """GiB in use at the most since the process began: on the GPU, else resident in the machine; None where the
    system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / GIB if sys.platform == "darwin" else most * 1024 / GIB
