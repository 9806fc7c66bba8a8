"""torchvision's Mask R-CNN, both versions: its state dict in our detector finds exactly what torchvision's own model
finds.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNN
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from htc.checkpoint.facts import UserFacts
from htc.checkpoint.fit import expected_shapes, shapes_of
from htc.checkpoint.formats.torchvision import COCO_OUTPUTS, read_torchvision
from htc.checkpoint.infer import infer_config
from htc.checkpoint.load import load_model
from htc.checkpoint.native import from_pretrained, save_pretrained
from htc.checkpoint.stored import Stored
from htc.config import RPN
from htc.errors import CheckpointError
from htc.model.detector import Detector
from htc.model.rpn import ProposalHead
from htc.ops.roi_pool import Pyramid
from htc.ops.roi_pool_variants import sampled_roi_pool
from htc.types import RawDetections
from small_detector import random_images

SIZES = [(64, 96), (56, 80)]
BUILDERS: dict[str, Callable[..., MaskRCNN]] = {"v1": maskrcnn_resnet50_fpn, "v2": maskrcnn_resnet50_fpn_v2}


def random_model(version: str, classes: int = 4, *, seed: int = 0) -> MaskRCNN:
    """With weights of a seed whose norms keep the scale of the features, so that classes, boxes and masks differ."""
    torch.manual_seed(seed)
    model = BUILDERS[version](
        weights=None, weights_backbone=None, num_classes=classes, rpn_pre_nms_top_n_test=60, rpn_post_nms_top_n_test=50
    ).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.3, 0.7)
            nn.init.normal_(module.bias, std=0.2)
    for name, std in (
        ("rpn.head.cls_logits", 0.2),
        ("roi_heads.box_predictor.cls_score", 0.3),
        ("roi_heads.box_predictor.bbox_pred", 0.03),
    ):
        for parameter in model.get_submodule(name).parameters():
            nn.init.normal_(parameter, std=std)
    return model


@torch.no_grad()
def theirs(model: MaskRCNN, images: Tensor) -> list[dict[str, Tensor]]:
    """torchvision's detections in network pixels, masks on their grid of 28 x 28."""
    features = model.backbone(images)
    proposals, _ = model.rpn(ImageList(images, SIZES), features)
    return model.roi_heads(features, proposals, SIZES)[0]


@torch.no_grad()
def ours(path: Path, images: Tensor) -> RawDetections:
    loaded = load_model(path, overrides={"rpn": {"candidates_per_level": 60, "proposals": 50}})
    detector = Detector(loaded.config).eval()
    detector.load_state_dict(loaded.state_dict)
    return detector(images, torch.tensor(SIZES))


def assert_same(found: RawDetections, expected: list[dict[str, Tensor]]) -> None:
    for row, one in enumerate(expected):
        kept = found.valid[row]
        assert int(kept.sum()) == len(one["scores"]) > 2
        torch.testing.assert_close(found.scores[row][kept], one["scores"], atol=1e-5, rtol=1e-4)
        assert torch.equal(found.labels[row][kept] + 1, one["labels"])
        torch.testing.assert_close(found.boxes[row][kept], one["boxes"], atol=1e-2, rtol=1e-4)
        torch.testing.assert_close(found.masks[row][kept], one["masks"][:, 0], atol=1e-4, rtol=1e-3)
    assert len(torch.cat([one["labels"] for one in expected]).unique()) > 1  # so that a wrong order of classes shows


def stored(state: dict[str, Tensor]) -> Stored:
    return Stored(Path("model.pth"), state, {name: name for name in state}, state)


def empty_state(version: str, classes: int) -> dict[str, Tensor]:
    """Every name and shape of the model, values zero and shared."""
    with torch.device("meta"):
        model = BUILDERS[version](weights=None, weights_backbone=None, num_classes=classes)
    return {
        name: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for name, tensor in model.state_dict().items()
    }


@pytest.mark.parametrize("version", BUILDERS)
def test_detects_what_torchvision_detects(tmp_path: Path, version: str) -> None:
    model, images = random_model(version), random_images()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    assert_same(ours(tmp_path / "model.pth", images), theirs(model, images))


@pytest.mark.parametrize("version", BUILDERS)
def test_coco_models_keep_the_ids_of_ninety_outputs(version: str) -> None:
    read = read_torchvision(stored(empty_state(version, COCO_OUTPUTS + 1)))
    config = infer_config(shapes_of(read.weights), read.facts.fields, read.classes)
    assert config.category_ids == tuple(range(1, 91))
    assert (config.classes[0], config.classes[11], config.classes[89]) == ("person", "N/A 12", "toothbrush")
    assert (
        shapes_of(read.weights).items()
        >= {k: v for k, v in expected_shapes(config).items() if not k.endswith("num_batches_tracked")}.items()
    )
    assert (config.rpn.kind, config.rpn.convs if config.rpn.kind == "rpn" else 0) == (
        "rpn",
        {"v1": 1, "v2": 2}[version],
    )
    assert (config.neck.norm, config.cascade.box_convs) == {"v1": ("none", 0), "v2": ("batch", 4)}[version]


def test_names_of_before_2021_mean_the_same() -> None:
    state = empty_state("v1", 3)
    old = {}
    for name, tensor in state.items():
        plain = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for index in range(4):
            plain = plain.replace(f"mask_head.{index}.0.", f"mask_head.mask_fcn{index + 1}.").replace(
                f"_blocks.{index}.0.", f"_blocks.{index}."
            )
        old[plain] = tensor
    assert old.keys() != state.keys()
    assert read_torchvision(stored(old)).weights.keys() == read_torchvision(stored(state)).weights.keys()


