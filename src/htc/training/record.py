"""What a training run writes down while it runs: every loss term of every step, and who is told about it."""

import csv
from pathlib import Path
from typing import Any, TextIO

from lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from htc.errors import DataError, OutputError
from htc.training.progress import Progress, StepDone

LEADING = ("step", "epoch", "learning_rate", "total")


class LossRecord(Callback):
    """Appends a row a step to a CSV file: step, epoch, learning rate, total, then every term as weighted in the total.

    Rows from `first_step` on that an interrupted run left behind are dropped. Values are written in full, so that two runs
    that should be equal can be compared as files.
    """

    def __init__(self, path: Path, progress: Progress | None = None):
        self.path = path
        self.progress = progress
        self._stream: TextIO | None = None
        self._writer: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's signature
        """Opens the file behind the rows of the steps that are already done."""
        kept = _rows_before(self.path, trainer.global_step)
        try:
            self._stream = self.path.open("w", newline="", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}: give another place (--out)") from error
        self._writer = csv.writer(self._stream)
        self._writer.writerows(kept)
        self._header = bool(kept)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:  # noqa: ARG002
        """Notes the learning rate of the step: at its end the schedule has moved on."""
        self._rate = optimizer.param_groups[0]["lr"]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Writes the row of the step just done."""
        terms = {name: float(value) for name, value in outputs["terms"].items()}
        if not self._header:
            self._writer.writerow([*LEADING, *terms])
            self._header = True
        self._writer.writerow([trainer.global_step - 1, trainer.current_epoch, self._rate, sum(terms.values()), *terms.values()])
        assert self._stream is not None
        self._stream.flush()
        if self.progress is not None:
            steps, epochs = int(trainer.estimated_stepping_batches), trainer.max_epochs or 1
            self.progress(StepDone(trainer.global_step, steps, trainer.current_epoch + 1, epochs, self._rate, terms))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's signature
        """Closes the file."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Closes the file."""
        self._close()

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def _rows_before(path: Path, step: int) -> list[list[str]]:
    """The header and the rows of steps before `step`; nothing if there is no file or no such step."""
    if step == 0 or not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    return rows[:1] + [row for row in rows[1:] if int(row[0]) < step]


def read_losses(path: Path) -> tuple[list[int], dict[str, list[float]]]:
    """Steps and values by term of a file that `LossRecord` wrote; raises `DataError` when it is damaged."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            header, *rows = list(csv.reader(stream)) or [list(LEADING)]
            names = header[len(LEADING) :]
            return [int(row[0]) for row in rows], {name: [float(row[i + len(LEADING)]) for row in rows] for i, name in enumerate(names)}
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path} is not a record of losses: {error}") from error
