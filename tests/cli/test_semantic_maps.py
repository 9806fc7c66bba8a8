"""The flags of semantic maps, from the command line to what the training loader delivers and what is measured
against.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import htc.training.run
from cli.conftest import Result
from cli.test_train import FLAGS
from htc import load
from htc.data.loader import ImageLoader, TrainingSample
from htc.types import Batch

Htc = Callable[..., Result]
PLAIN = (
    "--training.augmentation.resize",
    "false",
    "--training.augmentation.horizontal-flip",
    "0",
    "--training.augmentation.vertical-flip",
    "0",
)
HEIGHT, WIDTH = 64, 80
GRASS, SKY = 9, 12
"""Category ids of stuff; the instances' are 3 (disc) and 7 (square)."""


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """A folder with `stuff/` (sky - 1 everywhere but at the left, where nothing is said), `panoptic/` and
    `panoptic.json` (below grass; a crowd in the middle, and void above), each lacking one of the images 5, 6, 7.
    """
    for name in ("stuff", "panoptic"):
        (tmp_path / name).mkdir()
    for index in (0, 1):
        Image.fromarray(stuff_map()).save(tmp_path / "stuff" / f"image{index}.png")
    entries = []
    for image_id in (6, 7):
        Image.fromarray(
            np.stack([panoptic_ids() % 256, panoptic_ids() // 256, 0 * panoptic_ids()], -1).astype(np.uint8)
        ).save(tmp_path / "panoptic" / f"{image_id}.png")
        segments = [{"id": 300, "category_id": GRASS, "iscrowd": 0}, {"id": 7, "category_id": 3, "iscrowd": 1}]
        entries.append({"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments})
    categories = [
        {"id": id, "name": name, "isthing": int(id < 8)}
        for id, name in ((GRASS, "grass"), (SKY, "sky"), (3, "disc"), (7, "square"))
    ]
    (tmp_path / "panoptic.json").write_text(json.dumps({"annotations": entries, "categories": categories}))
    return tmp_path


def stuff_map() -> np.ndarray:
    values = np.full((HEIGHT, WIDTH), SKY - 1, np.uint8)
    values[:, :10] = 255
    return values


def panoptic_ids() -> np.ndarray:
    ids = np.zeros((HEIGHT, WIDTH), int)
    ids[30:45] = 7
    ids[45:] = 300
    return ids


def merged(image_id: int) -> np.ndarray:
    """Void or a crowd above shows the folder's; the object (rows 10..40, columns 20..60 of images 5 and 6) lies
    over both.
    """
    values = stuff_map() if image_id != 7 else np.full((HEIGHT, WIDTH), 255, np.uint8)
    if image_id != 5:
        values[45:] = GRASS - 1
    if image_id != 7:
        values[10:40, 20:60] = {5: 3, 6: 7}[image_id] - 1
    return values


@pytest.fixture
def delivered(monkeypatch: pytest.MonkeyPatch) -> dict[Any, np.ndarray]:
    """The semantic targets of all training batches of a call, by image id."""
    found: dict[Any, np.ndarray] = {}
    loader_of = htc.training.run.training_loader

    def watched(*arguments: Any, **named: Any) -> ImageLoader:
        loader = loader_of(*arguments, **named)
        collated: Any = loader.collate_fn

        def kept(samples: list[TrainingSample]) -> Batch:
            found.update({sample.image_id: sample.semantic for sample in samples if sample.semantic is not None})
            return collated(samples)

        loader.collate_fn = kept
        return loader

    monkeypatch.setattr(htc.training.run, "training_loader", watched)
    return found


def part(data: Path) -> tuple[Any, ...]:
    return "--train-annotations", data / "annotations/instances_train.json", "--train-images", data / "train"


def test_a_training_learns_from_all_three_merged(
    htc: Htc, data: Path, maps: Path, delivered: dict[Any, np.ndarray]
) -> None:
    flags = (
        "--semantic",
        "stuff",
        "--semantic-json",
        "panoptic.json",
        "--semantic-panoptic",
        "panoptic",
        "--semantic-instances",
        "ids",
    )
    result = htc("train", *part(data), *FLAGS, *PLAIN, *flags, "--semantic.classes", "5", "--out", "run")
    assert result.code == 0, result.err
    assert set(delivered) == {5, 6, 7}
    for image_id, semantic in delivered.items():
        assert np.array_equal(semantic, merged(image_id)), image_id
    config = yaml.safe_load((maps / "run/config.yaml").read_text())
    assert config["semantic"]["classes"] == SKY  # values 0 .. 11, the highest id - 1
    choices = json.loads((maps / "run/choices.json").read_text())
    assert (
        next(one for one in choices if "semantic targets" in one["fields"])["fields"]["semantic targets"]
        == "stuff, panoptic.json, instances"
    )


def test_a_training_learns_from_panoptic_maps_with_instances(
    htc: Htc, data: Path, maps: Path, delivered: dict[Any, np.ndarray]
) -> None:
    """Without a folder of class numbers, classes are the categories in their order: grass, sky, disc, square;
    image 5 is missing.
    """
    flags = ("--semantic", "panoptic", "--semantic-json", "panoptic.json", "--semantic-instances", "2")
    result = htc("train", *part(data), *FLAGS, *PLAIN, *flags)
    assert result.code == 2
    assert "image 5 (image0.png) has no annotation" in result.err
    content = json.loads((maps / "panoptic.json").read_text())
    content["annotations"].append({**content["annotations"][0], "image_id": 5})
    (maps / "panoptic.json").write_text(json.dumps(content))
    result = htc("train", *part(data), *FLAGS, *PLAIN, *flags)
    assert result.code == 0, result.err
    for image_id, semantic in delivered.items():
        expected = np.where(panoptic_ids() == 300, 0, 255)
        if image_id != 7:
            expected[10:40, 20:60] = {5: 2, 6: 3}[image_id]
        assert np.array_equal(semantic, expected), image_id


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ("--semantic", "stuff", "--semantic-panoptic", "panoptic"),
            "--semantic-panoptic is the folder of the PNGs of --semantic-json FILE",
        ),
        (("--semantic", "auto", "--semantic-json", "panoptic.json"), "need a folder of maps"),
        (("--semantic-instances", "3"), "need a folder of maps"),
        (
            ("--semantic", "stuff", "--semantic-instances", "-1"),
            "--semantic-instances -1: give the value of the first class",
        ),
        (
            ("--semantic", "stuff", "--semantic-instances", "id"),
            "--semantic-instances id: give the value of the first class",
        ),
        (("--semantic", "gone"), "semantic gone: no such folder"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "evaluate"])
@pytest.mark.usefixtures("maps")
def test_flags_that_cannot_be(htc: Htc, data: Path, model: Path, verb: str, flags: tuple[str, ...], says: str) -> None:
    call = (
        ("train", "--data", data)
        if verb == "train"
        else ("evaluate", model, "--annotations", data / "annotations/instances_val.json")
    )
    result = htc(*call, *flags)
    assert result.code == 2
    assert says in result.err


def found_labels(model: Path, data: Path) -> dict[int, np.ndarray]:
    """The model's semantic map of each validation image, by image id, from the public interface."""
    predictor = load(str(model), device="cpu")
    labels = {}
    for row, image_id in enumerate((5, 6, 7)):
        semantic = predictor.predict(data / "val" / f"image{row}.png", semantic=True).semantic
        assert semantic is not None
        labels[image_id] = semantic.labels()
    return labels


def brute_force(truth: dict[int, np.ndarray], found: dict[int, np.ndarray], classes: int) -> dict[int, float]:
    """IoU of each annotated class, from sets of pixels."""
    result = {}
    for label in range(classes):
        own = {(id, *place) for id, values in truth.items() for place in np.argwhere(values == label).tolist()}
        theirs = {
            (id, *place)
            for id, values in found.items()
            for place in np.argwhere((values == label) & (truth[id] != 255)).tolist()
        }
        if own:
            result[label] = len(own & theirs) / len(own | theirs)
    return result


def panoptic_of_val(folder: Path, names: tuple[str, ...] = ("grass", "square", "disc")) -> dict[int, np.ndarray]:
    """`val.json` and `val/`; the classes, numbered in this order, that they say of each image."""
    (folder / "val").mkdir()
    generator = np.random.default_rng(0)
    entries, truth = [], {}
    for image_id in (5, 6, 7):
        blocks = generator.integers(0, 5, (HEIGHT // 8, WIDTH // 8)).repeat(8, 0).repeat(8, 1)
        Image.fromarray(np.stack([blocks * 50, blocks, 0 * blocks], -1).astype(np.uint8)).save(
            folder / "val" / f"{image_id}.png"
        )
        infos = [{"id": 306 * block, "category_id": 2 * block + 1, "iscrowd": 0} for block in (1, 2, 3)]
        infos.append({"id": 306 * 4, "category_id": 3, "iscrowd": 1})
        entries.append({"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": infos})
        truth[image_id] = np.array([255, 2, 0, 1, 255])[blocks]  # ids 3, 5, 7 are disc, grass, square
    ids = {"disc": 3, "grass": 5, "square": 7, "sky": 11}
    categories = [{"id": ids[name], "name": name, "isthing": int(name in ("disc", "square"))} for name in names]
    (folder / "val.json").write_text(json.dumps({"annotations": entries, "categories": categories}))
    return truth


def test_mean_iou_against_panoptic_annotations(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    """Classes by their order in the file; void and crowds do not count."""
    truth = panoptic_of_val(tmp_path)
    call = (
        "evaluate",
        model,
        "--annotations",
        data / "annotations/instances_val.json",
        "--semantic",
        "val",
        "--semantic-json",
        "val.json",
    )
    numbers = json.loads(htc(*call, "--json", "-").out)["semantic"]
    expected = brute_force(truth, found_labels(model, data), 3)
    assert numbers["per_class"] == pytest.approx(
        {("grass", "square", "disc")[label]: iou for label, iou in expected.items()}
    )
    assert numbers["mIoU"] == pytest.approx(sum(expected.values()) / len(expected))
    assert len(expected) == 3
    assert 0 < numbers["mIoU"] < 1
    over = htc(*call, "--semantic-instances", "1")
    assert over.code == 2
    assert "instances of 'disc' would be drawn with the value 1, which is 'square'" in over.err


def test_mean_iou_against_merged_maps(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    """A folder of class numbers below them: both by category id - 1."""
    truth = panoptic_of_val(tmp_path)
    content = json.loads((tmp_path / "val.json").read_text())
    for entry in content["annotations"]:
        entry["segments_info"] = [
            {**one, "category_id": (one["category_id"] - 1) // 2} for one in entry["segments_info"]
        ]
    content["categories"] = [{**one, "id": (one["id"] - 1) // 2} for one in content["categories"]]
    (tmp_path / "val.json").write_text(json.dumps(content))
    (tmp_path / "stuff").mkdir()
    for row in range(3):
        Image.fromarray(np.full((HEIGHT, WIDTH), row, np.uint8)).save(tmp_path / "stuff" / f"image{row}.png")
    renumbered = np.array([1, 2, 0, *[255] * 253])  # grass, square, disc have the ids 2, 3, 1 now
    merged_maps = {
        id: np.where(values == 255, row, renumbered[values]) for row, (id, values) in enumerate(truth.items())
    }
    call = (
        "evaluate",
        model,
        "--annotations",
        data / "annotations/instances_val.json",
        "--semantic",
        "stuff",
        "--semantic-json",
        "val.json",
    )
    numbers = json.loads(htc(*call, "--semantic-panoptic", "val", "--json", "-").out)["semantic"]
    expected = brute_force(merged_maps, found_labels(model, data), 3)
    assert numbers["per_class"] == pytest.approx(
        {("disc", "grass", "square")[label]: iou for label, iou in expected.items()}
    )
    assert len(expected) == 3


def test_a_branch_of_other_classes_cannot_be_measured(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    panoptic_of_val(tmp_path, ("grass", "square", "disc", "sky"))
    call = (
        "evaluate",
        model,
        "--annotations",
        data / "annotations/instances_val.json",
        "--semantic",
        "val",
        "--semantic-json",
        "val.json",
    )
    result = htc(*call)
    assert result.code == 2
    assert "the model's branch has 3 classes, these maps need 4" in result.err
