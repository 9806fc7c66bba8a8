"""Measurement of time, operations and peak throughput, and the conditions of a measurement.

Tasks that are compared run alternately with repetitions, and the ratio is the median over the pairs, so that other load
on the machine affects both sides alike.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from htc.config import Precision

Result = TypeVar("Result")
PEAK_CHANNELS = 256
PEAK_RUNS = 2
"""Convolutions per measurement, after one to warm up the caches."""


class Clock:
    """Clock in seconds: processor time for one CPU thread, so that other processes do not count; else wall time."""

    def __init__(self, threads: int, device: torch.device) -> None:
        self.kind = "cpu" if threads == 1 and device.type == "cpu" else "wall"
        self._device = device

    def __call__(self) -> float:
        """Return the time in seconds, after the device has finished its work."""
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return time.process_time() if self.kind == "cpu" else time.perf_counter()

    def parts(self, path: Iterator[str]) -> dict[str, float]:
        """Measure the seconds of each component of a path, which yields a component's name after it has run."""
        seconds = {}
        before = self()
        for name in path:
            after = self()
            seconds[name] = after - before
            before = self()
        return seconds

    def total(self, work: Callable[[], object]) -> float:
        """Measure the seconds of one call."""
        before = self()
        work()
        return self() - before


def flops_of_parts(path: Iterator[str]) -> dict[str, int]:
    """Count the floating-point operations of each component (a multiply-add is 2): convolutions and matrix products."""
    counted = {}
    with FlopCounterMode(display=False) as counter:
        before = 0
        for name in path:
            after = counter.get_total_flops()
            counted[name] = after - before
            before = after
    return counted


def in_turn(tasks: Sequence[Callable[[], Result]], repeats: int) -> list[list[Result]]:
    """Run the tasks alternately (A B A B ...), each `repeats` times after one warm-up, so that other load affects all
    of them.
    """
    for task in tasks:
        task()
    rounds = [[task() for task in tasks] for _ in range(repeats)]
    return [list(results) for results in zip(*rounds, strict=True)]


def peak_task(clock: Clock, size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Callable[[], float]:
    """Return a function that measures the machine's peak: FLOP/s of a 3x3 convolution with 256 channels on a map of
    `size`, channels last.
    """
    numbers = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> Tensor:
        return torch.randn(shape, generator=numbers).to(device, dtype).contiguous(memory_format=torch.channels_last)

    x, weight = tensor(1, PEAK_CHANNELS, *size), tensor(PEAK_CHANNELS, PEAK_CHANNELS, 3, 3)
    operations = 2 * 9 * PEAK_CHANNELS**2 * size[0] * size[1]

    def measure() -> float:
        F.conv2d(x, weight, padding=1)
        seconds = clock.total(lambda: [F.conv2d(x, weight, padding=1) for _ in range(PEAK_RUNS)])
        return PEAK_RUNS * operations / seconds

    return measure


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the ratios of consecutive pairs."""
    return median(a / b for a, b in zip(above, below, strict=True))


@contextmanager
def thread_count(threads: int) -> Iterator[None]:
    """Set the number of torch threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Conditions:
    """Input size (height, width), threads, precision, device name, and how often each measurement is repeated."""

    size: tuple[int, int]
    threads: int
    precision: Precision
    device: str
    repeats: int

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the network."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    @property
    def torch_device(self) -> torch.device:
        """The device of the network."""
        return torch.device(self.device)

    @property
    def clock(self) -> Clock:
        """The clock: processor time for one thread, wall time for several threads or an accelerator."""
        return Clock(self.threads, self.torch_device)
