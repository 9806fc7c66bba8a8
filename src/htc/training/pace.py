"""The speed of a training, measured on its first steps: loading of images, network, evaluation.

From it follow the number of processes that load images (`workers auto`) and the steps that fit into a time limit.
"""

import os
import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Literal

import torch
from torch import nn

from htc.config import Config
from htc.data.dataset import Dataset
from htc.data.loader import training_loader
from htc.data.user_transforms import Transforms
from htc.evaluation.run import results_of
from htc.inference.predictor import Predictor
from htc.model.detector import Detector
from htc.ops.onednn import exact_onednn_matmul
from htc.ranks import here
from htc.training.objective import TrainingObjective
from htc.training.optimizer import build_optimizer, groups_of
from htc.training.resume import SizedBatches

Workers = int | Literal["auto"]
MEASURED_STEPS = 5
"""Steps that are measured before `workers auto` is decided; the first step, which also starts up, is not one."""
MOST_WORKERS = 8
"""Most worker processes of one training process that `auto` starts."""
LITTLE_WAIT = 0.02
"""Share of the time spent waiting for data below which no worker is started."""
RESERVE = 1.25
"""Workers are chosen to load this many times as fast as the network trains."""
SPARE = 0.75
"""Least number of cores that the network leaves idle for one worker to be worth it."""
TYPICAL = 1.5
"""Detections of an image, per instance of an average image, with which an evaluation is timed."""


@dataclass(frozen=True)
class StepTime:
    """Mean seconds of the parts of a step, as measured without workers."""

    loading: float
    """Reading and augmenting the images of a batch in one process."""
    network: float
    """Losses, gradients and the optimizer's step."""
    busy: float
    """Cores that the network keeps busy."""

    def seconds(self, workers: int) -> float:
        """Return the seconds of a step: with workers, the images are loaded while the network trains."""
        return self.loading + self.network if workers == 0 else max(self.network, self.loading / workers)


def cores_here() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_workers(step: StepTime, cores: int) -> tuple[int, str]:
    """Return the number of worker processes for these times, on so many cores, and the rule that set it."""
    wait = step.loading / max(1e-9, step.loading + step.network)
    idle = cores - step.busy
    measured = (
        f"loading takes {wait:.0%} of a step ({step.loading:.2g} of {step.loading + step.network:.2g} s), and the "
        f"network keeps {step.busy:.1f} of {cores} cores busy"
    )
    if wait < LITTLE_WAIT or idle < SPARE:
        return 0, f"{measured}: workers would gain nothing"
    enough = max(1, ceil(RESERVE * step.loading / max(1e-9, step.network)))
    return max(1, min(enough, round(idle), MOST_WORKERS)), f"{measured}: enough to load as fast as the network trains"


