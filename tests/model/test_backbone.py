"""The backbone against torchvision's ResNet, deformable convolution, and what stays frozen."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from htc.config import ResNet
from htc.model.backbone import build_backbone, channels
from htc.model.norms import FixedBatchNorm2d
from htc.model.variants.deformable import DeformableConv2d


@pytest.mark.parametrize("depth", [18, 50])
def test_features_equal_torchvisions(depth: int) -> None:
    """The same parameter names, the stride in the 3x3 convolution, features of strides 4 to 32."""
    torch.manual_seed(0)
    original = getattr(torchvision.models, f"resnet{depth}")().eval()
    ours = build_backbone(ResNet(depth=depth)).eval()  # type: ignore[arg-type]
    weights = {name: value for name, value in original.state_dict().items() if not name.startswith("fc.")}
    ours.load_state_dict(weights)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features = ours(x)
        y = original.maxpool(original.relu(original.bn1(original.conv1(x))))
        for stride, found, layer in zip(
            (4, 8, 16, 32), features, (original.layer1, original.layer2, original.layer3, original.layer4), strict=True
        ):
            y = layer(y)
            assert found.shape[2:] == (64 // stride, 96 // stride)
            torch.testing.assert_close(found, y, atol=1e-4, rtol=1e-4)
    assert channels(ours) == [f.shape[1] for f in features]


@pytest.mark.parametrize(("name", "groups", "width"), [("resnext101_64x4d", 64, 4), ("resnext50_32x4d", 32, 4)])
def test_resnext_has_torchvisions_names_and_shapes(name: str, groups: int, width: int) -> None:
    with torch.device("meta"):
        original = getattr(torchvision.models, name)()
        ours = build_backbone(ResNet(depth=101 if "101" in name else 50, groups=groups, base_width=width))
    expected = {n: tuple(p.shape) for n, p in original.named_parameters() if not n.startswith("fc.")}
    assert {n: tuple(p.shape) for n, p in ours.named_parameters()} == expected


PARTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")


@pytest.mark.parametrize(("frozen", "parts"), [(-1, 0), (0, 2), (1, 3), (2, 4), (4, 6)])
def test_frozen_stages_train_nothing(frozen: int, parts: int) -> None:
    """-1 trains all, 0 freezes the stem, every further stage one layer more."""
    backbone = build_backbone(ResNet(depth=18, frozen_stages=frozen))
    assert {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad} == set(PARTS[parts:])


@pytest.mark.parametrize("kind", ["statistics_fixed", "frozen", "batch", "sync"])
def test_frozen_stages_stay_in_evaluation_mode(kind: str) -> None:
    """A frozen stage must not follow the batch either: its norms keep their statistics, whatever norm the rest
    trains.
    """
    backbone = build_backbone(ResNet(depth=18, norm=kind, frozen_stages=1)).train()  # type: ignore[arg-type]
    norms = {name: m for name, m in backbone.named_modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm)}
    assert {name for name, m in norms.items() if not m.training} >= {"bn1", "layer1.0.bn1", "layer1.1.bn2"}
    assert norms["layer2.0.bn1"].training == (kind in ("batch", "sync"))
    assert isinstance(norms["layer2.0.bn1"], FixedBatchNorm2d) == (kind in ("statistics_fixed", "frozen"))


def plain_and_deformable(stride: int, modulated: bool) -> tuple[nn.Conv2d, DeformableConv2d]:
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, 3, stride, padding=1, groups=4, bias=False)
    deformable = DeformableConv2d(plain, modulated=modulated)
    deformable.weight = plain.weight
    return plain, deformable


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("modulated", [False, True])
def test_without_offsets_deformable_is_plain(modulated: bool, stride: int, dtype: torch.dtype) -> None:
    """It starts that way; modulated, every tap starts with the weight sigmoid(0) = 1/2."""
    plain, deformable = (layer.to(dtype) for layer in plain_and_deformable(stride, modulated))
    x = torch.randn(2, 8, 11, 14).to(dtype)
    found = deformable(x)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found, plain(x) * (0.5 if modulated else 1.0), atol=tolerance, rtol=tolerance)


def shifted(x: Tensor, rows: int, columns: int) -> Tensor:
    return x.roll((-rows, -columns), (2, 3))


def test_offsets_are_row_then_column() -> None:
    plain, deformable = plain_and_deformable(1, False)
    assert deformable.conv_offset.bias is not None
    deformable.conv_offset.bias.data = torch.tensor([1.0, 2.0]).repeat(9)
    x = torch.randn(1, 8, 12, 12)
    torch.testing.assert_close(
        deformable(x)[..., 1:-4, 1:-4], plain(shifted(x, 1, 2))[..., 1:-4, 1:-4], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(("kind", "offsets"), [("v1", 18), ("v2", 27)])
def test_deformable_stages(kind: str, offsets: int) -> None:
    with torch.device("meta"):
        backbone = build_backbone(ResNet(depth=50, groups=32, base_width=4, deformable=kind, deformable_stages=(3, 5)))  # type: ignore[arg-type]
    where = {name: m for name, m in backbone.named_modules() if isinstance(m, DeformableConv2d)}
    assert {name.split(".")[0] for name in where} == {"layer2", "layer4"}
    assert all(
        name.endswith("conv2") and m.conv_offset.weight.shape[0] == offsets and m.groups == 32
        for name, m in where.items()
    )
    assert len(where) == 7
    assert where["layer4.0.conv2"].conv_offset.stride == (2, 2)
