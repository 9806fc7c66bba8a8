"""What the doctor accepts, training and evaluation accept: every field of a file with values that people do write."""

import copy
import json
from typing import Any

import pytest

from checks.data_sets import DataSet, clean
from htc.checks.examine import fast_findings
from htc.checks.kinds import FINDING_KINDS
from htc.config import Input
from htc.data.annotation_file import read_annotation_file
from htc.data.coco import read_coco
from htc.data.faults import FAULT_REMEDIES
from htc.errors import DataError
from htc.evaluation.coco import coco_metrics

ABSENT = object()
ODD: tuple[Any, ...] = (
    *(ABSENT, None, True, False, 0, 1, -1, 1.5, 10**400, float("nan"), float("inf"), "", "1", "x\\train_0.png"),
    *([], {}, [[]], [1], [1, 2, 3, 4], [5.0, 5.0, 20, 20], [True] * 6, [[True] * 6], [[1, 2, 3, 4]], [["a"] * 6]),
    *([[10**400] * 6], [[5, 5, 20, 5, 20, 20]], [[5, 5, 20, 5, 20, 20], [1, 1]], {"counts": "", "size": [96, 128]}),
    *({"size": [96, 128], "counts": [12288]}, {"size": [96, 128], "counts": [10**30]}),
)
FIELDS = (
    *(("images", name) for name in ("id", "file_name", "height", "width")),
    *(("annotations", name) for name in ("id", "image_id", "category_id", "bbox", "iscrowd", "segmentation", "area")),
    *(("categories", name) for name in ("id", "name")),
)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> DataSet:
    return clean(tmp_path_factory.mktemp("clean"))


def changed(data: DataSet, part: str, name: str, value: Any, rows: tuple[int, ...]) -> None:
    """Writes the training file with that value in the field of some records."""
    content = copy.deepcopy(data.train)
    for row in rows:
        if value is ABSENT:
            content[part][row].pop(name, None)
        else:
            content[part][row][name] = value
    data.annotations.write_text(json.dumps(content))


@pytest.mark.parametrize("rows", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize(("part", "name"), FIELDS)
def test_what_the_doctor_accepts_is_accepted(part, name, rows, pristine):
    for value in ODD:
        changed(pristine, part, name, value, rows)
        file = read_annotation_file(pristine.annotations, pristine.images)
        if any(FINDING_KINDS[one.code].severity == "error" for one in fast_findings(file, Input(), 100)):
            continue
        try:
            read_coco(pristine.annotations, pristine.images)
            coco_metrics(pristine.annotations, [])
        except DataError as error:
            # Masks are evaluated only if all annotations have one; the error explains this.
            if "has no segmentation, but others have one" in str(error):
                continue
            pytest.fail(f"{part} {name} = {value!r}: {error}")


def test_every_fault_of_the_reader_is_an_error_of_the_doctor():
    assert {FINDING_KINDS[code].severity for code in FAULT_REMEDIES} == {"error"}


def test_an_annotation_without_iscrowd_id_or_box_is_used(pristine):
    """Each of these was refused by training or evaluation although the doctor accepted it."""
    for name in ("iscrowd", "id", "bbox"):
        changed(pristine, "annotations", name, None, (0, 1))
        assert len(read_coco(pristine.annotations, pristine.images).images[0].instances) == 3
        assert coco_metrics(pristine.annotations, [])["bbox"]["AP"] == 0
