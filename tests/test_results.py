"""Detections: indexing, filtering, and every form they can be handed on in."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from htc.results import Detection, Detections, Masks

SIZE = (40, 60)


def detections(count: int = 3, threshold: float = 0.5) -> Detections:
    boxes = np.array([[5, 5, 25, 30], [30.3, 10.1, 60, 40], [0, 0, 9, 9]], np.float32)[:count]
    probabilities = np.ones((3, 28, 28), np.float32)
    probabilities[1, 10:18, 10:18] = 0
    labels = np.array([1, 0, 1])[:count]
    names = tuple(("cat", "dog")[label] for label in labels)
    masks = Masks(probabilities[:count], boxes, SIZE, threshold)
    return Detections(
        boxes, np.array([0.9, 0.7, 0.1], np.float32)[:count], labels, names, np.array([7, 3])[labels], masks, SIZE
    )


def test_a_number_gives_one_object_anything_else_gives_detections() -> None:
    found = detections()
    assert [(type(one), one.class_name, one.category_id, round(one.score, 3)) for one in found] == [
        (Detection, "dog", 3, 0.9),
        (Detection, "cat", 7, 0.7),
        (Detection, "dog", 3, 0.1),
    ]
    assert found[-1].box.tolist() == [0, 0, 9, 9]
    assert found[0].masks.rle() == found.masks.rle()[:1]
    for index in (slice(1, None), [1, 2], np.array([1, 2]), found.scores < 0.8):
        part = found[index]
        assert isinstance(part, Detections)
        assert part.class_names == ("cat", "dog")
        assert part.masks.rle() == found.masks.rle()[1:]
    with pytest.raises(IndexError):
        found[3]


def test_filter() -> None:
    found = detections()
    assert found.filter(0.5).class_names == ("dog", "cat")
    assert found.filter(classes=["dog"]).scores.tolist() == pytest.approx([0.9, 0.1])
    assert len(found.filter(0.5, classes=["dog"])) == 1
    assert found.filter(classes="dog") == found.filter(classes=["dog"])  # one name, not a text that contains names
    assert len(found.filter(classes=[])) == 0


@pytest.mark.parametrize("count", [0, 1, 3])
def test_masks_agree_in_all_their_forms(count: int) -> None:
    masks = detections(count).masks
    dense = masks.bitmaps()
    assert dense.shape == (count, *SIZE)
    assert dense.dtype == bool
    assert len(masks.rle()) == len(masks.polygons()) == len(masks.outlines()) == len(masks) == count
    for number, (bitmap, run_lengths, parts, crop) in enumerate(
        zip(dense, masks.rle(), masks.polygons(), masks.crops(), strict=True)
    ):
        assert np.array_equal(coco_mask.decode(run_lengths).astype(bool), bitmap)
        assert crop.bitmap.sum() == bitmap.sum()
        exteriors, holes = filled(masks.outlines()[number]), filled([hole for part in parts for hole in part.holes])
        assert np.array_equal(exteriors & ~holes, bitmap)
        assert holes.any() == (number == 1)


def filled(outlines: list[np.ndarray]) -> np.ndarray:
    if not outlines:
        return np.zeros(SIZE, bool)
    parts = coco_mask.frPyObjects([outline.ravel().tolist() for outline in outlines], *SIZE)
    return coco_mask.decode(coco_mask.merge(parts)).astype(bool)


def test_equality_compares_every_field() -> None:
    one = detections()
    assert one == detections()
    assert one == replace(detections(), image=np.zeros((*SIZE, 3), np.uint8))
    assert one != detections(2)
    assert one != "detections"
    changed = replace(one, masks=Masks(one.masks.probabilities, one.boxes, SIZE, 0.4))
    assert one != changed
    for name in ("boxes", "scores", "labels", "category_ids"):
        assert one != replace(one, **{name: getattr(one, name) + 1})
    assert one != replace(one, class_names=("cat", "cat", "dog"))
    assert one != replace(one, source="a.png")
    assert one != replace(one, index=3)
    with pytest.raises(TypeError):
        hash(one)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_repr_is_one_line(count: int) -> None:
    text = repr(replace(detections(count), source="street.jpg"))
    assert "\n" not in text
    assert len(text) < 200
    assert f"{count} instances" in text
    assert "street.jpg" in text
    assert "60x40" in text
    assert ("dog 0.90" in text) == (count > 0)
    assert len(repr(detections(count).masks)) < 100


def test_drawing_without_an_argument_takes_the_image_it_remembers(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    known = replace(detections(), image=pixels)
    assert np.array_equal(np.asarray(known.draw()), np.asarray(detections().draw(pixels)))
    assert np.array_equal(np.asarray(known[1:].draw()), np.asarray(detections()[1:].draw(pixels)))
    known.save(tmp_path / "out.png", labels=False)
    assert Image.open(tmp_path / "out.png").size == (60, 40)
    assert known._repr_png_()[:4] == b"\x89PNG"
    assert detections()._repr_png_() is None
    with pytest.raises(ValueError, match="draw\\(image\\)"):
        detections().draw()


@pytest.mark.parametrize("count", [0, 3])
def test_dict_is_json(count: int) -> None:
    content = json.loads(json.dumps(replace(detections(count), source="a.png", index=2).to_dict()))
    assert (content["source"], content["index"], content["height"], content["width"]) == ("a.png", 2, 40, 60)
    assert [one["class_name"] for one in content["instances"]] == list(detections(count).class_names)
    assert [one["mask"] for one in content["instances"]] == detections(count).masks.rle()


def test_threshold_of_the_masks() -> None:
    low, high = detections(2, threshold=0.3).masks.bitmaps(), detections(2, threshold=0.9).masks.bitmaps()
    assert low[1].sum() > high[1].sum() > 0


def test_coco_results() -> None:
    results = detections().to_coco(17)
    assert json.loads(json.dumps(results)) == results
    assert {key: results[1][key] for key in ("image_id", "category_id", "category_name", "score")} == {
        "image_id": 17,
        "category_id": 7,
        "category_name": "cat",
        "score": 0.7,
    }
    assert results[0]["bbox"] == [5, 5, 20, 25]
    assert results[1]["bbox"] == pytest.approx([30.3, 10.1, 29.7, 29.9], abs=1e-5)
    assert results[1]["segmentation"] == detections().masks.rle()[1]
    assert isinstance(results[1]["segmentation"]["counts"], str)


def test_labelme() -> None:
    content = detections().to_labelme("street.jpg")
    assert (content["imagePath"], content["imageHeight"], content["imageWidth"]) == ("street.jpg", 40, 60)
    assert [(shape["label"], shape["shape_type"], shape["group_id"]) for shape in content["shapes"]] == [
        ("dog", "polygon", None),
        ("cat", "polygon", None),
        ("dog", "polygon", None),
    ]
    assert all(len(shape["points"]) >= 3 for shape in content["shapes"])
    json.dumps(content)


def test_labelme_groups_the_parts_of_one_object() -> None:
    found = detections(1)
    found.masks.probabilities[0, :, 12:16] = 0
    shapes = found.to_labelme("x.png")["shapes"]
    assert [shape["group_id"] for shape in shapes] == [0, 0]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_supervision(count: int) -> None:
    found = detections(count)
    other = found.to_supervision()
    assert len(other) == count
    np.testing.assert_array_equal(other.xyxy, found.boxes)
    np.testing.assert_array_equal(np.asarray(other.mask).reshape(-1, *SIZE), found.masks.bitmaps())
    assert list(other.data["class_name"]) == list(found.class_names)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_draw_on_any_image(count: int, mode: str) -> None:
    image = Image.new(mode, SIZE[::-1])
    drawn = detections(count).drawing(image)
    assert drawn.shape == (*SIZE, 3)
    assert drawn.any() == (count > 0)
    np.testing.assert_array_equal(detections(count).drawing(np.asarray(image)), drawn)
    assert detections(count).drawing(image, scale=3).shape == (120, 180, 3)


def test_draw_leaves_the_image_alone_and_wants_the_right_one() -> None:
    image = np.zeros((*SIZE, 3), np.uint8)
    detections().drawing(image)
    assert not image.any()
    with pytest.raises(ValueError, match=r"\(40, 60\)"):
        detections().drawing(np.zeros((60, 40, 3), np.uint8))
