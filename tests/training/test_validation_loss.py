"""Losses on validation images, and what is made of them."""

import json
import math

import pytest
import torch
from PIL import Image

from htc.config import SGD
from htc.data.coco import Splits, read_coco
from htc.data.loader import collate
from htc.data.semantic_maps import MapSources
from htc.model.detector import Detector
from htc.training.events import EvaluationDone, EvaluationStep, Message, StepDone
from htc.training.finetune import fit_to_data
from htc.training.history import evaluations_since_best, precision, read_history
from htc.training.objective import TrainingObjective
from htc.training.run import Options, run_training
from htc.training.validation import validation_batches, validation_losses
from training.discs import write_split
from training.tiny import tiny
from training.together import together


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return Splits(
        write_split(folder, "train", 4, 0), folder / "train", write_split(folder, "val", 3, 1), folder / "val"
    )


@pytest.fixture(scope="module")
def setting(splits):
    """Detector, configuration and validation images (the second has no objects)."""
    dataset = read_coco(splits.val_annotations, splits.val_images)
    config = fit_to_data(tiny(), dataset, "auto")
    torch.manual_seed(0)
    return Detector(config), config, dataset


def test_the_losses_are_those_of_all_images_as_one_batch(setting):
    detector, config, dataset = setting
    batches = validation_batches(dataset, config, None)
    found = validation_losses(detector.train(), config, batches)
    assert detector.training
    samples = [batches.dataset[position] for position in range(3)]
    with torch.no_grad():
        together = TrainingObjective(detector, config).eval()(collate(samples, config.input))
    assert set(found) == {
        "rpn.class",
        "rpn.box",
        "semantic",
        *(f"stage{t}.{part}" for t in (1, 2, 3) for part in ("class", "box", "mask")),
    }
    assert found == pytest.approx({name: float(value) for name, value in together.items()}, rel=1e-4, abs=1e-6)
    assert validation_losses(detector, config, batches) == found
    assert all(parameter.grad is None for parameter in detector.parameters())


def test_two_processes_share_the_images_and_have_the_losses_of_one(setting):
    """Bit for bit, on each of them, though three images cannot be shared evenly."""
    detector, config, dataset = setting

    def work(_rank):
        batches = list(validation_batches(dataset, config, None))
        return [batch.image_ids for batch in batches], validation_losses(detector, config, batches)

    ids, losses = work(0)
    (first_ids, first), (second_ids, second) = together(work)
    assert (first_ids, second_ids) == (ids[::2], ids[1::2])
    assert first == second == losses


@pytest.mark.slow
def test_the_history_of_two_processes_has_the_losses_of_one(splits, tmp_path):
    """The learning rate is too small to change a weight: both evaluate the first weights."""
    still = tiny(epochs=1, batch_size=1, optimizer=SGD(lr=1e-30))
    options = Options(device="cpu", images=0, checkpoints=None)
    run_training(still, splits, tmp_path / "one", options)
    together(lambda _rank: run_training(still, splits, tmp_path / "two", options))
    one, two = (read_history(tmp_path / name)[-1]["losses"] for name in ("one", "two"))
    assert one == two


def test_without_maps_of_the_validation_images_there_is_no_semantic_term(setting, tmp_path):
    detector, config, dataset = setting
    assert "semantic" not in validation_losses(
        detector, config, validation_batches(dataset, config, MapSources(tmp_path / "train"))
    )


def test_maps_of_the_validation_images_lie_beside_those_of_training(setting, tmp_path):
    detector, config, dataset = setting
    (tmp_path / "maps/val").mkdir(parents=True)
    for record in dataset.images:
        Image.new("L", (record.width, record.height), 1).save(tmp_path / "maps/val" / record.path.name)
    batches = list(validation_batches(dataset, config, MapSources(tmp_path / "maps/train")))
    assert all(set(batch.semantic.unique().tolist()) <= {1, 255} for batch in batches)
    assert validation_losses(detector, config, batches)["semantic"] > 0


def test_images_without_objects_have_losses(setting, tmp_path):
    detector, config, _ = setting
    empty = read_coco(write_split(tmp_path, "val", 1, 0, objects=0), tmp_path / "val")
    found = validation_losses(detector, config, validation_batches(empty, config, None))
    assert found["stage1.mask"] == found["stage3.box"] == 0
    assert found["rpn.class"] > 0


