"""Checkpoints of a running training: `last.ckpt`, complete at any moment and exact in the middle of an epoch.

Ctrl-C and SIGTERM wait for the end of the running step and its checkpoint (`HeldSignals`); a file is replaced only by a
complete one (`WholeFiles`). What Lightning does not document is in `htc.training.resume`.
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
from htc.files import whole_file
from htc.training.distributed import any_of
from htc.training.resume import complete_last_batch, is_end_of_epoch

HELD = (signal.SIGINT, signal.SIGTERM)


class HeldSignals:
    """While `waiting`, a first signal is only noted in `received`; `deliver` then does what it would have done.

    A second signal, and any while not `waiting`, takes its usual way at once: to the handlers found by `remember`.
    """

    def __init__(self) -> None:
        self.waiting = False
        self.received: int | None = None
        self._usual: dict[int, Any] = {}
        self._before: dict[int, Any] = {}

    def remember(self) -> None:
        """Takes the handlers now in place as the usual way. Signals can be handled in the main thread only:
        elsewhere, nothing.
        """
        if threading.current_thread() is threading.main_thread():
            self._usual = {number: signal.getsignal(number) for number in HELD}

    def install(self) -> None:
        """From here on the signals come here."""
        self._before = {number: signal.signal(number, self._receive) for number in self._usual}

    def remove(self) -> None:
        """Puts back the handlers that `install` replaced."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before, self.waiting = {}, False

    def deliver(self, number: int, frame: FrameType | None = None) -> None:
        """The usual way of that signal: an exception, or the end of the process."""
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
"""After the last step of an epoch that part of the time is enough: an evaluation, which may be long, can follow."""


@dataclass(frozen=True)
class Every:
    """How often a checkpoint is written between the ends of epochs."""

    seconds: float = 60.0
    """Since the last one; longer where writing takes long, so that it costs at most a thirtieth of the time."""
    steps: int | None = None
    """Also after each so many steps."""


EVERY_MINUTE = Every()


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place, down to the disk, and only then gives it the name of the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises `OutputError`; the file that was there is then untouched."""
        with whole_file(Path(path)) as writer:
            try:
                torch.save(checkpoint, writer)  # pyright: ignore[reportArgumentType] - it writes and flushes, and need not seek
            except RuntimeError as error:
                # torch's writer covers what stopped it (a full disk, an interruption) with a complaint of its own
                if isinstance(error.__context__, OutputError) or not isinstance(error.__context__, Exception | None):
                    raise error.__context__ from None
                raise
            writer.sync()
        with suppress(OSError):  # not every file system lets a folder be synchronised
            folder = os.open(Path(path).parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def steps_done(checkpoint: Path) -> int:
    """Optimizer steps done in a checkpoint, read without its tensors."""
    return torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)["global_step"]


class Checkpoints(Checkpoint):
    """Writes `folder/last.ckpt` before the first step, from time to time, at the end of every epoch, and when stopped.

    A signal (see `HeldSignals`) ends the training after the step that runs, with its checkpoint written. Evaluations
    come between the last step of an epoch and its end: they are interrupted at once, the last step being safe by then.
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
        """Notes where signals usually go, before Lightning takes them."""
        self.signals.remember()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The first checkpoint of a new training; what a killed process left unfinished is removed."""
        if trainer.is_global_zero:
            for left in self.path.parent.glob(f".{LAST}.*.tmp"):
                left.unlink(missing_ok=True)
        self.signals.install()
        if trainer.global_step == 0:
            self._save(trainer)
        self._steps = self._saved_step = trainer.global_step
        self._saved_at = time.monotonic()
        self.signals.waiting = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an optimizer step: a checkpoint if it is time, or if this step is the last for now."""
        if trainer.global_step == self._steps:
            return  # gradients are being accumulated: there is nothing whole to save
        self._steps = trainer.global_step
        stop, due = any_of(self.signals.received is not None, self._is_due(trainer))
        if stop or due or trainer.should_stop:
            self._save(trainer)
        if stop:
            self._deliver()
        self.signals.waiting = not (is_end_of_epoch(trainer) or trainer.should_stop)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Steps begin."""
        self.signals.waiting = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch's checkpoint, with its evaluation done. An epoch cut short keeps the checkpoint of its last
        step.
        """
        if is_end_of_epoch(trainer):
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Signals take their usual way again."""
        self.signals.remove()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Signals take their usual way again; the last checkpoint stays as it is."""
        self.signals.remove()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Counts the step just done as completed."""
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
                f" The checkpoint of step {self._saved_step} before it is whole: go on from it with --resume"
                if self.path.is_file()
                else ""
            )
            raise OutputError(f"{error}.{kept}") from error
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        self._pause = max(self.every.seconds, PAUSE * (self._saved_at - begin))

    def _check_weights(self, trainer: Trainer) -> None:
        """A step can ruin the weights though its loss was finite: the checkpoint before it is then the last good
        one.
        """
        if all(bool(parameter.isfinite().all()) for parameter in trainer.lightning_module.parameters()):
            return
        raise TrainingError(
            f"the weights are not finite after step {trainer.global_step - 1}, though its loss was: a gradient was "
            f"too large. "
            f"The checkpoint of step {self._saved_step} is kept. Lower the learning rate (--lr) or set "
            f"training.clip_gradients"
        )

    def _deliver(self) -> None:
        self.signals.waiting = False
        received = self.signals.received
        if received is None:
            raise KeyboardInterrupt  # another process received it
        self.signals.deliver(received)
