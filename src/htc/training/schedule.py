"""The length of a training in optimizer steps, and how it is fitted to a time limit.

A learning-rate schedule is a function of the share of the training that is done (0..1). `StepPlan` maps steps to that
share; when the number of steps is changed during the training, the share continues from its value, so that the learning
rate has no jump and reaches its end with the new last step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor

EVALUATIONS = 20
"""Most evaluations of a training whose length is derived."""
EVALUATION_SHARE = 0.12
"""Most of the time that the evaluations before the last one may take."""


class StepPlan:
    """The planned number of optimizer steps, which `change` adapts; `knots` are the (step, share) of the changes."""

    def __init__(self, steps: int) -> None:
        self.steps = self.first = max(1, steps)
        """The planned number now, and before the first step."""
        self.knots: list[tuple[int, float]] = []

    def share(self, step: float) -> float:
        """Return the share of the training that is done before `step` (from 0), 0..1; before the last change, as it
        was planned then.
        """
        knots = [(0, 0.0), *self.knots, (self.steps, 1.0)]
        for (begin, low), (end, high) in pairwise(knots):
            if step < end:
                return low + (high - low) * (step - begin) / (end - begin)
        return 1.0

    def position(self, step: int) -> float:
        """Return the step of the first plan at which the same share is done."""
        return self.share(step) * self.first

    def change(self, step: int, steps: int) -> None:
        """Plan `steps` in all (more than `step`), from `step` on."""
        share = self.share(step)
        self.knots = [knot for knot in self.knots if knot[0] < step]
        if step > 0:
            self.knots.append((step, share))
        self.steps = max(step + 1, steps)

    def restart(self, steps: int) -> None:
        """Plan `steps` in all, spread evenly from the first one on."""
        self.steps = self.first = max(1, steps)
        self.knots = []

    def state(self) -> dict[str, object]:
        """Return the plan as numbers, for a checkpoint."""
        return {"steps": self.steps, "first": self.first, "knots": [list(knot) for knot in self.knots]}

    def restore(self, state: dict[str, object]) -> None:
        """Take over a plan that `state` returned."""
        steps, first, knots = state["steps"], state["first"], state["knots"]
        assert isinstance(steps, int)
        assert isinstance(first, int)
        assert isinstance(knots, list)
        self.steps, self.first, self.knots = steps, first, [(int(step), float(share)) for step, share in knots]


@dataclass(frozen=True)
class Costs:
    """Seconds that the parts of a training take."""

    step: float
    """One optimizer step, loading of its images included."""
    evaluation: float = 0.0
    """One evaluation on the validation images; 0 without."""
    writing: float = 0.0
    """Writing the model and the metrics at the end."""


@dataclass(frozen=True)
class TimeLimit:
    """The limit of a training with the plan that fits it."""

    minutes: float
    """From the command to the model."""
    started: float
    """Reading of `time.monotonic()` at the command."""
    steps: int
    """Planned before the first step."""
    costs: Costs
    """As measured before the first step."""
    most: int | None = None
    """Steps of the epochs that the user set, if any."""
    stop: float = 1.0
    """Share of the schedule (0..1) after which the training ends: less than 1 for the final model of folds."""


def steps_within(costs: Costs, seconds: float, steps_per_evaluation: int, step: int = 0) -> int:
    """Return the total number of steps that end within `seconds` from `step` on, at least `step`.

    The seconds include an evaluation after every `steps_per_evaluation` steps and, in any case, one at the end, and the
    writing of the model.
    """
    left = seconds - costs.evaluation - costs.writing

    def takes(steps: int) -> float:
        interim = evaluations_between(step, step + steps, steps_per_evaluation)
        return steps * max(costs.step, 1e-6) + interim * costs.evaluation

    least, most = 0, max(0, floor(left / max(costs.step, 1e-6))) + 1
    while most - least > 1:  # least fits, most does not
        middle = (least + most) // 2
        least, most = (middle, most) if takes(middle) <= left else (least, middle)
    return step + least


def evaluations_between(step: int, total: int, steps_per_evaluation: int) -> int:
    """Return the number of evaluations after `step` and before the one after the last of `total` steps.

    None is counted shortly before the end (`is_near_end`).
    """
    every = max(1, steps_per_evaluation)
    last = total // every
    if is_near_end(last * every, total, every):
        last -= 1
    return max(0, last - step // every)


def is_near_end(step: int, total: int, steps_per_evaluation: int) -> bool:
    """Return whether the end is nearer than half the distance between evaluations, so that it is not worth one."""
    return total - step < steps_per_evaluation / 2


def evaluation_interval(costs: Costs, seconds: float, steps_per_epoch: int) -> int:
    """Return the epochs between two evaluations: at most `EVALUATIONS` that take at most `EVALUATION_SHARE` of the
    time, the last one not counted.
    """
    steps = max(1.0, (seconds - costs.evaluation - costs.writing) / costs.step)
    if costs.evaluation <= 0:
        number: float = EVALUATIONS
    else:
        number = min(EVALUATIONS, EVALUATION_SHARE * seconds / costs.evaluation)
    epochs = steps / steps_per_epoch
    return max(1, ceil(epochs / (number + 1)))


def largest_that_fits(seconds: Sequence[float], limit: float) -> int:
    """Return the index of the first of the sizes (from the largest on) whose training takes at most `limit` seconds;
    the last one if none does.
    """
    return next((index for index, one in enumerate(seconds) if one <= limit), len(seconds) - 1)
