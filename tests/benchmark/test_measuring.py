"""What the figures are made of: equal repetitions, counted operations, ratios of pairs."""

import pytest
import torch
from torch.nn import functional as F

from htc.benchmark.measuring import Clock, flops_of_parts, in_turn, median_ratio, peak_task, thread_count


def test_tasks_alternate_after_one_warm_up_each():
    calls: list[str] = []

    def task(name: str):
        def run() -> int:
            calls.append(name)
            return len(calls)

        return run

    results = in_turn([task("a"), task("b")], 2)
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert results == [[3, 5], [4, 6]]


def test_the_ratio_is_the_median_over_pairs_not_the_ratio_of_medians():
    assert median_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == 2.0


def test_operations_are_counted_part_by_part():
    x, weight = torch.randn(1, 3, 8, 10), torch.randn(4, 3, 3, 3)

    def path():
        F.conv2d(x, weight, padding=1)
        yield "convolution"
        torch.randn(5, 6) @ torch.randn(6, 7)
        yield "product"
        torch.zeros(10).sort()
        yield "sorting"

    with torch.inference_mode():
        assert flops_of_parts(path()) == {"convolution": 2 * 9 * 3 * 4 * 8 * 10, "product": 2 * 5 * 6 * 7, "sorting": 0}


@pytest.mark.parametrize(("threads", "kind"), [(1, "cpu"), (2, "wall")])
def test_one_thread_is_timed_by_the_processor(threads: int, kind: str):
    assert Clock(threads, torch.device("cpu")).kind == kind


def test_processor_time_does_not_count_waiting(monkeypatch: pytest.MonkeyPatch):
    times = iter([1.0, 3.5])
    monkeypatch.setattr("htc.benchmark.measuring.time.process_time", lambda: next(times))
    assert Clock(1, torch.device("cpu")).total(lambda: None) == 2.5


def test_the_peak_is_a_rate(monkeypatch: pytest.MonkeyPatch):
    clock = Clock(1, torch.device("cpu"))
    monkeypatch.setattr(Clock, "total", lambda _clock, work: work() and 0.5)
    assert peak_task(clock, (4, 6), torch.float32, torch.device("cpu"))() == pytest.approx(
        2 * (2 * 9 * 256**2 * 4 * 6) / 0.5
    )


def test_the_number_of_threads_is_restored():
    before = torch.get_num_threads()
    with thread_count(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
