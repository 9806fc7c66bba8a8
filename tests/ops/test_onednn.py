"""Float32 products through oneDNN stay float32, and the process-wide switch is restored, whatever threads do."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier

import pytest
import torch

from htc.ops import onednn
from htc.ops.onednn import exact_onednn_matmul

WAIT = 60
"""Seconds after which a barrier gives up: a failure instead of a hang."""


def precision() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]


@pytest.fixture
def switched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor whose oneDNN products are exact."""
    monkeypatch.setattr(onednn, "_is_exact", lambda: True)


def test_products_are_as_exact_as_the_default() -> None:
    numbers = torch.Generator().manual_seed(3)
    a, b = torch.randn(300, 700, generator=numbers), torch.randn(200, 700, generator=numbers)
    exact = a.double() @ b.double().T
    with exact_onednn_matmul():
        product = torch.nn.functional.linear(a, b)
    assert (product - exact).abs().max() / exact.std() < 1e-5


@pytest.mark.usefixtures("switched")
def test_the_switch_is_restored_after_nested_blocks_and_after_an_error() -> None:
    before = precision()
    with exact_onednn_matmul():
        with exact_onednn_matmul():
            assert precision() == "bf16"
        assert precision() == "bf16"
    assert precision() == before
    with pytest.raises(ZeroDivisionError), exact_onednn_matmul():
        raise ZeroDivisionError
    assert precision() == before


def test_an_inexact_processor_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "_is_exact", lambda: False)
    before = precision()
    with exact_onednn_matmul():
        assert precision() == before


@pytest.mark.usefixtures("switched")
def test_blocks_of_two_threads_may_end_in_the_order_they_began() -> None:
    """One begins, the other begins, the first ends (with an error), the other goes on and ends."""
    before = precision()
    first_began, both_began, first_ended = (Barrier(2) for _ in range(3))

    def first() -> None:
        with suppress(ZeroDivisionError), exact_onednn_matmul():
            first_began.wait(WAIT)
            both_began.wait(WAIT)
            raise ZeroDivisionError
        first_ended.wait(WAIT)

    def other() -> tuple[str, str]:
        first_began.wait(WAIT)
        with exact_onednn_matmul():
            both_began.wait(WAIT)
            begun = precision()
            first_ended.wait(WAIT)
            return begun, precision()

    with ThreadPoolExecutor(2) as threads:
        one, two = threads.submit(first), threads.submit(other)
        one.result()
        assert two.result() == ("bf16", "bf16")
    assert precision() == before


def test_the_probe_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sets the switch itself, so two probes at once could each restore the other's value."""
    running: list[int] = []
    overlaps: list[int] = []

    def probe() -> bool:
        running.append(1)
        time.sleep(0.05)
        overlaps.append(len(running))
        running.pop()
        return True

    monkeypatch.setattr(onednn, "_is_exact", probe)
    start = Barrier(4)

    def block() -> None:
        start.wait(WAIT)
        with exact_onednn_matmul():
            pass

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(block) for _ in range(4)]:
            done.result()
    assert overlaps == [1, 1, 1, 1]
