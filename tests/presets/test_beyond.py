"""The recipe of the step beyond: what its augmentation, shrunk, makes of a small data set, and a training step on
it.
"""

import pytest
import torch

from htc.config import Augmentation, Config, ResNet
from htc.data.coco import read_coco
from htc.data.dataset import Dataset
from htc.data.loader import TrainingImages, training_loader
from htc.model.detector import Detector
from htc.presets.extended import BEYOND
from htc.training.finetune import fit_to_data
from htc.training.objective import TrainingObjective
from htc.training.optimizer import build_optimizer, groups_of
from training.discs import write_split
from training.tiny import tiny

SHRINK = 12
IMAGES = 8


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data")
    return read_coco(write_split(folder, "train", IMAGES, 3), folder / "train")


def recipe(name: str, dataset: Dataset, **changed: object) -> Config:
    """A tiny HTC trained as the preset is, on edges a twelfth as long."""
    training = BEYOND[name]().training
    whole = training.augmentation
    assert whole.short_edges is not None
    assert whole.long_edge is not None
    edges = {"short_edges": tuple(edge // SHRINK for edge in whole.short_edges), "long_edge": whole.long_edge // SHRINK}
    augmentation = Augmentation.model_validate(whole.model_dump() | edges | changed)
    small = tiny(**training.replace(augmentation=augmentation, batch_size=2).model_dump())
    return fit_to_data(small.replace(backbone=ResNet(depth=18)), dataset, "auto")


def test_every_recipe_pastes_objects_into_half_of_the_images() -> None:
    for name, config in ((name, make()) for name, make in BEYOND.items()):
        augmentation = config.training.augmentation
        assert (augmentation.short_edges, augmentation.long_edge) == ((400, 1400), 1600), name
        assert augmentation.copy_paste is not None, name
        assert (augmentation.copy_paste.probability, augmentation.copy_paste.share) == (0.5, 0.5), name


def test_pasted_objects_are_in_image_truth_and_semantic_map(dataset: Dataset) -> None:
    """Images with and without pasting differ, where they differ, in all three alike; some are left as they were."""
    config = recipe("htcpp_swin_b", dataset)
    without = recipe("htcpp_swin_b", dataset, copy_paste=None)
    changed = 0
    for position in range(IMAGES):
        pasted, plain = (TrainingImages(dataset, one, 0, 0)[position] for one in (config, without))
        assert pasted.semantic is not None
        assert plain.semantic is not None
        differs = (pasted.image != plain.image).any(-1)
        changed += bool(differs.any())
        assert differs.any() == (
            len(pasted.ground_truth.boxes) != len(plain.ground_truth.boxes)
            or not torch.equal(pasted.ground_truth.boxes, plain.ground_truth.boxes)
        )
        assert ((pasted.semantic != plain.semantic) <= differs).all()
        assert (
            (pasted.semantic[differs] > 0).mean() > 0.9 if differs.any() else (pasted.semantic == plain.semantic).all()
        )
    assert 0 < changed < IMAGES


def test_a_training_step(dataset: Dataset) -> None:
    config = recipe("htcpp_convnext_b", dataset)
    torch.manual_seed(0)
    detector = Detector(config).train()
    before = {name: value.clone() for name, value in detector.named_parameters()}
    groups = groups_of(detector, config.training.optimizer)
    assert len({group["lr"] for group in groups if isinstance(group, dict)}) > 1  # layer decay
    optimizer = build_optimizer(groups, config.training, 2)
    losses = TrainingObjective(detector, config)(next(iter(training_loader(dataset, config, 0, 0, 2))))
    total = torch.stack(list(losses.values())).sum()
    assert total.isfinite()
    total.backward()
    optimizer.step()
    moved = {name for name, value in detector.named_parameters() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == {"backbone", "neck", "rpn", "roi", "semantic"}
