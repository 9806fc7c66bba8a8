"""Exact mid-epoch resume: all that it needs of Lightning beyond documented hooks.

Documented hooks restore weights, optimizer, schedule and callbacks. They do not give the number of batches done in the
running epoch, nor a checkpoint written within an epoch that counts its last batch as done. Those are read and corrected
here, through attributes that a new minor version of Lightning may change; no other module uses such attributes.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from lightning import LightningDataModule, Trainer

VERSIONS_TRIED = ("2.6",)
"""Minor versions of Lightning whose loops are known to be as this module expects."""
ATTRIBUTES = (
    'Trainer.fit_loop.epoch_progress.state_dict()["current"]["processed"]',
    "Trainer.fit_loop.batch_idx",
    "Trainer.fit_loop.epoch_loop.batch_progress.is_last_batch",
    'checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]',
)
"""What this module uses of Lightning that its documentation does not promise."""


class SizedBatches(Protocol):
    """Batches whose number is known, such as a loader."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


Batches = Callable[[int, int], SizedBatches]
"""(epoch, n) -> the batches of that epoch without its first n."""


def epochs_of(batches: Batches) -> LightningDataModule:
    """The data of a training: new batches every epoch; after a resume, first the rest of the interrupted epoch."""
    return _Epochs(batches)


def is_end_of_epoch(trainer: Trainer) -> bool:
    """Whether the batch just done is the last of the epoch."""
    return trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def complete_last_batch(checkpoint: dict[str, Any]) -> None:
    """Counts the batch just done as completed: Lightning does so only after it calls the callbacks, so that a training
    that resumed from a checkpoint they write would repeat it.
    """
    loop = checkpoint["loops"]["fit_loop"]
    for progress in (loop["epoch_loop.batch_progress"]["total"], loop["epoch_loop.batch_progress"]["current"]):
        if progress["completed"] < progress["processed"]:
            progress["completed"] = progress["processed"]


class _Epochs(LightningDataModule):
    """Gives Lightning new batches every epoch: what an epoch holds depends on its number alone, also after a resume.

    Lightning stores its state in the checkpoint under the name of this class: a new name would break old checkpoints.
    """

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
        """The epoch and the number of its batches that are done."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        epoch = self.trainer.current_epoch
        ended = loop.epoch_progress.state_dict()["current"]["processed"] > epoch
        return {"begun": (epoch + 1, 0) if ended else (epoch, loop.batch_idx + 1)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from there."""
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
