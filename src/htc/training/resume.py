"""Exact mid-epoch resume: everything that needs more of Lightning than documented hooks.

Documented hooks restore weights, optimizer, schedule and callbacks. They do not provide the number of finished batches
in the current epoch, and a checkpoint written within an epoch does not count its last batch as finished. Both are
handled here through attributes that a new minor version of Lightning may change; no other module uses such attributes.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

from lightning import LightningDataModule, Trainer

VERSIONS_TRIED = ("2.6",)
"""Minor versions of Lightning with which this module was tested."""
ATTRIBUTES = (
    'Trainer.fit_loop.epoch_progress.state_dict()["current"]["processed"]',
    "Trainer.fit_loop.batch_idx",
    "Trainer.fit_loop.epoch_loop.batch_progress.is_last_batch",
    'checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]',
)
"""Undocumented attributes of Lightning that this module uses."""


@runtime_checkable
class SizedBatches(Protocol):
    """Batches whose number is known, such as a data loader."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


Batches = Callable[[int, int], SizedBatches]
"""(epoch, n) -> the batches of that epoch without the first n."""


def epochs_of(batches: Batches) -> LightningDataModule:
    """Return the data module of a training: new batches every epoch; after a resume, first the rest of its epoch."""
    return _Epochs(batches)


def is_end_of_epoch(trainer: Trainer) -> bool:
    """Return whether the batch just trained is the last of the epoch."""
    return trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def complete_last_batch(checkpoint: dict[str, Any]) -> None:
    """Mark the batch just trained as completed. Lightning does so only after the callbacks, so a training resumed from
    a checkpoint that a callback writes would repeat the batch.
    """
    loop = checkpoint["loops"]["fit_loop"]
    for progress in (loop["epoch_loop.batch_progress"]["total"], loop["epoch_loop.batch_progress"]["current"]):
        if progress["completed"] < progress["processed"]:
            progress["completed"] = progress["processed"]


class _Epochs(LightningDataModule):
    """Data module with new batches every epoch; they depend only on the number of the epoch, also after a resume.

    Lightning stores its state in the checkpoint under the name of this class: a new name would break old checkpoints.
    """

    def __init__(self, batches: Batches):
        super().__init__()
        self.batches = batches
        self.begun: tuple[int, int] = (0, 0)
        """(epoch, its finished batches) in the checkpoint to resume from."""

    def train_dataloader(self) -> Iterable[Any]:
        """Return the batches of the next epoch, or the rest of an interrupted one."""
        assert self.trainer is not None
        epoch = self.trainer.current_epoch
        return _Rest(self.batches, epoch, self.begun[1] if epoch == self.begun[0] else 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and the number of its finished batches."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        epoch = self.trainer.current_epoch
        ended = loop.epoch_progress.state_dict()["current"]["processed"] > epoch
        return {"begun": (epoch + 1, 0) if ended else (epoch, loop.batch_idx + 1)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the epoch and the number of its finished batches."""
        self.begun = state_dict["begun"]


class _Rest:
    """An epoch's batches without the first `done`. Its length is that of the whole epoch, since Lightning counts from
    the beginning of the epoch.
    """

    def __init__(self, batches: Batches, epoch: int, done: int):
        self.rest = batches(epoch, done)
        self.length = done + len(self.rest)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rest)
