"""Hybrid Task Cascade, Cascade Mask R-CNN and Mask R-CNN on today's PyTorch.

Names are imported when they are first used, so that `import htc` is cheap: the command line answers before torch is
loaded.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from htc.api import doctor, ensemble, evaluate, export, list_models, load, train
    from htc.config import Config
    from htc.data.dataset import Dataset
    from htc.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        ExportError,
        HTCError,
        InstallationError,
        OutputError,
        TrainingError,
    )
    from htc.inference.predictor import Predictor
    from htc.metrics import Metrics
    from htc.model.detector import Detector
    from htc.results import Detections
    from htc.training.objective import TrainingObjective
    from htc.training.result import TrainingResult

    __version__: str

_HOMES = {
    "CheckpointError": "htc.errors",
    "Config": "htc.config",
    "ConfigError": "htc.errors",
    "DataError": "htc.errors",
    "Dataset": "htc.data.dataset",
    "Detections": "htc.results",
    "Detector": "htc.model.detector",
    "ExportError": "htc.errors",
    "HTCError": "htc.errors",
    "InstallationError": "htc.errors",
    "Metrics": "htc.metrics",
    "OutputError": "htc.errors",
    "Predictor": "htc.inference.predictor",
    "TrainingError": "htc.errors",
    "TrainingObjective": "htc.training.objective",
    "TrainingResult": "htc.training.result",
    "doctor": "htc.checks.doctor",
    "ensemble": "htc.inference.load",
    "evaluate": "htc.evaluation.evaluate",
    "export": "htc.exporting.export",
    "list_models": "htc.checkpoint.zoo",
    "load": "htc.inference.load",
    "train": "htc.training.train",
}
"""Where each name is defined. Functions are taken from there and not from `htc.api`, which imports all of them."""

__all__ = [
    "CheckpointError",
    "Config",
    "ConfigError",
    "DataError",
    "Dataset",
    "Detections",
    "Detector",
    "ExportError",
    "HTCError",
    "InstallationError",
    "Metrics",
    "OutputError",
    "Predictor",
    "TrainingError",
    "TrainingObjective",
    "TrainingResult",
    "__version__",
    "doctor",
    "ensemble",
    "evaluate",
    "export",
    "list_models",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("hybrid-task-cascade")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