def frozen_state(builder: Callable[..., nn.Module], stem: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names and shapes of a ResNet-FPN detector with frozen norms, of which the stem's have values."""
    with torch.device("meta"):
        state = MaskRCNN(builder(), 3).state_dict()
    zeros = {
        name: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }
    return zeros | {f"backbone.body.bn1.{name}": tensor for name, tensor in stem.items()}


def resnet(name: str) -> Callable[..., nn.Module]:
    return lambda: resnet_fpn_backbone(backbone_name=name, weights=None)


@pytest.mark.parametrize(
    ("network", "told", "epsilon"),
    [
        *(("resnet50", None, 0.0), ("resnet50", 0, 0.0), ("resnet50", 1e-5, 1e-5)),
        *(("resnet101", None, 1e-5), ("resnet101", 1e-5, 1e-5), ("resnet101", 0, 0.0)),
        *(("resnet34", None, 1e-5), ("resnext50_32x4d", None, 1e-5), ("wide_resnet50_2", None, 1e-5)),
    ],
)
def test_the_epsilon_of_frozen_norms(network: str, told: float | None, epsilon: float) -> None:
    """torchvision runs its released ResNet-50 with 0, which shows where variances are small, and every other network
    with 1e-5.
    """
    plain = FrozenBatchNorm2d(64, eps=epsilon)
    plain.running_var.uniform_(1e-5, 1e-3)  # type: ignore[operator]
    plain.weight.uniform_(0.5, 1.5)  # type: ignore[operator]
    read = read_torchvision(stored(frozen_state(resnet(network), plain.state_dict())), told)
    norm = nn.BatchNorm2d(64).eval()
    norm.load_state_dict({name: read.weights[f"backbone.bn1.{name}"] for name in plain.state_dict()}, strict=False)
    x = torch.randn(2, 64, 3, 3)
    torch.testing.assert_close(norm(x), plain(x), atol=1e-4, rtol=1e-4)
    other = FrozenBatchNorm2d(64, eps=1e-5 - epsilon)
    other.load_state_dict(plain.state_dict())
    assert not torch.allclose(norm(x), other(x), atol=1e-2)
    assumed = [note for note in read.notes if "--norm-epsilon 1e-5" in note]
    assert len(assumed) == (network == "resnet50" and told is None)
    assert any("no epsilon" in what for _, what in read.reordered) is (epsilon == 0)


def test_norms_that_count_batches_have_an_epsilon() -> None:
    assert not read_torchvision(stored(empty_state("v2", 3))).notes
    with pytest.raises(CheckpointError, match="remove --norm-epsilon"):
        read_torchvision(stored(empty_state("v2", 3)), 0)


def test_colors_are_not_told_of_torchvisions_files(tmp_path: Path) -> None:
    state = {
        name: tensor.clone()
        for name, tensor in empty_state("v1", 3).items()
        if not name.endswith("num_batches_tracked")
    }
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="--colors has no effect"):
        load_model(tmp_path / "model.pth", facts=UserFacts("bgr"))
    noted = load_model(tmp_path / "model.pth", facts=UserFacts(norm_epsilon=0))
    assert "backbone.bn1.weight" in dict(noted.report.reordered)


def test_a_preset_of_other_anchors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"(?s)rpn\.anchor_grid: the file has torchvision.*cascade\.pooling"):
        load_model("mask_rcnn_r50_fpn_1x_coco", path)
    loaded = load_model(path)
    assert loaded.config.classes == ("class 1", "class 2", "class 3")
    save_pretrained(loaded.state_dict, loaded.config, tmp_path / "native")
    assert from_pretrained(tmp_path / "native")[0] == loaded.config


def test_faster_rcnn_is_a_detector_without_masks(tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in empty_state("v1", 3).items() if ".mask_" not in name}
    torch.save(state, tmp_path / "faster.pth")
    assert load_model(tmp_path / "faster.pth").config.cascade.mask_head.kind == "none"


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in empty_state("v1", 3).items() if name != "rpn.head.bbox_pred.bias"}
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"missing: rpn\.deltas\.bias"):
        load_model(tmp_path / "model.pth")


@pytest.mark.parametrize("shape", [(64, 96), (800, 1056)])
def test_anchors_are_torchvisions(shape: tuple[int, int]) -> None:
    maps = [torch.zeros(1, 1, -(-shape[0] // stride), -(-shape[1] // stride)) for stride in (4, 8, 16, 32, 64)]
    generator = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    head = ProposalHead(1, RPN(anchor_grid="torchvision"))
    found = [head.anchors(level) for level in head(tuple(maps))]
    assert torch.equal(torch.cat(found), generator(ImageList(torch.zeros(1, 3, *shape), [shape]), maps)[0])


@pytest.mark.parametrize("regions", [0, 40])
def test_pooling_is_torchvisions(regions: int) -> None:
    numbers = torch.Generator().manual_seed(3)
    maps = [torch.randn(2, 3, 64 // 2**level, 96 // 2**level, generator=numbers) for level in range(4)]
    corners = torch.rand(2, regions, 2, generator=numbers) * 200
    boxes = torch.cat([corners, corners + torch.rand(2, regions, 2, generator=numbers) ** 2 * 300], -1)
    pool = MultiScaleRoIAlign(list("0123"), 7, 2)
    expected = pool(
        {str(level): features for level, features in enumerate(maps)}, list(boxes.unbind()), [(256, 384)] * 2
    )
    torch.testing.assert_close(sampled_roi_pool(Pyramid(tuple(maps), (4, 8, 16, 32)), boxes, 7), expected)
