"""timm's networks as backbones: maps, norms of every kind, frozen parts, names that are none; and the plain vision
transformer.
"""

import pytest
import timm
import torch
from torch import nn

from htc.config import Timm, ViT
from htc.errors import ConfigError
from htc.model.backbone import build_backbone, channels
from htc.model.backbones.timm_features import convert_norms, map_indices
from htc.model.norms import BatchNorm2d, FixedBatchNorm2d, FrozenBatchNorm2d, SyncBatchNorm2d
from htc.model.variants.deformable import DeformableConv2d

SMALL = ("legacy_seresnet18", "convnext_atto", "swin_tiny_patch4_window7_224", "regnety_002")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(64, 96), (160, 32)])
def test_maps_of_four_strides_at_any_size(name: str, size: tuple[int, int]) -> None:
    backbone = build_backbone(
        Timm(name=name, output_norm="layer" if name.startswith(("swin", "conv")) else "none")
    ).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(2, 3, *size))
    expected = [(2, c, size[0] // s, size[1] // s) for c, s in zip(channels(backbone), (4, 8, 16, 32), strict=True)]
    assert [tuple(m.shape) for m in maps] == expected


def test_the_paper_s_large_networks_have_their_published_widths() -> None:
    """SENet-154's stages as ResNet's; DPN-107's as its paper's Table 1 (arXiv 1707.01629)."""
    with torch.device("meta"):
        assert list(channels(build_backbone(Timm(name="legacy_senet154")))) == [256, 512, 1024, 2048]
        assert list(channels(build_backbone(Timm(name="dpn107")))) == [376, 1152, 2432, 2688]


def test_swin_s_maps_are_timm_s_own_before_the_windows_shift_otherwise() -> None:
    """At the size timm builds it for, C2-C4 are its own (C5, one window wide there, is not shifted by timm)."""
    torch.manual_seed(0)
    ours = build_backbone(Timm(name="swin_tiny_patch4_window7_224")).eval()
    theirs = timm.create_model("swin_tiny_patch4_window7_224", features_only=True).eval()
    theirs.load_state_dict({name.removeprefix("body."): value for name, value in ours.state_dict().items()})
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        for found, expected in zip(ours(x)[:3], theirs(x)[:3], strict=True):
            torch.testing.assert_close(found, expected.permute(0, 3, 1, 2), atol=1e-4, rtol=1e-4)


def test_swin_s_windows_are_local_at_any_size() -> None:
    """The left half of C2 is the same whatever stands beside the image: two blocks of windows of 7 see no further."""
    torch.manual_seed(0)
    backbone = build_backbone(Timm(name="swin_tiny_patch4_window7_224")).eval()
    x = torch.randn(1, 3, 112, 112)
    with torch.no_grad():
        alone, beside = backbone(x)[0], backbone(torch.cat([x, torch.randn(1, 3, 112, 112)], 3))[0]
    torch.testing.assert_close(beside[:, :, :, :14], alone[:, :, :, :14], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(200, 100), (256, 112), (100, 256), (112, 200)])
@pytest.mark.parametrize("side", [2, 3])
def test_opposite_edges_do_not_see_each_other(size: tuple[int, int], side: int) -> None:
    """The first three rows (columns) of tokens leave C2 beyond two windows alone; 25, 50 and 64 tokens are no whole
    windows of 7.
    """
    torch.manual_seed(0)
    backbone = build_backbone(Timm(name="swin_tiny_patch4_window7_224")).eval()
    x = torch.randn(1, 3, *size)
    other = x.clone()
    other.narrow(side, 0, 3 * 4).normal_()
    with torch.no_grad():
        before, after = (backbone(image)[0] for image in (x, other))
    rest = before.shape[side] - 14
    assert torch.equal(after.narrow(side, 14, rest), before.narrow(side, 14, rest))
    assert not torch.equal(after, before)


@pytest.mark.parametrize("kind", ["statistics_fixed", "frozen", "batch", "sync"])
@pytest.mark.parametrize("name", ["regnety_002", "legacy_seresnet18"])
def test_norms_of_any_kind_give_the_same_maps(name: str, kind: str) -> None:
    """Also where timm's norm has its activation inside (regnety)."""
    torch.manual_seed(0)
    body = timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4)).eval()
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in (
                (module.running_mean, -0.3),
                (module.running_var, 0.5),
                (module.weight, 0.5),
                (module.bias, -0.3),
            ):
                nn.init.uniform_(tensor, low, low + 1)  # type: ignore[arg-type]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = body(x)
        convert_norms(body, kind)  # type: ignore[arg-type]
        for found, map_ in zip(body.eval()(x), expected, strict=True):
            torch.testing.assert_close(found, map_)
    norms = [m for m in body.train().modules() if isinstance(m, nn.BatchNorm2d)]
    assert {type(m) for m in norms} == {
        {
            "statistics_fixed": FixedBatchNorm2d,
            "frozen": FrozenBatchNorm2d,
            "batch": BatchNorm2d,
            "sync": SyncBatchNorm2d,
        }[kind]
    }
    assert {m.training for m in norms} == {kind in ("batch", "sync")}


