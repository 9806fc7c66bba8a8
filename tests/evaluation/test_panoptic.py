"""Panoptic quality and mean IoU against their definitions, merging on images that can be seen, and files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from htc.data.map_files import read_segment_ids
from htc.data.panoptic import Category, Panoptic, Segment, read_panoptic
from htc.data.semantic_maps import IGNORE
from htc.errors import DataError
from htc.evaluation.maps import SemanticCounts
from htc.evaluation.panoptic import PanopticQuality, panoptic_writer

CATEGORIES = {1: Category(1, "cat", True), 2: Category(2, "dog", True), 9: Category(9, "grass", False)}
SAMPLE = next(
    (f / "shared/data/coco_panoptic_sample" for f in Path(__file__).resolve().parents if (f / "shared/data").is_dir()),
    Path("coco_panoptic_sample"),
)


def stripes(*parts, rows=10):
    """A map of columns: (width, segment id)."""
    return np.concatenate([np.full((rows, width), id, np.int32) for width, id in parts], axis=1)


def quality(truth, found):
    counts = PanopticQuality(CATEGORIES)
    counts.add(truth, found)
    return counts.metrics()


def test_one_hit_one_miss_one_mistake():
    """Cat: IoU 8/10; dog: missed, and one invented. PQ: cat 0.8, dog 0, grass 1."""
    truth = Panoptic(stripes((10, 1), (10, 2), (20, 3)), (Segment(1, 1), Segment(2, 2), Segment(3, 9)))
    found = Panoptic(stripes((8, 5), (2, 0), (4, 0), (6, 6), (20, 7)), (Segment(5, 1), Segment(6, 1), Segment(7, 9)))
    metrics = quality(truth, found)
    # The cats: one hit (0.8) and one wrong segment: 0.8 / 1.5.
    assert metrics["per_class"] == pytest.approx({"cat": 0.8 / 1.5, "dog": 0.0, "grass": 1.0})
    assert metrics["PQ"] == pytest.approx((0.8 / 1.5 + 0 + 1) / 3)
    assert metrics["things"]["PQ"] == pytest.approx((0.8 / 1.5) / 2)
    assert metrics["stuff"] == pytest.approx({"PQ": 1.0, "SQ": 1.0, "RQ": 1.0})


def test_exactly_half_is_no_match():
    truth = Panoptic(stripes((10, 1), (10, 0)), (Segment(1, 1),))
    found = Panoptic(stripes((5, 1), (15, 0)), (Segment(1, 1),))
    assert quality(truth, found)["per_class"]["cat"] == 0


def test_void_and_crowds_excuse():
    """Void is taken out of the union; a segment mostly in void, or in a crowd of its class, is not wrong; in another
    crowd it is.
    """
    truth = Panoptic(stripes((10, 1), (10, 0), (10, 3)), (Segment(1, 1), Segment(3, 2, crowd=True)))
    found = Panoptic(stripes((10, 1), (4, 1), (6, 2), (10, 3)), (Segment(1, 1), Segment(2, 1), Segment(3, 2)))
    metrics = quality(truth, found)
    assert metrics["per_class"] == {"cat": 1.0, "dog": -1.0, "grass": -1.0}
    other = Panoptic(found.ids, (Segment(1, 1), Segment(2, 1), Segment(3, 1)))
    assert quality(truth, other)["per_class"]["cat"] == pytest.approx(1 / 1.5)


def brute_force(images):
    """PQ of every class, pair by pair, from the paper's text."""
    result = {}
    for category in CATEGORIES:
        iou_sum = hits = wrong = missed = 0
        for truth, found in images:
            own = [s for s in truth.segments if s.category_id == category and not s.crowd and (truth.ids == s.id).any()]
            theirs = [s for s in found.segments if s.category_id == category and (found.ids == s.id).any()]
            excuse = (truth.ids == 0) | np.isin(
                truth.ids, [s.id for s in truth.segments if s.crowd and s.category_id == category]
            )
            left = set(own)
            for segment in theirs:
                pixels = found.ids == segment.id
                overlap = {
                    s: (pixels & (truth.ids == s.id)).sum()
                    / (((pixels & (truth.ids != 0)) | (truth.ids == s.id)).sum())
                    for s in own
                }
                match = [s for s, value in overlap.items() if value > 0.5]
                assert len(match) <= 1
                if match:
                    left -= {match[0]}
                    hits, iou_sum = hits + 1, iou_sum + overlap[match[0]]
                elif (pixels & excuse).sum() <= 0.5 * pixels.sum():
                    wrong += 1
            missed += len(left)
        total = hits + wrong / 2 + missed / 2
        result[CATEGORIES[category].name] = iou_sum / total if total else -1.0
    return result


