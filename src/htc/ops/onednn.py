"""Float32 matrix products through oneDNN, where they are faster than the default library and just as exact."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

PROBE_ERROR = 1e-5
"""Far above float32's rounding in the probe (about 1e-6), far below bfloat16's (about 1e-2)."""


class _SharedSwitch:
    """torch's process-wide precision of oneDNN products, shared by the blocks of all threads.

    The first block that begins sets it, the last one that ends restores it. In between, all blocks compute alike.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.blocks = 0
        self.before = ""

    def begin(self) -> bool:
        """Open a block unless oneDNN's products are inexact here. -> whether one was opened

        The first call probes the processor under the lock: the probe sets the switch too, and no block may run then.
        """
        with self.lock:
            if not _is_exact():
                return False
            if self.blocks == 0:
                self.before = _precision()
                _set_precision("bf16")
            self.blocks += 1
            return True

    def end(self) -> None:
        """Close a block."""
        with self.lock:
            self.blocks -= 1
            if self.blocks == 0:
                _set_precision(self.before)


_SWITCH = _SharedSwitch()
"""One for the process, as torch's setting is."""


@contextmanager
def exact_onednn_matmul() -> Iterator[None]:
    """Within the block, CPU products of float32 matrices (linear layers, 1x1 convolutions) go through oneDNN.

    On processors that are not Intel's, torch's default library runs them at half the speed (measured: 100 against 220
    GFLOP/s a core on an AMD Zen 5). The switch that selects oneDNN also allows it bfloat16 arithmetic; that changes
    nothing where the processor has no such matrix unit. Whether it does is measured once, and only an exact product is
    used. Blocks may be nested and may overlap in several threads; when the last one ends, the switch is as before.
    """
    if torch.compiler.is_compiling() or not _SWITCH.begin():
        yield
        return
    try:
        yield
    finally:
        _SWITCH.end()


@cache
def _is_exact() -> bool:
    """Whether oneDNN, allowed to use bfloat16, still computes in float32 here."""
    if not torch.backends.mkldnn.is_available():
        return False
    numbers = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 512, generator=numbers) for _ in range(2))
    exact = a.double() @ b.double().T
    before = _precision()
    _set_precision("bf16")
    try:
        error = (torch.nn.functional.linear(a, b) - exact).abs().max() / exact.std()
    finally:
        _set_precision(before)
    return bool(error < PROBE_ERROR)


def _precision() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]


def _set_precision(precision: str) -> None:
    torch.backends.mkldnn.matmul.fp32_precision = precision  # type: ignore[attr-defined]
