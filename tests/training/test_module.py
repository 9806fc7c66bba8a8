"""The optimizer, its schedule and the moving average, with an objective of one parameter."""

import pytest
import torch

from htc.config import SGD, AdamW, Training
from htc.errors import TrainingError
from htc.training.module import TrainingModule, trainer_placement
from htc.training.optimizer import base_learning_rate, build_optimizer, learning_rate_factor
from training.point import Distance, Point, batch


def module(**changes):
    point = Point()
    training = Training(**{"optimizer": SGD(lr=1.6, momentum=0.0, weight_decay=0.0), "warmup_steps": 0, **changes})
    return TrainingModule(point, Distance(point), training, steps_per_epoch=10, epochs=2, images_per_step=2)


def test_the_sum_of_the_terms_is_minimised():
    step = module().training_step(batch(1.0))
    assert float(step["loss"].detach()) == pytest.approx(9.0 + 0.3)
    assert {name: float(value) for name, value in step["terms"].items()} == pytest.approx(
        {"square": 9.0, "linear": 0.3}
    )
    assert step["loss"].requires_grad
    assert not step["terms"]["square"].requires_grad


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named(value):
    with pytest.raises(TrainingError, match=r"step 0: square = (nan|inf), linear = .*images a\.png, 7"):
        module().training_step(batch(value))


def test_sgd_scales_with_the_batch_adamw_does_not():
    assert base_learning_rate(Training(optimizer=SGD(lr=0.02)), 16) == pytest.approx(0.02)
    assert base_learning_rate(Training(optimizer=SGD(lr=0.02)), 2) == pytest.approx(0.0025)
    assert base_learning_rate(Training(optimizer=AdamW(lr=3e-4)), 2) == pytest.approx(3e-4)


@pytest.mark.parametrize(
    ("chosen", "expected"), [(SGD(weight_decay=0.5), torch.optim.SGD), (AdamW(weight_decay=0.5), torch.optim.AdamW)]
)
def test_the_configured_optimizer_is_built(chosen, expected):
    optimizer = build_optimizer(Point().parameters(), Training(optimizer=chosen), 16)
    assert type(optimizer) is expected
    assert optimizer.param_groups[0]["weight_decay"] == 0.5


def test_warm_up_then_milestones():
    training = Training(warmup_steps=4, warmup_start=0.2, milestones=(2, 3), lr_factor=0.1)
    factors = [learning_rate_factor(training, step, steps_per_epoch=10, epochs=4) for step in range(40)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [factors[i] for i in (19, 20, 29, 30, 39)] == pytest.approx([1.0, 0.1, 0.1, 0.01, 0.01])


def test_cosine_ends_at_nothing():
    training = Training(warmup_steps=0, schedule="cosine")
    factors = [learning_rate_factor(training, step, steps_per_epoch=10, epochs=2) for step in range(21)]
    assert [factors[i] for i in (0, 10, 20)] == pytest.approx([1.0, 0.5, 0.0], abs=1e-9)
    assert factors == sorted(factors, reverse=True)


def test_the_average_follows_the_weights():
    averaged = module(average_decay=0.9)
    assert averaged.trained is not averaged.detector
    optimizer = torch.optim.SGD(averaged.detector.parameters(), lr=1.0)
    for value in (4.0, 0.0, 0.0):
        averaged.detector.weight.data.fill_(value)
        averaged.optimizer_step(0, 0, optimizer, lambda: None)  # without gradients the weight stays
    # The first step copies; then the decay grows from 2/11 by (1 + n) / (10 + n).
    assert averaged.trained.weight.item() == pytest.approx(4.0 * (2 / 11) * (3 / 12))
    assert module().trained is not None
    plain = module()
    assert plain.trained is plain.detector


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (torch.device("cuda", 1), {"accelerator": "cuda", "devices": [1]}),
        ("cuda", {"accelerator": "cuda", "devices": 1}),
        (torch.device("cpu"), {"accelerator": "cpu", "devices": 1}),
    ],
)
def test_the_trainer_takes_the_device_of_that_index(device, expected):
    assert trainer_placement(device, unused_parameters=False) == expected