def random_image(generator, crowds):
    ids = np.zeros((24, 30), np.int32)
    segments = []
    for id in range(1, 8):
        y, x = generator.integers(0, 20, 2)
        ids[y : y + generator.integers(3, 12), x : x + generator.integers(3, 12)] = id
        segments.append(Segment(id, int(generator.choice([1, 2, 9])), bool(crowds and generator.random() < 0.2)))
    return Panoptic(ids, tuple(segments))


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition_on_random_images(seed):
    generator = np.random.default_rng(seed)
    images = []
    for _ in range(4):
        truth = random_image(generator, crowds=True)
        ids = np.where(generator.random(truth.ids.shape) < 0.1, 0, np.roll(truth.ids, 1, 1)).astype(np.int32)
        changed = tuple(Segment(s.id, s.category_id if generator.random() < 0.8 else 1) for s in truth.segments)
        images.append((truth, Panoptic(ids, changed)))
    counts = PanopticQuality(CATEGORIES)
    for truth, found in images:
        counts.add(truth, found)
    assert counts.metrics()["per_class"] == pytest.approx(brute_force(images))


def test_nothing_is_undefined():
    empty = Panoptic(np.zeros((4, 5), np.int32), ())
    metrics = quality(empty, empty)
    assert metrics["PQ"] == metrics["stuff"]["PQ"] == -1


def test_files_come_back_as_they_were(tmp_path):
    panoptic = Panoptic(stripes((5, 0), (5, 1), (10, 70000)), (Segment(1, 1), Segment(70000, 9)))
    with panoptic_writer(tmp_path / "maps", list(CATEGORIES.values())) as writer:
        writer.add(17, "first", panoptic)
    again = read_panoptic(tmp_path / "maps/panoptic.json", tmp_path / "maps")
    read = again.read(17, (10, 20))
    assert np.array_equal(read.ids, panoptic.ids)
    assert read.segments == panoptic.segments
    assert again.categories == CATEGORIES
    (entry,) = json.loads((tmp_path / "maps/panoptic.json").read_text())["annotations"]
    assert entry["segments_info"][1] == {
        "id": 70000,
        "category_id": 9,
        "iscrowd": 0,
        "area": 100,
        "bbox": [10, 0, 10, 10],
    }
    with pytest.raises(DataError, match="must have the size of its image"):
        again.read(17, (10, 21))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"annotations": None}, "no list of annotations"),
        ({"categories": [{"id": 1, "name": "cat"}]}, "needs isthing"),
        ({"categories": []}, "annotation of image 1 is damaged"),
        (
            {"annotations": [{"image_id": 1, "file_name": "gone.png", "segments_info": []}]},
            "image gone.png of image 1 is not in",
        ),
    ],
)
def test_damaged_files_are_named(tmp_path, change, says):
    good = {"categories": [{"id": 1, "name": "cat", "isthing": 1}], "annotations": []}
    good["annotations"] = [{"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 1, "category_id": 1}]}]
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "p.json").write_text(json.dumps(good | change))
    with pytest.raises(DataError, match=says):
        read_panoptic(tmp_path / "p.json", tmp_path)


def test_a_map_that_is_not_rgb_is_named(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "grey.png")
    with pytest.raises(DataError, match="mode L"):
        read_segment_ids(tmp_path / "grey.png", (4, 4))


def test_the_real_sample_against_itself_is_perfect():
    if not SAMPLE.is_dir():
        pytest.skip(f"{SAMPLE} is not there")
    truth = read_panoptic(SAMPLE / "annotations/panoptic_val2017.json", SAMPLE / "annotations/panoptic_val2017")
    counts = PanopticQuality(truth.categories)
    sizes = {one["id"]: (one["height"], one["width"]) for one in json.loads(truth.file.read_text())["images"]}
    for image_id in truth.maps:
        panoptic = truth.read(image_id, sizes[image_id])
        counts.add(panoptic, panoptic)
    metrics = counts.metrics()
    assert metrics["PQ"] == metrics["things"]["PQ"] == metrics["stuff"]["PQ"] == pytest.approx(1)


def test_mean_iou():
    """Class 0: 3 of 4 found, nothing too much: 3/4. Class 1: 2 found, 1 too much: 2/3. Class 3 is only found. 255
    does not count.
    """
    truth = np.array([[0, 0, 0, 0], [1, 1, IGNORE, IGNORE]], np.uint8)
    found = np.array([[0, 0, 0, 1], [1, 1, 3, 0]], np.uint8)
    counts = SemanticCounts(4)
    counts.add(truth, found)
    metrics = counts.metrics({0: "background"})
    assert metrics["mIoU"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert metrics["pixel_accuracy"] == pytest.approx(5 / 6)
    assert metrics["per_class"] == pytest.approx({"background": 3 / 4, "1": 2 / 3})
    assert SemanticCounts(4).metrics({})["mIoU"] == -1