@pytest.mark.parametrize(("frozen", "first_trained"), [(-1, "layer0"), (1, "layer2"), (3, "layer4")])
def test_frozen_stages(frozen: int, first_trained: str) -> None:
    """1: all that makes C2, as in ResNet; frozen norms do not follow the batch."""
    backbone = build_backbone(Timm(name="legacy_seresnet18", norm="batch", frozen_stages=frozen)).train()
    parts = {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad}
    assert min(parts) == first_trained
    stem = next(
        m for name, m in backbone.named_modules() if name.startswith("body.layer0") and isinstance(m, nn.BatchNorm2d)
    )
    assert isinstance(stem, FrozenBatchNorm2d) == (frozen > 0)


@pytest.mark.parametrize(("name", "convolutions"), [("legacy_senet154", "conv2"), ("dpn107", "c3x3_b.conv")])
def test_deformable_convolution_in_the_last_stage(name: str, convolutions: str) -> None:
    """Table 7's res5: every 3x3 convolution of the three blocks, groups kept."""
    with torch.device("meta"):
        backbone = build_backbone(Timm(name=name, deformable="v1", deformable_stages=(5,)))
    found = {place: m for place, m in backbone.named_modules() if isinstance(m, DeformableConv2d)}
    assert len(found) == 3
    assert all(
        place.endswith(convolutions) and ("layer4" in place or "conv5" in place) and m.groups > 1
        for place, m in found.items()
    )


def test_nothing_to_deform_is_refused() -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match="no 3x3 convolution"):
        build_backbone(Timm(name="convnext_atto", deformable="v1", deformable_stages=(5,)))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("swin_tiny_patch4_window7", "did you mean .*swin_"),
        ("nothing_of_the_kind", "timm has no network of that name"),
        ("vit_tiny_patch16_224", "use backbone.kind vit"),
        ("maxvit_nano_rw_256", "accepts images of .*256.* only"),
    ],
)
def test_names_that_cannot_be_a_backbone_are_refused(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_backbone(Timm(name=name))


def test_networks_that_cannot_be_taken_apart_are_not_frozen() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.frozen_stages: .*remove this setting"):
        build_backbone(Timm(name="mobilenetv3_small_050", frozen_stages=1))
    assert map_indices("mobilenetv3_small_050") == (1, 2, 3, 4)


def test_plain_vit_has_a_pyramid_of_its_last_feature() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(ViT(name="vit_tiny_patch16_224")).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(2, 3, 64, 96))
        assert [tuple(m.shape) for m in maps] == [(2, 48, 16, 24), (2, 96, 8, 12), (2, 192, 4, 6), (2, 192, 2, 3)]
        assert list(channels(backbone)) == [m.shape[1] for m in maps]
        expected = maps[2].unflatten(2, (2, 2)).unflatten(4, (3, 2)).amax((3, 5))
    torch.testing.assert_close(maps[3], expected)


def test_plain_vit_at_its_own_size_is_timm_s_classifier_trunk() -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224").eval()
    ours = build_backbone(ViT(name="vit_tiny_patch16_224"), dict(theirs.state_dict())).eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = theirs.forward_features(x)[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
        torch.testing.assert_close(ours(x)[2], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "resnet50", "no_vit"])
def test_what_is_no_plain_vit_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.name"):
        build_backbone(ViT(name=name))


def test_a_tag_that_timm_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no weights of that tag; use .*ms_in22k"):
        build_backbone(Timm(name="swin_large_patch4_window7_224.ms_in99k"))
