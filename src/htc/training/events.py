"""Events of a training: phases, steps, evaluations and messages. Imports neither torch nor Lightning."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """Values of some fields (dotted names) and the rule that set them."""

    fields: Mapping[str, Any]
    rule: str


@dataclass(frozen=True)
class Phase:
    """The start of a phase that can take a while, such as reading the annotations."""

    name: str


@dataclass(frozen=True)
class Downloading:
    """Progress of a download of weights."""

    name: str
    done: int
    total: int | None
    """Bytes; None if the server does not report the size."""


@dataclass(frozen=True)
class Message:
    """A message to the user before the first step."""

    line: str
    warning: bool = False
    """Whether it warns of a probable fault in the dataset."""


@dataclass(frozen=True)
class Planned:
    """The resolved configuration and the size of the dataset."""

    images: int
    instances: int
    classes: int
    """Counts in the training set."""
    choices: tuple[Choice, ...]
    """Every choice with its rule."""
    minutes: float | None = None
    """The time limit in minutes; None without one."""


@dataclass(frozen=True)
class StepDone:
    """A finished optimizer step."""

    step: int
    """Number of finished steps, including this one."""
    steps: int
    """Steps of the whole training, unless it stops earlier."""
    epoch: int
    """The current epoch, from 1."""
    epochs: int
    learning_rate: float
    losses: Mapping[str, float]
    """Every term, as weighted in the sum."""
    memory: float | None = None
    """Peak memory of the process in GiB; None if the system does not report it."""
    images: int = 0
    """Images of this step, over all processes."""
    waited: float = 0.0
    """Seconds that the training has waited for data so far."""


@dataclass(frozen=True)
class EvaluationStep:
    """Progress of an evaluation, in validation images."""

    done: int
    images: int


@dataclass(frozen=True)
class EvaluationDone:
    """A finished evaluation."""

    entry: Mapping[str, Any]
    """Its entry in the history: `epoch`, `step`, the metrics and, if they are computed, the validation `losses`."""
    best: bool
    """Whether it is better than every earlier one."""
    stops: bool
    """Whether the training ends here because AP has not improved for `training.early_stop` evaluations."""


@dataclass(frozen=True)
class Finished:
    """The end of a training: why it ended, where everything is, and what to do next."""

    reason: str
    folder: str
    """The run folder."""
    model: str
    """The folder of the model."""
    next_step: str
    """What the result suggests, as a sentence ..."""
    command: str
    """... and the command that does it."""


Event = Phase | Downloading | Message | Planned | StepDone | EvaluationStep | EvaluationDone | Finished
Listener = Callable[[Event], object]
"""Called with each event, in the process that called `htc.train`."""
