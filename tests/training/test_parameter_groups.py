"""Layer decay and weight decay by parameter: the rates of a known network, and nothing changed by default."""

import pytest
import torch
from torch import nn

from htc.config import SGD, AdamW, FishNet, RecursiveFPN, ResNet, Timm, Training, ViT
from htc.errors import ConfigError
from htc.model.backbone import build_backbone
from htc.model.detector import Detector
from htc.training.optimizer import block_names, build_optimizer, groups_of, rate_factors
from small_detector import CHANNELS, small_config


class Net(nn.Module):
    """A stem, two blocks, a norm after them, and a head outside the backbone."""

    def __init__(self) -> None:
        super().__init__()
        block = lambda: nn.Sequential(nn.Linear(4, 4, bias=False), nn.LayerNorm(4))  # noqa: E731
        self.backbone = nn.ModuleDict(
            {"stem": nn.Linear(3, 4), "blocks": nn.Sequential(block(), block()), "last": nn.LayerNorm(4)}
        )
        self.head = nn.Linear(4, 2)


def rates(optimizer: AdamW) -> dict[str, tuple[float, float]]:
    """Parameter name -> (learning rate, weight decay), as the built optimizer has them."""
    net = Net()
    built = build_optimizer(groups_of(net, optimizer), Training(optimizer=optimizer), 16)
    names = {id(p): name for name, p in net.named_parameters()}
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in built.param_groups for p in group["params"]}


def test_every_block_learns_slower_than_the_next() -> None:
    found = {name: rate for name, (rate, _) in rates(AdamW(lr=1.0, layer_decay=0.5)).items()}
    expected = {"stem": 0.125, "blocks.0": 0.25, "blocks.1": 0.5, "last": 1.0}
    for part, rate in expected.items():
        assert {value for name, value in found.items() if name.startswith(f"backbone.{part}.")} == {rate}
    assert found["head.weight"] == found["head.bias"] == 1.0
    assert set(found) == {name for name, _ in Net().named_parameters()}


def test_norms_and_biases_are_spared_from_weight_decay_where_wanted() -> None:
    decays = {name: decay for name, (_, decay) in rates(AdamW(weight_decay=0.1, weight_decay_of="weights")).items()}
    assert {name for name, decay in decays.items() if decay == 0.1} == {
        name for name, parameter in Net().named_parameters() if name.endswith("weight") and parameter.ndim == 2
    }


@pytest.mark.parametrize("optimizer", [SGD(), AdamW()])
def test_by_default_all_learn_alike(optimizer: SGD | AdamW) -> None:
    net = Net()
    net.head.bias.requires_grad_(False)
    built = build_optimizer(groups_of(net, optimizer), Training(optimizer=optimizer), 16)
    assert len(built.param_groups) == 1
    assert [id(p) for p in built.param_groups[0]["params"]] == [id(p) for p in net.parameters() if p.requires_grad]


@pytest.mark.parametrize(
    ("config", "blocks", "first", "last"),
    [
        (
            Timm(name="swin_tiny_patch4_window7_224", output_norm="layer"),
            12,
            "body.patch_embed.proj.weight",
            "norms.3.bias",
        ),
        (Timm(name="convnext_atto", output_norm="layer"), 12, "body.stem_0.weight", "norms.0.weight"),
        (ViT(name="vit_tiny_patch16_224"), 12, "body.pos_embed", "up4.0.weight"),
    ],
)
def test_blocks_of_real_backbones(config, blocks: int, first: str, last: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(config)
    factors = rate_factors(backbone, 0.9)
    assert len(block_names(backbone)) == blocks
    assert factors[first] == pytest.approx(0.9 ** (blocks + 1)) == pytest.approx(min(factors.values()))
    assert factors[last] == 1.0


@pytest.mark.parametrize("config", [Timm(name="dpn48b"), FishNet(depth=99)])
def test_a_network_without_a_sequence_of_blocks_is_refused(config: Timm | FishNet) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match="layer_decay: this backbone has no sequence of blocks"):
        rate_factors(build_backbone(config), 0.9)


def test_both_looks_of_a_recursive_pyramid_learn_alike() -> None:
    """The second backbone of neck rfp has the first one's rates; what lies around it learns at the full rate."""
    with torch.device("meta"):
        detector = Detector(small_config(1, backbone=ResNet(depth=18), neck=RecursiveFPN(channels=CHANNELS)))
    names = {id(p): name for name, p in detector.named_parameters()}
    groups = groups_of(detector, AdamW(lr=1.0, layer_decay=0.5))
    found = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}  # type: ignore[index]
    second = {
        name.removeprefix("second_look."): rate
        for name, rate in found.items()
        if name.startswith("second_look.backbone.")
    }
    assert second == {name: rate for name, rate in found.items() if name.startswith("backbone.")}
    assert found["second_look.backbone.layer2.0.conv1.weight"] == 0.5**6
    assert {
        rate for name, rate in found.items() if ".context." in name or ".feedback." in name or name.startswith("neck.")
    } == {1.0}
