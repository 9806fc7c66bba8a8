"""One set of rules: every kind of fault goes through doctor, training, evaluation and prediction.

What the doctor accepts (no error), the others accept too; what one of them refuses, the doctor reports as an error.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from checks.data_sets import HEIGHT, WIDTH, DataSet, clean
from checks.faults import FIXED, KEPT
from htc.checks.before_training import check_data
from htc.checks.examine import Request, examine, repairable
from htc.checks.kinds import FINDING_KINDS
from htc.checks.repair import repair, write_annotations
from htc.cli.app import run
from htc.data.annotation_file import read_annotation_file
from htc.data.coco import Splits, read_coco, read_splits
from htc.data.mask_encodings import counts_of
from htc.errors import DataError
from htc.evaluation.coco import coco_metrics
from htc.evaluation.files import listed_names, read_annotations
from htc.training.run import Options, read_dataset
from training.tiny import tiny

FAULTS = [*FIXED, *KEPT]
OF_PIXELS = {"picture-damaged"}
"""Errors that need the decoded images: a training finds them when it reaches the image."""
OF_MAPS = {code for code in FINDING_KINDS if code.startswith("semantic-")}
"""Errors of semantic maps, which these trainings do not use."""
OF_TWO = {"categories-differ"}
"""Errors of both sets together, which an evaluation of the one does not see."""


def refusal(function: Callable[[], object]) -> str | None:
    """The message of a refusal; None if there is none. Any other exception is a failure of the test."""
    try:
        function()
    except DataError as error:
        return str(error)
    return None


def errors_of(data: DataSet) -> set[str]:
    request = Request(
        read_annotation_file(data.annotations, data.images, "train"),
        read_annotation_file(data.val_annotations, data.val_images, "val"),
    )
    return {one.code for one in examine(request).findings if FINDING_KINDS[one.code].severity == "error"}


def trains(data: DataSet) -> None:
    splits = Splits(data.annotations, data.images, data.val_annotations, data.val_images)
    read_dataset(splits, Options())
    read_splits(splits)
    check_data(tiny(), splits)


def evaluates(annotations: Path, images: Path) -> None:
    read_coco(annotations, images)
    coco_metrics(read_annotations(annotations), [])


def swapped(data: DataSet) -> DataSet:
    """The faulty training part as validation part."""
    return DataSet(data.root, data.val, data.train)


@pytest.mark.parametrize(("code", "fault"), FAULTS, ids=[f"{n}-{code}" for n, (code, _) in enumerate(FAULTS)])
def test_all_four_agree(code: str, fault: Callable[[DataSet], None], tmp_path: Path) -> None:
    data = clean(tmp_path / "data")
    fault(data)
    data.write()
    errors = errors_of(data) - OF_MAPS
    of_training = refusal(lambda: trains(data))
    assert bool(errors - OF_PIXELS) == (of_training is not None), (errors, of_training)
    if code in errors - OF_PIXELS:
        assert of_training is not None
        assert any(part in of_training for part in ("annotation", "image", "categor", "list", "instance")), of_training
    of_evaluation = refusal(lambda: evaluates(data.annotations, data.images))
    of_validation = refusal(lambda: evaluates(data.val_annotations, data.val_images))
    if not errors - OF_TWO:
        assert (of_evaluation, of_validation) == (None, None)
    assert errors or (of_evaluation is None and of_validation is None)
    of_prediction = refusal(lambda: listed_names(data.annotations))
    assert errors or of_prediction is None, of_prediction


@pytest.mark.parametrize(("code", "fault"), FAULTS, ids=[f"{n}-{code}" for n, (code, _) in enumerate(FAULTS)])
def test_correcting_loses_nothing_that_is_understood(
    code: str, fault: Callable[[DataSet], None], tmp_path: Path
) -> None:
    """Where a training takes the file, it learns the same from the corrected one, except where masks and boxes of an
    annotation contradict each other.
    """
    data = clean(tmp_path / "data")
    fault(data)
    data.write()
    request = Request(read_annotation_file(data.annotations, data.images))
    repaired = repair(request.train, repairable(request))
    if refusal(lambda: read_coco(data.annotations, data.images)) is not None or code in (
        *("box-unlike-mask", "box-empty", "mask-empty", "polygon-no-area", "object-twice", "picture-listed-twice"),
        *("polygon-outside", "box-outside", "area-unlike-mask", "area-missing", "annotation-id-missing", "box-missing"),
    ):
        assert all(change.old is not None or change.new is not None for change in repaired.changes)
        return
    before = read_coco(data.annotations, data.images)
    corrected = tmp_path / "corrected.json"
    write_annotations(corrected, repaired.content)
    assert read_coco(corrected, data.images) == before
    assert {change.code for change in repaired.changes} == set(repaired.corrected)


def test_the_list_of_changes_has_the_old_values(tmp_path: Path, capsys) -> None:
    data = clean(tmp_path / "data")
    data.objects[0]["image_id"] = "1"
    data.objects.append({**data.objects[1], "id": 60})
    data.write()
    target, found = tmp_path / "fixed.json", tmp_path / "found.json"
    assert run(["doctor", str(data.annotations), str(data.images), "--fix", str(target), "--json", str(found)]) == 1
    printed = capsys.readouterr().err
    assert "value-type: annotation 1: image_id '1' -> 1" in printed
    assert "object-twice: annotation 60 removed: {'id': 60" in printed
    changes = json.loads(found.read_text())["fixed"]["changes"]
    assert [(one["code"], one["id"], one["field"]) for one in changes] == [
        ("value-type", 1, "image_id"),
        ("object-twice", 60, None),
    ]
    assert changes[0]["old"] == "1"
    assert changes[1]["old"]["bbox"] == data.objects[1]["bbox"]


@pytest.mark.parametrize(("holes", "area"), [("on", 48**2 - 24**2), ("off", 48**2)])
def test_holes_are_cut_or_filled(holes: str, area: int, tmp_path: Path, capsys) -> None:
    """By the doctor and by training; the annotated area shows what was meant, and is kept in both."""
    data = clean(tmp_path / "data")
    outer, inner = [8, 8, 56, 8, 56, 56, 8, 56], [20, 20, 20, 44, 44, 44, 44, 20]
    data.objects[0] |= {"segmentation": [outer, inner], "bbox": [8, 8, 48, 48], "area": 48**2 - 24**2}
    data.write()
    target = tmp_path / "fixed.json"
    arguments = ["doctor", str(data.annotations), str(data.images), "--fix", str(target), "--coco-holes", holes]
    assert run(arguments) == 1
    assert not target.exists()
    assert "warning polygon-hole (1)" in capsys.readouterr().out
    splits = Splits(data.annotations, data.images, None, None, holes=holes == "on")
    (warning,) = check_data(tiny(), splits)
    assert warning.startswith("warning: A polygon inside another is used as a hole")
    instance = read_dataset(splits, Options()).images[0].instances[0]
    assert instance.segmentation is not None
    assert counts_of(instance.segmentation, HEIGHT, WIDTH)[1::2].sum() == area


SHARED = next(
    (folder / "shared/data" for folder in Path(__file__).resolve().parents if (folder / "shared/data").is_dir()),
    Path("shared/data"),
)
CLEAN = {
    "coco_mini/train": ("coco_mini/annotations/instances_train2017.json", "coco_mini/train2017"),
    "coco_mini/val": ("coco_mini/annotations/instances_val2017.json", "coco_mini/val2017"),
    "dsb2018/train": ("dsb2018/annotations/instances_train.json", "dsb2018/train"),
    "dsb2018/val": ("dsb2018/annotations/instances_val.json", "dsb2018/val"),
    "fruits_nuts/train": ("fruits_nuts/annotations/instances_train.json", "fruits_nuts/train"),
    "fruits_nuts/val": ("fruits_nuts/annotations/instances_val.json", "fruits_nuts/val"),
    "panoptic": ("coco_panoptic_sample/annotations/panoptic_as_detection.json", "coco_panoptic_sample/val2017"),
}


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the data for development are not here")
@pytest.mark.parametrize("name", CLEAN)
def test_clean_data_are_not_changed(name: str) -> None:
    annotations, images = CLEAN[name]
    request = Request(read_annotation_file(SHARED / annotations, SHARED / images))
    repaired = repair(request.train, repairable(request))
    assert (repaired.corrected, repaired.changes) == ({}, [])
