"""Batch norms of several processes against one process that has all their images, on the CPU with gloo."""

import pytest
import torch
from torch import Tensor, nn

from htc.config import FPN, FishNet, ResNet, Timm
from htc.model.detector import Detector
from htc.model.norms import FrozenBatchNorm2d, SyncBatchNorm2d, norm
from small_detector import small_config
from training.together import together

CHANNELS = 5
SHARES = {"alike": (2, 2), "unlike": (3, 1), "one has none": (2, 0), "one pixel a process": (1, 1)}


def image_of_all(count: int, side: int) -> Tensor:
    """Far from zero, so that a difference of squares would lose its digits."""
    return torch.randn(count, CHANNELS, side, side + 1, generator=torch.Generator().manual_seed(0)) * 3 + 40


def weighted(shape: tuple[int, ...]) -> Tensor:
    """A gradient that differs from pixel to pixel."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def run(layer: nn.Module, x: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Two steps of training: output, gradients and statistics."""
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 1.5, CHANNELS))
        layer.bias.copy_(torch.linspace(-1, 1, CHANNELS))
    x = x.clone().requires_grad_()
    layer.train()(x * 2)
    out = layer(x)
    out.backward(gradient)
    state = {
        name: value.clone() for name, value in layer.state_dict().items() if "running" in name or "tracked" in name
    }
    return {"out": out.detach(), "x": x.grad, "weight": layer.weight.grad, "bias": layer.bias.grad, **state}


@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES)
def test_two_processes_are_one_with_all_images(shares: tuple[int, int]) -> None:
    whole = image_of_all(sum(shares), 1 if shares == (1, 1) else 4)
    gradient = weighted(whole.shape)

    def work(rank: int) -> dict[str, list]:
        part = slice(0, shares[0]) if rank == 0 else slice(shares[0], None)
        return {
            name: value.tolist() for name, value in run(norm("sync", CHANNELS), whole[part], gradient[part]).items()
        }

    first, second = ({name: torch.tensor(value) for name, value in result.items()} for result in together(work))
    expected = run(nn.BatchNorm2d(CHANNELS), whole, gradient)
    for name in ("out", "x"):
        joint = torch.cat([first[name], second[name].view(-1, *whole.shape[1:])])
        torch.testing.assert_close(joint, expected[name], atol=2e-5, rtol=1e-4)
    for name in ("weight", "bias"):  # what data-parallel training adds up
        torch.testing.assert_close(first[name] + second[name], expected[name], atol=1e-4, rtol=1e-4)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], expected[name], atol=1e-5, rtol=1e-5)


def test_bfloat16_keeps_its_type_and_exact_statistics() -> None:
    x = image_of_all(2, 4).bfloat16()

    def work(_rank: int) -> tuple[str, list[float]]:
        layer = norm("sync", CHANNELS).train()
        assert isinstance(layer, SyncBatchNorm2d)
        return str(layer(x).dtype), layer.running_mean.tolist()

    for kind, mean in together(work):
        assert kind == "torch.bfloat16"
        torch.testing.assert_close(torch.tensor(mean), 0.1 * x.float().mean((0, 2, 3)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_alone_it_is_a_batch_norm(training: bool) -> None:
    x = image_of_all(2, 4)
    sync, plain = norm("sync", CHANNELS).train(training), nn.BatchNorm2d(CHANNELS).train(training)
    assert torch.equal(sync(x), plain(x))
    assert all(torch.equal(a, b) for a, b in zip(sync.state_dict().values(), plain.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "backbone",
    [ResNet(depth=18, norm="sync"), Timm(name="dpn48b", norm="sync"), FishNet(depth=99, norm="sync")],
    ids=lambda b: b.kind,
)
def test_every_batch_norm_of_the_detector_is_converted(backbone: ResNet | Timm | FishNet) -> None:
    heads = {"mask_norm": "sync", "box_norm": "sync", "box_convs": 1}
    config = small_config(
        1, semantic={"norm": "sync"}, backbone=backbone, neck=FPN(channels=16, norm="sync"), cascade=heads
    )
    detector = Detector(config)
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)]
    assert norms
    assert all(isinstance(module, SyncBatchNorm2d | FrozenBatchNorm2d) for module in norms)
    assert sum(isinstance(module, SyncBatchNorm2d) for module in norms) > 20
    for part in (detector.neck, detector.semantic, detector.roi.box_heads, detector.roi.mask_heads):
        assert any(isinstance(module, SyncBatchNorm2d) for module in part.modules())
