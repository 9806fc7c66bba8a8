"""Batches: pure functions of (seed, epoch, position, image id), valid whatever is in the images."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import htc.demo
from htc.config import Augmentation, Config, Input, Sampling, Semantic, Training
from htc.data import columns_cache
from htc.data.coco import find_splits, read_coco
from htc.data.columns import ColumnImages
from htc.data.dataset import Dataset
from htc.data.epochs import batches_per_epoch, epoch_length, epoch_order, pure_seed, rank_positions
from htc.data.ground_truth import annotated, check_images
from htc.data.loader import TrainingImages, image_batches, training_loader
from htc.data.semantic_maps import MapSources, check_maps, read_map, with_semantic_maps
from htc.data.transforms import OriginalPixels, ResizedInput
from htc.errors import ConfigError, DataError
from htc.ops.mask_targets import mask_targets
from htc.presets import preset
from htc.types import Batch, GroundTruth

SIZES = ((40, 50), (64, 30), (5, 7), (90, 90), (33, 64))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Five images of random pixels; objects in the first (with a crowd) and the fourth only."""
    random = np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    objects = [(0, [5, 5, 20, 10], 0), (0, [10, 12, 6, 6], 0), (0, [30, 20, 20, 20], 1), (3, [0, 0, 90, 90], 0)]
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "height": h, "width": w} for number, (h, w) in enumerate(SIZES)
        ],
        "annotations": [
            {
                "id": id,
                "image_id": image,
                "category_id": 1 + id % 2,
                "bbox": box,
                "iscrowd": crowd,
                "segmentation": [corners(*box)],
            }
            for id, (image, box, crowd) in enumerate(objects)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return read_coco(tmp_path / "instances.json", tmp_path)


def corners(x: float, y: float, w: float, h: float) -> list[float]:
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def settings(**augmentation: Any) -> Config:
    base = preset("htc_r18_small")
    return base.replace(
        classes=("cat", "dog"),
        category_ids=(1, 2),
        semantic=Semantic(classes=3, channels=64),
        input=Input(short_edge=32, long_edge=64),
        training=Training(augmentation=Augmentation(**augmentation)),
    )


CROPPED = {"vertical_flip": 0.5, "short_edges": (20, 60), "long_edge": 80, "crop": (24, 24)}


def assert_same(a: Batch, b: Batch) -> None:
    assert (a.image_ids, a.seeds) == (b.image_ids, b.seeds)
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.sizes, b.sizes)
    assert a.semantic is not None
    assert b.semantic is not None
    assert torch.equal(a.semantic, b.semantic)
    for one, other in zip(a.truths, b.truths, strict=True):
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("augmentation", [{}, CROPPED, {"resize": False, "crop": (256, 256)}])
def test_every_image_once_in_valid_batches(dataset: Dataset, batch_size: int, augmentation: dict[str, Any]) -> None:
    ids: list[int | str] = []
    for batch in training_loader(dataset, settings(**augmentation), 0, 0, batch_size):
        ids += batch.image_ids
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.images.shape[2] % 32 == 0
        assert batch.images.shape[3] % 32 == 0
        assert batch.semantic is not None
        for number, (height, width) in enumerate(batch.sizes.tolist()):
            ground_truth = batch.truths[number]
            assert ground_truth.masks is not None
            assert len(ground_truth.boxes) == len(ground_truth.labels) == len(ground_truth.masks)
            assert (ground_truth.boxes[:, 2:] > ground_truth.boxes[:, :2]).all()
            assert (ground_truth.boxes <= torch.tensor([width, height, width, height])).all()
            assert (batch.images[number, :, height:] == 0).all()
            assert (batch.semantic[number, height:] == 255).all()
            assert (batch.semantic[number, :, width:] == 255).all()
    assert sorted(ids) == [0, 1, 2, 3, 4]