def entry(mask=None, box=0.1):
    return {"epoch": 1, "step": 1, "bbox": {"AP": box}, **({} if mask is None else {"segm": {"AP": mask}})}


def test_the_precision_is_of_masks_and_of_boxes_where_there_are_none():
    assert precision(entry(0.3)) == 0.3
    assert precision(entry()) == 0.1


@pytest.mark.parametrize(
    ("values", "since"),
    [([0.1], 0), ([0.1, 0.2, 0.2], 1), ([0.3, 0.2, 0.1], 2), ([-1.0, -1.0, -1.0], 0), ([-1.0, 0.0, 0.0], 1)],
)
def test_evaluations_since_the_best(values, since):
    assert evaluations_since_best([entry(value) for value in values]) == since


def test_a_run_records_shows_and_stops_early(splits, tmp_path):
    """A learning rate of nothing: the first evaluation stays the best, and patience ends the training."""
    still = tiny(epochs=9, optimizer={"kind": "adamw", "lr": 1e-12, "weight_decay": 0.0}, early_stop=1)
    events = []
    result = run_training(
        still, splits, tmp_path / "run", Options(device="cpu", checkpoints=None, images=2), events.append
    )
    history = read_history(result.folder)
    assert [one["epoch"] for one in history] == [1, 2]
    assert [(one.entry["epoch"], one.best, one.stops) for one in events if isinstance(one, EvaluationDone)] == [
        (1, True, False),
        (2, False, True),
    ]
    assert [(one.done, one.images) for one in events if isinstance(one, EvaluationStep)] == [
        (1, 3),
        (2, 3),
        (3, 3),
    ] * 2
    steps = [one for one in events if isinstance(one, StepDone)]
    assert [(one.step, one.steps, one.epoch, one.epochs) for one in steps] == [
        (1, 18, 1, 9),
        (2, 18, 1, 9),
        (3, 18, 2, 9),
        (4, 18, 2, 9),
    ]
    assert history[0]["losses"]["stage2.mask"] > 0
    header, first, _second = (tmp_path / "run/validation.csv").read_text().splitlines()
    row = dict(zip(header.split(","), first.split(","), strict=True))
    assert float(row["losses.total"]) == pytest.approx(sum(history[0]["losses"].values()))
    assert float(row["segm.AP"]) == history[0]["segm"]["AP"]
    assert float(row["per_class.square.segm"]) == history[0]["per_class"]["square"]["segm"]
    assert "losses" not in json.loads((tmp_path / "run/metrics.json").read_text())
    assert (
        len(list((tmp_path / "run/pictures/best").glob("*.png")))
        == len(list((tmp_path / "run/pictures/last").glob("*.png")))
        == 2
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_validation_loss_that_is_not_finite_is_null_and_reported(splits, tmp_path, monkeypatch, value):
    """The training goes on: the first evaluation has such a loss, the second has not."""
    found = iter([{"rpn.class": 0.5, "stage1.mask": value}, {"rpn.class": 0.5, "stage1.mask": 0.25}])
    monkeypatch.setattr("htc.training.run.validation_losses", lambda *_: next(found))
    events = []
    options = Options(device="cpu", checkpoints=None, images=2)
    result = run_training(tiny(epochs=2), splits, tmp_path / "run", options, events.append)
    written = json.loads((tmp_path / "run/history.json").read_text())
    assert [entry["losses"] for entry in written] == [
        {"rpn.class": 0.5, "stage1.mask": None},
        {"rpn.class": 0.5, "stage1.mask": 0.25},
    ]
    assert math.isnan(read_history(result.folder)[0]["losses"]["stage1.mask"])
    warnings = [event.line for event in events if isinstance(event, Message) and event.warning]
    assert [line for line in warnings if "not finite" in line and line.startswith("stage1.mask")] != []
    assert len([line for line in warnings if "not finite" in line]) == 1
    assert (tmp_path / "run/curves/losses.png").is_file()
    assert list(result.history["losses.total"])[1] == 0.75
