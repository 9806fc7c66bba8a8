"""The Lightning module (losses, optimizer, schedule, EMA of the weights) and the Trainer.

The Trainer prints nothing, can be interrupted and, with `htc.training.resume`, resumes exactly within an epoch.
"""

import contextlib
import logging
import signal
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from htc.config import Precision, Training
from htc.data.loader import pure_seed
from htc.errors import ReportedElsewhereError, TrainingError
from htc.ops.onednn import exact_onednn_matmul
from htc.ranks import here
from htc.training.checkpoints import WholeFiles
from htc.training.distributed import count, gathered, rank, summed
from htc.training.optimizer import build_optimizer, groups_of, learning_rate_factor
from htc.training.resume import Batches, epochs_of
from htc.training.schedule import StepPlan
from htc.types import Batch

LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
REMEDY = (
    "Lower the learning rate (--lr), increase training.warmup_steps or set training.clip_gradients; check these "
    "images and their annotations"
)


class TrainingModule(LightningModule):
    """Lightning module that minimizes the sum of `objective`'s losses (Eq. 7) over `detector`'s parameters.

    `objective` contains `detector` and maps a `Batch` to named, already weighted, scalar losses. `images_per_step`
    counts the images of all processes. With a `plan` (a time limit), the schedule is spread over its steps. A loss that
    is not finite raises `TrainingError` before it changes the weights.
    """

    def __init__(
        self,
        detector: nn.Module,
        objective: nn.Module,
        training: Training,
        steps_per_epoch: int,
        epochs: int,
        images_per_step: int,
        seed: int = 0,
        plan: StepPlan | None = None,
    ):
        super().__init__()
        self.detector = detector
        self.objective = objective
        self.training_config = training
        self.steps_per_epoch = steps_per_epoch
        self.epochs = epochs
        self.images_per_step = images_per_step
        self.seed = seed
        self.plan = plan
        decay = training.average_decay
        self.average = (
            None
            if decay is None
            else AveragedModel(detector, multi_avg_fn=_moving_average(decay), use_buffers=True).requires_grad_(False)
        )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the random numbers inside the network (stochastic depth) from epoch, batch and rank alone, so that a
        resumed training repeats them.
        """
        torch.manual_seed(pure_seed("step", self.seed, self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return the sum as `loss`, which Lightning differentiates, and the named terms as `terms`."""
        images = batch.images.contiguous(memory_format=torch.channels_last)
        losses = self.objective(replace(batch, images=images))
        terms = mean_of_processes({name: value.detach() for name, value in losses.items()})
        check_finite(terms, batch, self.global_step)
        return {"loss": torch.stack([value.float() for value in losses.values()]).sum(), "terms": terms}  # pyright: ignore[reportReturnType]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the configured optimizer with the schedule of `learning_rate_factor`."""
        training = self.training_config
        optimizer = build_optimizer(groups_of(self.detector, training.optimizer), training, self.images_per_step)
        # a plain function: Lightning would try to store any other callable in the checkpoint
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.learning_rate_factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def learning_rate_factor(self, step: int) -> float:
        """Return the factor of the base learning rate at a step: over the epochs, or over the planned steps."""
        if self.plan is None:
            return learning_rate_factor(self.training_config, step, self.steps_per_epoch, self.epochs)
        position, per_epoch = self.plan.position(step), self.plan.first / self.epochs
        return learning_rate_factor(self.training_config, position, per_epoch, self.epochs)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Do the optimizer step and update the EMA, before a callback reads or saves either."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.average is not None:
            self.average.update_parameters(self.detector)

    @property
    def trained(self) -> nn.Module:
        """The detector to evaluate and save: the EMA of the weights if there is one."""
        return self.detector if self.average is None else self.average.module


