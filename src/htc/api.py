"""The functions of the public API, which are implemented in the subpackages."""

from htc.checkpoint.zoo import list_models
from htc.checks.doctor import doctor
from htc.evaluation.evaluate import evaluate
from htc.exporting.export import export
from htc.inference.load import ensemble, load
from htc.training.train import train

__all__ = ["doctor", "ensemble", "evaluate", "export", "list_models", "load", "train"]
