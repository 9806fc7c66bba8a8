"""The record of losses and the history, through a Lightning run of one weight."""

import csv

import pytest

from htc.config import SGD, Training
from htc.errors import DataError
from htc.training.history import read_history, read_losses
from htc.training.module import TrainingModule, fit
from htc.training.record import LossRecord
from htc.training.validation import Validation
from training.point import Batches, Distance, Point


def run(folder, epochs, *, steps=3, every=1, seen=None):
    point = Point()
    training = Training(
        optimizer=SGD(lr=0.8, momentum=0.0, weight_decay=0.0), warmup_steps=2, warmup_start=0.5, milestones=(9,)
    )
    module = TrainingModule(point, Distance(point), training, steps, epochs, images_per_step=2)
    callbacks = [
        LossRecord(folder / "losses.csv", None if seen is None else seen.append),
        Validation(
            folder,
            lambda detector: {"bbox": {"AP": float(detector.weight.detach()) / 4}, "per_class": {}},
            every,
            epochs,
        ),
    ]
    fit(module, lambda _epoch, done: Batches(steps - done), callbacks, epochs, device="cpu")
    return point


def test_every_step_has_a_row_and_is_reported(tmp_path):
    seen = []
    run(tmp_path, 2, seen=seen)
    with (tmp_path / "losses.csv").open() as stream:
        header, *rows = csv.reader(stream)
    assert header == ["step", "epoch", "learning_rate", "total", "square", "linear"]
    assert [row[:2] for row in rows] == [["0", "0"], ["1", "0"], ["2", "0"], ["3", "1"], ["4", "1"], ["5", "1"]]
    # lr 0.8 for 16 images is 0.1 for 2; two steps of warm-up from half of it.
    assert [float(row[2]) for row in rows] == pytest.approx([0.05, 0.075, 0.1, 0.1, 0.1, 0.1])
    assert float(rows[0][3]) == pytest.approx(9.3)
    assert [(one.step, one.steps, one.epoch, one.epochs) for one in seen] == [
        (i, 6, 1 + (i > 3), 2) for i in range(1, 7)
    ]
    steps, losses = read_losses(tmp_path / "losses.csv")
    assert steps == list(range(6))
    assert losses["square"] == [float(row[4]) for row in rows]
    assert losses["square"] == sorted(losses["square"], reverse=True)


@pytest.mark.usefixtures("real_curves")
@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3]), (2, [2, 3]), (9, [3])])
def test_history_has_the_measured_epochs_and_curves_are_drawn(tmp_path, every, epochs):
    run(tmp_path, 3, every=every)
    assert [(entry["epoch"], entry["step"]) for entry in read_history(tmp_path)] == [
        (epoch, 3 * epoch) for epoch in epochs
    ]
    assert (tmp_path / "curves" / "losses.png").stat().st_size > 1000
    assert (tmp_path / "curves" / "average_precision.png").stat().st_size > 1000


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "losses.csv").write_text("step,epoch,learning_rate,total,mask\nnot a number,0,0,0,0\n")
    with pytest.raises(DataError, match=r"losses\.csv"):
        read_losses(tmp_path / "losses.csv")