def test_an_epoch_is_a_pure_function(dataset: Dataset) -> None:
    """Neither the global random state nor the number of workers nor where it is entered changes a batch."""
    config = settings(**CROPPED)
    torch.manual_seed(1)
    first = list(training_loader(dataset, config, seed=3, epoch=2, batch_size=2))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    for one, other in zip(
        first, training_loader(dataset, config, seed=3, epoch=2, batch_size=2, workers=1), strict=True
    ):
        assert_same(one, other)
    late = list(training_loader(dataset, config, seed=3, epoch=2, batch_size=2, first_step=2))
    assert len(late) == 1
    assert_same(late[0], first[2])
    assert torch.equal(state, torch.get_rng_state())
    other_epoch = [batch.image_ids for batch in training_loader(dataset, config, seed=3, epoch=3, batch_size=2)]
    assert other_epoch != [batch.image_ids for batch in first]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_mapped_columns_give_the_same_batches(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """In this process and in workers of both start methods, as records that are all in memory do."""
    monkeypatch.setattr(columns_cache, "SMALLEST", 0)
    monkeypatch.setenv("HTC_ANNOTATION_CACHE", str(tmp_path / "cache"))
    folder = dataset.images[0].path.parent
    mapped = read_coco(dataset.annotations, folder)
    assert isinstance(mapped.images, ColumnImages)
    assert isinstance(mapped.images.columns, columns_cache.MappedColumns)
    in_memory = replace(mapped, images=tuple(mapped.images))
    config = settings(**PASTED)
    expected = list(training_loader(in_memory, config, seed=3, epoch=2, batch_size=2))
    loader = training_loader(mapped, config, seed=3, epoch=2, batch_size=2, workers=1)
    loader.multiprocessing_context = method
    for batches in (training_loader(mapped, config, seed=3, epoch=2, batch_size=2), loader):
        for one, other in zip(expected, batches, strict=True):
            assert_same(one, other)
            assert [masks_of(a) for a in one.truths] == [masks_of(b) for b in other.truths]


def masks_of(truth: GroundTruth) -> tuple[list[int], list[list[int]]]:
    assert truth.masks is not None
    return truth.masks.pixels.tolist(), truth.masks.offsets.tolist()


PASTED = {**CROPPED, "copy_paste": {"probability": 1.0, "share": 1.0}, "photometric": {"probability": 1.0}}


def test_colors_and_pasted_objects_are_pure_functions_too(dataset: Dataset) -> None:
    first = list(training_loader(dataset, settings(**PASTED), seed=3, epoch=2, batch_size=1))
    torch.manual_seed(2)
    late = list(training_loader(dataset, settings(**PASTED), seed=3, epoch=2, batch_size=1, workers=1, first_step=3))
    for one, other in zip(first[3:], late, strict=True):
        assert_same(one, other)
    plain = list(training_loader(dataset, settings(**CROPPED), seed=3, epoch=2, batch_size=1))
    whole = {**PASTED, "crop": None}
    seen = [
        len(batch.truths[0].boxes)
        for epoch in range(4)
        for batch in training_loader(dataset, settings(**whole), 3, epoch, 1)
        if batch.image_ids[0] == 1
    ]
    assert set(seen) > {0}, "an image of no objects receives some"
    assert all(
        (one.image_ids, one.seeds) == (other.image_ids, other.seeds) for one, other in zip(first, plain, strict=True)
    )


def test_a_part_switched_on_leaves_the_other_draws(dataset: Dataset) -> None:
    """Colors change pixels only; with a probability of 0 nothing at all."""
    plain = list(training_loader(dataset, settings(**CROPPED), 0, 0, 2))
    never = {"copy_paste": {"probability": 0.0}, "photometric": {"probability": 0.0}}
    for one, other in zip(training_loader(dataset, settings(**CROPPED, **never), 0, 0, 2), plain, strict=True):
        assert_same(one, other)
    colored = training_loader(dataset, settings(**CROPPED, photometric={"probability": 1.0}), 0, 0, 2)
    for one, other in zip(colored, plain, strict=True):
        assert not torch.equal(one.images, other.images)
        assert_same(replace(one, images=other.images), other)


def test_repeats_and_groups_reach_the_batches(dataset: Dataset) -> None:
    """The second image with an object is one of two of five: with a threshold of 0.9 both come sqrt(0.9 / 0.4) =
    1.5 times.
    """
    sampling = Sampling(repeat_threshold=0.9, group_by_shape=True)
    config = settings(**CROPPED)
    config = config.replace(training={"sampling": sampling})
    batches = list(training_loader(dataset, config, 0, 0, 2))
    assert len(batches) == batches_per_epoch(dataset, sampling, 2) == 4
    ids = [id for batch in batches for id in batch.image_ids]
    assert len(ids) == epoch_length(dataset, sampling)
    assert set(ids) == {0, 1, 2, 3, 4}
    assert len({seed for batch in batches for seed in batch.seeds}) == len(ids), (
        "a repeated image is seen in another way"
    )


def test_seeds_are_stable_numbers() -> None:
    """Written down: they must not change between versions or platforms, or a resumed run would leave its curve."""
    assert pure_seed(0, 1, 2, "a") == 3020009370072790886
    assert pure_seed(0, 1, 2, "a") != pure_seed(0, 1, 2, "b")
    assert epoch_order(5, 0, 0) != epoch_order(5, 0, 1)
    assert sorted(epoch_order(100, 7, 3)) == list(range(100))


@pytest.mark.parametrize(("count", "batch_size", "ranks"), [(10, 2, 2), (9, 2, 2), (1, 2, 3), (5, 1, 1), (7, 4, 2)])
def test_ranks_share_the_steps(count: int, batch_size: int, ranks: int) -> None:
    """Every rank takes part in every step, and together they see every image."""
    per_rank = [rank_positions(count, batch_size, rank, ranks) for rank in range(ranks)]
    assert len({len(steps) for steps in per_rank}) == 1
    for steps in zip(*per_rank, strict=True):
        assert len({len(step) for step in steps}) == 1
        assert len(steps[0]) >= 1
    assert {position for steps in per_rank for step in steps for position in step} == set(range(count))


def test_semantic_map_boxes_and_mask_targets_agree(dataset: Dataset) -> None:
    """The full image's object: its target is all ones, its box the view, its class under every pixel."""
    config = settings(**CROPPED)
    images = TrainingImages(dataset, config, 0, 0)
    sample = images[images.order.index(3)]
    assert sample.ground_truth.boxes.tolist() == [[0, 0, 24, 24]]
    assert sample.ground_truth.masks is not None
    assert bool(mask_targets(sample.ground_truth.masks, torch.tensor([0]), sample.ground_truth.boxes).all())
    assert sample.semantic is not None
    assert np.unique(sample.semantic).tolist() == [int(sample.ground_truth.labels[0]) + 1]


def test_derived_map_of_a_image_with_a_crowd(dataset: Dataset) -> None:
    targets = annotated(dataset.images[0], 3, None)
    assert targets.semantic is not None
    assert [int(targets.semantic[y, x]) for y, x in ((6, 6), (13, 12), (25, 35), (0, 0))] == [1, 2, 255, 0]
    assert targets.ground_truth.crowd_boxes.tolist() == [[30, 20, 50, 40]]
    assert targets.ground_truth.labels.tolist() == [0, 1]


def test_no_semantic_branch_no_map(dataset: Dataset) -> None:
    config = settings().replace(semantic=None, cascade={"semantic_fusion": "none"})
    assert all(batch.semantic is None for batch in training_loader(dataset, config, 0, 0, 2))


def test_too_few_semantic_classes(dataset: Dataset) -> None:
    config = settings().replace(semantic=Semantic(classes=2, channels=64))
    with pytest.raises(ConfigError, match=r"semantic\.classes is 2; .* needs 3"):
        training_loader(dataset, config, 0, 0, 2)


def test_semantic_maps_from_a_folder(dataset: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    with pytest.raises(DataError, match="no such folder"):
        check_maps(dataset, folder)
    folder.mkdir()
    with pytest.raises(DataError, match=r"5 of 5 images, the first is 0\.png"):
        check_maps(dataset, folder)
    for number, size in enumerate(SIZES):
        Image.fromarray(np.full(size, number % 3, np.uint8)).save(folder / f"{number}.png")
    check_maps(dataset, folder)
    for batch in training_loader(with_semantic_maps(dataset, MapSources(folder)), settings(), 0, 0, 1):
        assert batch.semantic is not None
        height, width = batch.sizes[0].tolist()
        assert (batch.semantic[0, :height, :width] == int(batch.image_ids[0]) % 3).all()


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (Image.new("L", (4, 4)), "is 4x4, but its image 5x4"),
        (Image.new("RGB", (5, 4)), "has mode RGB"),
        (Image.new("L", (5, 4), 3), r"contains the value 3, but the model has classes 0\.\.2"),
        (None, "no such semantic map"),
        (b"no png", "not a readable image"),
    ],
)
def test_semantic_maps_that_cannot_be_used(tmp_path: Path, image: Image.Image | bytes | None, says: str) -> None:
    path = tmp_path / "a.png"
    if isinstance(image, bytes):
        path.write_bytes(image)
    elif image is not None:
        image.save(path)
    with pytest.raises(DataError, match=says):
        read_map(path, (4, 5), 3)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_image_unlike_its_record_is_named_in_one_line(dataset: Dataset, workers: int) -> None:
    Image.new("RGB", (50, 40)).rotate(90, expand=True).save(dataset.images[0].path)
    with pytest.raises(
        DataError, match=r"0\.png is 40x50, but 50x40 in its record .*; save the image upright"
    ) as error:
        list(training_loader(dataset, settings(), 0, 0, 1, workers=workers))
    assert len(str(error.value).splitlines()) == 1


