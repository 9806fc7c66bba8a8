"""Devices by name, checked for availability."""

import torch

from htc.devices import parse_device
from htc.errors import ConfigError


def choose_device(device: str | int | torch.device = "auto") -> torch.device:
    """Return the device with this name and index.

    `device` is "auto" (CUDA if there is one, else the CPU; Apple's MPS is not tested), "cpu", "cuda", "cuda:N", N,
    "mps" or a `torch.device`. Raises `ConfigError` for an unknown name and for a device that is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = device if isinstance(device, torch.device) else parse_device(device)
    if name == "auto":
        return torch.device("cuda" if available["cuda"] else "cpu")
    requested = torch.device(name)
    if not available.get(requested.type, True) or (
        requested.type == "cuda" and (requested.index or 0) >= torch.cuda.device_count()
    ):
        present = ", ".join(kind for kind, is_available in available.items() if is_available)
        raise ConfigError(
            f"device {str(requested)!r} is not available: torch {torch.__version__} can use {present} on this machine"
        )
    return requested
