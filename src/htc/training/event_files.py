"""TensorBoard's event files: `tensorboard --logdir RUN` shows losses, learning rate and precision of one run or of
many.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from htc.training.record import StepTerms
from htc.training.validation import flat, read_history

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class EventFiles(Callback):
    """Writes what `LossRecord` and `Validation` record into `folder/tensorboard`: place it behind them.

    Training losses are `train/...`, the rest as in `validation.csv`. A resumed run covers what an interrupted one left
    behind.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._writer: SummaryWriter | None = None
        self._terms = StepTerms()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens a new file."""
        self._terms.start(trainer)
        if not trainer.is_global_zero:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder / FOLDER), purge_step=trainer.global_step or None)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Notes the learning rate of the step."""
        self._rate = optimizer.param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes the losses of the step just done."""
        terms = self._terms.add(trainer, outputs["terms"])
        if terms is None:
            return  # more batches make this step
        values = {f"train/{name}": value for name, value in terms.items()}
        self._write(
            {**values, "train/total": sum(terms.values()), "learning_rate": self._rate}, trainer.global_step - 1
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the evaluation, if there was one."""
        history = read_history(self.folder)
        if history and history[-1]["step"] == trainer.global_step:
            values = {
                name.replace(".", "/", 1): value
                for name, value in flat(history[-1]).items()
                if name not in ("epoch", "step")
            }
            self._write(values, trainer.global_step - 1)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the file."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Closes the file."""
        self._close()

    def _write(self, values: dict[str, float], step: int) -> None:
        if self._writer is None:
            return  # the first process writes
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
