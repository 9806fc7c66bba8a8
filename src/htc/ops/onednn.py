"""Float32 matrix products with oneDNN, where it is faster than torch's default library and equally exact."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

PROBE_ERROR = 1e-5
"""Largest relative error of an exact product: well above float32 rounding in the probe (about 1e-6), well below
bfloat16 (about 1e-2).
"""


class _SharedSwitch:
    """torch's process-wide precision setting of oneDNN products, shared by the blocks of all threads.

    The first block to begin sets it, the last one to end restores it. In between, all blocks compute with the same
    setting.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.blocks = 0
        self.before = ""

    def begin(self) -> bool:
        """Open a block unless oneDNN's products are inexact on this processor. -> whether a block was opened

        The first call probes the processor under the lock, since the probe changes the setting too and no block may run
        then.
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
"""One per process, like torch's setting."""


@contextmanager
def exact_onednn_matmul() -> Iterator[None]:
    """Run the CPU products of float32 matrices in the block (linear layers, 1x1 convolutions) with oneDNN.

    On processors that are not Intel's, torch's default library takes twice as long (measured: 100 against 220 GFLOP/s
    per core on an AMD Zen 5). The setting that selects oneDNN also allows it bfloat16 arithmetic, which has no effect
    on processors without a bfloat16 matrix unit. A probe, run once, checks this, and oneDNN is used only if its product
    is exact. Blocks may be nested and may overlap in several threads; the last one to end restores the setting.
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
    """Test whether oneDNN, allowed to use bfloat16, still computes in float32 on this processor."""
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 512, generator=generator) for _ in range(2))
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
