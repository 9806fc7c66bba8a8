"""Every fault is found in a data set that has just this one, and corrected where that is safe."""

import copy
import json
from pathlib import Path

import pytest

from checks.data_sets import DataSet, clean
from checks.faults import FIXED, KEPT
from htc.checks.examine import Request, examine, repairable
from htc.checks.kinds import FINDING_KINDS
from htc.checks.repair import repair
from htc.checks.report import to_json
from htc.cli.app import run
from htc.data.annotation_file import read_annotation_file
from htc.data.coco import read_coco

CONSEQUENCES = {
    "picture-name": {"picture-unlisted"},
    "image-outside": {"picture-unlisted"},
    "mask-unlearned": {"mask-missing"},
    "nothing-to-learn": {"picture-empty", "class-absent", "annotation-ignored"},
    "nothing-to-evaluate": {"picture-empty"},
    "list-empty": {"categories-differ", "class-absent", "picture-unlisted"},
    "category-name-twice": {"class-absent", "category-ids-differ"},
    "category-names-alike": {"class-absent", "categories-differ"},
    "picture-missing": {"picture-unlisted", "semantic-missing"},
    "picture-leaked-alike": {"mask-missing"},
    "box-outside": {"mask-missing"},
    "categories-differ": {"class-absent"},
    "image-id-twice": {"picture-empty", "annotation-without-image"},
}
"""Other findings that a fault brings with it."""


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> DataSet:
    return clean(tmp_path_factory.mktemp("clean"))


def request(data: DataSet) -> Request:
    """All parts of a data set."""
    return Request(
        read_annotation_file(data.annotations, data.images, "train"),
        read_annotation_file(data.val_annotations, data.val_images, "val"),
        data.maps,
    )


def found_in(data: DataSet) -> dict:
    """What `--json` would write."""
    return to_json(examine(request(data)))


def run_on(data: DataSet, out: Path, *more: str) -> tuple[int, dict]:
    """Exit code and JSON of the command on all parts."""
    target = out / "found.json"
    target.unlink(missing_ok=True)
    parts = [
        data.annotations,
        data.images,
        "--val-annotations",
        data.val_annotations,
        "--val-images",
        data.val_images,
        "--semantic",
        data.maps,
    ]
    code = run(["doctor", *map(str, parts), "--json", str(target), *more])
    return code, json.loads(target.read_text()) if target.exists() else {}


def codes(found: dict) -> set[str]:
    return {finding["code"] for finding in found["findings"]}


def test_a_clean_data_set_has_nothing(pristine, tmp_path, capsys):
    code, found = run_on(pristine, tmp_path)
    assert found["findings"] == []
    assert code == 0
    assert found["ok"] is True
    assert "no faults" in capsys.readouterr().out


def faulty(tmp_path: Path, fault) -> DataSet:
    data = clean(tmp_path / "data")
    fault(data)
    return data.write()


def check_alone(code: str, found: dict) -> None:
    """That fault is among the findings, and nothing that does not come from it."""
    assert code in codes(found)
    assert codes(found) - {code} <= CONSEQUENCES.get(code, set())
    finding = next(one for one in found["findings"] if one["code"] == code)
    assert finding["what"]
    assert finding["severity"] == FINDING_KINDS[code].severity
    assert found["ok"] == ({FINDING_KINDS[one].severity for one in codes(found)} == {"note"})


@pytest.mark.parametrize(("code", "fault"), KEPT, ids=[f"{number}-{code}" for number, (code, _) in enumerate(KEPT)])
def test_each_fault_is_found_alone(code, fault, tmp_path):
    found = found_in(faulty(tmp_path, fault))
    check_alone(code, found)
    assert all(finding["fix"] is None for finding in found["findings"] if finding["code"] == code)


@pytest.mark.parametrize(("code", "fault"), FIXED, ids=[f"{number}-{code}" for number, (code, _) in enumerate(FIXED)])
def test_each_fault_is_found_alone_and_corrected(code, fault, tmp_path):
    """The corrected file is clean and else equal."""
    data = faulty(tmp_path, fault)
    found = found_in(data)
    check_alone(code, found)
    assert any(finding["fix"] for finding in found["findings"] if finding["code"] == code)
    before = copy.deepcopy(data.train)
    asked = request(data)
    repaired = repair(asked.train, repairable(asked))
    assert repaired.corrected[code] >= 1
    assert asked.train.content == before
    data.train = repaired.content
    again = found_in(data.write())
    assert again["ok"]
    assert code not in codes(again)
    read_coco(data.annotations, data.images)
    _only_the_faulty_changed(
        before, repaired.content, {finding["annotation_id"] for finding in found["findings"]}, code
    )


