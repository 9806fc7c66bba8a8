"""Under what a number is measured."""

from dataclasses import dataclass
from typing import Literal

import torch

from htc.benchmark.measuring import Clock

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Setting:
    """Input size (height, width), threads, precision, device name, and how often each measurement is repeated."""

    size: tuple[int, int]
    threads: int
    precision: Precision
    device: str
    repeats: int

    @property
    def dtype(self) -> torch.dtype:
        """The network's."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    @property
    def torch_device(self) -> torch.device:
        """Where the network computes."""
        return torch.device(self.device)

    @property
    def clock(self) -> Clock:
        """Processor time of one thread, wall time of several or of an accelerator."""
        return Clock(self.threads, self.torch_device)
