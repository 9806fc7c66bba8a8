"""Every preset: YAML and back, the native format and back, a training step and a prediction, on the smallest network
of its kind.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from htc.checkpoint.load import load_model
from htc.checkpoint.native import save_pretrained
from htc.config import Config, FishNet, ResNet, Timm, ViT
from htc.config.backbone import Backbone
from htc.model.detector import Detector
from htc.presets import PRESETS, preset
from htc.settings.layers import from_file, resolve, to_yaml
from htc.training.objective import TrainingObjective
from htc.training.optimizer import build_optimizer, groups_of
from small_detector import CHANNELS, random_images, small_batch

SMALLER = {
    "legacy_senet154": "legacy_seresnet50",
    "dpn107": "dpn48b",
    "swin_": "swin_tiny_patch4_window7_224",
    "convnext_": "convnext_atto",
}
CLASSES: dict[str, Any] = {"classes": ("cat", "dog", "bird"), "category_ids": (1, 2, 3)}
FULL = ("htc_senet154_table7", "htc_dpn107_table7", "htc_fishnet150_table7", "htc_x101_64x4d_table7", "htcpp_swin_l")


def smaller_backbone(backbone: Backbone) -> Backbone:
    """The same kind, norm and deformable stages, less of it; no ImageNet weights."""
    plain = backbone.replace(pretrained=False)
    match plain:
        case ResNet():
            depth = 18 if plain.deformable == "none" and plain.groups == 1 else 50
            return plain.replace(depth=depth)
        case Timm():
            return plain.replace(name=next((small for large, small in SMALLER.items() if plain.name.startswith(large))))
        case FishNet():
            return plain.replace(depth=99)
        case ViT():
            return plain.replace(name="vit_tiny_patch16_224")


def shrunk(config: Config) -> Config:
    """All that defines the preset but its widths, its number of regions and the depth of its backbone."""
    values = config.model_dump()
    values |= {**CLASSES, "preset": "custom", "backbone": smaller_backbone(config.backbone).model_dump()}
    values["neck"] |= {"channels": CHANNELS}
    values["cascade"] |= {
        "samples": 8,
        "box_channels": 16,
        "mask_channels": CHANNELS,
        "mask_convs": 2 if config.cascade.mask_head.kind == "fusion" else 1,
    }
    values["cascade"]["box_convs"] = min(1, values["cascade"]["box_convs"])
    if values["semantic"] is not None:
        values["semantic"] |= {"channels": CHANNELS, "convs": 1, "classes": 4}
    values["rpn"] |= {
        "candidates_per_level": 20,
        "training_candidates_per_level": 20,
        "proposals": 20,
        "training_proposals": 20,
    }
    values["inference"] |= {"max_detections": 5}
    values["training"] |= {"augmentation": {}, "epochs": 1, "milestones": (1,)}
    return Config.model_validate(values)


def distinct() -> dict[str, Config]:
    """The presets that are still unlike each other when shrunk: the others would only repeat them."""
    found: dict[str, Config] = {}
    for name in PRESETS:
        config = shrunk(preset(name))
        if config not in found.values():
            found[name] = config
    return found


def marked(configs: dict[str, Config]) -> list[Any]:
    """Their names; the first of each kind of backbone, neck, RPN and mask head is in the fast suite, the others are
    slow.
    """
    seen: set[tuple[str, str]] = set()
    params = []
    for name, config in configs.items():
        kinds = {
            ("backbone", config.backbone.kind),
            ("neck", config.neck.kind),
            ("rpn", config.rpn.kind),
            ("mask head", config.cascade.mask_head.kind),
        }
        params.append(pytest.param(name, marks=pytest.mark.slow if kinds <= seen else ()))
        seen |= kinds
    return params


def trains_and_predicts(config: Config, side: int) -> Detector:
    """One step of the preset's optimizer on one image, then detections in an image of that side."""
    torch.manual_seed(0)
    detector = Detector(config).train()
    batch = small_batch(config)
    optimizer = build_optimizer(groups_of(detector, config.training.optimizer), config.training, 2)
    losses = TrainingObjective(detector, config)(batch)
    total = torch.stack([value.float() for value in losses.values()]).sum()
    assert total.isfinite(), losses
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        found = detector.eval()(random_images(1, side, side), torch.tensor([[side, side]]))
    assert found.boxes.shape == (1, config.inference.max_detections, 4)
    assert all(value.isfinite().all() for value in (found.boxes, found.scores, found.masks))
    return detector


@pytest.mark.parametrize("name", PRESETS)
def test_yaml_and_back(name: str, tmp_path: Path) -> None:
    config = preset(name)
    assert config.preset == name
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert resolve(from_file(path), "htc_r50_fpn_1x_coco") == config
    assert Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("name", marked(distinct()))
def test_a_training_step_a_prediction_and_the_native_format(name: str, tmp_path: Path) -> None:
    config = shrunk(preset(name))
    detector = trains_and_predicts(config, 64)
    loaded = load_model(save_pretrained(detector, config, tmp_path))
    assert loaded.config == config
    assert all(torch.equal(value, loaded.state_dict[key]) for key, value in detector.state_dict().items())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if i else pytest.mark.slow) for i, name in enumerate(FULL)]
)
def test_the_large_networks_in_full(name: str) -> None:
    config = preset(name)
    trains_and_predicts(config.replace(backbone={"pretrained": False}), 128)
