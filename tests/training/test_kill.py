"""kill -9 at random moments of a real training: processes forked from this one, so that nothing has to be imported
again.
"""

import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from htc.data.coco import Splits
from htc.training.checkpoints import Every
from htc.training.run import Options, run_training
from training.discs import write_split
from training.tiny import tiny

OPTIONS = Options(device="cpu", checkpoints=Every(steps=1))


def config(epochs):
    """Three steps an epoch, with a moving average."""
    return tiny(epochs=epochs, average_decay=0.9, milestones=(1,))


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return Splits(write_split(folder, "train", 5, 0), folder / "train", None, None)


def uninterrupted(splits, out, epochs):
    """The folder of a training that nothing interrupts, and the seconds a step of it takes."""
    start = time.monotonic()
    run_training(config(epochs), splits, out, replace(OPTIONS, checkpoints=None))
    return out, (time.monotonic() - start) / (3 * epochs)


def steps_of(path):
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def begin(splits, out, epochs):
    """A process that trains into the folder, or goes on there."""
    resume = (out / "checkpoints" / "last.ckpt").is_file()
    process = multiprocessing.get_context("fork").Process(
        target=run_training, args=(config(epochs), splits, out, replace(OPTIONS, resume=resume))
    )
    process.start()
    return process


@pytest.mark.parametrize(("kills", "epochs"), [(3, 4), pytest.param(10, 12, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_is_the_same_training(splits, tmp_path, kills, epochs):
    folder, step = uninterrupted(
        splits, tmp_path / "whole", epochs
    )  # so long that on a busy machine, too, no moment comes after its end
    out = tmp_path / "run"
    moments = random.Random(4)
    killed = 0
    while killed < kills:
        process = begin(splits, out, epochs)
        before, more, rest = steps_of(out / "losses.csv"), moments.choice([0, 1, 1, 2]), moments.uniform(0, 1.5) * step
        while process.is_alive() and not (out / "checkpoints" / "last.ckpt").is_file():
            time.sleep(0.002)
        while process.is_alive() and steps_of(out / "losses.csv") < before + more:
            time.sleep(0.002)
        process.join(rest)
        if not process.is_alive():
            break
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        killed += 1
        torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    if not (out / "model").is_dir():
        process = begin(splits, out, epochs)
        process.join()
        assert process.exitcode == 0
    for name in ("losses.csv", "pictures.csv"):
        assert (out / name).read_bytes() == (folder / name).read_bytes(), name
    ours, theirs = (load_file(place / "model" / "model.safetensors") for place in (out, folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert killed >= kills - 1  # the last may have come too late
