"""Devices by name, checked against what this machine has."""

import torch

from htc.devices import parse_device
from htc.errors import ConfigError


def choose_device(device: str | int | torch.device = "auto") -> torch.device:
    """The device of that name, its index included.

    `device` is "auto" (CUDA if there is one, else the CPU: nobody has tried Apple's MPS), "cpu", "cuda", "cuda:N", N,
    "mps" or a `torch.device`. Raises `ConfigError` for an unknown name and for a device that this machine does not
    have.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = device if isinstance(device, torch.device) else parse_device(device)
    if name == "auto":
        return torch.device("cuda" if available["cuda"] else "cpu")
    wanted = torch.device(name)
    if not available.get(wanted.type, True) or (
        wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count()
    ):
        there = ", ".join(kind for kind, found in available.items() if found)
        raise ConfigError(
            f"device {str(wanted)!r} is not available: torch {torch.__version__} has {there}; give one of these"
        )
    return wanted
