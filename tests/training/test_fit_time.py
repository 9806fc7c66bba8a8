"""Size and length of a training that has a time limit, on measurements made of numbers."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from torch import nn

from htc.data.advice import statistics_of
from htc.data.dataset import Dataset, ImageRecord, Instance
from htc.presets import preset
from htc.settings.layers import from_flags, overlay
from htc.training.auto_config import choose_config
from htc.training.fit_time import SHRINKS, WHOLE_SCHEDULE, Candidate, Measurements, fit_to_limit, training_pixels
from htc.training.pace import StepTime
from htc.training.schedule import evaluations_between


def data(images=39, size=(966, 1296), side=120.0):
    instances = tuple(
        Instance(i, 0, (10.0 + 50 * i, 10.0, 10.0 + 50 * i + side, 10.0 + side), False, None) for i in range(8)
    )
    return Dataset(Path("train.json"), ("fig",), (1,), (ImageRecord(0, Path("0.png"), *size, instances),) * images)


@dataclass
class Machine:
    """Seconds of a step by its pixels, on a clock that the measurements turn."""

    per_megapixel: float
    dataset: Dataset
    fixed: float = 0.3
    loading: float = 0.1
    evaluation_seconds: float = 10.0
    time: float = 1020.0
    measured: list = field(default_factory=list)

    def step(self, config, _seconds):
        pixels = training_pixels(config, statistics_of(self.dataset))
        took = StepTime(self.loading, self.fixed + self.per_megapixel * pixels / 1e6, 2.0)
        self.measured.append(pixels)
        self.time += 3 * took.seconds(0)
        return took, nn.Identity()

    def evaluation(self, _detector, _config, _seconds):
        self.time += 2
        return self.evaluation_seconds


def fit(machine, minutes, flags=(), *, images=6, every=None, name=None, shrinks=SHRINKS):
    """Fit a training that began 20 s ago."""
    given = from_flags(flags)
    if name is not None:
        candidates = [Candidate(overlay(preset(name), given), ())]
    else:
        chosen = [choose_config(machine.dataset, given, None, shrink=shrink) for shrink in shrinks]
        candidates = [Candidate(one.config, one.choices) for one in chosen]
    return fit_to_limit(
        candidates,
        Measurements(machine.step, machine.evaluation),
        minutes,
        1000.0,
        dataset=machine.dataset,
        data=statistics_of(machine.dataset),
        validation_images=images,
        given=given,
        evaluate_every=every,
        workers=0,
        now=lambda: machine.time,
    )


def seconds(fitted, machine, per_epoch):
    """The whole run, from the command on: a step, an evaluation and the end as they were measured."""
    limit = fitted.limit
    interim = evaluations_between(0, limit.steps, fitted.evaluate_every * per_epoch)
    return machine.time - 1000 + limit.steps * limit.costs.step + (interim + 1) * limit.costs.evaluation + 3


def test_a_whole_schedule_on_fewer_pixels_where_the_time_is_short():
    sizes, steps = [], []
    for minutes in (3, 6, 12, 30, 120):
        machine = Machine(3.0, data())
        fitted = fit(machine, minutes)
        sizes.append(fitted.config.input.short_edge)
        steps.append(fitted.limit.steps)
        assert 0.85 * 60 * minutes < seconds(fitted, machine, 10) < 1.05 * 60 * minutes
        assert len(machine.measured) <= 3
        assert machine.measured[0] == min(machine.measured), "the smallest is tried first"
        assert fitted.config.training.epochs == -(-fitted.limit.steps // 10)
        assert fitted.config.training.warmup_steps <= fitted.limit.steps // 10
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == choose_config(data(), [], None).config.input.short_edge
    assert all(number >= 0.9 * WHOLE_SCHEDULE for number in steps[1:])
    assert steps[-1] > 1500


def test_the_rule_names_time_speed_and_the_alternative():
    fitted = fit(Machine(3.0, data()), 6)
    named = {name: choice.rule for choice in fitted.choices for name in choice.fields}
    assert "s a step (loading 0.1 s), 10 s an evaluation, 3 s to write the model" in named["steps"]
    assert "at the full input size only about" in named["steps"]
    assert "so that a whole schedule fits the time limit" in named["input.short_edge"]
    fields = [name for choice in fitted.choices for name in choice.fields]
    assert len(fields) == len(set(fields)), "a field is listed twice"


def test_what_the_user_set_stays():
    flags = [("input.short-edge", "960"), ("training.augmentation.crop", "480,480"), ("training.batch-size", "2")]
    fitted = fit(Machine(3.0, data()), 6, flags)
    assert fitted.config.input.short_edge == 960
    assert fitted.config.training.augmentation.crop == (480, 480)
    assert fitted.config.training.batch_size == 2
    few = fit(Machine(0.01, data(), fixed=0.01, loading=0.0), 60, [("training.epochs", "7")])
    assert (few.config.training.epochs, few.limit.steps, few.limit.most) == (7, 70, 70)
    many = fit(Machine(3.0, data()), 6, [("training.epochs", "700")])
    assert (many.config.training.epochs, many.limit.most) == (700, 7000)
    assert many.limit.steps < 1000


def test_a_named_preset_keeps_its_size_and_gets_a_length():
    machine = Machine(3.0, data())
    fitted = fit(machine, 12, name="htc_r50_fpn_1x_coco")
    assert fitted.config.input == preset("htc_r50_fpn_1x_coco").input
    assert len(machine.measured) == 1
    assert fitted.config.training.warmup_steps < 500
    # 5 epochs of 20 steps are too few for milestones; with time they are at 2/3 and 11/12
    assert fitted.config.training.schedule == "cosine"
    longer = fit(Machine(3.0, data()), 120, name="htc_r50_fpn_1x_coco").config.training
    assert longer.schedule == "steps"
    assert longer.milestones == (round(longer.epochs * 2 / 3), round(longer.epochs * 11 / 12))
    given = fit(Machine(3.0, data()), 12, [("training.schedule", "steps")], name="htc_r50_fpn_1x_coco")
    assert given.config.training.schedule == "steps"


def test_evaluations_do_not_eat_the_time():
    slow = Machine(3.0, data(), evaluation_seconds=600.0)
    fitted = fit(slow, 12, images=100)
    assert fitted.evaluated_images == pytest.approx(18, abs=1)  # 15 % of 720 s
    assert {"validation images": fitted.evaluated_images} in [choice.fields for choice in fitted.choices]
    assert fitted.evaluate_every * 10 * 1.5 >= fitted.limit.steps
    assert seconds(fitted, slow, 10) < 1.05 * 720
    quick = fit(Machine(3.0, data(), evaluation_seconds=1.0), 12, images=100)
    assert quick.evaluated_images == 100
    assert quick.evaluate_every < fitted.evaluate_every
    assert fit(Machine(3.0, data()), 12, every=3).evaluate_every == 3
    without = fit(Machine(3.0, data()), 12, images=0)
    assert without.limit.costs.evaluation == 0


def test_a_time_that_is_too_short_still_gives_a_step():
    fitted = fit(Machine(30.0, data()), 0.1)
    assert fitted.limit.steps == 1
    assert fitted.config.training.epochs == 1


def test_settings_of_the_plan_are_a_valid_configuration():
    fitted = fit(Machine(3.0, data()), 6)
    assert type(fitted.config).model_validate(fitted.config.model_dump()) == fitted.config
