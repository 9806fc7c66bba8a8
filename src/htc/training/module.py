"""The training step as Lightning runs it: losses, optimiser, schedule, moving average of the weights."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from htc.config import AdamW, Training
from htc.data.loader import pure_seed
from htc.errors import ReportedElsewhereError, TrainingError
from htc.training.distributed import count, gathered, rank, summed
from htc.training.optimizer import base_learning_rate, groups_of, learning_rate_factor
from htc.types import Batch

REMEDY = (
    "Lower the learning rate (--lr), lengthen training.warmup_steps or set training.clip_gradients; look "
    "at these "
    "pictures and their annotations"
)


class TrainingModule(LightningModule):
    """Minimises the sum of `objective`'s losses (Eq. 7) over `detector`'s parameters.

    `objective` maps a `Batch` to named, already weighted, scalar losses and contains `detector`. `images_per_step`
    counts over all processes. A loss that is not finite raises `TrainingError` before it reaches the weights.
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
    ):
        super().__init__()
        self.detector = detector
        self.objective = objective
        self.training_config = training
        self.steps_per_epoch = steps_per_epoch
        self.epochs = epochs
        self.images_per_step = images_per_step
        self.seed = seed
        decay = training.average_decay
        self.average = (
            None
            if decay is None
            else AveragedModel(detector, multi_avg_fn=_moving_average(decay), use_buffers=True).requires_grad_(False)
        )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Random numbers inside the network (dropped paths) depend on the place in the training alone, as all others
        do.
        """
        torch.manual_seed(pure_seed("step", self.seed, self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """The sum under `loss`, which Lightning differentiates, and every term by its name under `terms`."""
        images = batch.images.contiguous(memory_format=torch.channels_last)
        losses = self.objective(replace(batch, images=images))
        terms = mean_of_processes({name: value.detach() for name, value in losses.items()})
        check_finite(terms, batch, self.global_step)
        return {"loss": torch.stack([value.float() for value in losses.values()]).sum(), "terms": terms}  # pyright: ignore[reportReturnType]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The configured optimiser, stepped by `learning_rate_factor`."""
        training = self.training_config
        optimizer = build_optimizer(groups_of(self.detector, training.optimizer), training, self.images_per_step)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(training, step, self.steps_per_epoch, self.epochs)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """The step, and the new weights' share in the average: before any callback sees (or saves) either."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.average is not None:
            self.average.update_parameters(self.detector)

    @property
    def trained(self) -> nn.Module:
        """The detector to evaluate and keep: the moving average where there is one."""
        return self.detector if self.average is None else self.average.module


def build_optimizer(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], training: Training, images_per_step: int
) -> torch.optim.Optimizer:
    """SGD or AdamW at its base learning rate; weight decay on every parameter, as the original has it, where groups
    do not say otherwise.
    """
    rate = base_learning_rate(training, images_per_step)
    chosen = training.optimizer
    if isinstance(chosen, AdamW):
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=chosen.weight_decay)
    return torch.optim.SGD(parameters, lr=rate, momentum=chosen.momentum, weight_decay=chosen.weight_decay)


def mean_of_processes(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every term's mean over all processes: what the gradients, which are averaged too, belong to."""
    if count() == 1:
        return terms
    means = summed(torch.stack([value.float() for value in terms.values()])) / count()
    return dict(zip(terms, means, strict=True))


def check_finite(terms: dict[str, Tensor], batch: Batch, step: int) -> None:
    """Raises `TrainingError` that names the terms, the step and the pictures of a loss that is not finite.

    `terms` are the means over all processes, so that all of them stop; the pictures are those of all.
    """
    values = torch.stack([value.float() for value in terms.values()]).tolist()
    bad = {name: value for name, value in zip(terms, values, strict=True) if not abs(value) < float("inf")}
    if bad:
        listed = ", ".join(f"{name} = {value}" for name, value in bad.items())
        everyone = gathered(batch.image_ids)
        pictures = ", ".join(str(image_id) for ids in everyone for image_id in ids)
        message = f"the loss is not finite at step {step}: {listed}; pictures {pictures}. {REMEDY}"
        raise TrainingError(message) if rank() == 0 else ReportedElsewhereError(message)


def _moving_average(decay: float) -> Any:
    """Exponential moving average that forgets the random start: the decay grows to its value over the first steps."""

    def update(averaged: list[Tensor], current: list[Tensor], seen: Tensor) -> None:
        keep = min(decay, (1 + float(seen)) / (10 + float(seen)))
        get_ema_multi_avg_fn(keep)(averaged, current, seen)

    return update
