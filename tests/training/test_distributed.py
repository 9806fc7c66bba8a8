"""Two processes on one machine: the same gradients, files, ends and errors as one, and no waiting for ever."""

import csv
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.parallel import DistributedDataParallel

from htc.config import SGD, Training
from htc.data.coco import Splits, read_coco
from htc.data.loader import training_loader
from htc.errors import DataError, HTCError, OutputError, ReportedElsewhereError, TrainingError
from htc.model.detector import Detector
from htc.training.checkpoints import Checkpoints, Every
from htc.training.distributed import any_of, by_first, gathered, summed
from htc.training.finetune import fit_to_data
from htc.training.history import read_history, read_losses
from htc.training.module import TrainingModule, fit
from htc.training.objective import TrainingObjective
from htc.training.record import LossRecord
from htc.training.run import Options, run_training
from htc.training.validation import Validation
from training.discs import write_split
from training.point import Distance, Point, batch
from training.tiny import tiny
from training.together import together


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Four images to train on, the second without objects; three to validate, which two processes cannot share
    evenly.
    """
    folder = tmp_path_factory.mktemp("data")
    return Splits(
        write_split(folder, "train", 4, 0), folder / "train", write_split(folder, "val", 3, 1), folder / "val"
    )


def gradients(config, dataset, step, size, rank=0, ranks=1):
    """Losses and gradients of one step, in double precision: rounding alone is 1e-3 of a first layer's gradient
    otherwise.
    """
    torch.manual_seed(0)
    objective = TrainingObjective(Detector(config), config).double()
    one = list(training_loader(dataset, config, 0, 0, size, rank=rank, ranks=ranks))[step]
    truths = tuple(replace(truth, boxes=truth.boxes.double()) for truth in one.truths)
    one = replace(one, images=one.images.double(), truths=truths)
    wrapped = DistributedDataParallel(objective) if ranks > 1 else objective
    losses = wrapped(one)
    torch.stack(list(losses.values())).sum().backward()
    named = {
        name: parameter.grad.numpy() for name, parameter in objective.named_parameters() if parameter.requires_grad
    }
    return one.image_ids, {name: float(value.detach()) for name, value in losses.items()}, named


@pytest.mark.parametrize("average", ["global", "rank"])
def test_gradients_of_two_processes(splits, average):
    dataset = read_coco(splits.train_annotations, splits.train_images)
    config = fit_to_data(tiny(loss_average=average), dataset, "auto")
    steps = [list(training_loader(dataset, config, 0, 0, 2))[step].image_ids for step in (0, 1)]
    step = next(number for number, ids in enumerate(steps) if 1 in ids)  # one of the two processes has no object
    first, second = together(lambda rank: gradients(config, dataset, step, 1, rank, 2))
    assert {*first[0], *second[0]} == set(steps[step])
    if average == "global":
        _, losses, expected = gradients(config, dataset, step, 2)
    else:
        alone = [gradients(config, dataset, 2 * step + rank, 1) for rank in (0, 1)]
        losses = {name: (alone[0][1][name] + alone[1][1][name]) / 2 for name in alone[0][1]}
        expected = {name: (alone[0][2][name] + alone[1][2][name]) / 2 for name in alone[0][2]}
    for name, value in losses.items():
        assert (first[1][name] + second[1][name]) / 2 == pytest.approx(value, abs=1e-6, rel=1e-5), name
    for name, value in expected.items():
        np.testing.assert_allclose(first[2][name], value, atol=1e-6, rtol=1e-5, err_msg=name)
        assert np.array_equal(first[2][name], second[2][name])


def test_a_training_of_two_processes_is_that_of_one(splits, tmp_path):
    options = Options(device="cpu", images=0, validation_losses=False)
    config = tiny(epochs=1, optimizer=SGD(lr=0.02), warmup_steps=0)
    alone = run_training(config, splits, tmp_path / "one", options)
    half = config.replace(training={"batch_size": 1})
    first, second = together(lambda _rank: run_training(half, splits, tmp_path / "two", options))
    assert first == second
    assert {path.name for path in first.folder.iterdir()} == {path.name for path in alone.folder.iterdir()}
    (_, one), (_, two) = (read_losses(folder / "losses.csv") for folder in (alone.folder, first.folder))
    assert one.keys() == two.keys()
    for name, values in one.items():
        assert two[name] == pytest.approx(values, abs=1e-3, rel=1e-2), name
        assert two[name][0] == pytest.approx(values[0], abs=1e-6, rel=1e-5), name
    assert (alone.folder / "pictures.csv").read_text() == (first.folder / "pictures.csv").read_text()
    assert first.metrics is not None
    assert first.metrics.to_dict().keys() == alone.metrics.to_dict().keys()


@pytest.mark.slow
def test_the_first_process_logs(splits, tmp_path):
    """The others have loggers that do nothing, so that callbacks which need one work everywhere."""
    callbacks = (LearningRateMonitor(logging_interval="step"),)
    options = Options(device="cpu", images=0, validation_losses=False, loggers=("tensorboard",), callbacks=callbacks)
    together(lambda _rank: run_training(tiny(epochs=1, batch_size=1), splits, tmp_path / "run", options))
    assert len(list((tmp_path / "run/tensorboard").glob("events.*"))) == 1
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    steps, losses = read_losses(tmp_path / "run/losses.csv")
    logged = events.Scalars("train/stage1.box")
    assert [one.step for one in logged] == steps
    assert [one.value for one in logged] == pytest.approx(losses["stage1.box"], rel=1e-6)


def test_a_logger_that_cannot_be_opened_ends_all_processes(splits, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/tensorboard").write_text("")
    options = Options(device="cpu", loggers=("tensorboard",))

    def fails(_rank):
        with pytest.raises(HTCError, match="the logger tensorboard cannot be opened") as caught:
            run_training(tiny(epochs=1), splits, tmp_path / "run", options)
        return type(caught.value)

    assert together(fails) == [OutputError, ReportedElsewhereError]


@pytest.mark.slow
def test_images_without_any_object(tmp_path, monkeypatch):
    # Such a dataset is refused, but a step of another may contain images without instances alone, on all processes.
    monkeypatch.setattr("htc.training.run.check_data", lambda *_args, **_options: [])
    annotations = write_split(tmp_path, "train", 3, 0, objects=0)
    split = Splits(annotations, tmp_path / "train", annotations, tmp_path / "train")
    options = Options(device="cpu", images=0, validation_losses=False)
    results = together(lambda _rank: run_training(tiny(epochs=1, batch_size=1), split, tmp_path / "run", options))
    assert results[0].steps == 2
    assert set(results[0].metrics.to_dict()["segm"].values()) == {-1.0}


def point_run(folder, rank, values, *, resume=False, act=None):
    """Trains one weight; `values` are the images of each step by process, `act` is called with the step."""

    class Act(LossRecord):
        def on_train_batch_end(self, trainer, *rest):
            super().on_train_batch_end(trainer, *rest)
            if act is not None:
                act(trainer.global_step)

    point = Point()
    training = Training(optimizer=SGD(lr=0.8, momentum=0.9), warmup_steps=2, average_decay=0.9)
    module = TrainingModule(point, Distance(point), training, len(values), 1, 4)
    callbacks = [Act(folder / "losses.csv"), Checkpoints(folder / "checkpoints", Every(steps=1))]
    last = folder / "checkpoints" / "last.ckpt" if resume else None
    fit(
        module,
        lambda _epoch, done: [batch(step[rank]) for step in values[done:]],
        callbacks,
        1,
        device="cpu",
        resume=last,
    )
    return float(module.trained.weight)


def test_a_loss_that_is_not_finite_on_one_process_ends_both(tmp_path):
    values = [(1.0, 2.0), (2.0, 1.0), (1.0, float("nan")), (1.0, 1.0)]

    def work(rank):
        with pytest.raises(
            TrainingError if rank == 0 else ReportedElsewhereError,
            match=r"step 2: square = nan.*images a\.png, 7, a\.png, 7",
        ) as error:
            point_run(tmp_path, rank, values)
        return type(error.value).__name__

    assert together(work) == ["TrainingError", "ReportedElsewhereError"]
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 2
    assert torch.isfinite(kept["state_dict"]["detector.weight"])


def test_a_signal_to_one_process_ends_both_and_they_go_on_exactly(tmp_path):
    values = [(0.3, 2.0), (2.0, 1.0), (1.0, 0.1), (1.0, 1.0), (0.5, 0.2)]
    whole = together(lambda rank: point_run(tmp_path / "whole", rank, values))

    def work(rank):
        def interrupt(step):
            if rank == 1 and step == 2:
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            point_run(tmp_path / "cut", rank, values, act=interrupt)
        return

    together(work)
    assert torch.load(tmp_path / "cut" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert together(lambda rank: point_run(tmp_path / "cut", rank, values, resume=True)) == whole
    for name in ("losses.csv", "pictures.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with (tmp_path / "cut" / "pictures.csv").open() as stream:
        assert list(csv.reader(stream))[1] == ["0", "a.png", "7", "a.png", "7"]


def test_all_processes_compute_the_validation_losses(tmp_path):
    def work(rank):
        point = Point()
        losses = lambda _detector: {"processes": float(summed(torch.tensor(1.0)))}  # noqa: E731
        evaluate = lambda _detector: {"bbox": {"AP": 0.5}, "per_class": {}}  # noqa: E731
        fit(
            TrainingModule(point, Distance(point), Training(), 1, 1, 2),
            lambda _epoch, _done: [batch(float(rank))],
            [LossRecord(tmp_path / "losses.csv"), Validation(tmp_path, evaluate, 1, 1, losses=losses)],
            1,
            device="cpu",
        )

    together(work)
    assert [entry["losses"] for entry in read_history(tmp_path)] == [{"processes": 2.0}]


def test_what_processes_tell_each_other():
    def work(rank):
        def refuse():
            raise DataError("no image")

        with pytest.raises(DataError if rank == 0 else ReportedElsewhereError, match="no image"):
            by_first(refuse)
        return (
            by_first(lambda: f"by {rank}"),
            gathered(rank),
            any_of(rank == 1, False),
            float(summed(torch.tensor(rank + 1.0))),
        )

    assert together(work) == [("by 0", [0, 1], (True, False), 3.0)] * 2
    assert (by_first(lambda: 1), gathered(2), any_of(True), float(summed(torch.tensor(3.0)))) == (1, [2], (True,), 3.0)
