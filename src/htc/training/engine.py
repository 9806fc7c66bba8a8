"""Lightning's trainer as this library uses it: quiet, interruptible, exact also where it goes on in the middle of an
epoch.
"""

import contextlib
import logging
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import DDPStrategy

from htc.config import Precision
from htc.ops.onednn import exact_onednn_matmul
from htc.ranks import here
from htc.training.checkpoints import WholeFiles
from htc.training.distributed import count

LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")


class SizedBatches(Protocol):
    """Batches whose number is known, such as a loader."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


Batches = Callable[[int, int], SizedBatches]
"""(epoch, n) -> the batches of that epoch without its first n."""


@dataclass(frozen=True)
class Limits:
    """When a training ends: after so many epochs, or after so many minutes if that comes first."""

    epochs: int
    minutes: float | None = None


def fit(
    module: LightningModule,
    batches: Batches,
    callbacks: Sequence[Callback],
    limits: Limits,
    *,
    device: str = "auto",
    precision: Precision = "fp32",
    clip_gradients: float | None = None,
    accumulate: int = 1,
    resume: Path | None = None,
    unused_parameters: bool = False,
) -> None:
    """Trains `module` on the batches of epoch 0, 1, ...; `resume` is a checkpoint of an earlier call, also of
    mid-epoch.

    `device` is auto, cpu, cuda or mps; an optimiser step takes `accumulate` batches; `unused_parameters`: the losses do
    not depend on every parameter. Raises what a callback or a step raises, and KeyboardInterrupt when interrupted.
    """
    with _quiet(), _interruptible(), exact_onednn_matmul(), torch.random.fork_rng():
        trainer = Trainer(
            accelerator=device,
            **_processes(device, unused_parameters),
            precision="bf16-mixed" if precision == "bf16" else "32-true",
            max_epochs=limits.epochs,
            max_time=None if limits.minutes is None else timedelta(minutes=limits.minutes),
            gradient_clip_val=clip_gradients,
            accumulate_grad_batches=accumulate,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            reload_dataloaders_every_n_epochs=1,
            plugins=[WholeFiles(), *([TorchElasticEnvironment()] if count() > 1 else [])],
        )
        trainer.fit(module, datamodule=_Epochs(batches), ckpt_path=resume, weights_only=True)


def _processes(device: str, unused_parameters: bool) -> dict[str, Any]:
    """The Trainer's arguments for the processes that have met (`htc.training.distributed`): data-parallel training.

    Without `unused_parameters` every parameter takes part in every step: a process that waits for a gradient that never
    comes is an error at the next step. With it, each step searches the graph for the parameters that have none, which
    costs time, so it is not the default.
    """
    if count() == 1:
        return {"devices": 1}
    ranks = here()
    strategy = DDPStrategy(
        process_group_backend="nccl" if device == "cuda" else "gloo",
        gradient_as_bucket_view=True,
        find_unused_parameters=unused_parameters,
    )
    return {"devices": ranks.local_ranks, "num_nodes": ranks.nodes, "strategy": strategy}


class _Epochs(LightningDataModule):
    """Gives Lightning new batches every epoch: what an epoch holds depends on its number alone, also after a resume."""

    def __init__(self, batches: Batches):
        super().__init__()
        self.batches = batches
        self.begun: tuple[int, int] = (0, 0)
        """(epoch, batches of it that are done) of the checkpoint that is resumed."""

    def train_dataloader(self) -> Iterable[Any]:
        """The batches of the epoch that begins, or the rest of one that was interrupted."""
        assert self.trainer is not None
        epoch = self.trainer.current_epoch
        return _Rest(self.batches, epoch, self.begun[1] if epoch == self.begun[0] else 0)

    def state_dict(self) -> dict[str, Any]:
        """Where the training stands."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        ended = loop.epoch_progress.state_dict()["current"]["processed"] > self.trainer.current_epoch
        epoch = self.trainer.current_epoch
        return {"begun": (epoch + 1, 0) if ended else (epoch, loop.batch_idx + 1)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        self.begun = state_dict["begun"]


class _Rest:
    """An epoch's batches without its first `done`: as long as the whole epoch, since Lightning counts from its
    beginning.
    """

    def __init__(self, batches: Batches, epoch: int, done: int):
        self.rest = batches(epoch, done)
        self.length = done + len(self.rest)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rest)


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
    """Lightning answers Ctrl+C by leaving the process with code 1 and Ctrl+C disabled: here it stays
    KeyboardInterrupt.
    """
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
