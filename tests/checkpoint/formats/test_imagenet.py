"""ImageNet weights from a file or the cache: every tensor in its place, other networks and unreachable names
refused.
"""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from htc.checkpoint.download import FetchError
from htc.checkpoint.formats import imagenet
from htc.checkpoint.formats.imagenet import RESNETS, expected_normalization, source_of, start_from_imagenet
from htc.config import FishNet, Input, ResNet, Timm, ViT
from htc.errors import CheckpointError, ConfigError
from htc.model.backbone import build_backbone
from htc.model.backbones.fishnet import FishFeatures


def saved(model: torch.nn.Module, path: Path, *, wrap: bool = False) -> Path:
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}} if wrap else state, path)
    return path


@pytest.mark.parametrize(("wrap", "seed"), [(False, 0), (True, 1)])
def test_resnet_from_torchvision_s_file(tmp_path: Path, wrap: bool, seed: int) -> None:
    torch.manual_seed(seed)  # 0: the draws of an untrained network of the most common seed are weights like any other
    original = torchvision.models.resnet18()
    config = ResNet(depth=18, pretrained=str(saved(original, tmp_path / "resnet18.pth", wrap=wrap)))
    backbone = build_backbone(config)
    assert start_from_imagenet(backbone, config) == config.pretrained
    expected = original.state_dict()
    trained = {name: value for name, value in backbone.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(value, expected[name]) for name, value in trained.items())


def test_deformable_convolutions_take_the_plain_ones(tmp_path: Path) -> None:
    original = timm.create_model("regnety_002")
    path = str(saved(original, tmp_path / "regnet.safetensors"))
    config = Timm(name="regnety_002", deformable="v1", deformable_stages=(5,), norm="sync", pretrained=path)
    backbone = build_backbone(config)
    start_from_imagenet(backbone, config)
    state = backbone.state_dict()
    assert torch.equal(state["body.s4.b2.conv2.conv.weight"], original.state_dict()["s4.b2.conv2.conv.weight"])
    assert not state["body.s4.b2.conv2.conv.conv_offset.weight"].any()


