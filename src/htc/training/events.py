"""What a running training reports: its phases, steps, evaluations and messages. Needs neither torch nor Lightning."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """Values of some fields (dotted names), and how they came about."""

    fields: Mapping[str, Any]
    rule: str


@dataclass(frozen=True)
class Phase:
    """The training begins something that can take a while, such as reading the annotations."""

    name: str


@dataclass(frozen=True)
class Downloading:
    """Weights are being downloaded."""

    name: str
    done: int
    total: int | None
    """Bytes; None if the server does not tell."""


@dataclass(frozen=True)
class Message:
    """Something to know before the first step."""

    line: str
    warning: bool = False
    """Whether something in the dataset is likely to be wrong."""


@dataclass(frozen=True)
class Planned:
    """The configuration is resolved."""

    images: int
    instances: int
    classes: int
    """Of the training images."""
    choices: tuple[Choice, ...]
    """Every choice with its rule."""
    minutes: float | None = None
    """The time limit."""


@dataclass(frozen=True)
class StepDone:
    """An optimizer step is done."""

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
    memory: float | None = None
    """GiB in use at the most since the process began; None where the system does not tell."""


@dataclass(frozen=True)
class EvaluationStep:
    """Validation images are being evaluated."""

    done: int
    images: int


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
    """The training ends here, since AP has not grown for `training.early_stop` evaluations."""


Event = Phase | Downloading | Message | Planned | StepDone | EvaluationStep | EvaluationDone
Listener = Callable[[Event], object]
"""Called with each event, in the process that called `htc.train`."""
