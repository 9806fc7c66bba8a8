"""Time, operations and peak throughput: how the benchmark measures, and the conditions under which it does.

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
"""Convolutions a measurement: the first after other work finds cold caches."""


class Clock:
    """Seconds of processor time where one thread of a CPU works, so that other processes do not count; else of wall
    time.
    """

    def __init__(self, threads: int, device: torch.device) -> None:
        self.kind = "cpu" if threads == 1 and device.type == "cpu" else "wall"
        self._device = device

    def __call__(self) -> float:
        """Now, in seconds, after the device has done what it was given."""
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return time.process_time() if self.kind == "cpu" else time.perf_counter()

    def parts(self, path: Iterator[str]) -> dict[str, float]:
        """Seconds of each part of a path that yields a part's name when it is done."""
        seconds = {}
        before = self()
        for name in path:
            after = self()
            seconds[name] = after - before
            before = self()
        return seconds

    def total(self, work: Callable[[], object]) -> float:
        """Seconds of one call."""
        before = self()
        work()
        return self() - before


def flops_of_parts(path: Iterator[str]) -> dict[str, int]:
    """Floating-point operations of each part (2 a multiply-add): convolutions and matrix products, by their shapes."""
    counted = {}
    with FlopCounterMode(display=False) as counter:
        before = 0
        for name in path:
            after = counter.get_total_flops()
            counted[name] = after - before
            before = after
    return counted


def in_turn(tasks: Sequence[Callable[[], Result]], repeats: int) -> list[list[Result]]:
    """A B A B ...: each task `repeats` times after one warm-up, so that what slows the machine down slows all of
    them.
    """
    for task in tasks:
        task()
    rounds = [[task() for task in tasks] for _ in range(repeats)]
    return [list(results) for results in zip(*rounds, strict=True)]


def peak_task(clock: Clock, size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Callable[[], float]:
    """A measurement of the machine's peak: FLOP/s of a 3x3 convolution with 256 channels on a map of `size`,
    channels last.
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
    """The median of the ratios of pairs taken one after the other."""
    return median(a / b for a, b in zip(above, below, strict=True))


@contextmanager
def thread_count(threads: int) -> Iterator[None]:
    """Within the block torch computes on so many threads."""
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
