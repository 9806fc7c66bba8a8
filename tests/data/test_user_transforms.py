"""A user's own transforms: what they see, how their result becomes a training view, and what they may not return."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from htc.config import Augmentation, Config, Input, Semantic, Training
from htc.data.dataset import Dataset
from htc.data.ground_truth import AnnotatedView, annotated
from htc.data.instance_masks import crops_in_view
from htc.data.loader import TrainingImages, training_loader
from htc.data.semantic_maps import MapSources, with_semantic_maps
from htc.data.user_transforms import seeded, transformed
from htc.errors import DataError
from htc.presets import preset
from htc.types import Batch

SIZES = ((40, 50), (64, 30), (37, 37), (90, 90), (33, 64))


def square(y1: int, y2: int, x1: int, x2: int, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y1:y2, x1:x2] = True
    mask[y1 : y1 + (y2 - y1) // 2, x1 : x1 + 2] = False  # not symmetrical
    return mask


@pytest.fixture
def dataset() -> Dataset:
    """Two instances and a crowd in the first image, one in the third, none in the others."""
    noise = np.random.default_rng(0)
    records: list[dict[str, Any]] = [
        {"image": noise.integers(0, 256, (*size, 3), dtype=np.uint8), "labels": []} for size in SIZES
    ]
    masks = [square(5, 15, 6, 20, SIZES[0]), square(10, 30, 30, 44, SIZES[0]), square(30, 38, 4, 40, SIZES[0])]
    records[0] |= {"labels": ["cat", "dog", "dog"], "masks": masks, "crowd": [False, False, True]}
    records[2] |= {"labels": ["dog"], "masks": [square(3, 30, 5, 30, SIZES[2])], "boxes": [[4.5, 2.5, 30.5, 30.25]]}
    return Dataset.from_records(records)


def view(
    dataset: Dataset, transforms: Callable[..., Any], index: int = 0, seed: int = 0, semantic: int | None = 3
) -> AnnotatedView:
    maps = dataset.semantic_maps
    return transformed(
        dataset.images[index], transforms, seed, classes=2, semantic_classes=semantic, semantic_maps=maps
    )


def dense(found: AnnotatedView) -> np.ndarray:
    """(N, H, W) bool."""
    assert found.ground_truth.masks is not None
    masks = np.zeros((len(found.ground_truth.masks), *found.size), bool)
    for mask, crop in zip(masks, crops_in_view(found.ground_truth.masks, found.size), strict=True):
        mask[crop.y : crop.y + crop.bitmap.shape[0], crop.x : crop.x + crop.bitmap.shape[1]] = crop.bitmap > 0
    return masks


def settings(**augmentation: Any) -> Config:
    return preset("htc_r18_small").replace(
        classes=("cat", "dog"),
        category_ids=(1, 2),
        semantic=Semantic(classes=3, channels=64),
        input=Input(short_edge=32, long_edge=64),
        training=Training(augmentation=Augmentation(**augmentation)),
    )


def same(one: Batch, other: Batch) -> bool:
    truths = zip(one.truths, other.truths, strict=True)
    assert one.semantic is not None
    assert other.semantic is not None
    return (
        one.seeds == other.seeds
        and torch.equal(one.images, other.images)
        and torch.equal(one.semantic, other.semantic)
        and all(torch.equal(a.boxes, b.boxes) and torch.equal(a.labels, b.labels) for a, b in truths)
    )


def test_what_the_transforms_see(dataset: Dataset) -> None:
    seen = []
    view(dataset, lambda image, target: (seen.append((image, target)), (image, target))[1])
    ((image, target),) = seen
    assert type(image) is tv_tensors.Image
    assert dataset.images[0].pixels is not None
    assert np.array_equal(image.permute(1, 2, 0).numpy(), dataset.images[0].pixels)
    assert set(target) == {"boxes", "labels", "masks", "crowd"}
    assert target["boxes"].format == tv_tensors.BoundingBoxFormat.XYXY
    assert target["boxes"].canvas_size == (40, 50)
    assert target["boxes"].tolist() == [[6, 5, 20, 15], [30, 10, 44, 30], [4, 30, 40, 38]]
    assert target["labels"].tolist() == [0, 1, 1]
    assert target["crowd"].tolist() == [False, False, True]
    assert type(target["masks"]) is tv_tensors.Mask
    assert target["masks"].dtype == torch.uint8
    assert target["masks"].sum((1, 2)).tolist() == [130, 260, 280]


def test_masks_boxes_and_derived_map_follow_a_flip(dataset: Dataset) -> None:
    plain, flipped = view(dataset, lambda *pair: pair), view(dataset, v2.RandomHorizontalFlip(1.0))
    assert np.array_equal(flipped.image, plain.image[:, ::-1])
    assert np.array_equal(dense(flipped), dense(plain)[:, :, ::-1])
    assert flipped.ground_truth.boxes.tolist() == [[30, 5, 44, 15], [6, 10, 20, 30]]
    assert flipped.ground_truth.crowd_boxes.tolist() == [[10, 30, 46, 38]]
    assert plain.semantic is not None
    assert flipped.semantic is not None
    assert set(np.unique(plain.semantic)) == {0, 1, 2, 255}
    assert np.array_equal(flipped.semantic, plain.semantic[:, ::-1])


def test_rotated_boxes_are_tight_and_the_map_is_that_of_the_masks(dataset: Dataset) -> None:
    found = view(dataset, v2.RandomRotation((30, 30), expand=True))  # type: ignore[arg-type]
    assert found.size != SIZES[0]
    masks = dense(found)
    for mask, box in zip(masks, found.ground_truth.boxes.tolist(), strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert box == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert found.semantic is not None
    for mask, label in zip(masks, found.ground_truth.labels.tolist(), strict=True):
        assert (found.semantic[mask] == label + 1).all()


def test_colors_leave_the_annotated_targets(dataset: Dataset) -> None:
    found = view(dataset, v2.ColorJitter(0.5, 0.5, 0.5), index=2)
    before = annotated(dataset.images[2], 3, None)
    assert not np.array_equal(found.image, dataset.images[2].pixels)  # type: ignore[arg-type]
    assert found.ground_truth is before.ground_truth or torch.equal(found.ground_truth.boxes, before.ground_truth.boxes)
    assert found.ground_truth.boxes.tolist() == [[4.5, 2.5, 30.5, 30.25]]


@pytest.mark.parametrize(
    "transforms",
    [
        v2.RandomRotation(15),  # type: ignore[arg-type]
        v2.RandomAffine(20, (0.2, 0.2), (0.5, 1.5)),  # type: ignore[arg-type]
        v2.RandomPerspective(p=1.0),
        v2.ElasticTransform(),
        v2.RandomZoomOut(p=1.0),
        v2.RandomResizedCrop((32, 48)),
        v2.ScaleJitter((64, 64)),
        v2.RandomPhotometricDistort(p=1.0),
        v2.RandomErasing(p=1.0),
        v2.RandomGrayscale(1.0),
        v2.RandomVerticalFlip(1.0),
        v2.Compose([v2.ClampBoundingBoxes(), v2.ConvertBoundingBoxFormat("CXCYWH")]),
    ],
    ids=lambda one: type(one).__name__,
)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_transforms_of_torchvision(dataset: Dataset, transforms: Callable[..., Any], index: int) -> None:
    found = view(dataset, transforms, index, seed=1)
    assert found.image.dtype == np.uint8
    assert found.ground_truth.masks is not None
    assert len(found.ground_truth.boxes) == len(found.ground_truth.labels) == len(found.ground_truth.masks)
    assert found.ground_truth.masks.canvas == found.size
    assert (found.ground_truth.boxes[:, 2:] > found.ground_truth.boxes[:, :2]).all()
    assert found.semantic is not None
    assert found.semantic.shape == found.size


def test_iou_crop_and_sanitizing(dataset: Dataset) -> None:
    record = dataset.images[0]
    without_crowd = replace(dataset, images=(replace(record, instances=record.instances[:2]),))
    both = v2.Compose(
        [v2.RandomIoUCrop(min_scale=0.3, max_scale=0.4, sampler_options=[0.0]), v2.SanitizeBoundingBoxes()]
    )
    counts = {len(view(without_crowd, both, seed=seed).ground_truth.boxes) for seed in range(8)}
    assert counts == {1, 2} or counts == {1}
    for seed in range(4):  # marked as removed by an empty box, though some of its mask is left
        cropped = v2.RandomIoUCrop(min_scale=0.3, max_scale=0.4, sampler_options=[0.0])
        one, other = view(without_crowd, cropped, seed=seed), view(without_crowd, both, seed=seed)
        assert torch.equal(one.ground_truth.boxes, other.ground_truth.boxes)


def test_instances_without_mask_or_box_are_dropped(dataset: Dataset) -> None:
    def left_half(image: Any, target: dict[str, Any]) -> Any:
        target["masks"][..., 24:] = 0
        return image, target

    found = view(dataset, left_half)
    assert found.ground_truth.labels.tolist() == [0]
    assert found.ground_truth.crowd_boxes.tolist() == [[4, 30, 24, 38]]

    def no_first_box(image: Any, target: dict[str, Any]) -> Any:
        target["boxes"][0] = 0
        return image, target

    assert view(dataset, no_first_box).ground_truth.labels.tolist() == [1]


def test_boxes_without_masks() -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    records = [{"image": image, "labels": ["cat", "dog"], "boxes": [[2.5, 3, 20, 30], [40, 30, 50, 40]]}]
    boxes = Dataset.from_records(records)
    seen = []
    found = view(boxes, lambda *pair: (seen.append(pair[1]), v2.functional.horizontal_flip(pair[0]), pair[1])[1:])
    assert set(seen[0]) == {"boxes", "labels", "semantic"}
    assert found.ground_truth.masks is None
    cropped = view(boxes, v2.Compose([v2.RandomCrop((40, 40)), v2.Lambda(lambda value: value)]), seed=2)
    assert cropped.ground_truth.masks is None
    assert (cropped.ground_truth.boxes[:, 2] <= 40).all()
    turned = view(boxes, v2.RandomHorizontalFlip(1.0))
    assert turned.ground_truth.boxes.tolist() == [[30, 3, 47.5, 30], [0, 30, 10, 40]]
    assert turned.semantic is not None
    assert (turned.semantic[30:, :10] == 2).all()


def test_maps_from_files_move_and_what_is_filled_in_is_ignored(tmp_path: Path, dataset: Dataset) -> None:
    noise = np.random.default_rng(1)
    records = [replace(record, path=Path(f"{number}.png")) for number, record in enumerate(dataset.images)]
    for number, size in enumerate(SIZES):
        Image.fromarray(noise.choice(np.array([0, 1, 4, 255], np.uint8), size)).save(tmp_path / f"{number}.png")
    mapped = with_semantic_maps(replace(dataset, images=tuple(records)), MapSources(tmp_path))
    plain = np.array(Image.open(tmp_path / "0.png"))
    flipped = view(mapped, v2.RandomHorizontalFlip(1.0), semantic=5).semantic
    assert flipped is not None
    assert np.array_equal(flipped, plain[:, ::-1])
    wider = view(mapped, v2.Pad(10), semantic=5).semantic
    assert wider is not None
    assert np.array_equal(wider[10:-10, 10:-10], plain)
    assert (wider[:10] == 255).all()


def test_the_same_numbers_in_any_order_and_process(dataset: Dataset) -> None:
    def noisy(image: Any, target: Any) -> Any:
        shift = int(np.random.randint(0, 5)) + random.randint(0, 5) + int(torch.randint(0, 5, ()))
        return v2.functional.horizontal_flip(image) // 2 + shift, {**target}

    both = v2.Compose([v2.RandomRotation(20), v2.RandomPhotometricDistort(p=0.7), noisy])  # type: ignore[arg-type]
    config = settings(crop=(24, 24), copy_paste={"probability": 1.0})
    first = list(training_loader(dataset, config, 3, 2, 1, transforms=both))
    for workers, first_step in ((0, 0), (1, 0), (2, 3)):
        again = training_loader(dataset, config, 3, 2, 1, workers, first_step=first_step, transforms=both)
        assert all(same(one, other) for one, other in zip(again, first[first_step:], strict=True))
    other = list(training_loader(dataset, config, 3, 3, 1, transforms=both))
    assert not any(torch.equal(a.images, b.images) for a in first for b in other)


def test_the_global_generators_are_left_as_they_were() -> None:
    def draws() -> tuple[float, ...]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    with seeded(5):
        first = draws()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[union-attr, index]
    with seeded(5):
        assert draws() == first
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[union-attr, index]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_without_transforms_nothing_is_different(dataset: Dataset) -> None:
    config = settings(crop=(24, 24))
    plain = list(training_loader(dataset, config, 3, 2, 2))
    identity = training_loader(dataset, config, 3, 2, 2, transforms=lambda *pair: pair)
    assert all(same(one, other) for one, other in zip(plain, identity, strict=True))


def test_the_augmentation_sees_the_new_size(dataset: Dataset) -> None:
    config = settings(horizontal_flip=0.0)
    sample = TrainingImages(dataset, config, 0, 0, transforms=v2.Resize((50, 100)))[0]
    assert sample.image.shape == (32, 64, 3)


def changed(**values: Any) -> Callable[..., Any]:
    return lambda image, target: (image, {**target, **values})


NAN = torch.tensor([[1.0, 2, float("nan"), 4]] * 3)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (lambda image, _: image, r"transforms returned a tensor of shape .* must return \(image, target\)"),
        (lambda *_: None, r"transforms returned None; transforms must return"),
        (lambda image, _: (image, None), "None as target"),
        (lambda image, target: (image.float(), target), "type float32 as image; .* remove ToDtype"),
        (lambda image, target: (image[:1], target), r"shape \(1, 40, 50\)"),
        (v2.ToPILImage(), "a value of type Image as image"),
        (lambda image, target: (image[:, :0], target), "without pixels"),
        (lambda image, target: (image, {"boxes": target["boxes"]}), "whose 'labels' is None"),
        (changed(boxes=NAN), r"the box \[1.0, 2.0, nan, 4.0\] \(row 0\)"),
        (changed(boxes=torch.zeros(3, 5)), r"shape \(3, 5\) and type float32 as boxes"),
        (changed(labels=torch.zeros(2, dtype=torch.long)), "3 boxes, 2 labels, 3 masks, 3 crowd; drop an instance"),
        (changed(labels=torch.tensor([0, 1, 2])), r"labels \[0, 1, 2\]; labels are 0 to 1"),
        (changed(labels=torch.zeros(3)), r"type float32 as labels"),
        (lambda image, target: (image[:, 5:], target), r"masks with an image of 35x50 \(height x width\)"),
        (changed(masks=torch.zeros(3, 40, 50)), r"type float32 as masks"),
    ],
)
def test_wrong_results_name_the_image(dataset: Dataset, transforms: Callable[..., Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        view(dataset, transforms)
    assert str(caught.value).startswith("000001.png: ")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_reports_it_from_any_process(dataset: Dataset, workers: int) -> None:
    with pytest.raises(DataError, match=r"^00000\d\.png: transforms returned None; transforms must return"):
        list(training_loader(dataset, settings(), 0, 0, 1, workers, transforms=lambda *_: None))  # type: ignore[arg-type, return-value]


def test_an_error_of_the_transforms_names_the_image(dataset: Dataset) -> None:
    def broken(image: Any, target: Any) -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        view(dataset, broken)
    assert caught.value.__notes__ == ["The transforms raised this on image 000001.png."]
