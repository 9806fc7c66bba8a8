"""The result of a training: the trained model, its metrics and the history of its evaluations."""

from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from htc.config import Config
from htc.inference.load import load
from htc.inference.predictor import Predictor
from htc.metrics import Metrics
from htc.table import Table
from htc.training.history import flat, read_history

MODEL = "model"
"""Name of the trained model's folder in a run folder."""


@dataclass(frozen=True, repr=False)
class TrainingResult:
    """The result of a finished training, as returned by `htc.train`.

    Example:
        >>> result = htc.train("my_data", max_time=30)
        >>> result.model.predict("street.jpg")
        >>> result.metrics.mask.ap
        0.383
        >>> print(result.history)
    """

    folder: Path
    """The run folder: model, metrics, losses, curves, checkpoints."""
    config: Config
    """The configuration of the trained model."""
    metrics: Metrics | None
    """Metrics of the trained model on the validation images; None without validation images."""
    steps: int
    """Number of optimizer steps."""
    device: str = "auto"
    """The device on which `model` predicts."""
    ended: str = ""
    """Why the training ended."""
    backbone: nn.Module | None = None
    """The user's own backbone, which is not saved in the run folder."""

    @cached_property
    def model(self) -> Predictor:
        """The trained model (of the best evaluation, if there were any), loaded on first use."""
        return load(self.model_folder, device=self.device, backbone=deepcopy(self.backbone))

    @property
    def model_folder(self) -> Path:
        """The folder that `htc.load` and `--model` take."""
        return self.folder / MODEL

    @property
    def history(self) -> Table:
        """A row for each evaluation: `epoch`, `step`, `bbox.AP`, ..., `segm.AP`, ..., `losses.total`; the columns of
        `validation.csv`.
        """
        return Table.from_rows([flat(entry) for entry in read_history(self.folder)])

    def __repr__(self) -> str:
        return f"TrainingResult({self.folder}, {self.steps} steps, {self.metrics!r})"