def test_images_are_checked_by_their_headers(dataset: Dataset) -> None:
    check_images(dataset)
    Image.new("RGB", (9, 9)).save(dataset.images[1].path)
    dataset.images[2].path.write_bytes(b"")
    with pytest.raises(
        DataError,
        match=r"2 faults:\n.*1\.png is 9x9, but 30x64 in its record \(image 1\); correct.*\n.*2\.png is empty",
    ):
        check_images(dataset)


def test_evaluation_sees_every_image_unchanged(dataset: Dataset) -> None:
    seen = {}
    for batch in image_batches(dataset, ResizedInput(settings().input), batch_size=2):
        assert batch.prepared.images.is_contiguous(memory_format=torch.channels_last)
        for number, image_id in enumerate(batch.image_ids):
            seen[image_id] = (batch.original_sizes[number], tuple(batch.prepared.sizes[number].tolist()))
    assert seen == {
        0: ((40, 50), (32, 40)),
        1: ((64, 30), (64, 30)),
        2: ((5, 7), (32, 45)),
        3: ((90, 90), (32, 32)),
        4: ((33, 64), (32, 62)),
    }


def test_a_predictor_of_several_views_gets_the_original_pixels(dataset: Dataset) -> None:
    seen = {}
    for batch in image_batches(dataset, OriginalPixels(), batch_size=2):
        for image_id, size, pixels in zip(batch.image_ids, batch.original_sizes, batch.prepared, strict=True):
            assert pixels.dtype == np.uint8
            assert pixels.shape == (*size, 3)
            seen[image_id] = size
    assert seen == {0: (40, 50), 1: (64, 30), 2: (5, 7), 3: (90, 90), 4: (33, 64)}


def test_the_bundled_nuclei() -> None:
    """Both parts can be read, share no micrograph, and make batches of the demo's model."""
    splits = find_splits(Path(htc.demo.__file__).parent / "nuclei")
    assert splits.val_annotations is not None
    parts = [
        read_coco(splits.train_annotations, splits.train_images),
        read_coco(splits.val_annotations, splits.val_images),
    ]
    assert [len(part) for part in parts] == [142, 30]
    assert [part.dropped for part in parts] == [(), ()]
    groups = [{image["group"] for image in json.loads(part.annotations.read_text())["images"]} for part in parts]
    assert not groups[0] & groups[1]
    batch = next(iter(training_loader(parts[0], preset("htc_r18_small"), 0, 0, 4)))
    assert batch.images.shape == (4, 3, 256, 256)
    assert batch.semantic is not None
    assert set(batch.semantic.unique().tolist()) <= {0, 1, 255}
    folder = splits.train_annotations.parent.parent
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 5_000_000
