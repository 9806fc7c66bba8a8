"""What a training tells whoever watches it, as it happens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StepDone:
    """An optimiser step is done."""

    step: int
    """Steps done, this one included."""
    steps: int
    """Steps of the whole training, unless it stops earlier."""
    epoch: int
    """The running epoch, from 1."""
    epochs: int
    learning_rate: float
    losses: Mapping[str, float]
    """Every term, as weighted in the sum."""


@dataclass(frozen=True)
class EvaluationStep:
    """Validation pictures are being measured."""

    done: int
    pictures: int


@dataclass(frozen=True)
class EvaluationDone:
    """An evaluation is over."""

    entry: Mapping[str, Any]
    """What the history holds of it: `epoch`, `step`, the metrics and, where they are computed, the validation
    `losses`.
    """
    best: bool
    """Better than every one before."""
    stops: bool
    """The training ends here, since the precision has not grown for `training.early_stop` evaluations."""


@dataclass(frozen=True)
class Message:
    """Something to know before the first step."""

    line: str


Event = StepDone | EvaluationStep | EvaluationDone | Message
Listener = Callable[[Event], None]
