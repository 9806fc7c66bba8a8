"""Hybrid Task Cascade, Cascade Mask R-CNN and Mask R-CNN on today's PyTorch.

Names are imported when they are first used, so that `import htc` is cheap: the command line answers before torch is
loaded.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from htc.config import Config
    from htc.data.dataset import Dataset
    from htc.errors import CheckpointError, ConfigError, DataError, HTCError, OutputError
    from htc.inference.load import load
    from htc.inference.predictor import Predictor
    from htc.model.detector import Detector
    from htc.results import Detections
    from htc.training.objective import TrainingObjective

    __version__: str

_HOMES = {
    "CheckpointError": "htc.errors",
    "Config": "htc.config",
    "ConfigError": "htc.errors",
    "DataError": "htc.errors",
    "Dataset": "htc.data.dataset",
    "Detections": "htc.results",
    "Detector": "htc.model.detector",
    "HTCError": "htc.errors",
    "OutputError": "htc.errors",
    "Predictor": "htc.inference.predictor",
    "TrainingObjective": "htc.training.objective",
    "load": "htc.inference.load",
}

__all__ = [
    "CheckpointError",
    "Config",
    "ConfigError",
    "DataError",
    "Dataset",
    "Detections",
    "Detector",
    "HTCError",
    "OutputError",
    "Predictor",
    "TrainingObjective",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("hybrid-task-cascade")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
