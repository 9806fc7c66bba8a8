"""Evaluation between epochs: numbers into a history file, curves beside it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import nn

from htc.evaluation.coco import Metrics
from htc.files import write_json
from htc.training.module import TrainingModule
from htc.training.record import read_losses
from htc.visual.curves import draw_average_precision, draw_losses

Evaluate = Callable[[nn.Module], Metrics]
"""Measures a detector, which is in evaluation mode."""

HISTORY, LOSSES, CURVES = "history.json", "losses.csv", "curves"
SHOWN = {"mask AP": ("segm", "AP"), "mask AP50": ("segm", "AP50"), "box AP": ("bbox", "AP"), "box AP50": ("bbox", "AP50")}


class Validation(Callback):
    """Measures the trained weights (their moving average where there is one) after every `every` epochs and after the last.

    Writes `history.json`, a list of `{"epoch", "step", "bbox", "segm", "per_class"}`, and the curves, into `folder`.
    """

    def __init__(self, folder: Path, evaluate: Evaluate | None, every: int, epochs: int):
        self.folder = folder
        self.evaluate = evaluate
        self.every = every
        self.epochs = epochs

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's signature
        """Keeps of an earlier history what the resumed run does not measure again."""
        kept = [entry for entry in read_history(self.folder) if entry["step"] <= trainer.global_step] if trainer.global_step else []
        write_json(self.folder / HISTORY, kept)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures, then draws."""
        epoch = trainer.current_epoch + 1
        due = epoch % self.every == 0 or epoch == self.epochs or trainer.should_stop
        if self.evaluate is not None and due and isinstance(pl_module, TrainingModule):
            detector = pl_module.trained
            detector.eval()
            metrics = self.evaluate(detector)
            detector.train()
            write_json(self.folder / HISTORY, [*read_history(self.folder), {"epoch": epoch, "step": trainer.global_step, **metrics}])
        draw_curves(self.folder)


def read_history(folder: Path) -> list[dict[str, Any]]:
    """What `Validation` wrote; empty before the first evaluation."""
    path = folder / HISTORY
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def draw_curves(folder: Path) -> None:
    """`curves/losses.png` and `curves/average_precision.png` from the record and history of a run's folder."""
    steps, losses = read_losses(folder / LOSSES)
    draw_losses(folder / CURVES / "losses.png", steps, losses)
    history = read_history(folder)
    draw_average_precision(folder / CURVES / "average_precision.png", [entry["epoch"] for entry in history], _series(history))


def _series(history: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    kinds = {kind for entry in history for kind in entry}
    return {name: [entry.get(kind, {}).get(number, -1.0) for entry in history] for name, (kind, number) in SHOWN.items() if kind in kinds}
