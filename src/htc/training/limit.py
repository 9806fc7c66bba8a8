"""The clock of a training with a time limit: adapts the planned steps to the real speed, and ends the training in time.

The number of steps is planned before the first step (`htc.training.fit_time`), adapted after a tenth of it, and again
only where the speed has changed since. `StepPlan` keeps the learning rate continuous and lets it reach its end with
the last step.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import nn

from htc.progress import clock
from htc.training.distributed import any_of, by_first
from htc.training.events import Listener, Message
from htc.training.module import TrainingModule
from htc.training.schedule import Costs, StepPlan, TimeLimit, steps_within
from htc.training.validation import Validation

CHECKS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97)
"""Shares of the training (steps or time) after which the speed is compared with the plan; the first always adapts."""
TOLERANCE = 0.015
"""Share of the limit by which the predicted end may miss it before a later check adapts the plan again."""
WRITING_AGAIN = 1.5
"""Time of writing the model at the end, relative to that of recording an evaluation: the weights are read and written
again, and the curves drawn again.
"""
UNTIMED_STEPS = 1
"""Steps at the begin that also start up (caches, workers), which are not part of the speed."""


class TimeKeeper(Callback):
    """Callback that ends a training at its planned step and keeps the plan within `limit`.

    It comes before the callbacks that write checkpoints, and `validation` tells how long evaluations took;
    `time_evaluation` estimates it for a detector before the first one. `now` is a clock in seconds.
    """

    def __init__(
        self,
        limit: TimeLimit,
        plan: StepPlan,
        validation: Validation,
        steps_per_epoch: int,
        *,
        time_evaluation: Callable[[nn.Module], float] | None = None,
        progress: Listener | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit, self.plan, self.validation = limit, plan, validation
        self.steps_per_epoch = steps_per_epoch
        self.time_evaluation, self.progress, self.now = time_evaluation, progress, now
        self.costs = limit.costs
        self.used = 0.0
        """Seconds of earlier calls that this one resumes."""
        self.minutes_before: float | None = None
        """The limit of the call that this one resumes."""
        self.out_of_time = False
        """Whether the limit ended the training before its planned step."""
        self._checks: list[float] = []
        self._step = 0

    @property
    def last_step(self) -> int:
        """The step after which the training ends."""
        return ceil(self.limit.stop * self.plan.steps)

    @property
    def deadline(self) -> float:
        """Reading of the clock at which the model is due."""
        return self.limit.started + 60 * self.limit.minutes - self.used

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; a finished training stops at once."""
        self._step = self._first = trainer.global_step
        self._begin = self.now()
        self._mark(trainer.global_step)
        self._untimed = True
        if self.minutes_before is not None and self.minutes_before != self.limit.minutes:
            steps, self.costs = by_first(lambda: self._fitting(trainer, pl_module, trainer.global_step))
            self.plan.restart(steps)
        done = self.plan.share(trainer.global_step)
        self._checks = [share for share in CHECKS if share > done]
        if trainer.global_step >= self.last_step:
            trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adapt the plan if a check is due; stop at the last planned step, or when the time is over."""
        if trainer.global_step == self._step:
            return  # the step accumulates more batches
        self._step = step = trainer.global_step
        if self._untimed and step - self._first >= UNTIMED_STEPS:
            self._mark(step)
            self._untimed = False
        due = not self._untimed and step > self._marked_step and self._is_due(step)
        over = self.now() + self.costs.evaluation + self.costs.writing >= self.deadline
        due, over = any_of(due, over)
        if step >= self.last_step:
            trainer.should_stop = True
        elif over:
            trainer.should_stop = self.out_of_time = True
        elif due:
            self._replan(trainer, pl_module)
            trainer.should_stop = step >= self.last_step

    def state_dict(self) -> dict[str, Any]:
        """Return the plan, its limit and the time used so far, for a resumed training."""
        costs = [self.costs.step, self.costs.evaluation, self.costs.writing]
        used = self.used + self.now() - self.limit.started
        return {"plan": self.plan.state(), "minutes": self.limit.minutes, "used": used, "costs": costs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the plan of the resumed training, with the time that it has left."""
        self.plan.restore(state_dict["plan"])
        self.minutes_before, self.used = state_dict["minutes"], state_dict["used"]
        self.costs = Costs(*state_dict["costs"])

    def _mark(self, step: int) -> None:
        """Measure the speed from here on."""
        self._marked_step, self._marked_at, self._marked_evaluations = step, self.now(), self.validation.seconds

    def _is_due(self, step: int) -> bool:
        if not self._checks:
            return False
        share = (self.now() - self._begin) / max(1e-9, self.deadline - self._begin)
        return max(step / self.plan.steps, share) >= self._checks[0]

    def _replan(self, trainer: Trainer, module: LightningModule) -> None:
        """Compare the speed with the plan; change the number of steps at the first check, and if it misses the end."""
        step, now = trainer.global_step, self.now()
        first = len(self._checks) in (0, len(CHECKS))
        reached = max(step / self.plan.steps, (now - self._begin) / max(1e-9, self.deadline - self._begin))
        self._checks = [share for share in self._checks if share > reached]
        steps, costs = by_first(lambda: self._fitting(trainer, module, step))
        self.costs = costs
        self._mark(step)
        off = abs(steps - self.plan.steps) * costs.step
        if steps == self.plan.steps or (not first and off < TOLERANCE * 60 * self.limit.minutes):
            return
        before = self.plan.steps
        self.plan.change(step, steps)
        if self.progress is not None and trainer.is_global_zero:
            self.progress(
                Message(
                    f"{clock(now - self.limit.started + self.used)} of {self.limit.minutes:g} min used, a step takes "
                    f"{costs.step:.2g} s and an evaluation {costs.evaluation:.2g} s: {self.plan.steps} steps in all "
                    f"(planned: {before})"
                )
            )

    def _fitting(self, trainer: Trainer, module: LightningModule, step: int) -> tuple[int, Costs]:
        """Return the steps that fit into the remaining time, and the costs as they were measured since the mark."""
        costs = self.costs
        if step > self._marked_step:
            evaluated = self.validation.seconds - self._marked_evaluations
            costs = replace(costs, step=(self.now() - self._marked_at - evaluated) / (step - self._marked_step))
        if self.validation.last_seconds is not None:
            writing = max(costs.writing, WRITING_AGAIN * self.validation.writing_seconds)
            costs = replace(costs, evaluation=self.validation.last_seconds, writing=writing)
        elif self.time_evaluation is not None and isinstance(module, TrainingModule):
            costs = replace(costs, evaluation=self.time_evaluation(module.trained))
        left = self.deadline - self.now()
        steps = max(step, steps_within(costs, left, self.validation.every * self.steps_per_epoch, step))
        steps = int(steps / self.limit.stop)
        return steps if self.limit.most is None else min(steps, self.limit.most), costs
