"""How a training is carried out."""

from dataclasses import dataclass
from typing import Literal

from htc.data.semantic_maps import MapSources
from htc.training.auto_config import Choice
from htc.training.checkpoints import EVERY_MINUTE, Every


@dataclass(frozen=True)
class Options:
    """How a training is carried out; what is learned, and how, is the configuration's."""

    seed: int = 0
    device: str = "auto"
    minutes: float | None = None
    """Stop after so many minutes of training."""
    resume: bool = False
    """Go on from the last checkpoint of the training in the same folder, exactly, also in the middle of an epoch."""
    weights: str | None = None
    """Start from these weights: a preset's name, a folder or a file. Layers that depend on the classes may differ."""
    semantic: Literal["auto", "none"] | MapSources = "auto"
    """Semantic targets: derived from the instances, no semantic branch, or maps on the disk."""
    evaluate_every: int = 1
    """Epochs between two evaluations; the last epoch always has one."""
    validation_losses: bool = True
    """Compute every loss term on the validation pictures at each evaluation."""
    pictures: int = 6
    """Validation pictures to draw, ground truth beside prediction, at each best evaluation and at the last."""
    event_files: bool = True
    """Write TensorBoard's event files."""
    choices: tuple[Choice, ...] = ()
    """What was chosen for this data and by which rule, for the record."""
    checkpoints: Every | None = EVERY_MINUTE
    """When what `resume` needs is written, besides the end of every epoch; None: never."""
    workers: int = 0
    """Processes that prepare batches."""
