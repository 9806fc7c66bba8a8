"""Cross-validation: the folds, their AP and spread, and the model of all images."""

import json

import pytest

import htc
from htc.data.coco import Splits, read_coco
from htc.data.held_out import fold_splits
from htc.errors import ConfigError, DataError
from htc.training.events import Finished, Message, Phase
from htc.training.folds import FoldRun, _means, _spread
from htc.training.history import read_history
from training.discs import write_split

SMALL = {
    "preset": "htc_r18_small",
    "device": "cpu",
    "batch_size": 2,
    "input": {"short_edge": 64, "long_edge": 80},
    "cascade": {"box_channels": 16, "mask_channels": 16, "mask_convs": 1, "samples": 16},
    "rpn": {"proposals": 50, "training_proposals": 50, "samples": 32},
    "training": {"warmup_steps": 1, "augmentation": {"crop": [64, 64]}},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("discs")
    (folder / "annotations").mkdir()
    write_split(folder, "train", 5, 0).rename(folder / "annotations" / "instances_train.json")
    return folder


def splits(data):
    return Splits(data / "annotations/instances_train.json", data / "train", None, None)


def ids(path, images):
    return {record.id for record in read_coco(path, images).images}


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_every_image_is_evaluated_once(data, tmp_path, folds):
    parts = fold_splits(splits(data), folds, tmp_path)
    assert len(parts) == folds
    seen = [ids(part.val_annotations, part.val_images) for part in parts]
    assert sorted(image for part in seen for image in part) == [0, 1, 2, 3, 4]
    assert max(map(len, seen)) - min(map(len, seen)) <= 1
    for part, own in zip(parts, seen, strict=True):
        assert ids(part.train_annotations, part.train_images) == {0, 1, 2, 3, 4} - own
    assert [part.val_annotations.read_bytes() for part in parts] == [
        part.val_annotations.read_bytes() for part in fold_splits(splits(data), folds, tmp_path)
    ]


def test_images_of_a_group_stay_together(data, tmp_path):
    content = json.loads((data / "annotations/instances_train.json").read_text())
    for image in content["images"]:
        image["group"] = "a" if image["id"] < 3 else f"b{image['id']}"
    path = tmp_path / "grouped.json"
    path.write_text(json.dumps(content))
    own = Splits(path, data / "train", None, None)
    assert {0, 1, 2} in [ids(part.val_annotations, part.val_images) for part in fold_splits(own, 3, tmp_path)]
    with pytest.raises(DataError, match="has 3 images or groups of them; give fewer folds"):
        fold_splits(own, 4, tmp_path)
    with pytest.raises(DataError, match="there is a validation split"):
        fold_splits(Splits(path, data / "train", path, data / "train"), 3, tmp_path)


def entry(epoch, mask):
    return {"epoch": epoch, "step": 10 * epoch, "bbox": {"AP": 0.9}, "segm": {"AP": mask}, "per_class": {}}


def test_the_evaluation_at_a_share_of_the_training():
    run = FoldRun([entry(1, 0.1), entry(2, 0.4), entry(4, 0.3)], "epoch", 4)
    assert run.best == 0.5
    assert [run.at(share)["epoch"] for share in (0.0, 0.3, 0.5, 0.7, 0.8, 1.0)] == [1, 1, 2, 2, 4, 4]
    assert FoldRun([entry(1, 0.1), entry(2, 0.4)], "step", 40).best == 0.5


def test_mean_and_spread_leave_undefined_values_out():
    values = [{"segm": {"AP": 0.2, "APl": -1.0}, "per_class": {"a": {"segm": 0.1}}}, {"segm": {"AP": 0.4, "APl": -1.0}}]
    assert _means(values) == {"segm": {"AP": pytest.approx(0.3), "APl": -1.0}, "per_class": {"a": {"segm": 0.1}}}
    spread = _spread(values)["segm"]
    assert spread["AP"] == {"mean": pytest.approx(0.3), "std": pytest.approx(0.1414, abs=1e-4), "values": [0.2, 0.4]}
    assert spread["APl"]["std"] == -1.0


def test_folds_give_a_spread_and_one_model_of_all_images(data, tmp_path):
    events = []
    out = tmp_path / "run"
    result = htc.train(data, **SMALL, folds=2, epochs=3, out=out, progress=events.append)
    summary = json.loads((out / "folds.json").read_text())
    histories = [read_history(out / "folds" / str(number)) for number in (1, 2)]
    best = sorted(max(history, key=lambda one: one["segm"]["AP"])["epoch"] for history in histories)
    assert summary["epoch"] == best[0]
    values = [history[summary["epoch"] - 1]["segm"]["AP"] for history in histories]
    assert summary["segm"]["AP"]["values"] == values
    assert result.metrics.mask.ap == pytest.approx(sum(values) / 2)
    assert json.loads((out / "metrics.json").read_text())["segm"]["AP"] == result.metrics.mask.ap
    assert result.steps == 3 * summary["epoch"], "three steps an epoch on all five images"
    assert result.model.predict(data / "train/0.png").size == (72, 80)
    assert any(isinstance(one, Message) and "cross-validation over 2 folds: AP " in one.line for one in events)
    assert any(isinstance(one, Phase) and one.name == "fold 2 of 2: building the model" for one in events)
    (end,) = (one for one in events if isinstance(one, Finished))
    assert end.command == f"htc predict IMAGE --model {out}"
    # resumed: the folds and the model are there, and nothing is trained again
    before = (out / "folds/1/losses.csv").read_bytes()
    again = htc.train(data, **SMALL, folds=2, epochs=3, out=out, progress=False, resume=True)
    assert again.metrics == result.metrics
    assert (out / "folds/1/losses.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds is 1: give 2 or more"),
        ({"folds": 3, "val_share": 0.2}, "remove val_share, or folds"),
        ({"folds": 3, "devices": 2}, "folds trains in one process"),
    ],
)
def test_what_does_not_go_with_folds(data, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        htc.train(data, **SMALL, out=tmp_path / "run", progress=False, **options)


@pytest.mark.slow
def test_a_time_limit_is_divided(data, tmp_path):
    result = htc.train(data, **SMALL, folds=2, max_time=0.3, out=tmp_path / "run", progress=False)
    assert result.metrics is not None
    assert (result.model_folder / "model.safetensors").is_file()


def test_a_time_limit_without_validation_images(data, tmp_path):
    events = []
    result = htc.train(data, **SMALL, max_time=0.05, out=tmp_path / "run", progress=events.append)
    assert result.metrics is None
    assert result.steps >= 1
    assert events[-1].command == f"htc train --data {data} --folds 5"
