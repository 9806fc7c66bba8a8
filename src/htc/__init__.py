"""Hybrid Task Cascade and its family on today's PyTorch. Nothing is imported until it is used: `import htc` is cheap."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from htc.config import Config
    from htc.inference.load import load
    from htc.inference.predictor import Predictor
    from htc.model.detector import Detector
    from htc.presets import preset
    from htc.results import Detections
    from htc.training.objective import TrainingObjective

__all__ = ["Config", "Detections", "Detector", "Predictor", "TrainingObjective", "load", "preset"]

_HOMES = {
    "Config": "htc.config",
    "Detections": "htc.results",
    "Detector": "htc.model.detector",
    "Predictor": "htc.inference.predictor",
    "TrainingObjective": "htc.training.objective",
    "load": "htc.inference.load",
    "preset": "htc.presets",
}
_WITHOUT_TORCH = ("Config", "preset")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _WITHOUT_TORCH:
        from htc.compatibility import check_torch

        check_torch()
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
