"""Checkpoints of a running training: `last.ckpt` is complete at any moment and resumes exactly, also within an epoch.

Ctrl-C and SIGTERM take effect after the running step and its checkpoint (`HeldSignals`); a file is replaced only by a
complete one (`WholeFiles`). The use of undocumented Lightning attributes is confined to `htc.training.resume`.
"""

import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from htc.errors import OutputError, TrainingError
from htc.files import remove_incomplete, whole_file
from htc.training.distributed import any_of
from htc.training.resume import complete_last_batch, is_end_of_epoch

HELD = (signal.SIGINT, signal.SIGTERM)


class HeldSignals:
    """Signal handlers that postpone the first signal while `waiting`: it is kept in `received` until `deliver`.

    A second signal, and any signal while not `waiting`, goes at once to the handlers that `remember` stored.
    """

    def __init__(self) -> None:
        self.waiting = False
        self.received: int | None = None
        self._usual: dict[int, Any] = {}
        self._before: dict[int, Any] = {}

    def remember(self) -> None:
        """Store the current handlers. Does nothing outside the main thread, where Python cannot handle signals."""
        if threading.current_thread() is threading.main_thread():
            self._usual = {number: signal.getsignal(number) for number in HELD}

    def install(self) -> None:
        """Replace the stored handlers."""
        self._before = {number: signal.signal(number, self._receive) for number in self._usual}

    def remove(self) -> None:
        """Restore the handlers that `install` replaced."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before, self.waiting = {}, False

    def deliver(self, number: int, frame: FrameType | None = None) -> None:
        """Call the stored handler of the signal, which raises an exception or ends the process."""
        handler = self._usual.get(number, signal.SIG_DFL)
        if callable(handler):
            handler(number, frame)
        elif handler is signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.waiting and self.received is None:
            self.received = number
        else:
            self.deliver(number, frame)


LAST = "last.ckpt"
PAUSE = 30
"""Seconds of training between two checkpoints for each second of writing one."""
BEFORE_EVALUATION = 1 / 6
"""Fraction of that time which is enough after the last step of an epoch, since a long evaluation may follow."""


@dataclass(frozen=True)
class Every:
    """How often a checkpoint is written between the ends of epochs."""

    seconds: float = 60.0
    """Seconds since the last checkpoint; longer if writing is slow, which may take at most a thirtieth of the time."""
    steps: int | None = None
    """Also write one after every `steps` optimizer steps."""


EVERY_MINUTE = Every()


class WholeFiles(TorchCheckpointIO):
    """Checkpoint writer that writes a temporary file, flushes it to the disk, and only then replaces the old file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`. Raises `OutputError`; an existing file is then unchanged."""
        with whole_file(Path(path)) as writer:
            try:
                torch.save(checkpoint, writer)  # pyright: ignore[reportArgumentType] - it writes and flushes, and need not seek
            except RuntimeError as error:
                # torch's writer hides the cause (a full disk, an interruption) behind an error of its own
                if isinstance(error.__context__, OutputError) or not isinstance(error.__context__, Exception | None):
                    raise error.__context__ from None
                raise
            writer.sync()
        with suppress(OSError):  # not every file system can synchronize a folder
            folder = os.open(Path(path).parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def steps_done(checkpoint: Path) -> int:
    """Read the number of optimizer steps from a checkpoint without loading its tensors."""
    return torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)["global_step"]


class Checkpoints(Checkpoint):
    """Callback that writes `folder/last.ckpt` before the first step, periodically, after every epoch and when stopped.

    A signal (see `HeldSignals`) ends the training after the running step and its checkpoint. Evaluations run between
    the last step of an epoch and its end: they are interrupted at once, since the last step is already saved.
    """

    def __init__(self, folder: Path, every: Every = EVERY_MINUTE):
        self.path = folder / LAST
        self.every = every
        self.signals = HeldSignals()
        self._saved_step = 0
        self._saved_at = 0.0
        self._steps = 0
        self._pause = every.seconds

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Store the signal handlers before Lightning replaces them."""
        self.signals.remember()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the first checkpoint of a new training; remove incomplete files that a killed process left."""
        if trainer.is_global_zero:
            remove_incomplete(self.path.parent, LAST)
        self.signals.install()
        if trainer.global_step == 0:
            self._save(trainer)
        self._steps = self._saved_step = trainer.global_step
        self._saved_at = time.monotonic()
        self.signals.waiting = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint after an optimizer step if one is due or if the training stops here."""
        if trainer.global_step == self._steps:
            return  # gradients are still being accumulated: a checkpoint here would lose them
        self._steps = trainer.global_step
        stop, due = any_of(self.signals.received is not None, self._is_due(trainer))
        if stop or due or trainer.should_stop:
            self._save(trainer)
        if stop:
            self._deliver()
        self.signals.waiting = not (is_end_of_epoch(trainer) or trainer.should_stop)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Postpone signals again: steps begin."""
        self.signals.waiting = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the epoch's checkpoint after its evaluation. An unfinished epoch keeps the checkpoint of its last
        step.
        """
        if is_end_of_epoch(trainer):
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the signal handlers."""
        self.signals.remove()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers; the last checkpoint stays as it is."""
        self.signals.remove()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Mark the batch just trained as completed (see `complete_last_batch`)."""
        complete_last_batch(checkpoint)

    def _is_due(self, trainer: Trainer) -> bool:
        by_step = self.every.steps is not None and trainer.global_step % self.every.steps == 0
        pause = self._pause * (BEFORE_EVALUATION if is_end_of_epoch(trainer) else 1)
        return by_step or time.monotonic() - self._saved_at >= pause

    def _save(self, trainer: Trainer) -> None:
        begin = time.monotonic()
        self._check_weights(trainer)
        try:
            trainer.save_checkpoint(self.path)
        except OutputError as error:
            kept = (
                f" The previous checkpoint, of step {self._saved_step}, is complete: continue from it with --resume"
                if self.path.is_file()
                else ""
            )
            raise OutputError(f"{error}.{kept}") from error
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        self._pause = max(self.every.seconds, PAUSE * (self._saved_at - begin))

    def _check_weights(self, trainer: Trainer) -> None:
        """Raise `TrainingError` if a weight is not finite, which a step with a finite loss can cause; the previous
        checkpoint is then the last usable one.
        """
        if all(bool(parameter.isfinite().all()) for parameter in trainer.lightning_module.parameters()):
            return
        raise TrainingError(
            f"the weights are not finite after step {trainer.global_step - 1}, although its loss was: a gradient was "
            f"too large. The checkpoint of step {self._saved_step} is kept. Lower the learning rate (--lr) or set "
            f"training.clip_gradients"
        )

    def _deliver(self) -> None:
        self.signals.waiting = False
        received = self.signals.received
        if received is None:
            raise KeyboardInterrupt  # another process received it
        self.signals.deliver(received)