@pytest.mark.parametrize("config", [Timm(name="convnext_atto", output_norm="layer"), ViT(name="vit_tiny_patch16_224")])
def test_a_name_is_read_from_the_cache(config: Timm | ViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The maps before what no classifier has are the classifier's own features; that rest keeps its random start."""
    original = timm.create_model(config.name).eval()
    path = saved(original, tmp_path / "model.safetensors")
    asked = []
    monkeypatch.setattr(
        imagenet, "hf_hub_download", lambda repository, file, **how: asked.append((repository, file, how)) or str(path)
    )
    config = config.replace(pretrained=True)
    backbone = build_backbone(config).eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items() if name.startswith(("up", "norms"))}
    assert start_from_imagenet(backbone, config) == config.name
    assert asked == [
        (timm.models.get_pretrained_cfg(config.name).hf_hub_id, "model.safetensors", {"local_files_only": True})
    ]  # type: ignore[union-attr]
    assert before
    assert all(torch.equal(value, backbone.state_dict()[name]) for name, value in before.items())
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        if isinstance(config, ViT):
            torch.testing.assert_close(
                backbone(x)[2].flatten(2).transpose(1, 2), original.forward_features(x)[:, 1:], atol=1e-4, rtol=1e-4
            )
        else:
            expected = torch.nn.functional.layer_norm(
                original.stages(original.stem(x)).permute(0, 2, 3, 1), (320,)
            ).permute(0, 3, 1, 2)
            torch.testing.assert_close(backbone(x)[3], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("depth", [34, 50])
def test_another_network_s_file_is_refused(depth: int, tmp_path: Path) -> None:
    path = saved(getattr(torchvision.models, f"resnet{depth}")(), tmp_path / "other.pth")
    config = ResNet(depth=18, pretrained=str(path))
    with pytest.raises(CheckpointError, match="belongs to another network"):
        start_from_imagenet(build_backbone(config), config)


def test_offline_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nowhere(*_: object, **how: object) -> str:
        assert how == {"local_files_only": True}, "the network was asked"
        raise FileNotFoundError

    monkeypatch.setattr(imagenet, "hf_hub_download", nowhere)
    monkeypatch.setenv("HTC_OFFLINE", "1")
    monkeypatch.setenv("HTC_CACHE", str(tmp_path))
    for config, said in (
        (ResNet(depth=18, pretrained=True), r"resnet18\.tv_in1k: offline.*set backbone\.pretrained to a file"),
        (
            Timm(name="legacy_senet154", pretrained=True),
            r"download https://.*legacy_senet154-e9eb9fe6\.pth to .*legacy_senet154-e9eb9fe6\.pth",
        ),
    ):
        with pytest.raises(FetchError, match=said):
            start_from_imagenet(torch.nn.Identity(), config)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            ResNet(depth=50, groups=7, base_width=8, pretrained=True),
            "no ImageNet weights for depth, groups, base_width",
        ),
        (Timm(name="convnext_atto", pretrained="nowhere.pth"), "no such file, and not the name of a timm network"),
        (FishNet(pretrained="nowhere.pth"), "no such file$"),
        (
            Timm(name="convnext_atto", pretrained="resnet50.no_such_tag"),
            "no weights of that tag; use .*resnet50.tv_in1k",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_fetched(config: ResNet | Timm | FishNet, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        imagenet.fetch_from_timm(source_of(config))


@pytest.mark.parametrize("config", [ResNet, FishNet])
def test_group_norm_has_no_imagenet_weights(config: type) -> None:
    with pytest.raises(ValueError, match="norm group cannot use ImageNet weights"):
        config(norm="group", pretrained="some.pth")


def test_nothing_asked_nothing_done() -> None:
    assert start_from_imagenet(torch.nn.Identity(), ResNet()) is None


def test_colors_that_weights_were_trained_with(tmp_path: Path) -> None:
    """In the units of `input.mean`; a file does not say, whatever its network."""
    half = (127.5, 127.5, 127.5)
    assert expected_normalization(ViT(name="vit_base_patch16_224", pretrained=True)) == (half, half)
    assert expected_normalization(Timm(name="convnext_atto", pretrained="vit_base_patch16_224.augreg_in21k")) == (
        half,
        half,
    )
    mean, std = expected_normalization(ResNet(depth=50, pretrained=True)) or ((), ())
    assert mean == pytest.approx(Input().mean)
    assert std == pytest.approx(Input().std)
    assert expected_normalization(ViT(name="vit_base_patch16_224")) is None
    assert expected_normalization(FishNet()) is None
    (tmp_path / "own.pth").touch()
    assert expected_normalization(ViT(name="vit_base_patch16_224", pretrained=str(tmp_path / "own.pth"))) is None


def test_every_resnet_that_has_weights_is_in_timm_under_its_shape() -> None:
    for (depth, groups, width), name in RESNETS.items():
        with torch.device("meta"):
            theirs = timm.create_model(name)
            ours = build_backbone(ResNet(depth=depth, groups=groups, base_width=width))  # type: ignore[arg-type]
        shapes = {key: tuple(value.shape) for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
        assert {key: tuple(value.shape) for key, value in ours.state_dict().items()} == shapes


BLOCK = ("bn1", "conv1", "bn2", "conv2", "bn3", "conv3")


def authors_names() -> list[str]:
    """The layers of the authors' FishNet-99 in the order their classes make them, written down from their
    repository's plan.
    """
    names = [f"conv{i}.{part}" for i in (1, 2, 3) for part in (0, 1)]
    blocks, transfers = (2, 2, 6, 2, 1, 1, 1, 1, 2, 2), (1, 1, 1, 1, 1, 4)
    for stage in range(10):
        if stage == 3:
            names += (
                [f"fish.fish.3.0.{part}" for part in (0, 2, 3)]
                + ["fish.fish.3.1"]
                + [f"fish.fish.3.3.0.{part}" for part in (0, 3, 5)]
            )
        rest = 2 if stage == 3 else 0
        for block in range(blocks[stage]):
            names += [f"fish.fish.{stage}.{rest}.{block}.{layer}" for layer in BLOCK]
            if block == 0 and stage < 4:
                names += [f"fish.fish.{stage}.{rest}.0.shortcut.{part}" for part in (0, 2)]
        for block in range(transfers[stage - 4] if stage > 3 else 0):
            names += [f"fish.fish.{stage}.1.{block}.{layer}" for layer in BLOCK]
    return [*names, "fish.fish.9.3.0", "fish.fish.9.3.2", "fish.fish.9.3.3", "fish.fish.9.4.1"]


def test_fishnet_from_the_authors_names(tmp_path: Path) -> None:
    """Every layer of theirs has its place in ours, none is left over."""
    ours = FishFeatures(FishNet(depth=99, norm="batch"))
    mapped = imagenet.our_names({f"{name}.weight": torch.zeros(1) for name in authors_names()})
    assert set(mapped) == {name for name, _ in ours.named_parameters() if name.endswith(".weight")}
    back: dict[str, Tensor] = {}
    for name in authors_names():
        for part in ("weight", "bias", "running_mean", "running_var"):
            target = next(iter(imagenet.our_names({f"{name}.{part}": torch.zeros(1)})), None)
            if target in ours.state_dict():
                back[f"module.{name}.{part}"] = torch.randn_like(ours.state_dict()[target])
    torch.save({"state_dict": back}, tmp_path / "fishnet99_ckpt.tar")
    ours.load_state_dict(imagenet.our_names(imagenet.read_classifier(tmp_path / "fishnet99_ckpt.tar")))
    assert torch.equal(ours.state_dict()["head.2.1.conv2.weight"], back["module.fish.fish.9.0.1.conv2.weight"])
    assert torch.equal(
        ours.state_dict()["body.1.0.norm1.running_mean"], back["module.fish.fish.5.0.0.bn1.running_mean"]
    )


def test_switchable_convolutions_take_the_plain_ones(tmp_path: Path) -> None:
    original = torchvision.models.resnet18()
    path = str(saved(original, tmp_path / "resnet18.pth"))
    config = ResNet(depth=18, switchable="plain", switchable_stages=(5,), norm="statistics_fixed", pretrained=path)
    backbone = build_backbone(config)
    start_from_imagenet(backbone, config)
    expected, state = original.state_dict(), backbone.state_dict()
    switched = [name for name in state if name.startswith("layer4.1.conv1")]
    assert any(torch.equal(state[name], expected["layer4.1.conv1.weight"]) for name in switched)
    assert not any(state[name].any() for name in switched if name.endswith("difference"))
    assert any(name.endswith("difference") for name in switched)


def test_a_standardized_network_starts_as_the_weights_say(tmp_path: Path) -> None:
    original = torchvision.models.resnet18().eval()
    path = str(saved(original, tmp_path / "resnet18.pth"))
    config = ResNet(depth=18, standardized=True, pretrained=path)
    backbone = build_backbone(config).eval()
    assert start_from_imagenet(backbone, config) == path
    x = torch.randn(1, 3, 64, 64)
    expected = x
    for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        expected = original.get_submodule(name)(expected)
    with torch.no_grad():
        torch.testing.assert_close(backbone(x)[-1], expected, atol=1e-4, rtol=1e-4)
