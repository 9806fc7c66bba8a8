"""A disk that is full while a file is saved: an error that says so, and the last complete file is kept.

The limit of the size of a file stands for the disk: from a random byte on, nothing more can be written.
"""

import json
import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from lightning import Callback
from safetensors.torch import load_file

from htc.checkpoint.native import from_pretrained, save_pretrained
from htc.data.coco import Splits
from htc.errors import OutputError
from htc.files import write_json
from htc.training.checkpoints import LAST
from stress_tests import kill
from stress_tests.harness import Case, Stress
from stress_tests.samples import random_state, tiny_config, write_dataset


def prepare(shared: Path) -> Case:
    """Train without a fault; the cases compare with it."""
    annotations = write_dataset(shared, "train", 5, 0)
    splits = Splits(annotations, shared / "train", None, None)
    whole = shared / "whole"
    kill.train(splits, whole, resume=False)
    size = (whole / "checkpoints" / LAST).stat().st_size
    config = tiny_config()
    old, new = (random_state(config, seed) for seed in (0, 1))
    model_size = (whole / "model" / "model.safetensors").stat().st_size

    def case(_index: int, numbers: random.Random, folder: Path) -> str | None:
        match numbers.randrange(3):
            case 0:
                return training(splits, folder / "run", whole, numbers, size)
            case 1:
                save_pretrained(old, config, folder / "model")
                with full_disk(numbers.randrange(model_size)):
                    fault = refused(lambda: save_pretrained(new, config, folder / "model"))
                kept = from_pretrained(folder / "model")[1]
                equal = all(torch.equal(kept[name], tensor) for name, tensor in old.items())
                return fault or left_over(folder / "model") or (None if equal else "the model before is damaged")
            case _:
                path = folder / "a.json"
                write_json(path, {"before": 1})
                content = ["x" * 100] * 1000
                with full_disk(numbers.randrange(90_000)):
                    fault = refused(lambda: write_json(path, content))
                kept = json.loads(path.read_text()) == {"before": 1}
                return fault or left_over(folder) or (None if kept else "the JSON file before is damaged")

    return case


class _Fills(Callback):
    """Fills the disk after some steps of a training."""

    def __init__(self, step: int, limit: int) -> None:
        self.step, self.limit = step, limit

    def on_train_batch_start(self, trainer: object, *_: object) -> None:  # pyright: ignore
        """Limit the size of files from this step on."""
        if getattr(trainer, "global_step", 0) == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, resource.RLIM_INFINITY))


def training(splits: Splits, out: Path, whole: Path, numbers: random.Random, size: int) -> str | None:
    """Fill the disk during a training; then resume it with space."""
    step, limit = numbers.randrange(1, 5), numbers.randrange(size)
    options = replace(kill.OPTIONS, callbacks=(_Fills(step, limit),))

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        kill.run_training(tiny_config(), splits, out, options)

    fault = kill.in_child(lambda: _expect_refusal(work))
    if fault:
        return f"with a full disk from step {step} on, the training does not end with an OutputError"
    last = out / "checkpoints" / LAST
    if torch.load(last, weights_only=True)["global_step"] != step:
        return f"the last checkpoint is not that of step {step}"
    leftover = left_over(last.parent)
    if leftover:
        return leftover
    if kill.in_child(lambda: kill.train(splits, out, resume=True)) != 0:
        return "the training cannot be resumed when there is space again"
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (out, whole))
    if not all(torch.equal(ours[name], tensor) for name, tensor in theirs.items()):
        return f"resumed after a full disk at step {step}, it ends with other weights"
    return None


def _expect_refusal(work: Callable[[], object]) -> None:
    fault = refused(work)
    if fault is not None:
        raise AssertionError(fault)


def refused(work: Callable[[], object]) -> str | None:
    """Return what is wrong unless `work` raises an `OutputError` that gives the reason."""
    try:
        work()
    except OutputError as error:
        return None if "limit" in str(error) or "large" in str(error).lower() else f"no reason is given: {error}"
    return "nothing was refused although the disk was full"


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Let no file of this process become larger than `limit` bytes."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, before)


def left_over(folder: Path) -> str | None:
    """Return which temporary file was left in the folder."""
    return next((f"{path.name} was left behind" for path in folder.iterdir() if path.name.endswith(".tmp")), None)


STRESS = Stress(
    "disk",
    "a full disk while a checkpoint, model or file is saved: the last complete one is kept, and training resumes",
    100,
    prepare,
    seconds=600,
    mebibytes=None,
    at_least=4,
)
