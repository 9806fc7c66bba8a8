"""Lightning's trainer as this library uses it: quiet, one process, interruptible."""

import contextlib
import logging
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from htc.ops.onednn import exact_onednn_matmul

LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")


@dataclass(frozen=True)
class Limits:
    """When a training ends: after so many epochs, or after so many minutes if that comes first."""

    epochs: int
    minutes: float | None = None


def fit(
    module: LightningModule,
    batches: Callable[[int], Iterable[Any]],
    callbacks: Sequence[Callback],
    limits: Limits,
    *,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    clip_gradients: float | None = None,
    resume: Path | None = None,
) -> None:
    """Trains `module` on `batches(epoch)`, epoch 0, 1, ...; `resume` is a checkpoint of an earlier call.

    `device` is auto, cpu, cuda or mps. Raises what a callback or a step raises, and KeyboardInterrupt when interrupted.
    """
    with _quiet(), _interruptible(), exact_onednn_matmul():
        trainer = Trainer(
            accelerator=device,
            devices=1,
            precision="bf16-mixed" if precision == "bf16" else "32-true",
            max_epochs=limits.epochs,
            max_time=None if limits.minutes is None else timedelta(minutes=limits.minutes),
            gradient_clip_val=clip_gradients,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            reload_dataloaders_every_n_epochs=1,
        )
        trainer.fit(module, datamodule=_Epochs(batches), ckpt_path=resume, weights_only=True)


class _Epochs(LightningDataModule):
    """Gives Lightning new batches every epoch: what an epoch holds depends on its number alone, also after a resume."""

    def __init__(self, batches: Callable[[int], Iterable[Any]]):
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> Iterable[Any]:
        """The batches of the epoch that begins."""
        assert self.trainer is not None
        return self.batches(self.trainer.current_epoch)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Lightning's notes on hardware and its advertising out of the user's terminal."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Lightning answers Ctrl+C by leaving the process with code 1 and Ctrl+C disabled: here it stays KeyboardInterrupt."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)
