"""A training with a time limit, on a clock that the test turns: it ends in time, and the learning rate at its end."""

import csv
from itertools import pairwise

import pytest
import torch

from htc.config import SGD, Training
from htc.training.checkpoints import Checkpoints, Every
from htc.training.events import Message
from htc.training.history import read_history
from htc.training.limit import TimeKeeper
from htc.training.module import TrainingModule, fit
from htc.training.record import LossRecord
from htc.training.schedule import Costs, StepPlan, TimeLimit
from htc.training.validation import Validation
from training.point import Batches, Distance, Point

COSTS = Costs(1.0, 3.0, 2.0)


class Clock:
    """Seconds that pass only where the test makes them pass."""

    def __init__(self):
        self.time = 1000.0

    def __call__(self):
        return self.time


class TimedBatches(Batches):
    """Batches of which each takes some seconds, as its step would; `seconds` is a function of the step."""

    def __init__(self, count, clock, seconds, begin):
        super().__init__(count)
        self.clock, self.seconds, self.begin = clock, seconds, begin

    def __iter__(self):
        for number, batch in enumerate(super().__iter__()):
            self.clock.time += self.seconds(self.begin + number)
            yield batch


def run(
    folder,
    clock,
    minutes,
    seconds,
    *,
    evaluation=3.0,
    planned=100,
    per_epoch=10,
    every=2,
    most=None,
    resume=None,
    schedule="cosine",
    stop=None,
    costs=COSTS,
):
    """Train the point within `minutes`; the limit counts from 20 s ago."""
    limit = TimeLimit(minutes, clock.time - 20, planned, costs, most)
    plan = StepPlan(planned)
    training = Training(
        optimizer=SGD(lr=0.08, momentum=0.0, weight_decay=0.0),
        warmup_steps=4,
        schedule=schedule,
        milestones=(6, 9),
        epochs=10,
    )
    point = Point()
    module = TrainingModule(point, Distance(point), training, per_epoch, 10, 16, plan=plan)
    torch.manual_seed(0)

    def evaluate(detector):
        clock.time += evaluation
        return {"bbox": {"AP": 0.5}, "per_class": {}}

    validation = Validation(folder, evaluate, every, 10, plan=plan, now=clock)
    seen = []
    keeper = TimeKeeper(limit, plan, validation, per_epoch, progress=seen.append, now=clock)

    def batches(epoch, done):
        def timed(step):
            if step == stop:
                raise KeyboardInterrupt
            return seconds(step)

        return TimedBatches(per_epoch - done, clock, timed, epoch * per_epoch + done)

    begin = clock.time
    callbacks = [LossRecord(folder / "losses.csv", seen.append, plan=plan), validation, keeper]
    callbacks.append(Checkpoints(folder / "checkpoints", Every(steps=1)))
    try:
        fit(module, batches, callbacks, None, device="cpu", resume=resume)
    finally:
        keeper.whole = clock.time - begin + 20 + costs.writing
    return keeper, seen


def rates(folder):
    with (folder / "losses.csv").open() as stream:
        return [float(row["learning_rate"]) for row in csv.DictReader(stream)]


@pytest.mark.parametrize("pace", [0.3, 0.9, 1.0, 2.0, 6.0])
def test_it_ends_in_time_however_wrong_the_plan_was(tmp_path, pace):
    clock = Clock()
    keeper, _ = run(tmp_path, clock, 5.0, lambda step: 8.0 if step == 0 else pace, evaluation=4.0)
    assert keeper.whole == pytest.approx(300, rel=0.05)
    assert keeper.whole <= 300 * 1.01
    assert not keeper.out_of_time
    rate = rates(tmp_path)
    assert rate[-1] < 0.01 * max(rate)
    assert all(abs(a - b) < 0.35 * max(rate) for a, b in pairwise(rate[4:])), "the learning rate jumped"
    assert all(a >= b for a, b in pairwise(rate[5:])), "after the warm-up it only falls"


