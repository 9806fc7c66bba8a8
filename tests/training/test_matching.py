"""Which object each region stands for, rule by rule, and against the rules written as loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from htc.training.sampling import BACKGROUND, IGNORED, match


def by_loops(ious: Tensor, positive: float, negative: float, low_quality: float | None) -> list[int]:
    """The rules of the original, one after the other."""
    objects, regions = ious.shape
    matched = [IGNORED] * regions
    for j in range(regions):
        column = ious[:, j].tolist() if objects else []
        best = max(column, default=0.0)
        if 0 <= best < negative or not objects:
            matched[j] = BACKGROUND
        if objects and best >= positive:
            matched[j] = column.index(best)
    for i in range(objects if low_quality is not None and regions else 0):
        reach = float(ious[i].max())
        for j in range(regions):
            if reach >= low_quality and float(ious[i, j]) == reach:
                matched[j] = i
    return matched


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    objects=st.integers(0, 5),
    regions=st.integers(0, 12),
    thresholds=st.sampled_from([(0.7, 0.3, 0.3), (0.5, 0.5, 0.5), (0.6, 0.6, None), (0.7, 0.3, None)]),
)
def test_equals_the_rules_written_as_loops(
    seed: int, objects: int, regions: int, thresholds: tuple[float, float, float | None]
) -> None:
    """IoUs in tenths: ties are frequent, also with the thresholds."""
    ious = torch.randint(-1, 11, (objects, regions), generator=torch.Generator().manual_seed(seed)) / 10
    ious[ious < 0] = -1.0
    if objects:
        ious[:, (ious < 0).any(0)] = -1.0  # a region takes part for all objects or for none
    thresholds32 = [None if t is None else float(torch.tensor(t)) for t in thresholds]
    assert match(ious, *thresholds32).tolist() == by_loops(ious, *thresholds32)


def test_a_later_object_overwrites_an_earlier_one() -> None:
    ious = torch.tensor([[0.9, 0.4], [0.2, 0.4]])
    assert match(ious, 0.7, 0.3, 0.3).tolist() == [0, 1]
    assert match(torch.tensor([[0.5, 0.1], [0.5, 0.4]]), 0.7, 0.3, 0.3).tolist()[0] == 1


def test_low_quality_takes_a_region_from_the_object_it_fits_better() -> None:
    """Region 0 fits object 0 best (0.9), but it is all that object 1 has."""
    ious = torch.tensor([[0.9, 0.0], [0.4, 0.0]])
    assert match(ious, 0.7, 0.3, 0.3).tolist() == [1, BACKGROUND]
    assert match(ious, 0.7, 0.3, None).tolist() == [0, BACKGROUND]


def test_all_ties_of_an_object_become_its_own() -> None:
    assert match(torch.tensor([[0.4, 0.4, 0.35]]), 0.7, 0.3, 0.3).tolist() == [0, 0, IGNORED]


@pytest.mark.parametrize(("best", "expected"), [(0.3, 0), (0.29, BACKGROUND)])
def test_floor_of_low_quality_matches(best: float, expected: int) -> None:
    assert match(torch.tensor([[best]], dtype=torch.float64), 0.7, 0.3, 0.3).tolist() == [expected]


def test_thresholds_are_inclusive_above() -> None:
    ious = torch.tensor([[0.5, 0.25, 0.75, 0.125]])
    assert match(ious, 0.5, 0.25, None).tolist() == [0, IGNORED, 0, BACKGROUND]


@pytest.mark.parametrize("regions", [0, 3])
def test_without_objects_everything_is_background(regions: int) -> None:
    assert match(torch.zeros(0, regions), 0.5, 0.5, 0.5).tolist() == [BACKGROUND] * regions


def test_without_regions_nothing_is_matched() -> None:
    matched = match(torch.zeros(3, 0), 0.7, 0.3, 0.3)
    assert matched.shape == (0,)
    assert matched.dtype == torch.long


def test_regions_that_take_no_part_are_never_matched() -> None:
    assert match(torch.full((2, 3), -1.0), 0.7, 0.3, 0.3).tolist() == [IGNORED] * 3
