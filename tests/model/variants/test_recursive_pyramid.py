"""The recursive pyramid: what it is when nothing is fed back, and against its definition with feedback."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc.config import FishNet, RecursiveFPN, ResNet
from htc.model.detector import Detector
from htc.model.variants.recursive_pyramid import FeedbackContext, RecursivePyramid
from small_detector import CHANNELS, random_images, seeded_detector, small_config

DEPTHS = (18, 50)


def detector(depth: int) -> tuple[Detector, RecursivePyramid]:
    found = seeded_detector(small_config(1, backbone=ResNet(depth=depth), neck=RecursiveFPN(channels=CHANNELS))).eval()  # type: ignore[arg-type]
    assert isinstance(found.second_look, RecursivePyramid)
    return found, found.second_look


def first_pyramid(found: Detector) -> tuple[Tensor, ...]:
    return found.neck(found.backbone(random_images()))


def close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * float(other.std()), rtol=1e-4)


@pytest.mark.parametrize("depth", DEPTHS)
@torch.no_grad()
def test_without_feedback_the_same_backbone_sees_the_same(depth: int) -> None:
    """Feedback starts at zero: with the first backbone's weights the second pyramid is the first, and so is their
    mean.
    """
    found, look = detector(depth)
    look.backbone.load_state_dict(found.backbone.state_dict())
    close(found.features(random_images()).pyramid, first_pyramid(found))


@torch.no_grad()
def test_it_starts_as_the_mean_of_two_pyramids() -> None:
    found, look = detector(18)
    second = found.neck(look.backbone(random_images()))
    close(
        found.features(random_images()).pyramid,
        tuple((a + b) / 2 for a, b in zip(first_pyramid(found), second, strict=True)),
    )


@torch.no_grad()
def test_a_weight_of_zero_leaves_fpn() -> None:
    found, look = detector(18)
    assert look.weight.bias is not None
    look.weight.bias.fill_(-100)
    close(found.features(random_images()).pyramid, first_pyramid(found))


def definition(look: RecursivePyramid, pyramid: tuple[Tensor, ...]) -> list[Tensor]:
    """C2-C5 of the second look by hooks on timm's own blocks: the feedback joins what the last norm of a stage's
    first block says.
    """
    handles = []
    for stage, conv, level in zip(("layer2", "layer3", "layer4"), look.feedback, pyramid[1:4], strict=True):
        block = look.backbone.get_submodule(stage)[0]  # type: ignore[index]
        last = block.bn3 if "bn3" in dict(block.named_children()) else block.bn2
        said = conv(look.context(level))
        handles.append(last.register_forward_hook(lambda _module, _inputs, out, said=said: out + said))
    features = look.backbone(random_images())
    for handle in handles:
        handle.remove()
    return list(features)


@pytest.mark.parametrize("depth", DEPTHS)
@torch.no_grad()
def test_with_feedback_by_its_definition(depth: int) -> None:
    found, look = detector(depth)
    for conv in look.feedback:
        nn.init.normal_(conv.weight, std=0.3)  # type: ignore[arg-type]
    nn.init.normal_(look.weight.weight, std=0.5)
    first = first_pyramid(found)
    second = found.neck(definition(look, first))
    assert (second[3] - found.neck(look.backbone(random_images()))[3]).abs().max() > 0.01, (
        "the feedback changes nothing"
    )
    expected = []
    for old, new in zip(first, second, strict=True):
        share = torch.sigmoid(F.conv2d(new, look.weight.weight, look.weight.bias))
        expected.append(share * new + (1 - share) * old)
    close(found.features(random_images()).pyramid, tuple(expected))


@torch.no_grad()
def test_the_context_by_its_definition() -> None:
    torch.manual_seed(0)
    context, x = FeedbackContext(8), torch.randn(2, 8, 7, 9)
    views = [F.conv2d(x, context.point.weight, context.point.bias)]
    views += [
        F.conv2d(x, conv.weight, conv.bias, padding=rate, dilation=rate)
        for conv, rate in zip(context.dilated, (3, 6), strict=True)
    ]  # type: ignore[arg-type]
    views.append(F.conv2d(x.mean((2, 3), keepdim=True), context.mean.weight, context.mean.bias).expand(2, 2, 7, 9))
    assert torch.equal(context(x), torch.cat(views, 1).relu())


def test_both_backbones_and_the_feedback_learn() -> None:
    found, look = detector(18)
    for conv in (*look.feedback, look.weight):
        nn.init.normal_(conv.weight, std=0.1)  # type: ignore[arg-type]
    sum(level.square().sum() for level in found.train().features(random_images()).pyramid).backward()  # type: ignore[union-attr]
    learning = {
        name.split(".")[1]
        for name, p in found.named_parameters()
        if name.startswith("second_look") and p.grad is not None
    }
    assert learning == {"backbone", "context", "feedback", "weight"}
    assert all(p.grad is not None for name, p in found.named_parameters() if name.startswith("backbone.layer4"))


def test_it_needs_the_stages_of_a_resnet() -> None:
    with pytest.raises(ValueError, match=r"needs backbone\.kind resnet"):
        small_config(1, backbone=FishNet(depth=99), neck=RecursiveFPN(channels=CHANNELS))
