"""Every switch of Tables 2-5 reaches the prediction of one model, from a file, from the environment and as a flag."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.conftest import Result
from htc.cli.app import run
from htc.config import Config, GaussianSoftNMS, LinearSoftNMS

Htc = Callable[..., Result]
NO_BRANCH = {"semantic": None, "cascade": {"semantic_fusion": "none"}}
SWITCHES: dict[str, tuple[dict[str, Any], bool]] = {
    # name: (settings, whether the same weights then find something else)
    "table 2: parallel": ({"cascade": {"interleaved": False}}, False),  # which boxes a mask head is trained on
    "table 2: no mask flow": ({"cascade": {"mask_flow": False}}, True),
    "table 2: no semantic branch": (NO_BRANCH, True),
    "table 3: probabilities": ({"inference": {"score_ensemble": "probabilities"}}, True),
    "table 4: boxes of stage 1": ({"inference": {"box_stage": 1}}, True),
    "table 4: boxes of stage 2": ({"inference": {"box_stage": 2}}, True),
    "table 4: scores of stage 3": ({"inference": {"score_stages": [3]}}, True),
    "table 4: masks of stage 1": ({"inference": {"mask_stages": [1]}}, True),
    "table 4: masks of stages 2, 3": ({"inference": {"mask_stages": [2, 3]}}, True),
    "table 5: no fusion": ({"cascade": {"semantic_fusion": "none"}}, True),
    "table 5: box": ({"cascade": {"semantic_fusion": "box"}}, True),
    "table 5: mask": ({"cascade": {"semantic_fusion": "mask"}}, True),
    "soft-NMS, linear": ({"inference": {"soft_nms": {"kind": "linear", "iou": 0.3}}}, True),
    "soft-NMS, Gaussian": ({"inference": {"soft_nms": {"kind": "gaussian", "sigma": 0.4}}}, True),
    "precision": ({"precision": "bf16"}, True),
}


@pytest.fixture
def predicted(htc: Htc, model: Path, data: Path) -> Callable[..., list[dict[str, Any]]]:
    def call(*flags: object) -> list[dict[str, Any]]:
        result = htc(
            "predict",
            data / "val" / "image0.png",
            "--model",
            model,
            "--score-threshold",
            "0",
            "--json",
            "-",
            "--no-draw",
            "--device",
            "cpu",
            *flags,
        )
        assert result.code == 0, result.err
        return json.loads(result.out)

    return call


def flags_of(settings: dict[str, Any], prefix: str = "--") -> list[str]:
    found = []
    for name, value in settings.items():
        found += (
            flags_of(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else [prefix + name, "none" if value is None else json.dumps(value).strip('"')]
        )
    return found


@pytest.fixture(scope="module")
def plain(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the model finds as it is."""
    path = tmp_path_factory.mktemp("plain") / "found.json"
    image = data / "val" / "image0.png"
    run(
        [
            "predict",
            str(image),
            "--model",
            str(model),
            "--score-threshold",
            "0",
            "--json",
            str(path),
            "--no-draw",
            "--device",
            "cpu",
        ]
    )
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch(
    htc: Htc,
    predicted: Callable[..., list[dict[str, Any]]],
    plain: list[dict[str, Any]],
    model: Path,
    tmp_path: Path,
    name: str,
) -> None:
    settings, differs = SWITCHES[name]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(settings))
    found = predicted("--config", "own.yaml")
    assert (found != plain) == differs
    assert len(found) == len(plain) == 20
    configs = [
        htc("predict", "--model", model, *given, "--print-config").out
        for given in ((), ("--config", "own.yaml"), flags_of(settings))
    ]
    assert configs[0] != configs[1] == configs[2]


def test_flags_win_over_the_environment_over_the_file(
    predicted: Callable[..., list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.yaml").write_text("inference: {max_detections: 3}")
    assert len(predicted("--config", "own.yaml")) == 3
    monkeypatch.setenv("HTC_INFERENCE__MAX_DETECTIONS", "4")
    assert len(predicted("--config", "own.yaml")) == 4
    assert len(predicted("--config", "own.yaml", "--inference.max-detections", "5")) == 5
    assert len(predicted("--config", "own.yaml", "--inference.max-detections", "5", "--max-detections", "6")) == 6


def test_soft_nms_of_a_file_is_changed_and_turned_off_by_flags(htc: Htc, model: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("inference: {soft_nms: {kind: linear, iou: 0.3}}")
    said = [
        Config.model_validate(
            yaml.safe_load(htc("predict", "--model", model, "--config", "own.yaml", *flags, "--print-config").out)
        ).inference.soft_nms
        for flags in (
            (),
            ("--inference.soft_nms.kind", "gaussian"),
            ("--inference.soft_nms.min_score", "0.1"),
            ("--inference.soft_nms", "none"),
        )
    ]
    assert said == [LinearSoftNMS(iou=0.3), GaussianSoftNMS(), LinearSoftNMS(iou=0.3, min_score=0.1), None]


@pytest.mark.parametrize("verb", ["predict", "evaluate", "convert"])
def test_print_config_needs_nothing_but_the_model(htc: Htc, model: Path, verb: str, tmp_path: Path) -> None:
    named = {"predict": ("--model", model), "evaluate": (model,), "convert": (model, "native")}[verb]
    for one in (named, tuple("htc_r18_small" if part == model else part for part in named)):
        result = htc(verb, *one, "--inference.nms_iou", "0.33", "--print-config")
        assert result.code == 0, result.err
        assert Config.model_validate(yaml.safe_load(result.out)).inference.nms_iou == 0.33
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--cascade.num_stages", "2"), "--cascade.num_stages: delta_stds has 3 values for num_stages = 2"),
        (
            ("--cascade.mask_convs", "1", "--cascade.mask_head.kind", "fusion", "--cascade.samples", "16"),
            "--cascade.mask_convs: mask_head fusion needs mask_convs of 2 or more",
        ),
        (("--inference.mask_stages", "4,1"), "inference uses stage 4, but cascade.num_stages is 3"),
        (("--inference.mask_stages", "1"), "--inference.mask_stages: must be a list of values: write [1]"),
        (("--cascade.box_channels", "12"), "cascade.box_channels: the weights have 32, the configuration has 12"),
        (
            ("--inference.soft_nms.kind", "hard"),
            "--inference.soft_nms.kind: there is no kind 'hard', only 'linear', 'gaussian'",
        ),
        (
            ("--inference.soft_nms.kind", "linear", "--inference.soft_nms.sigma", "1"),
            "--inference.soft_nms.sigma: does not belong to this kind of",
        ),
        (
            ("--inference.soft_nms.sigma", "1"),
            "--inference.soft_nms.sigma: the kind is missing: set inference.soft_nms.kind to one of 'linear'",
        ),
        (("--semantic", "none"), "cascade.semantic_fusion is 'both' but semantic is null"),
    ],
)
def test_switches_that_do_not_fit_are_errors(
    htc: Htc, model: Path, data: Path, flags: tuple[str, ...], message: str
) -> None:
    result = htc("predict", data / "val" / "image0.png", "--model", model, *flags)
    assert result.code == 2
    assert message in result.err