def mean_of_processes(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Average every term over all processes, as the gradients are averaged."""
    if count() == 1:
        return terms
    means = summed(torch.stack([value.float() for value in terms.values()])) / count()
    return dict(zip(terms, means, strict=True))


def check_finite(terms: dict[str, Tensor], batch: Batch, step: int) -> None:
    """Raise a `TrainingError` with the terms, the step and the images if a loss is not finite.

    `terms` are means over all processes, so that all of them stop; the images of all processes are listed.
    """
    values = torch.stack([value.float() for value in terms.values()]).tolist()
    bad = {name: value for name, value in zip(terms, values, strict=True) if not abs(value) < float("inf")}
    if bad:
        listed = ", ".join(f"{name} = {value}" for name, value in bad.items())
        ids_of_ranks = gathered(batch.image_ids)
        images = ", ".join(str(image_id) for ids in ids_of_ranks for image_id in ids)
        message = f"the loss is not finite at step {step}: {listed}; images {images}. {REMEDY}"
        raise TrainingError(message) if rank() == 0 else ReportedElsewhereError(message)


def _moving_average(decay: float) -> Any:
    """Return the update of the EMA; its decay grows to `decay` over the first steps, to forget the initial weights."""

    def update(averaged: list[Tensor], current: list[Tensor], seen: Tensor) -> None:
        keep = min(decay, (1 + float(seen)) / (10 + float(seen)))
        get_ema_multi_avg_fn(keep)(averaged, current, seen)

    return update


def fit(
    module: LightningModule,
    batches: Batches,
    callbacks: Sequence[Callback],
    epochs: int | None,
    *,
    device: torch.device | str = "auto",
    precision: Precision = "fp32",
    clip_gradients: float | None = None,
    accumulate: int = 1,
    resume: Path | None = None,
    unused_parameters: bool = False,
    loggers: Sequence[Logger] = (),
) -> None:
    """Train `module` on the batches of epoch 0, 1, ...; `resume` is a checkpoint of an earlier call, possibly
    mid-epoch. Without `epochs`, a callback stops it.

    `device` is auto, cpu, cuda, cuda:N or mps; an optimizer step takes `accumulate` batches; `unused_parameters`: the
    losses do not depend on every parameter. Raises what a callback or a step raises, and KeyboardInterrupt when
    interrupted.
    """
    with _quiet(), _interruptible(), exact_onednn_matmul(), torch.random.fork_rng():
        trainer = Trainer(
            **trainer_placement(device, unused_parameters),
            precision="bf16-mixed" if precision == "bf16" else "32-true",
            max_epochs=-1 if epochs is None else epochs,
            gradient_clip_val=clip_gradients,
            accumulate_grad_batches=accumulate,
            callbacks=list(callbacks),
            logger=list(loggers) or False,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            reload_dataloaders_every_n_epochs=1,
            plugins=[WholeFiles(), *([TorchElasticEnvironment()] if count() > 1 else [])],
        )
        trainer.fit(module, datamodule=epochs_of(batches), ckpt_path=resume, weights_only=True)


def trainer_placement(device: torch.device | str, unused_parameters: bool) -> dict[str, Any]:
    """Return the Trainer's arguments for the device and the process group (`htc.training.distributed`).

    Without `unused_parameters`, every parameter must receive a gradient in every step; a missing one is an error at the
    next step. With it, each step searches the graph for parameters without a gradient, which takes time, so it is not
    the default.
    """
    kind, _, index = str(device).partition(":")
    if count() == 1:
        return {"accelerator": kind, "devices": [int(index)] if index and kind == "cuda" else 1}
    ranks = here()
    strategy = DDPStrategy(
        process_group_backend="nccl" if kind == "cuda" else "gloo",
        gradient_as_bucket_view=True,
        find_unused_parameters=unused_parameters,
    )
    return {"accelerator": kind, "devices": ranks.local_ranks, "num_nodes": ranks.nodes, "strategy": strategy}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Lightning's messages about hardware and its advertising."""
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
    """Keep Ctrl+C a KeyboardInterrupt: Lightning would exit the process with code 1 and leave Ctrl+C disabled."""
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
