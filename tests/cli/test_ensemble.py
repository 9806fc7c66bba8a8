"""`htc predict` and `htc evaluate` with several models and several views."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from htc.checkpoint.native import save_pretrained
from htc.config import Config
from htc.model.detector import Detector

Htc = Callable[..., Any]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, small_config: Config) -> Path:
    torch.manual_seed(1)
    renamed = small_config.replace(classes=small_config.classes[::-1])
    return save_pretrained(Detector(renamed), renamed, tmp_path_factory.mktemp("native") / "other")


def test_predict_with_the_identity_and_copies_writes_the_results_of_the_model(
    htc: Htc, model: Path, data: Path
) -> None:
    call = ("predict", data / "val", "--no-draw", "--json", "-", "--score-threshold", "0.05", "--model", model)
    alone, identity, copies = (htc(*call, *more) for more in ((), ("--views", "1"), ("--model", model)))
    assert (alone.code, identity.code, copies.code) == (0, 0, 0), copies.err
    expected = json.loads(alone.out)
    assert expected
    for result in (identity, copies):
        found = json.loads(result.out)
        assert [(one["image_id"], one["category_id"]) for one in found] == [
            (one["image_id"], one["category_id"]) for one in expected
        ]
        for one, same in zip(found, expected, strict=True):
            assert one["score"] == pytest.approx(same["score"], abs=1e-5)
            assert one["bbox"] == pytest.approx(same["bbox"], abs=1e-3)


def test_predict_with_views_and_models_of_another_class_order(
    htc: Htc, model: Path, other: Path, data: Path, tmp_path: Path
) -> None:
    result = htc(
        "predict",
        data / "val",
        "--model",
        model,
        "--model",
        other,
        "--views",
        "0.5,48x64:flip",
        "--out",
        "found",
        "--json",
        "found.json",
    )
    assert result.code == 0, result.err
    assert len(list((tmp_path / "found").iterdir())) == 3
    assert isinstance(json.loads((tmp_path / "found.json").read_text()), list)


def test_evaluate_reports_every_member_and_all_together(
    htc: Htc, model: Path, other: Path, data: Path, tmp_path: Path
) -> None:
    annotations = data / "annotations" / "instances_val.json"
    result = htc(
        "evaluate",
        model,
        other,
        "--annotations",
        annotations,
        "--views",
        "1:flip",
        "--json",
        "joint.json",
        "--save-results",
        "found.json",
    )
    assert result.code == 0, result.err
    numbers = json.loads((tmp_path / "joint.json").read_text())
    assert set(numbers) == {"bbox", "segm", "per_class", "members"}
    assert list(numbers["members"]) == ["model", "other"]
    assert [line.split()[0] for line in result.out.splitlines()[-3:]] == ["class", "disc", "square"]
    rows = [line.split()[0] for line in result.out.splitlines() if line.strip()]
    assert rows[3:7] == ["model", "model", "other", "ensemble"]
    alone = htc("evaluate", model, "--annotations", annotations, "--views", "1:flip", "--json", "-")
    assert json.loads(alone.out) == numbers["members"]["model"]
    again = htc(
        "evaluate", "--results", "found.json", "--annotations", annotations, "--max-detections", "20", "--json", "-"
    )
    assert json.loads(again.out) == {key: value for key, value in numbers.items() if key != "members"}


def test_a_model_named_twice_has_two_rows(htc: Htc, model: Path, data: Path) -> None:
    result = htc("evaluate", model, model, "--annotations", data / "annotations" / "instances_val.json", "--json", "-")
    numbers = json.loads(result.out)
    assert list(numbers["members"]) == [f"{model} (1)", f"{model} (2)"]
    alone = {key: value for key, value in numbers.items() if key != "members"}
    assert list(numbers["members"].values()) == [alone, alone]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--views", "big"), "'big' is not a scale"),
        (("--views", "1", "--short-edge", "64"), "--input.short_edge"),
        (("--model", "htc_r50_fpn_20e_coco", "--weights", "htc_r50_fpn_20e_coco"), "--weights is for one model"),
        (("--model", "nothing/here"), "nothing/here: no such file"),
    ],
)
def test_predict_refuses_before_anything_is_built(
    htc: Htc, model: Path, data: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = htc("predict", data / "val", "--model", model, *arguments)
    assert result.code == 2
    assert message in result.err


@pytest.mark.parametrize("more", [("--stages", "1"), ("--semantic", "auto")])
def test_stages_and_maps_are_of_one_model(htc: Htc, model: Path, data: Path, more: tuple[str, str]) -> None:
    result = htc(
        "evaluate", model, "--annotations", data / "annotations" / "instances_val.json", "--views", "1:flip", *more
    )
    assert result.code == 2
    assert "one model without views" in result.err


def test_a_result_file_has_no_views(htc: Htc, data: Path) -> None:
    result = htc(
        "evaluate",
        "--results",
        "found.json",
        "--annotations",
        data / "annotations" / "instances_val.json",
        "--views",
        "1:flip",
    )
    assert result.code == 2
    assert "need a model" in result.err
