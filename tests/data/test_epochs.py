"""Which images an epoch holds: repeats for rare classes, groups of one shape, steps that every process shares."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from htc.config import Sampling
from htc.data.dataset import Dataset, ImageRecord, Instance
from htc.data.epochs import (
    batches_per_epoch,
    epoch_length,
    grouped,
    images_of_epoch,
    rank_positions,
    repeat_factors,
    repeated,
)


def dataset_of(labels: list[list[int]], sizes: list[tuple[int, int]] | None = None) -> Dataset:
    """Images that show these classes (a negative one: as a crowd)."""
    sizes = sizes or [(10, 10)] * len(labels)
    images = []
    for number, (shown, (height, width)) in enumerate(zip(labels, sizes, strict=True)):
        objects = tuple(Instance(i, abs(label), (0.0, 0.0, 5.0, 5.0), label < 0, None) for i, label in enumerate(shown))
        images.append(ImageRecord(number, Path(f"{number}.png"), height, width, objects))
    return Dataset(Path("x.json"), ("a", "b", "c"), (1, 2, 3), tuple(images))


def test_factors_are_those_of_lvis() -> None:
    """f = 8/10 for class 0, 1/10 for 1: with t = 0.4 the one image of class 1 is seen sqrt(4) = 2 times."""
    data = dataset_of([[0]] * 7 + [[0, 1, 1]] + [[]] + [[-2]])
    assert repeat_factors(data, 0.4).tolist() == [1.0] * 7 + [2.0, 1.0, 1.0]
    assert repeat_factors(data, 0.9)[7] == pytest.approx(3.0)
    assert repeat_factors(data, 0.9)[0] == pytest.approx((0.9 / 0.8) ** 0.5)
    assert epoch_length(data, Sampling(repeat_threshold=0.4)) == 11
    assert epoch_length(data, Sampling()) == 10
    assert batches_per_epoch(data, Sampling(repeat_threshold=0.4), 2) == 6
    assert batches_per_epoch(data, Sampling(repeat_threshold=0.4), 2, ranks=3) == 2
    assert repeat_factors(dataset_of([[]]), 0.5).tolist() == [1.0]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(1, 6), min_size=1, max_size=30), st.integers(0, 2**31))
def test_repeats_meet_their_factors(factors: list[float], seed: int) -> None:
    """As many in every epoch, whatever the draw; every image at least the whole part of its factor, and little
    more.
    """
    order = torch.randperm(len(factors), generator=torch.Generator().manual_seed(seed)).tolist()
    often = repeated(order, np.array(factors), torch.Generator().manual_seed(seed))
    counts = Counter(often)
    assert len(often) == pytest.approx(np.ceil(sum(factors) - 1e-6), abs=1e-6)
    assert all(int(factor) <= counts[image] <= int(factor) + 2 for image, factor in enumerate(factors))


def test_repeats_are_right_on_average() -> None:
    factors = np.array([1.0, 1.25, 2.5, 1.75, 1.0, 1.5])
    counts = Counter(
        p for seed in range(2000) for p in repeated([3, 1, 0, 2, 5, 4], factors, torch.Generator().manual_seed(seed))
    )
    assert [counts[image] / 2000 for image in range(6)] == pytest.approx(factors.tolist(), abs=0.05)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.booleans(), max_size=40), st.integers(1, 8), st.integers(0, 2**31))
def test_groups_have_one_shape(landscape: list[bool], together: int, seed: int) -> None:
    order = list(range(len(landscape)))
    found = grouped(order, landscape, together, torch.Generator().manual_seed(seed))
    assert sorted(found) == order
    full = sum(count - count % together for count in Counter(landscape).values())
    steps = [found[start : start + together] for start in range(0, full, together)]
    assert all(len({landscape[image] for image in step}) == 1 for step in steps)


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_an_epoch_is_a_pure_function_of_seed_and_epoch(group: bool, threshold: float | None) -> None:
    sampling = Sampling(group_by_shape=group, repeat_threshold=threshold)
    data = dataset_of([[0]] * 12 + [[1]] * 3 + [[]], [(10, 20), (20, 10)] * 8)
    first = images_of_epoch(data, sampling, 1, 2, 4)
    assert first == images_of_epoch(data, sampling, 1, 2, 4)
    assert first != images_of_epoch(data, sampling, 1, 3, 4)
    assert first != images_of_epoch(data, sampling, 2, 2, 4)
    assert len(first) == epoch_length(data, sampling)
    assert set(first) == set(range(16))
    for ranks in (1, 2):
        per_rank = [rank_positions(len(first), 2, rank, ranks) for rank in range(ranks)]
        assert {len(steps) for steps in per_rank} == {batches_per_epoch(data, sampling, 2, ranks)}


def test_fewer_pixels_are_padding() -> None:
    """Four images a step of two shapes: grouped, no full step mixes them."""
    sizes = [(480, 640), (640, 480)] * 16
    data = dataset_of([[]] * 32, sizes)

    def padding(sampling: Sampling) -> float:
        order = images_of_epoch(data, sampling, 0, 0, 4)
        steps = [[sizes[image] for image in order[start : start + 4]] for start in range(0, 32, 4)]
        padded = sum(4 * max(h for h, _ in step) * max(w for _, w in step) for step in steps)
        return 1 - sum(h * w for h, w in sizes) / padded

    assert padding(Sampling(group_by_shape=True)) == 0
    assert padding(Sampling()) > 0.2