class DataWatch:
    """Makes the batches of each epoch, measures how long the training waits for them, and decides `workers auto`.

    `make(epoch, done, workers)` gives the batches of an epoch without the first `done`. They do not depend on the
    number of workers, so that it may change within an epoch.
    """

    def __init__(
        self,
        make: Callable[[int, int, int], SizedBatches],
        workers: Workers,
        *,
        decided: Callable[[int, str], object] | None = None,
        cores: int | None = None,
    ) -> None:
        self.make, self.decided = make, decided
        self.workers = 0 if workers == "auto" else workers
        self.cores = cores or max(1, cores_here() // here().local_ranks)
        self.waited = 0.0
        """Seconds that the training has waited for data so far."""
        self._undecided: list[StepTime] | None = [] if workers == "auto" else None

    def batches(self, epoch: int, done: int) -> SizedBatches:
        """Return the batches of an epoch without the first `done`."""
        return _Watched(self, epoch, done, len(self.make(epoch, done, 0)))

    def iterate(self, epoch: int, done: int) -> Iterator[Any]:
        """Yield the batches, with more workers from the step on at which they are decided."""
        position, batches = done, iter(self.make(epoch, done, self.workers))
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            loading = time.perf_counter() - begin
            self.waited += loading
            if batch is None:
                return
            begin, busy = time.perf_counter(), time.process_time()
            yield batch
            position += 1
            if self._undecided is not None:
                network = time.perf_counter() - begin
                busy = (time.process_time() - busy) / max(network, 1e-9)
                if self._note(StepTime(loading, network, busy)):
                    batches = iter(self.make(epoch, position, self.workers))

    def _note(self, step: StepTime) -> bool:
        """Add a step to the measured ones; return whether workers are started now."""
        assert self._undecided is not None
        self._undecided.append(step)
        if len(self._undecided) <= MEASURED_STEPS:
            return False
        self.workers, rule = choose_workers(mean_time(self._undecided[1:]), self.cores)
        self._undecided = None
        if self.decided is not None:
            self.decided(self.workers, rule)
        return self.workers > 0


@dataclass(frozen=True)
class _Watched:
    watch: DataWatch
    epoch: int
    done: int
    length: int

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        return self.watch.iterate(self.epoch, self.done)


def mean_time(steps: list[StepTime]) -> StepTime:
    """Return the mean of the times; that of the cores is weighted by the network's time."""
    network = sum(step.network for step in steps)
    busy = sum(step.network * step.busy for step in steps) / max(network, 1e-9)
    return StepTime(sum(step.loading for step in steps) / len(steps), network / len(steps), busy)


def can_be_sent(value: object) -> bool:
    """Return whether a value can be pickled for a worker process."""
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


def time_steps(
    config: Config,
    dataset: Dataset,
    device: torch.device,
    seconds: float,
    *,
    backbone: nn.Module | None = None,
    transforms: Transforms | None = None,
) -> tuple[StepTime, Detector]:
    """Time the first training steps of a detector that is then thrown away; return it too, for `time_evaluation`.

    At least two steps are taken, of which the first is not counted, and more (up to ten) until `seconds` have passed.
    """
    with torch.random.fork_rng(), exact_onednn_matmul():
        torch.manual_seed(0)
        detector = Detector(config, deepcopy(backbone)).to(device)
        detector.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        detector.train()
        training = config.training
        objective = TrainingObjective(detector, config)
        optimizer = build_optimizer(groups_of(detector, training.optimizer), training, training.batch_size)
        for group in optimizer.param_groups:
            group["lr"] *= training.warmup_start  # as at the begin of the warm-up: the weights stay as they are
        steps: list[StepTime] = []
        begin = time.perf_counter()
        source = _endless(config, dataset, transforms)
        while len(steps) < 2 or (len(steps) < 10 and time.perf_counter() - begin < seconds):
            start = time.perf_counter()
            batch = next(source)
            loaded, busy = time.perf_counter(), time.process_time()
            batch = batch.to(device)
            batch = replace(batch, images=batch.images.contiguous(memory_format=torch.channels_last))
            mixed = torch.autocast(device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext()
            with mixed:
                loss = torch.stack([value.float() for value in objective(batch).values()]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # waits for a GPU
            network = time.perf_counter() - loaded
            steps.append(StepTime(loaded - start, network, (time.process_time() - busy) / max(network, 1e-9)))
    return mean_time(steps[1:]), detector


def _endless(config: Config, dataset: Dataset, transforms: Transforms | None) -> Iterator[Any]:
    epoch = 0
    while True:
        yield from training_loader(dataset, config, 0, epoch, config.training.batch_size, transforms=transforms)
        epoch += 1


def time_evaluation(
    detector: nn.Module,
    config: Config,
    dataset: Dataset,
    seconds: float,
    losses: Callable[[nn.Module, Dataset], object] | None = None,
) -> float:
    """Time the prediction of some images of `dataset`, with as many detections as a trained model has, and estimate
    the seconds of all; `losses` computes the validation losses of a part of them.
    """
    if not len(dataset):
        return 0.0
    instances = sum(len(record.instances) for record in dataset.images) / len(dataset)
    most = min(config.inference.max_detections, ceil(TYPICAL * instances) + 5)
    training = detector.training
    predictor = Predictor(detector, config.replace(inference={"max_detections": most}))  # in evaluation mode
    spread = _spread(len(dataset))
    begin = time.perf_counter()
    done, first = 0, 0.0
    for index in spread:
        part = replace(dataset, images=(dataset.images[index],))
        _consume(
            results_of(
                predictor,
                part,
                lambda batch: {None: predictor.detect(batch.prepared, batch.original_sizes)},
                [None] * len(config.classes),
                most,
            )
        )
        if losses is not None:
            losses(detector, part)
        done += 1
        if done == 1:
            first = time.perf_counter() - begin  # it also starts up
        if time.perf_counter() - begin >= seconds:
            break
    spent = time.perf_counter() - begin
    detector.train(training)
    each = spent if done == 1 else (spent - first) / (done - 1)
    return each * len(dataset)


def _spread(count: int) -> Iterable[int]:
    """Return all indices in an order whose beginning is spread evenly."""
    step = max(1, round(count * 0.618))
    while count % step == 0 and step > 1:
        step -= 1
    return dict.fromkeys([*(index * step % count for index in range(count)), *range(count)])


def _consume(iterator: Iterable[object]) -> None:
    for _ in iterator:
        pass
