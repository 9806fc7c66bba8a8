"""`htc.train` from Python: every kind of data, options, results, events, resume, several processes, own objects."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning import Callback
from lightning.pytorch.loggers import Logger
from torch import nn
from torchvision.transforms import v2

import htc
from htc.inference import precision
from htc.training.events import EvaluationDone, Message, Phase, Planned, StepDone
from training.discs import write_split

SMALL = {
    "preset": "htc_r18_small",
    "device": "cpu",
    "progress": False,
    "batch_size": 2,
    "epochs": 1,
    "input": {"short_edge": 64, "long_edge": 80},
    "cascade": {"box_channels": 16, "mask_channels": 16, "mask_convs": 1, "samples": 16},
    "rpn": {"proposals": 50, "training_proposals": 50, "samples": 32},
    "training": {"warmup_steps": 1, "augmentation": {"crop": [64, 64]}},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("discs")
    (folder / "annotations").mkdir()
    for name, images, seed in (("train", 5, 0), ("val", 3, 1)):
        write_split(folder, name, images, seed).rename(folder / "annotations" / f"instances_{name}.json")
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    events = []
    result = htc.train(data, **SMALL | {"progress": events.append}, out=tmp_path_factory.mktemp("run") / "a")
    return result, events


def test_the_result_holds_model_metrics_and_history(trained, data):
    result, _ = trained
    assert result.steps == 3
    assert result.model.classes == ("disc", "square")
    assert result.model.predict(data / "val" / "0.png").size == (72, 80)
    assert result.metrics.to_dict().items() <= json.loads((result.folder / "metrics.json").read_text()).items()
    assert result.history["epoch"] == [1]
    assert result.history["segm.AP"] == [result.metrics.mask.ap]
    assert repr(result).startswith(f"TrainingResult({result.folder}, 3 steps, Metrics(box AP")
    assert htc.load(result.folder).config == result.config


def test_the_evaluation_gives_the_metrics_of_the_training(trained, data):
    result, _ = trained
    metrics = htc.evaluate(result.model, data, progress=False)
    assert metrics == result.metrics
    assert htc.evaluate(result.folder, data, device="cpu", progress=False) == metrics


def test_events_come_in_order(trained):
    _, events = trained
    names = [event.name for event in events if isinstance(event, Phase)]
    assert names == [
        "reading the dataset",
        "loading PyTorch",
        "choosing the configuration",
        "reading the annotations",
        "checking the dataset",
        "building the model",
        "preparing the first step",
        "saving the model",
    ]
    (plan,) = (event for event in events if isinstance(event, Planned))
    assert (plan.images, plan.instances, plan.classes) == (5, 12, 2)
    steps = [event for event in events if isinstance(event, StepDone)]
    assert [(one.step, one.steps) for one in steps] == [(1, 3), (2, 3), (3, 3)]
    assert all(one.memory > 0 for one in steps)
    assert sum(isinstance(event, EvaluationDone) for event in events) == 1


def test_a_run_is_resumed_and_nothing_is_overwritten(trained, data):
    result, _ = trained
    again = {**SMALL, "epochs": 2, "out": result.folder}
    with pytest.raises(htc.OutputError, match="is not empty"):
        htc.train(data, **again)
    resumed = htc.train(data, **again, resume=True)
    assert resumed.steps == 6
    assert resumed.history["epoch"] == [1, 2]


def test_without_progress_messages_go_to_the_log(data, tmp_path, caplog):
    caplog.set_level(logging.INFO, "htc")
    htc.train(data, **SMALL, out=tmp_path / "run", weights=None)
    lines = [record.getMessage() for record in caplog.records if record.name == "htc"]
    assert any(line.startswith("evaluation after epoch 1: mask AP") for line in lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume": True}, "resume needs out"),
        ({"devices": 0}, "devices is 0: give 1 or more"),
        ({"devices": 2, "device": "cuda:1"}, "devices is 2 and device is cuda:1"),
        ({"workers": -1}, "workers is -1"),
        ({"max_time": 0.0}, "max_time is 0.0"),
        ({"weights": "htc_r50_fpn_20e_coc"}, "did you mean htc_r50_fpn_20e_coco"),
        ({"loggers": ["tensorbord"]}, "did you mean tensorboard"),
        ({"callbacks": ["none"]}, "callbacks: 'none' is not a Lightning callback"),
        ({"inference": {"max_detection": 3}}, "max_detections"),
        ({"semantic": "nowhere"}, "semantic nowhere: no such folder"),
        ({"preset": "htc_r18_smal"}, "htc_r18_small"),
        ({"device": "gpu"}, "device 'gpu' is unknown"),
        ({"lr": -1.0}, "lr"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml"),
        ({"transforms": "flip"}, "transforms"),
    ],
)
def test_what_cannot_be_used_is_reported_before_the_training(data, tmp_path, options, message):
    with pytest.raises((htc.ConfigError, htc.CheckpointError), match=message):
        htc.train(data, **SMALL | {"out": None if "resume" in options else tmp_path / "run"} | options)
    assert not (tmp_path / "run").exists()


def test_data_that_are_missing(tmp_path):
    with pytest.raises(htc.DataError, match="nothing to train on"):
        htc.train(**SMALL)
    with pytest.raises(htc.DataError, match="no such folder"):
        htc.train(tmp_path / "nowhere", **SMALL, out=tmp_path / "run")


def test_datasets_callbacks_loggers_and_transforms_of_ones_own(data, tmp_path):
    class Count(Callback):
        batches = 0

        def on_train_batch_end(self, *_):
            self.batches += 1

    seen = []

    def transforms(image, target):
        seen.append(tuple(image.shape))
        return v2.RandomHorizontalFlip(0.5)(image, target)

    count = Count()
    train = htc.Dataset.from_folder(data)
    result = htc.train(
        {"train": train, "val": htc.Dataset.from_folder(data, split="val")},
        **SMALL,
        out=tmp_path / "run",
        callbacks=[count],
        loggers="tensorboard",
        transforms=transforms,
    )
    assert count.batches == 3
    assert seen == [(3, 72, 80)] * 5
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    assert (tmp_path / "run" / "data" / "annotations" / "instances_train.json").is_file()
    assert result.metrics is not None
    assert htc.evaluate(result.model, {"val": htc.Dataset.from_folder(data, split="val")}, progress=False) == (
        result.metrics
    )


class Strided(nn.Module):
    """Four convolutions."""

    channels = (8, 16, 16, 16)

    def __init__(self):
        super().__init__()
        widths = (3, *self.channels)
        self.stages = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride, 1)
            for before, after, stride in zip(widths, widths[1:], (4, 2, 2, 2), strict=False)
        )

    def forward(self, x):
        maps = []
        for stage in self.stages:
            x = stage(x).relu()
            maps.append(x)
        return maps


def test_a_backbone_of_ones_own(data, tmp_path):
    torch.manual_seed(0)
    backbone = Strided()
    before = [parameter.detach().clone() for parameter in backbone.parameters()]
    result = htc.train(data, **SMALL, out=tmp_path / "run", backbone=backbone)
    assert all(map(torch.equal, before, backbone.parameters())), "the caller's module was changed"
    assert result.config.backbone.kind == "custom"
    assert result.model.predict(data / "val" / "0.png").size == (72, 80)
    assert not torch.equal(result.model.detector.backbone.body.stages[0].weight, backbone.stages[0].weight)
    with pytest.raises(htc.ConfigError, match="Pass it"):
        htc.load(result.folder)
    loaded = htc.load(result.folder, backbone=Strided())
    detections = loaded.predict(data / "val" / "0.png", score_threshold=0.0)
    assert len(detections) > 0
    assert detections == result.model.predict(data / "val" / "0.png", score_threshold=0.0)


def test_max_time_and_names_of_runs(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {**SMALL, "preset": None, "max_time": 0.0001, "epochs": 9, "training": {"warmup_steps": 1}}
    result = htc.train(data, **options, weights=None)
    assert result.folder == Path("runs", "train", data.name)
    assert result.steps < 27


def test_the_first_phase_is_reported_before_torch_is_imported(data, tmp_path):
    code = (
        "import sys, htc\n"
        "class Stop(Exception): pass\n"
        "def first(event):\n"
        "    print(event.name, 'torch' in sys.modules)\n"
        "    raise Stop\n"
        f"try: htc.train({str(data)!r}, preset='htc_r18_small', out={str(tmp_path / 'run')!r}, progress=first)\n"
        "except Stop: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "reading the dataset False\n"


def test_precision_auto_is_resolved_once_stored_and_kept_by_a_resumed_run(data, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(precision, "resolve_precision", lambda wanted, _device: asked.append(wanted) or "bf16")
    first = htc.train(data, **SMALL, out=tmp_path / "run", precision="auto")
    assert (asked, first.config.precision) == (["auto"], "bf16")
    resumed = htc.train(data, **SMALL | {"epochs": 2}, out=tmp_path / "run", precision="auto", resume=True)
    assert (asked, resumed.config.precision) == (["auto"], "bf16")


def test_a_logger_of_ones_own_receives_every_step(data, tmp_path):
    class Own(Logger):
        """Keeps what it receives."""

        name, version = "own", 0

        def __init__(self):
            super().__init__()
            self.steps = []

        def log_metrics(self, metrics, step=None):
            if "train/total" in metrics:
                self.steps.append(step)

        def log_hyperparams(self, params, *_, **__):
            self.params = params

    own = Own()
    htc.train(data, **SMALL, out=tmp_path / "run", loggers=[own])
    assert own.steps == [0, 1, 2]
    assert own.params["preset"] == "htc_r18_small"


@pytest.mark.slow
def test_two_devices_train_as_one_process_reports(data, tmp_path):
    events = []
    options = SMALL | {"progress": events.append, "batch_size": 1}
    result = htc.train(data, **options, out=tmp_path / "run", devices=2, callbacks=[Callback()])
    assert result.steps == 3
    assert [one.step for one in events if isinstance(one, StepDone)] == [1, 2, 3]
    assert result.model.predict(data / "val" / "0.png").size == (72, 80)
    with pytest.raises(htc.OutputError, match="is not empty"):
        htc.train(data, **options, out=tmp_path / "run", devices=2)
    assert not [one for one in events if isinstance(one, Message) and "Traceback" in one.line]
