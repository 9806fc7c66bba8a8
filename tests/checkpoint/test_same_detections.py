"""End to end: a detector's weights, as each generation of the original would have written them, detect exactly the
same objects.
"""

from pathlib import Path

import pytest
import torch

from checkpoint.historical import as_v1, as_v2, save_v1, save_v2, save_v3
from htc.checkpoint.load import load_model
from htc.checkpoint.native import save_pretrained
from htc.config import Config
from htc.model.detector import Detector
from htc.types import RawDetections
from small_detector import random_images, seeded_detector, small_config

SIZES = torch.tensor([[64, 96], [56, 80]])
KEEP_MANY = {"max_detections": 60, "score_threshold": 0.01}


@torch.no_grad()
def detections(path: Path, config: Config) -> RawDetections:
    """In two images, with the weights of the file and the test settings of `config`, which no `.pth` of the
    original tells.
    """
    loaded = load_model(path, overrides={"rpn": config.rpn.model_dump(), "inference": config.inference.model_dump()})
    detector = Detector(loaded.config).eval()
    detector.load_state_dict(loaded.state_dict)
    return detector(random_images(), SIZES)


@pytest.mark.parametrize(
    "config",
    [
        small_config(semantic={}, inference=KEEP_MANY),
        small_config(
            1, cascade={"class_agnostic_boxes": False, "interleaved": False, "mask_flow": False}, inference=KEEP_MANY
        ),
    ],
    ids=["htc", "mask_rcnn"],
)
def test_every_format_detects_the_same(tmp_path: Path, config: Config) -> None:
    state = seeded_detector(config, spread=0.5).state_dict()
    one_stage = config.cascade.num_stages == 1
    v2, v1 = as_v2(state, one_stage=one_stage), as_v1(state, one_stage=one_stage)
    reference = detections(save_v2(tmp_path / "v2.pth", v2), config)
    found = int(reference.valid.sum())
    assert found > 2
    assert len(reference.labels[reference.valid].unique()) > 1  # so that a wrong order of classes shows
    others = (
        save_v1(tmp_path / "v1.pth", v1),
        save_v3(tmp_path / "v3.pth", v2),
        save_pretrained(state, config, tmp_path / "native"),
    )
    for path in others:
        same = detections(path, config)
        for name in ("boxes", "scores", "labels", "masks", "valid"):
            assert torch.equal(getattr(same, name), getattr(reference, name)), (path.name, name)


def test_weights_without_the_change_of_class_order_detect_other_classes(tmp_path: Path) -> None:
    """The test above can fail: a file of 2019 taken for one of 2020 gives other detections."""
    config = small_config(semantic={}, inference=KEEP_MANY)
    state = seeded_detector(config, spread=0.5).state_dict()
    right = detections(save_v2(tmp_path / "v2.pth", as_v2(state)), config)
    wrong = {
        name: torch.cat([tensor[-1:], tensor[:-1]]) if "fc_cls" in name else tensor
        for name, tensor in as_v2(state).items()
    }
    assert not torch.equal(detections(save_v2(tmp_path / "wrong.pth", wrong), config).scores, right.scores)
