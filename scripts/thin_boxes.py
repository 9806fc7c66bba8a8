"""Times RoI pooling of thin boxes with bags of their shape (B) against square bags (A), alternating, on one thread.

Usage: OMP_NUM_THREADS=1 uv run python scripts/thin_boxes.py [REPEATS]
"""

import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from htc.benchmark.measuring import Clock, in_turn, median_ratio, thread_count
from htc.benchmark.work import fixed_boxes
from htc.ops import pixel_gather
from htc.ops.pixel_gather import Shape
from htc.ops.roi_pool import Pyramid, roi_pool

SIZE = (800, 1344)
STRIDES = (4, 8, 16, 32)
BINS = 7
THIN = {"1333 x 9": (1333.0, 9.0), "9 x 799": (9.0, 799.0), "square of 1333 x 9": (109.5, 109.5)}
BY_SHAPE = pixel_gather.by_shape


def square_bags(members: Tensor, needed: Tensor, capacity: int, bins: int) -> list[Shape]:
    """`by_shape` that splits nothing."""
    del needed, bins
    return [Shape(members, capacity, capacity)]


def case_boxes(numbers: torch.Generator) -> dict[str, Tensor]:
    """(1, N, 4): 512 boxes of one size each at random places, and the benchmark's 1000."""
    cases = {"benchmark's mix": fixed_boxes(1000, SIZE, numbers)}
    for name, extent in THIN.items():
        size = torch.tensor(extent)
        corner = torch.rand(512, 2, generator=numbers) * (torch.tensor(SIZE[::-1]) - size)
        cases[name] = torch.cat([corner, corner + size], 1)
    return {name: boxes[None] for name, boxes in cases.items()}


def pool(grouping: Callable[..., list[Shape]], maps: tuple[Tensor, ...], boxes: Tensor, backward: bool) -> None:
    """Pool the boxes with this grouping, and take the gradient of the maps."""
    pixel_gather.by_shape = grouping
    with torch.set_grad_enabled(backward):
        pooled = roi_pool(Pyramid(maps, STRIDES), boxes, BINS, backend="gather")
    if backward:
        torch.autograd.grad(pooled, maps, pooled.detach())


def main(repeats: int) -> None:
    """Print the table."""
    numbers = torch.Generator().manual_seed(0)
    shapes = [(1, 256, SIZE[0] // stride, SIZE[1] // stride) for stride in STRIDES]
    plain = [torch.randn(shape, generator=numbers) for shape in shapes]
    maps = tuple(level.contiguous(memory_format=torch.channels_last).requires_grad_() for level in plain)
    clock = Clock(1, torch.device("cpu"))
    print("| boxes | direction | square bags (A) | bags by shape (B) | A / B |\n| --- | --- | --- | --- | --- |")
    for name, boxes in case_boxes(numbers).items():
        for backward in (False, True):
            tasks = [partial(pool, grouping, maps, boxes, backward) for grouping in (square_bags, BY_SHAPE)]
            square, shaped = in_turn([partial(clock.total, task) for task in tasks], repeats)
            direction = "forward + backward" if backward else "forward"
            seconds = " | ".join(f"{1000 * sorted(times)[len(times) // 2]:.0f} ms" for times in (square, shaped))
            row = f"| {boxes.shape[1]} of {name} | {direction} | {seconds} | {median_ratio(square, shaped):.2f} |"
            print(row, flush=True)


if __name__ == "__main__":
    with thread_count(1):
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
