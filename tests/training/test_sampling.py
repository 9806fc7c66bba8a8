"""Region sampling: counts, seeds, and what becomes of the objects' own boxes."""

from dataclasses import replace

import pytest
import torch

from htc.ops.boxes import iou
from htc.training.sampling import BACKGROUND, BOX_DRAW, IGNORED, RoiSampler, balanced, draw, generator, positives
from htc.types import Batch, GroundTruth, Rois, RoiTargets
from small_detector import small_batch, small_config, truth

K = 3


def around(batch: Batch, count: int = 60, seed: int = 0) -> Rois:
    """Proposals: half of them near the objects, the last five rows of no meaning."""
    numbers = torch.Generator().manual_seed(seed)
    rows = []
    for each in batch.truths:
        corner = torch.rand(count, 2, generator=numbers) * 60
        boxes = torch.cat([corner, corner + 4 + torch.rand(count, 2, generator=numbers) * 30], 1)
        if len(each.boxes):
            picked = each.boxes[torch.arange(count // 2) % len(each.boxes)]
            boxes[: count // 2] = picked + torch.rand(count // 2, 4, generator=numbers) * 3
        rows.append(boxes)
    valid = (torch.arange(count) < count - 5).expand(len(rows), -1)
    return Rois(torch.stack(rows), valid, batch.sizes)


def sampler(batch: Batch, **cascade: object) -> RoiSampler:
    return RoiSampler(batch, small_config(cascade=cascade).cascade, K)


def targets_of(rois: Rois) -> RoiTargets:
    assert rois.targets is not None
    return rois.targets


@pytest.mark.parametrize(
    ("positive_count", "negative_count", "expected"),
    [(40, 40, (4, 12)), (2, 40, (2, 14)), (40, 3, (4, 3)), (0, 40, (0, 16)), (0, 0, (0, 0))],
)
def test_counts(positive_count: int, negative_count: int, expected: tuple[int, int]) -> None:
    """A quarter of sixteen positive at most; negatives fill up what is left, positives do not."""
    matched = torch.tensor([7] * positive_count + [BACKGROUND] * negative_count + [IGNORED] * 9)
    positive, negative = balanced(matched, 16, 0.25, generator(0, BOX_DRAW))
    assert (len(positive), len(negative)) == expected
    assert (matched[positive] >= 0).all()
    assert (matched[negative] == BACKGROUND).all()
    assert len(set(positive.tolist())) == len(positive)


def test_choice_is_without_replacement_and_even() -> None:
    counts = torch.zeros(10)
    for seed in range(600):
        chosen = draw(torch.arange(10), 4, generator(seed, BOX_DRAW))
        assert len(set(chosen.tolist())) == 4
        counts[chosen] += 1
    assert (counts / 600 - 0.4).abs().max() < 0.08


def test_few_candidates_are_all_taken_in_order() -> None:
    assert draw(torch.tensor([5, 2, 9]), 3, generator(0, BOX_DRAW)).tolist() == [5, 2, 9]


def test_draws_differ_by_seed_by_purpose_and_by_stage() -> None:
    keys = [(s, draw, stage) for s in (0, 1, 2**62, 2**63 - 1) for draw in (0, 1, 2) for stage in (0, 1, 2)]
    drawn = {tuple(draw(torch.arange(1000), 20, generator(*key)).tolist()) for key in keys}
    assert len(drawn) == len(keys)


def test_a_sample_is_a_pure_function_of_its_images_seed() -> None:
    batch = small_batch(small_config())
    rois = around(batch)
    first = sampler(batch).for_boxes(rois, 0).boxes
    torch.manual_seed(99)
    assert torch.equal(sampler(batch).for_boxes(rois, 0).boxes, first)
    other = sampler(replace(batch, seeds=(11, 77))).for_boxes(rois, 0).boxes
    assert torch.equal(other[0], first[0])
    assert not torch.equal(other[1], first[1])


def test_labels_and_objects_are_those_of_the_matching() -> None:
    batch = small_batch(small_config())
    seen = sampler(batch, positive_fraction=0.5).for_boxes(around(batch), 0)
    targets = targets_of(seen)
    for i, each in enumerate(batch.truths):
        valid = seen.valid[i]
        overlap = iou(each.boxes, seen.boxes[i])
        positive = targets.positive[i] & valid
        assert positive.sum() > len(each.boxes)
        assert (overlap[targets.objects[i][positive], positive.nonzero().squeeze(1)] >= 0.5).all()
        assert torch.equal(targets.labels[i][positive], each.labels[targets.objects[i][positive]])
        assert (targets.labels[i][valid & ~positive] == K).all()
        assert (overlap.amax(0)[valid & ~positive] < 0.5).all()


def test_invalid_rows_are_never_sampled() -> None:
    batch = small_batch(small_config())
    rois = around(batch)
    rois.boxes[:, -5:] = 500.0
    assert (sampler(batch, samples=1000).for_boxes(rois, 0).boxes < 499).all()


def test_own_boxes_train_a_stage_but_are_no_regions_of_the_next() -> None:
    batch = small_batch(small_config())
    picker = sampler(batch, samples=1000, positive_fraction=1.0)
    seen = picker.for_boxes(around(batch), 0)
    targets = targets_of(seen)
    own = [3, 1]
    assert (targets.appended & seen.valid).sum(1).tolist() == own
    for i, each in enumerate(batch.truths):
        assert torch.equal(seen.boxes[i][targets.appended[i]], each.boxes)
        assert torch.equal(targets.labels[i][targets.appended[i]], each.labels)
    marked = seen.with_boxes(torch.where(targets.appended[..., None], torch.tensor([1.0, 2.0, 3.0, 4.0]), seen.boxes))
    for then in (picker.for_boxes(marked, 1), picker.for_masks(marked, 0)):
        assert not (then.boxes == torch.tensor([1.0, 2.0, 3.0, 4.0])).all(-1).any()
        # and every stage and both draws append them anew
        assert (targets_of(then).appended & then.valid).sum(1).tolist() == own


def test_an_own_box_keeps_its_label_where_a_low_quality_match_would_take_it() -> None:
    """Two objects on one place: each own box serves its own object."""
    both = truth([(10, 10, 40, 40), (10, 10, 40, 40)], [0, 2])
    batch = small_batch(small_config(), (both,))
    targets = targets_of(sampler(batch, samples=1000).for_boxes(around(batch, 10), 0))
    assert targets.labels[0][targets.appended[0]].tolist() == [0, 2]


def test_low_quality_matching_creates_no_positive() -> None:
    batch = small_batch(small_config(), (truth([(10, 10, 40, 40)], [1]),))
    rois = Rois(torch.tensor([[[10.0, 10, 40, 22]]]), torch.ones(1, 1, dtype=torch.bool), batch.sizes)  # IoU 0.4
    seen = sampler(batch, low_quality_matches=True).for_boxes(rois, 0)
    assert targets_of(seen).positive[0].tolist() == [True, False]


def test_masks_take_the_positives_of_a_sample_in_its_order() -> None:
    batch = small_batch(small_config())
    seen = sampler(batch).for_boxes(around(batch), 0)
    masks = positives(seen, batch)
    expected = [seen.boxes[i][targets_of(seen).positive[i]] for i in range(2)]
    for i in range(2):
        assert torch.equal(masks.boxes[i][masks.valid[i]], expected[i])


EMPTY = truth([], [])
BOXES_ONLY = truth([(10, 8, 50, 44)], [1], masks=False)


@pytest.mark.parametrize("truths", [(EMPTY,), (EMPTY, EMPTY), (EMPTY, truth([(10, 8, 50, 44)], [1]))])
def test_images_without_objects_give_background_only(truths: tuple[GroundTruth, ...]) -> None:
    batch = small_batch(small_config(), truths)
    picker = sampler(batch)
    seen = picker.for_boxes(around(batch), 0)
    assert seen.valid[0].sum() == 16
    assert (targets_of(seen).labels[0] == K).all()
    assert not targets_of(seen).positive[0].any()
    again = picker.for_masks(seen.with_boxes(seen.boxes + 1), 0)
    assert not positives(again, batch).valid[0].any()


def test_images_without_masks_train_boxes_but_no_masks() -> None:
    batch = small_batch(small_config(), (BOXES_ONLY, truth([(10, 8, 50, 44)], [1])))
    seen = sampler(batch).for_boxes(around(batch), 0)
    assert (targets_of(seen).positive & seen.valid).any(1).all()
    assert positives(seen, batch).valid.any(1).tolist() == [False, True]


def test_no_proposals_leave_the_own_boxes() -> None:
    batch = small_batch(small_config())
    none = Rois(torch.zeros(2, 4, 4), torch.zeros(2, 4, dtype=torch.bool), batch.sizes)
    seen = sampler(batch).for_boxes(none, 0)
    assert seen.valid.sum(1).tolist() == [3, 1]