def test_the_plan_is_adapted_once_if_the_speed_stays(tmp_path):
    clock = Clock()
    keeper, seen = run(tmp_path, clock, 5.0, lambda _: 2.0)
    lines = [one.line for one in seen if isinstance(one, Message)]
    assert len(lines) == 1
    assert lines[0].startswith("0:")
    assert "a step takes 2 s and an evaluation 3 s" in lines[0]
    assert f"{keeper.plan.steps} steps in all (planned: 100)" in lines[0]


def test_a_machine_that_becomes_slower_is_noticed(tmp_path):
    clock = Clock()
    keeper, seen = run(tmp_path, clock, 10.0, lambda step: 1.0 if step < 150 else 2.0, planned=300)
    assert keeper.whole == pytest.approx(600, rel=0.05)
    assert sum(isinstance(one, Message) for one in seen) >= 2
    assert rates(tmp_path)[-1] < 0.02 * max(rates(tmp_path))


def test_milestones_move_with_the_plan(tmp_path):
    clock = Clock()
    run(tmp_path, clock, 5.0, lambda _: 2.0, schedule="steps")
    rate = rates(tmp_path)
    # the milestones are at 6 and 9 of 10 epochs of the plan
    falls = [step / len(rate) for step, (a, b) in enumerate(pairwise(rate), 1) if b < 0.5 * a]
    assert falls == pytest.approx([0.6, 0.9], abs=0.02)


def test_it_stops_at_the_epochs_of_the_user(tmp_path):
    clock = Clock()
    keeper, _ = run(tmp_path, clock, 60.0, lambda _: 1.0, planned=40, most=40)
    assert len(rates(tmp_path)) == 40
    assert keeper.whole < 300


def test_evaluations_have_their_distance_and_the_last_step_has_one(tmp_path):
    clock = Clock()
    keeper, _ = run(tmp_path, clock, 5.0, lambda _: 1.0)
    steps = [entry["step"] for entry in read_history(tmp_path)]
    assert steps[-1] == keeper.plan.steps
    assert steps[:-1] == list(range(20, steps[-2] + 1, 20))
    assert steps[-1] - steps[-2] >= 10


def test_a_time_that_is_over_before_the_first_step_still_gives_a_step(tmp_path):
    clock = Clock()
    keeper, _ = run(tmp_path, clock, 0.1, lambda _: 5.0)
    assert len(rates(tmp_path)) == 1
    assert keeper.out_of_time
    assert len(read_history(tmp_path)) == 1


def test_a_resumed_training_keeps_the_plan_and_the_time_used(tmp_path):
    clock = Clock()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, clock, 5.0, lambda _: 1.5, stop=57)
    clock.time += 5000  # a pause
    last = tmp_path / "checkpoints/last.ckpt"
    begin = clock.time
    keeper, _ = run(tmp_path, clock, 5.0, lambda _: 1.5, planned=1, resume=last)
    assert keeper.used == pytest.approx(20 + 57 * 1.5 + 2 * 3, abs=3)
    # the second call has its own 20 s before the training
    assert keeper.used + keeper.whole == pytest.approx(300, rel=0.05)
    assert clock.time - begin < 200
    rate = rates(tmp_path)
    assert len(rate) == keeper.plan.steps
    assert all(a >= b for a, b in pairwise(rate[5:]))
    assert rate[-1] < 0.01 * max(rate)
    again, _ = run(tmp_path, clock, 5.0, lambda _: 1.5, planned=1, resume=last)
    assert len(rates(tmp_path)) == again.plan.steps == keeper.plan.steps


def test_more_time_for_a_resumed_training_spreads_the_schedule_anew(tmp_path):
    clock = Clock()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, clock, 5.0, lambda _: 1.5, stop=57)
    first = rates(tmp_path)
    keeper, _ = run(tmp_path, clock, 10.0, lambda _: 1.5, resume=tmp_path / "checkpoints/last.ckpt")
    assert keeper.used + keeper.whole == pytest.approx(600, rel=0.05)
    rate = rates(tmp_path)
    assert rate[58] > first[-1]
    assert rate[-1] < 0.01 * max(rate)
