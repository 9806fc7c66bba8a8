"""Every variant of the configuration trains in two processes: no parameter waits for a gradient that never comes."""

import gc
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from htc.config import Config
from htc.data.coco import Splits, read_coco
from htc.data.dataset import Dataset
from htc.model.detector import Detector
from htc.training.distributed import leaves_parameters_unused, rank
from htc.training.finetune import fit_to_data
from htc.training.module import TrainingModule, fit
from htc.training.objective import TrainingObjective
from htc.training.run import DEFAULT_OPTIONS, Options, batches_of, run_training
from training.discs import write_split
from training.tiny import tiny
from training.together import together

SCRIPT = Path(__file__).parents[2] / "scripts/same_numbers_cases.py"
FEW = ("cascade.semantic_fusion=none", "semantic=none", "cascade.mask_head=none", "rpn=guided_rpn", "1 stage")
"""Trained by the default suite."""
NOT_TRAINING = ("inference", "input", "root")
"""Sections that change no layer that is trained."""


def all_cases() -> dict[str, dict[str, Any]]:
    """Name -> configuration, of every alternative of every field of `Config`."""
    spec = importlib.util.spec_from_file_location("same_numbers_cases", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    accepted, _ = module.cases(Config)
    return {name: values for name, values in accepted.items() if not name.startswith(NOT_TRAINING)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Four images, the second without instances: in one of two steps, one process has no instance."""
    folder = tmp_path_factory.mktemp("data")
    return read_coco(write_split(folder, "train", 4, 0), folder / "train")


def two_steps(values: dict[str, Any], dataset: Dataset) -> list[Tensor]:
    """The parameters after an epoch with batches of one image a process.

    The second step is the one that fails where a parameter was not part of the first.
    """
    config = fit_to_data(Config.model_validate(values), dataset, "auto")
    updates = {"batch_size": 1, "accumulate": 1, "epochs": 1, "early_stop": None, "warmup_steps": 0}
    config = config.replace(training=updates)
    torch.manual_seed(0)
    detector = Detector(config)
    fit(
        TrainingModule(detector, TrainingObjective(detector, config), config.training, 2, 1, 2),
        lambda epoch, done: batches_of(dataset, config, DEFAULT_OPTIONS, epoch, done),
        [],
        1,
        device="cpu",
        unused_parameters=leaves_parameters_unused(config),
    )
    return [parameter.detach() for parameter in detector.parameters()]


def train_each(cases: dict[str, dict[str, Any]], dataset: Dataset) -> dict[str, tuple[float, bool]]:
    """In this process: name -> the sum of all trained parameters, and whether each of them is finite."""
    sums = {}
    for name, values in cases.items():
        try:
            after = two_steps(values, dataset)
        except Exception as error:
            raise AssertionError(f"process {rank()}: {name} does not train: {error}") from error
        finite = all(bool(value.isfinite().all()) for value in after)
        sums[name] = (sum(float(value.double().sum()) for value in after), finite)
        del after
        gc.collect()  # a trainer and its module refer to each other: without this, all models stay in memory
    return sums


def check(cases: dict[str, dict[str, Any]], dataset: Dataset, timeout: int) -> None:
    """One pair of processes trains all cases; both end each with the same finite weights."""
    first, second = together(lambda _rank: train_each(cases, dataset), timeout=timeout)
    assert first == second
    assert first.keys() == cases.keys()
    assert [name for name, (_, finite) in first.items() if not finite] == []


@pytest.mark.slow
def test_a_few_variants_train_in_two_processes(dataset: Dataset) -> None:
    cases = all_cases()
    check({name: cases[name] for name in FEW}, dataset, timeout=120)


@pytest.mark.long
def test_every_variant_trains_in_two_processes(dataset: Dataset) -> None:
    check(all_cases(), dataset, timeout=1800)


@pytest.mark.slow
def test_without_semantic_fusion_the_embedding_stays_as_it_is(tmp_path: Path) -> None:
    """As in one process: it has no gradient, hence no weight decay either."""
    splits = Splits(write_split(tmp_path, "train", 4, 0), tmp_path / "train", None, None)
    config = tiny(epochs=1, batch_size=1, warmup_steps=0)
    config = config.replace(cascade={"semantic_fusion": "none"})
    options = Options(device="cpu", images=0, validation_losses=False, checkpoints=None)
    first, _ = together(lambda _rank: run_training(config, splits, tmp_path / "run", options))
    assert first.steps == 2
    torch.manual_seed(options.seed)
    before, after = Detector(first.config).state_dict(), load_file(first.model_folder / "model.safetensors")
    unchanged = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert unchanged == {name for name in before if name.startswith("semantic.embedding.")}
