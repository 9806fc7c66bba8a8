"""`kill -9` at random moments of a training, also while a checkpoint is written: it resumes to the same weights."""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from htc.data.coco import Splits
from htc.training.checkpoints import LAST, Every
from htc.training.run import Options, run_training
from stress_tests.harness import Case, Stress
from stress_tests.samples import tiny_config, write_dataset

OPTIONS = Options(device="cpu", checkpoints=Every(steps=1), validation_losses=False)
FILES = ("losses.csv", "pictures.csv")


def prepare(shared: Path) -> Case:
    """Train without an interruption; the case compares with it."""
    annotations = write_dataset(shared, "train", 5, 0)
    splits = Splits(annotations, shared / "train", None, None)
    whole = shared / "whole"
    train(splits, whole, resume=False)
    begin = time.monotonic()
    train(splits, shared / "second", resume=False)
    length = time.monotonic() - begin

    def case(_index: int, numbers: random.Random, folder: Path) -> str | None:
        out, during = folder / "run", numbers.random() < 0.5
        moment = killed(lambda: train(splits, out, resume=False), out, numbers, length, during_writing=during)
        if (out / "checkpoints" / LAST).is_file():
            torch.load(out / "checkpoints" / LAST, weights_only=True)
            if in_child(lambda: train(splits, out, resume=True)) != 0:
                return f"the training that was killed {moment} cannot be resumed"
        elif in_child(lambda: train(splits, out / "again", resume=False)) != 0:
            return f"the training that was killed {moment} cannot be repeated"
        else:
            out = out / "again"
        return difference(out, whole, moment)

    return case


def train(splits: Splits, out: Path, *, resume: bool) -> None:
    """Train the small model for two epochs with a checkpoint after every step."""
    torch.set_num_threads(1)
    run_training(tiny_config(), splits, out, replace(OPTIONS, resume=resume))


def difference(out: Path, whole: Path, moment: str) -> str | None:
    """Return how a resumed run differs from the uninterrupted one."""
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (out, whole))
    unequal = [name for name in theirs if name not in ours or not torch.equal(ours[name], theirs[name])]
    if unequal:
        return f"killed {moment}, it ends with other weights: {unequal[0]} and {len(unequal) - 1} more"
    for name in FILES:
        if (out / name).read_bytes() != (whole / name).read_bytes():
            return f"killed {moment}, it ends with another {name}"
    left = [path.name for path in (out / "checkpoints").glob(".*.tmp")]
    return f"killed {moment}, it leaves {left[0]}" if left else None


def killed(
    work: Callable[[], object], out: Path, numbers: random.Random, length: float, *, during_writing: bool
) -> str:
    """Start `work` in a process and kill it at a random moment, or while it writes its n-th checkpoint; return when."""
    pid = started(work)
    if during_writing:
        wanted, seen = numbers.randrange(1, 6), 0
        was_there = False
        while alive(pid) and seen < wanted:
            is_there = any((out / "checkpoints").glob(f".{LAST}.*.tmp"))
            seen, was_there = seen + (is_there and not was_there), is_there
            time.sleep(0.0005)
        time.sleep(numbers.uniform(0, 0.02))
        moment = f"while it wrote checkpoint {seen}"
    else:
        delay = numbers.uniform(0, length)
        time.sleep(delay)
        moment = f"after {delay:.2f} s"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return moment


def started(work: Callable[[], object]) -> int:
    """Run `work` in a forked process and return its id."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
    return pid


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked process and return its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(started(work), 0)[1])


def alive(pid: int) -> bool:
    """Return whether a child still runs; an ended one is left to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


STRESS = Stress(
    "kill",
    "kill -9 at random moments of a training, checkpoints included: resumed, it has the same weights to the bit",
    50,
    prepare,
    seconds=600,
    mebibytes=None,
    at_least=2,
)
