"""Evaluation between epochs: numbers into a history file, curves and pictures beside it, and an end when nothing
improves.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import nn

from htc.evaluation.coco import Metrics
from htc.files import write_json, write_text
from htc.training.distributed import by_first
from htc.training.module import TrainingModule
from htc.training.progress import Measured, Progress
from htc.training.record import read_losses
from htc.visual.curves import draw_average_precision, draw_losses

Evaluate = Callable[[nn.Module], Metrics]
"""Measures a detector, which is in evaluation mode."""
Losses = Callable[[nn.Module], dict[str, float]]
"""The loss terms of a detector on the validation pictures."""
Draw = Callable[[nn.Module, Path], object]
"""Draws what a detector finds into a folder."""
Keep = Callable[[nn.Module], object]
"""Keeps a detector that is better than all before it."""

HISTORY, LOSSES, CURVES, TABLE, PICTURES = "history.json", "losses.csv", "curves", "validation.csv", "pictures"
BEST, LAST = "best", "last"
SHOWN = {
    "mask AP": ("segm", "AP"),
    "mask AP50": ("segm", "AP50"),
    "box AP": ("bbox", "AP"),
    "box AP50": ("bbox", "AP50"),
}
NO_METRICS = ("epoch", "step", "losses")
"""What a history entry holds beside its metrics."""


class Validation(Callback):
    """Measures the trained weights (their moving average where there is one) after every `every` epochs and after the
    last.

    Writes `history.json`, a list of `{"epoch", "step", "bbox", "segm", "per_class", "losses"}`, the same as
    `validation.csv`, and the curves, into `folder`; `draw` makes `pictures/best` at each best precision and
    `pictures/last` after the last epoch. The training ends early when the precision has not grown for `patience`
    evaluations.
    """

    def __init__(
        self,
        folder: Path,
        evaluate: Evaluate | None,
        every: int,
        epochs: int,
        *,
        losses: Losses | None = None,
        draw: Draw | None = None,
        keep: Keep | None = None,
        patience: int | None = None,
        progress: Progress | None = None,
    ):
        self.folder = folder
        self.evaluate = evaluate
        self.every = every
        self.epochs = epochs
        self.losses = losses
        self.draw = draw
        self.keep = keep
        self.patience = patience
        self.progress = progress

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps of an earlier history what the resumed run does not measure again."""
        if not trainer.is_global_zero:
            return
        kept = (
            [entry for entry in read_history(self.folder) if entry["step"] <= trainer.global_step]
            if trainer.global_step
            else []
        )
        write_json(self.folder / HISTORY, kept)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures, then draws."""
        epoch = trainer.current_epoch + 1
        due = epoch % self.every == 0 or epoch == self.epochs or trainer.should_stop
        if self.evaluate is not None and due and isinstance(pl_module, TrainingModule):
            detector = pl_module.trained
            detector.eval()
            metrics = self.evaluate(detector)  # by all processes; what is made of it, by the first
            stops = by_first(lambda: self._note(trainer, detector, metrics, epoch))
            trainer.should_stop = trainer.should_stop or stops
            detector.train()
        if trainer.is_global_zero:
            draw_curves(self.folder)

    def _note(self, trainer: Trainer, detector: nn.Module, metrics: Metrics, epoch: int) -> bool:
        """Writes down, keeps, draws and tells; whether the training is to end."""
        entry: dict[str, Any] = {"epoch": epoch, "step": trainer.global_step, **metrics}
        if self.losses is not None:
            entry["losses"] = self.losses(detector)
        earlier = [one for one in read_history(self.folder) if one["step"] < trainer.global_step]
        history = [*earlier, entry]
        if self.keep is not None and evaluations_since_best(history) == 0:
            self.keep(detector)  # before the history says so: if it stops here, the evaluation is done again
        write_json(self.folder / HISTORY, history)
        write_table(self.folder / TABLE, history)
        stops = self.patience is not None and evaluations_since_best(history) >= self.patience
        best = evaluations_since_best(history) == 0
        if self.draw is not None and best:
            self.draw(detector, self.folder / PICTURES / BEST)
        if self.draw is not None and (trainer.should_stop or stops or epoch == self.epochs):
            self.draw(detector, self.folder / PICTURES / LAST)
        if self.progress is not None:
            self.progress(Measured(entry, best, stops))
        return stops


def precision(entry: dict[str, Any]) -> float:
    """The number that a training is judged by: mask AP, or box AP where there are no masks; 0..1, -1 undefined."""
    return entry.get("segm", entry["bbox"])["AP"]


def evaluations_since_best(history: Sequence[dict[str, Any]]) -> int:
    """How many evaluations have not been better than the best before them; 0 while nothing can be measured."""
    values = [precision(entry) for entry in history]
    return 0 if max(values) < 0 else len(values) - 1 - values.index(max(values))


def best_of(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The entry of the best evaluation: the one that was kept."""
    return history[-1 - evaluations_since_best(history)]


def metrics_of(entry: dict[str, Any]) -> Metrics:
    """The metrics alone of a history entry."""
    return {kind: values for kind, values in entry.items() if kind not in NO_METRICS}


def read_history(folder: Path) -> list[dict[str, Any]]:
    """What `Validation` wrote; empty before the first evaluation."""
    path = folder / HISTORY
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def flat(entry: dict[str, Any]) -> dict[str, float]:
    """A history entry as one row: `segm.AP`, `per_class.cat.segm`, `losses.stage1.mask`, `losses.total`, ..."""
    row: dict[str, float] = {"epoch": entry["epoch"], "step": entry["step"]}
    for kind, values in metrics_of(entry).items():
        for name, value in values.items():
            row |= (
                {f"{kind}.{name}.{one}": number for one, number in value.items()}
                if isinstance(value, dict)
                else {f"{kind}.{name}": value}
            )
    if "losses" in entry:
        row |= {f"losses.{name}": value for name, value in entry["losses"].items()}
        row["losses.total"] = sum(entry["losses"].values())
    return row


def write_table(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """The history as CSV, a row an evaluation."""
    rows = [flat(entry) for entry in history]
    names = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def draw_curves(folder: Path) -> None:
    """`curves/losses.png` and `curves/average_precision.png` from the record and history of a run's folder."""
    steps, losses = read_losses(folder / LOSSES)
    history = read_history(folder)
    measured = [entry for entry in history if "losses" in entry]
    validation = {
        name: [entry["losses"].get(name, 0.0) for entry in measured]
        for name in (measured[-1]["losses"] if measured else ())
    }
    draw_losses(folder / CURVES / "losses.png", steps, losses, [entry["step"] - 1 for entry in measured], validation)
    draw_average_precision(
        folder / CURVES / "average_precision.png", [entry["epoch"] for entry in history], _series(history)
    )


def _series(history: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    kinds = {kind for entry in history for kind in entry}
    return {
        name: [entry.get(kind, {}).get(number, -1.0) for entry in history]
        for name, (kind, number) in SHOWN.items()
        if kind in kinds
    }
