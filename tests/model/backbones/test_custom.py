"""A user's own module in the place of the configured backbone: building, training, folding, saving, loading."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import htc
from htc.checkpoint.formats.imagenet import expected_normalization, start_from_imagenet
from htc.checkpoint.load import load_model
from htc.checkpoint.native import save_pretrained
from htc.config import CustomBackbone, ResNet
from htc.errors import CheckpointError, ConfigError
from htc.model.optimize import for_inference
from htc.training.finetune import kept_random, start_from
from htc.training.optimizer import groups_of, rate_factors
from small_detector import random_images, small_batch, small_config

CONFIG = small_config(2, semantic={})
SIZES = torch.tensor([[64, 96], [56, 80]])


class Swapped(nn.Module):
    """Four strided convolutions; a norm that is listed after its convolution, but runs on the sum of two."""

    def __init__(self, widths: tuple[int, ...] = (8, 12, 16, 24), first_stride: int = 4, output: type = list) -> None:
        super().__init__()
        self.output = output
        self.stages = nn.ModuleList(
            nn.Conv2d(before, width, 3, stride, padding=1)
            for before, width, stride in zip((3, *widths), widths, (first_stride, 2, 2, 2), strict=False)
        )
        self.conv = nn.Conv2d(widths[0], widths[0], 1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])

    def forward(self, x: Tensor) -> list[Tensor] | tuple[Tensor, ...] | dict[str, Tensor]:
        maps = []
        for number, stage in enumerate(self.stages):
            x = stage(x).relu()
            x = self.norm(x + self.conv(x)) if number == 0 else x
            maps.append(x)
        return OrderedDict((str(n), one) for n, one in enumerate(maps)) if self.output is dict else self.output(maps)


def detector(module: nn.Module | None = None, seed: int = 0) -> htc.Detector:
    torch.manual_seed(seed)
    made = htc.Detector(CONFIG, module or Swapped())
    for norm in made.backbone.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -1, 1)  # type: ignore[arg-type]
            nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize("output", [list, tuple, dict])
def test_channels_are_found_by_one_forward_that_changes_nothing(output: type) -> None:
    module = Swapped(output=output).train()
    module.norm.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    made = htc.Detector(CONFIG, module)
    assert made.backbone.channels == (8, 12, 16, 24)
    assert made.backbone.body is module
    assert module.training
    assert not module.norm.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(parameter.grad_fn is None for parameter in module.parameters())


def test_the_configuration_names_it() -> None:
    made = detector()
    name = f"{Swapped.__module__}.Swapped"
    assert made.config.backbone == CustomBackbone(name=name, channels=(8, 12, 16, 24))
    assert made.config.replace(backbone=CONFIG.backbone) == CONFIG
    assert htc.Config.model_validate_json(made.config.model_dump_json()) == made.config


def test_stated_channels_are_believed_at_first_and_checked_in_the_forward() -> None:
    module = Swapped()
    module.channels = (8, 12, 16, 23)  # type: ignore[assignment]
    made = htc.Detector(CONFIG, module)
    assert made.backbone.channels == (8, 12, 16, 23)
    with pytest.raises(ConfigError, match=r"channels, but its attribute `channels` is \(8, 12, 16, 23\)"):
        made.backbone(random_images())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            Swapped((8, 12, 16)),
            r"\(1, 8, 32, 32\), \(1, 12, 16, 16\), \(1, 16, 8, 8\); a backbone must return four maps",
        ),
        (Swapped(first_stride=2), r"128x128 pixels to the shapes \(1, 8, 64, 64\), .* strides s = 4, 8, 16 and 32"),
        (nn.Conv2d(3, 4, 1), r"returns a Tensor; a backbone must return four maps"),
        (nn.Conv2d(4, 4, 1), r"fails on a zero image .* RuntimeError: .* attribute `channels`"),
    ],
)
def test_other_maps_are_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        htc.Detector(CONFIG, module)


def test_a_neck_that_needs_a_resnet_refuses_it() -> None:
    config = small_config(1, neck={"kind": "rfp", "channels": 16})
    with pytest.raises(ConfigError, match="rfp"):
        htc.Detector(config, Swapped())


def test_the_configuration_alone_is_not_enough() -> None:
    with pytest.raises(ConfigError, match=r"Swapped is not part of .* htc.load\(folder, backbone=MyBackbone\(\)\)"):
        htc.Detector(detector().config)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_trains(precision: str) -> None:
    made = detector()
    made.backbone.body.stages[0].requires_grad_(False)
    objective = htc.TrainingObjective(made, CONFIG)
    optimizer = torch.optim.SGD(groups_of(made, CONFIG.training.optimizer), lr=1e-3)
    before = {name: tensor.clone() for name, tensor in made.backbone.body.named_parameters()}
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = torch.stack(list(objective(small_batch(CONFIG)).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = {name for name, tensor in made.backbone.body.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if not name.startswith("stages.0.")}


def test_layer_decay_needs_a_known_order() -> None:
    with pytest.raises(ConfigError, match="no sequence of blocks"):
        rate_factors(detector().backbone, 0.9)


def test_optimizing_for_inference_leaves_it_correct() -> None:
    made = detector().eval()
    ready = for_inference(made)
    assert isinstance(ready.backbone.body.norm, nn.BatchNorm2d)
    for ours, theirs in zip(ready.backbone(random_images()), made.backbone(random_images()), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        ready(random_images(), SIZES).scores, made(random_images(), SIZES).scores, atol=1e-5, rtol=1e-4
    )
    half = for_inference(made, "bf16")(random_images(), SIZES)
    torch.testing.assert_close(half.scores, made(random_images(), SIZES).scores, atol=0.02, rtol=0.1)


def test_no_imagenet_weights_and_no_complaint() -> None:
    made = detector()
    assert start_from_imagenet(made.backbone, made.config.backbone) is None
    assert expected_normalization(made.config.backbone) is None
    assert kept_random(made.config.backbone) is None


def test_saved_and_loaded(tmp_path: Path) -> None:
    made = detector(seed=1).eval()
    save_pretrained(made, made.config, tmp_path)
    loaded = htc.load(tmp_path, backbone=Swapped())
    assert loaded.config == made.config
    torch.testing.assert_close(
        loaded.detector(random_images(), SIZES).scores, made(random_images(), SIZES).scores, atol=1e-5, rtol=1e-4
    )


def test_loading_without_it_or_with_another(tmp_path: Path) -> None:
    made = detector()
    save_pretrained(made, made.config, tmp_path)
    with pytest.raises(ConfigError, match=r"htc.load\(folder, backbone=MyBackbone\(\)\)"):
        htc.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"backbone.body.stages.3.weight \(file \(24, 16, 3, 3\), model \(20, 16"):
        htc.load(tmp_path, backbone=Swapped((8, 12, 16, 20)))
    state = made.state_dict()
    del state["backbone.body.norm.bias"], state["roi.box_heads.0.classify.bias"]
    save_pretrained(state, made.config, tmp_path)
    with pytest.raises(CheckpointError, match=r"missing: roi.box_heads.0.classify.bias"):
        load_model(tmp_path)


def test_a_training_can_start_from_it(tmp_path: Path) -> None:
    made, other = detector(seed=1), detector(seed=2)
    save_pretrained(made, made.config, tmp_path)
    start_from(other, load_model(tmp_path), str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_configured_backbone_is_built_as_before() -> None:
    torch.manual_seed(0)
    plain = htc.Detector(small_config(1))
    assert plain.config.backbone == ResNet(depth=18)
    assert "backbone.conv1.weight" in plain.state_dict()
