"""How fast a training is: the wait for data, the workers that it asks for, and the time of steps and evaluations."""

import time

import pytest
import torch

from htc.data.coco import read_coco
from htc.model.detector import Detector
from htc.training.finetune import fit_to_data
from htc.training.pace import (
    MEASURED_STEPS,
    MOST_WORKERS,
    DataWatch,
    StepTime,
    can_be_sent,
    choose_workers,
    mean_time,
    time_evaluation,
    time_steps,
)
from training.discs import write_split
from training.tiny import tiny


@pytest.mark.parametrize(
    ("step", "cores", "workers"),
    [
        (StepTime(0.2, 0.8, 1.94), 2, 0),  # two cores that the network fills
        (StepTime(0.2, 0.1, 1.0), 16, 3),  # a GPU: one core feeds it, three load 1.5 times as fast as it trains
        (StepTime(0.001, 0.1, 1.0), 16, 0),  # hardly a wait
        (StepTime(0.01, 0.1, 1.0), 16, 1),
        (StepTime(2.0, 0.05, 1.0), 16, MOST_WORKERS),
        (StepTime(2.0, 0.05, 1.0), 4, 3),
        (StepTime(0.2, 0.8, 7.9), 8, 0),
        (StepTime(0.2, 0.8, 1.0), 1, 0),
        (StepTime(0.0, 0.0, 0.0), 4, 0),
    ],
)
def test_workers_follow_cores_and_wait(step, cores, workers):
    chosen, rule = choose_workers(step, cores)
    assert chosen == workers
    assert f"of {cores} cores busy" in rule


def test_the_mean_of_busy_cores_is_over_time():
    assert mean_time([StepTime(1.0, 1.0, 2.0), StepTime(0.0, 3.0, 0.0)]) == StepTime(0.5, 2.0, 0.5)


def test_a_step_with_workers_loads_while_it_trains():
    step = StepTime(0.4, 0.1, 1.0)
    assert [step.seconds(number) for number in (0, 1, 2, 8)] == pytest.approx([0.5, 0.4, 0.2, 0.1])


class SlowBatches:
    """Batches of one epoch that sleep while they are loaded, as many at a time as there are workers."""

    def __init__(self, numbers, workers, seconds):
        self.numbers, self.workers, self.seconds = numbers, workers, seconds

    def __len__(self):
        return len(self.numbers)

    def __iter__(self):
        begin = time.perf_counter()
        for position, number in enumerate(self.numbers):
            ready = begin + (position // self.workers + 1) * self.seconds if self.workers else 0.0
            time.sleep(max(0.0, ready - time.perf_counter()) if self.workers else self.seconds)
            yield number


def test_a_network_that_sleeps_gets_workers_within_its_first_epoch():
    """A GPU leaves the cores idle while it computes; so does a network that sleeps."""
    made, decided = [], []

    def make(epoch, done, workers):
        made.append((epoch, done, workers))
        return SlowBatches(list(range(100 * epoch + done, 100 * epoch + 40)), workers, 0.01)

    watch = DataWatch(make, "auto", decided=lambda *line: decided.append(line), cores=8)
    seen, waits = [], []
    for number in watch.batches(0, 0):
        seen.append(number)
        waits.append(watch.waited)
        time.sleep(0.01)
    assert seen == list(range(40)), "the batches are the same, in their order"
    assert watch.workers in (1, 2, 3)
    assert decided[0][0] == watch.workers
    assert (0, MEASURED_STEPS + 1, watch.workers) in made
    before, after = waits[MEASURED_STEPS], waits[-1] - waits[MEASURED_STEPS]
    assert after / (40 - MEASURED_STEPS) < 0.7 * before / MEASURED_STEPS
    assert list(watch.batches(1, 38)) == [138, 139]
    assert made[-1] == (1, 38, watch.workers)
    assert len(decided) == 1


def test_a_network_that_fills_the_cores_gets_none():
    watch = DataWatch(lambda _, done, workers: SlowBatches(range(done, 9), workers, 0.002), "auto", cores=1)
    for _ in watch.batches(0, 0):
        end = time.process_time() + 0.01
        while time.process_time() < end:
            pass
    assert watch.workers == 0


def test_a_given_number_of_workers_is_taken_at_once():
    made = []

    def make(epoch, done, workers):
        made.append(workers)
        return SlowBatches(range(3), 0, 0.0)

    watch = DataWatch(make, 2)
    assert len(watch.batches(0, 0)) == len(list(watch.batches(0, 0))) == 3
    assert made[-1] == watch.workers == 2


def test_what_a_worker_can_be_sent():
    assert can_be_sent(tiny)
    assert not can_be_sent(lambda image, target: (image, target))


def test_steps_and_an_evaluation_of_a_real_model_are_timed(tmp_path):
    dataset = read_coco(write_split(tmp_path, "train", 4, 0), tmp_path / "train")
    config = fit_to_data(tiny(), dataset, "auto")
    state = torch.random.get_rng_state()
    took, detector = time_steps(config, dataset, torch.device("cpu"), 0.0)
    assert isinstance(detector, Detector)
    assert took.loading > 0
    assert took.network > 0
    assert torch.equal(state, torch.random.get_rng_state()), "the training's random numbers are untouched"
    losses = []
    seconds = time_evaluation(detector, config, dataset, 0.0, lambda _, part: losses.append(len(part)))
    assert seconds > 0
    assert losses == [1]
    assert detector.training
    time_evaluation(detector, config, dataset, 60.0, lambda _, part: losses.append(part.images[0].id))
    assert sorted(losses[1:]) == [0, 1, 2, 3]
