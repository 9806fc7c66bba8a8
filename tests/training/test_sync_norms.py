"""Two processes with synchronised norms in every part: the losses and gradients of one process that has both
images.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from htc.config import FPN, Config, ResNet
from htc.data.coco import Splits, read_coco
from htc.data.dataset import Dataset
from htc.data.loader import training_loader
from htc.model.detector import Detector
from htc.training.finetune import fit_to_data
from htc.training.objective import TrainingObjective
from htc.training.run import Options, run_training
from training.discs import write_split
from training.tiny import tiny
from training.together import together


def synchronised(mask_norm: str, **training: object) -> Config:
    """The tiny HTC with a synchronised norm in every other part."""
    config = tiny(**training)
    heads = {"mask_norm": mask_norm, "box_norm": "sync", "box_convs": 1, "box_fcs": 1}
    parts = {"backbone": ResNet(depth=18, norm="sync", frozen_stages=-1), "neck": FPN(channels=16, norm="sync")}
    changed = config.replace(**parts, cascade=heads)
    assert changed.semantic is not None
    return changed.replace(semantic={"norm": "sync"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_split(folder, "train", 2, 0)  # the second image has no object
    return folder


def step(
    dataset: Dataset, config: Config, rank: int = 0, ranks: int = 1
) -> tuple[dict[str, float], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Losses, gradients and running statistics of one step, in double precision."""
    torch.manual_seed(0)
    objective = TrainingObjective(Detector(config), config).double()
    batch = next(iter(training_loader(dataset, config, 0, 0, 2 // ranks, rank=rank, ranks=ranks)))
    truths = tuple(replace(truth, boxes=truth.boxes.double()) for truth in batch.truths)
    wrapped = DistributedDataParallel(objective) if ranks > 1 else objective
    losses = wrapped(replace(batch, images=batch.images.double(), truths=truths))
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: p.grad.numpy() for name, p in objective.named_parameters() if p.grad is not None}
    statistics = {name: value.numpy() for name, value in objective.named_buffers() if "running" in name}
    return {name: float(value.detach()) for name, value in losses.items()}, gradients, statistics


@pytest.mark.slow
def test_losses_gradients_and_statistics_are_those_of_one_process(folder: Path) -> None:
    dataset = read_coco(folder / "train.json", folder / "train")
    config = fit_to_data(synchronised("sync"), dataset, "auto")
    results = together(lambda rank: step(dataset, config, rank, 2))
    losses, gradients, statistics = step(dataset, config)
    for name, value in losses.items():
        assert (results[0][0][name] + results[1][0][name]) / 2 == pytest.approx(value, abs=1e-6, rel=1e-5), name
    for found in results:
        assert found[1].keys() == gradients.keys()
        for name, value in gradients.items():
            np.testing.assert_allclose(found[1][name], value, atol=1e-6, rtol=1e-5, err_msg=name)
        for name, value in statistics.items():
            np.testing.assert_allclose(found[2][name], value, atol=1e-6, rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_training_of_two_processes_ends_without_any_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process waits for a norm that the other does not reach."""
    # Such a dataset is refused, but a step of another may contain images without instances alone, on all processes.
    monkeypatch.setattr("htc.training.run.check_data", lambda *_args, **_options: [])
    annotations = write_split(tmp_path, "train", 2, 0, objects=0)
    split = Splits(annotations, tmp_path / "train", annotations, tmp_path / "train")
    options = Options(device="cpu", images=0, validation_losses=False)
    results = together(
        lambda _rank: run_training(synchronised("sync", epochs=1, batch_size=1), split, tmp_path / "run", options)
    )
    assert results[0].steps == 1
