"""`htc train` with little said: what it chooses, says and leaves, and how it goes on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cli.conftest import Result

Htc = Callable[..., Result]
SETTINGS = {
    **{
        "neck.channels": 32,
        "semantic.channels": 32,
        "semantic.convs": 1,
        "cascade.box-channels": 32,
        "cascade.mask-channels": 16,
    },
    **{
        "cascade.mask-convs": 1,
        "cascade.samples": 16,
        "rpn.proposals": 50,
        "rpn.training-proposals": 50,
        "rpn.samples": 32,
    },
    **{
        "input.short-edge": 64,
        "input.long-edge": 128,
        "training.augmentation.crop": "none",
        "device": "cpu",
        "epochs": 1,
    },
}
FLAGS = [word for name, value in SETTINGS.items() for word in (f"--{name}", value)]


@pytest.fixture(autouse=True)
def no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.slow
def test_choices_are_printed_recorded_and_kept_by_a_resumed_run(htc: Htc, data: Path, tmp_path: Path) -> None:
    result = htc("train", "--data", data, *FLAGS, "--evaluate-every", "2")
    assert result.code == 0, result.err
    run = tmp_path / "runs/train" / data.name
    assert "3 images, 2 instances, 2 classes" in result.err
    choices = json.loads((run / "choices.json").read_text())
    named = {name: value for choice in choices for name, value in choice["fields"].items()}
    assert named["preset"] == "htc_r18_small"
    assert named["inference.max_detections"] == 100
    assert named["learning rate"] == 0.001
    assert named["semantic targets"] == "auto"
    assert not {"training.epochs", "input.short_edge", "training.augmentation.crop"} & set(named)
    for choice in choices:
        assert choice["rule"] in result.err
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["inference"]["max_detections"], config["training"]["epochs"], config["classes"]) == (
        100,
        1,
        ["disc", "square"],
    )
    assert "epoch 1/1, step 1/1, loss" in result.err
    again = htc("train", "--data", data, "--resume", "--out", run, "--epochs", "4", "--device", "cpu")
    assert again.code == 0, again.err
    assert "epoch 4/4, step 4/4, loss" in again.err
    measured = json.loads((run / "history.json").read_text())
    assert [entry["epoch"] for entry in measured] == [1, 2, 4]  # the last of the first run, then every second again
    resumed = yaml.safe_load((run / "config.yaml").read_text())
    assert resumed == {**config, "training": {**config["training"], "epochs": 4}}
    assert json.loads((run / "choices.json").read_text()) == choices


@pytest.mark.slow
def test_loggers_are_opened_and_named(htc: Htc, data: Path, tmp_path: Path) -> None:
    result = htc("train", "--data", data, *FLAGS, "--logger", "tensorboard", "--out", "run", "--evaluate-every", "2")
    assert result.code == 0, result.err
    assert "TensorBoard: tensorboard --logdir run/tensorboard" in result.err.splitlines()
    assert list((tmp_path / "run/tensorboard").glob("events.out.tfevents.*"))
    unknown = htc("train", "--data", "gone", "--logger", "tensorbord", "neptune")
    assert (unknown.code, unknown.err.count("\n")) == (2, 1)
    assert (
        "unknown logger 'tensorbord'; did you mean tensorboard? The loggers are tensorboard, wandb, mlflow"
        in unknown.err
    )


def test_a_named_preset_leaves_nothing_to_choose(htc: Htc, data: Path) -> None:
    given = htc("train", "--data", data, "--preset", "htc_r50_fpn_1x_coco", "--print-config")
    plain = htc("train", "--preset", "htc_r50_fpn_1x_coco", "--print-config")
    assert given.out == plain.out != ""


def test_the_chosen_configuration_can_be_printed(htc: Htc, data: Path, tmp_path: Path) -> None:
    result = htc("train", "--data", data, "--print-config")
    assert result.code == 0, result.err
    config = yaml.safe_load(result.out)
    assert (config["preset"], config["classes"], config["training"]["epochs"]) == (
        "htc_r18_small",
        ["disc", "square"],
        100,
    )
    assert not (tmp_path / "runs").exists()


def test_weights_decide_the_architecture(htc: Htc, data: Path, model: Path) -> None:
    result = htc("train", "--data", data, "--weights", model, "--print-config")
    assert result.code == 0, result.err
    config = yaml.safe_load(result.out)
    assert (config["neck"]["channels"], config["cascade"]["mask_channels"]) == (32, 16)