def _only_the_faulty_changed(before: dict, after: dict, touched: set, code: str) -> None:
    if code in (
        "box-whole-numbers",
        "area-missing",
        "annotation-id-missing",
        "picture-missing",
        "picture-listed-twice",
        "value-type",
        "annotation-id-twice",
    ):
        return
    kept = {one["id"]: one for one in after["annotations"]}
    for one in before["annotations"]:
        if isinstance(one, dict) and one["id"] not in touched:
            assert kept[one["id"]] == one


def test_nothing_is_corrected_on_a_image_of_another_size(tmp_path):
    """Its objects lie outside because the record is wrong, not they."""
    data = clean(tmp_path / "data")
    data.train["images"][0]["height"] = 60
    found = found_in(data.write())
    assert {"picture-size", "polygon-outside"} <= codes(found)
    assert all(finding["fix"] is None for finding in found["findings"])


def test_every_kind_has_a_data_set():
    covered = {code for code, _ in [*FIXED, *KEPT]}
    assert set(FINDING_KINDS) - covered == {"layout-missing", "layout-optional", "layout-converted"}


def test_several_faults_are_corrected_together(tmp_path):
    """All of them in one file, where a repair can uncover the next fault."""
    data = clean(tmp_path / "data")
    for code, fault in FIXED:
        if code in (
            "polygon-odd",
            "polygon-no-area",
            "annotation-id-twice",
            "annotation-without-image",
            "mask-empty",
            "area-missing",
        ):
            fault(data)
    data.write()
    target = tmp_path / "fixed.json"
    assert run_on(data, tmp_path, "--fix", str(target))[0] == 1
    data.train = json.loads(target.read_text())
    assert run_on(data.write(), tmp_path)[0] == 0


def test_nothing_is_overwritten_and_nothing_written_without_need(pristine, tmp_path, capsys):
    target = tmp_path / "fixed.json"
    code, found = run_on(pristine, tmp_path, "--fix", str(target))
    assert (code, found["fixed"]) == (0, {"file": None, "corrected": {}, "changes": []})
    assert not target.exists()
    assert "fixed.json" in capsys.readouterr().err
    assert run_on(pristine, tmp_path, "--fix", str(pristine.annotations))[0] == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"images": [], "annotations": [{"segments_info": []}], "categories": []}', None]
)
def test_what_cannot_be_examined(content, pristine, tmp_path, capsys):
    file = tmp_path / "instances.json"
    if content is not None:
        file.write_text(content)
    assert run(["doctor", str(file), str(pristine.images)]) == 2
    assert str(file) in capsys.readouterr().err


def test_arguments_that_do_not_go_together(pristine, tmp_path, capsys):
    assert run(["doctor", str(pristine.annotations)]) == 2
    assert "IMAGES is missing" in capsys.readouterr().err
    assert (
        run(["doctor", str(pristine.annotations), str(pristine.images), "--val-images", str(pristine.val_images)]) == 2
    )
    assert run(["doctor", str(pristine.annotations), str(tmp_path / "none")]) == 2
    assert run(["doctor", str(pristine.annotations), str(pristine.images), "--semantic", str(tmp_path / "none")]) == 2


def test_json_goes_to_standard_output_alone(pristine, capsys):
    assert run(["doctor", str(pristine.annotations), str(pristine.images), "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"ok", "counts", "parts", "codes", "findings", "advice", "fixed"}
    assert found["counts"] == {"errors": 0, "warnings": 0, "notes": 0}
    (part,) = found["parts"]
    assert (part["name"], part["pictures"], part["objects"], part["classes"]) == ("", 3, 7, ["disc", "bar"])
    settings = {name for advice in found["advice"] for name in advice["settings"]}
    assert settings == {
        "input.short_edge",
        "input.long_edge",
        "input.max_scale",
        "rpn.anchor_scale",
        "inference.max_detections",
    }


def test_findings_in_json(tmp_path):
    data = faulty(tmp_path, FIXED[-1][1])
    found = found_in(data)
    (finding,) = found["findings"]
    assert set(finding) == {"code", "severity", "what", "file", "image_id", "picture", "annotation_id", "box", "fix"}
    assert (finding["image_id"], finding["annotation_id"], finding["fix"]) == (1, 60, "the second annotation removed")
    assert finding["picture"] == str(data.image())
    assert len(finding["box"]) == 4
    assert set(found["codes"]["object-twice"]) == {"severity", "title", "why", "remedy"}


def test_a_folder_is_examined_as_a_whole(pristine, tmp_path):
    target = tmp_path / "found.json"
    assert run(["doctor", str(pristine.root), "--json", str(target)]) == 0
    assert [part["name"] for part in json.loads(target.read_text())["parts"]] == ["train", "val"]


def test_allowed_detections_decide(tmp_path):
    crowded = next(fault for code, fault in KEPT if code == "picture-crowded")
    data = faulty(tmp_path, crowded)
    assert run_on(data, tmp_path)[0] == 1
    assert run_on(data, tmp_path, "--max-detections", "200")[0] == 0
