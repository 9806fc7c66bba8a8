"""Resolve `precision="auto"`: bf16 if a short benchmark shows that it is clearly faster, else fp32."""

import logging
import time
from collections.abc import Callable
from statistics import median
from typing import Literal, NamedTuple

import torch
from torch.nn import functional as F

from htc.config import Precision
from htc.errors import ConfigError

PrecisionChoice = Literal["auto", "fp32", "bf16"]
CHOICES: tuple[PrecisionChoice, ...] = ("auto", "fp32", "bf16")
CHANNELS, SIDE = 256, 32
"""Channels and side of the timed 3x3 convolution: those of the pyramid and the mask heads, on a middle level."""
OPERATIONS = 2 * 9 * CHANNELS**2 * SIDE**2
ROUNDS = 7
CLEARLY = 1.2
"""Minimum speed-up for which "auto" chooses bf16, since bf16 costs a little accuracy."""
HOPELESS = 8
"""Slowdown of bf16 in one round after which no further round is timed."""
AMPERE = (8, 0)
"""The first compute capability whose tensor cores multiply bf16."""
_log = logging.getLogger("htc")


class Speeds(NamedTuple):
    """Speed of a convolution in both precisions, in GFLOP/s."""

    fp32: float
    bf16: float


Probe = Callable[[torch.device], Speeds]


def convolution_speeds(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> Speeds:
    """Time a 3x3 convolution on channels-last tensors with the current number of threads: the median over a few rounds,
    in which the precisions alternate so that other load slows both down.
    """
    dtypes = (torch.float32, torch.bfloat16)
    operands = [
        (
            torch.ones(1, CHANNELS, SIDE, SIDE, device=device, dtype=dtype).to(memory_format=torch.channels_last),
            torch.ones(CHANNELS, CHANNELS, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last),
        )
        for dtype in dtypes
    ]
    seconds: list[tuple[float, ...]] = []
    with torch.inference_mode():
        for _ in range(1 + ROUNDS):
            seconds.append(tuple(_seconds(image, weight, clock) for image, weight in operands))
            if seconds[-1][1] > HOPELESS * seconds[-1][0]:
                break
    timed = zip(*(seconds[1:] or seconds), strict=True)  # the first round prepares the kernels
    return Speeds(*(OPERATIONS / max(median(times), 1e-9) / 1e9 for times in timed))


def _seconds(image: torch.Tensor, weight: torch.Tensor, clock: Callable[[], float]) -> float:
    start = clock()
    F.conv2d(image, weight, padding=1)
    return clock() - start


def resolve_precision(
    wanted: PrecisionChoice, device: torch.device | str, probe: Probe = convolution_speeds
) -> Precision:
    """Return the precision to use on a device; the choice of "auto" is logged with its reason.

    On CUDA, "auto" is bf16 if the tensor cores support it; on the CPU, if `probe` shows that it is clearly faster; else
    fp32. An explicit "bf16" is kept, with a warning if fp32 is faster. The benchmark takes a few tenths of a second and
    depends on the load of the machine: call this once and store the result.

    Args:
        wanted: "auto", "fp32" or "bf16".
        device: the device of the model.
        probe: returns the speeds of both precisions on the CPU.

    Raises:
        ConfigError: `wanted` is another value.

    Example:
        >>> precision = resolve_precision("auto", torch.device("cpu"))
    """
    if wanted not in CHOICES:
        raise ConfigError(f"precision {wanted!r} is unknown: use one of {', '.join(CHOICES)}")
    if wanted == "fp32":
        return "fp32"
    target = torch.device(device)
    if target.type != "cpu":
        return _on_accelerator(wanted, target)
    speeds = probe(target)
    measured = f"GFLOP/s of a convolution: bf16 {speeds.bf16:.0f}, fp32 {speeds.fp32:.0f}"
    if wanted == "auto":
        chosen: Precision = "bf16" if speeds.bf16 >= CLEARLY * speeds.fp32 else "fp32"
        _log.info("precision auto: %s (%s)", chosen, measured)
        return chosen
    if speeds.bf16 < speeds.fp32:
        _log.warning("precision bf16 is slower than fp32 on this CPU (%s)", measured)
    return "bf16"


def _on_accelerator(wanted: Literal["auto", "bf16"], device: torch.device) -> Precision:
    if device.type != "cuda":
        if wanted == "auto":
            _log.info("precision auto: fp32 (bf16 is not tested on %s)", device.type)
        return "fp32" if wanted == "auto" else "bf16"
    fast = torch.cuda.get_device_capability(device) >= AMPERE
    cores = f"{torch.cuda.get_device_name(device)} has {'' if fast else 'no '}bf16 tensor cores"
    if wanted == "auto":
        chosen: Precision = "bf16" if fast else "fp32"
        _log.info("precision auto: %s (%s)", chosen, cores)
        return chosen
    if not fast:
        _log.warning("precision bf16 is slower than fp32: %s", cores)
    return "bf16"
