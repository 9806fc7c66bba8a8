"""Context modules of the semantic branch, written out."""

import pytest
import torch
import torch.nn.functional as F

from htc.config import ASPP, GCN, NoContext, Semantic
from htc.model.semantic import SemanticBranch
from htc.model.variants.context import AtrousPyramid, GlobalConvolution, build_context

C = 6


@pytest.mark.parametrize("size", [(9, 13), (1, 1)])
def test_aspp_sets_views_of_several_widths_side_by_side(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net, x = AtrousPyramid(C, ASPP(rates=(2, 4)), "none"), torch.randn(2, C, *size)
    views = [F.conv2d(x, net.point.conv.weight, net.point.conv.bias).relu()]
    for rate, dilated in zip((2, 4), net.dilated, strict=True):
        weight, bias = dilated.conv.weight, dilated.conv.bias  # type: ignore[union-attr]
        spread = torch.zeros(C, C, 2 * rate + 1, 2 * rate + 1)
        spread[:, :, ::rate, ::rate] = weight.detach()  # type: ignore[union-attr]
        views.append(F.conv2d(x, spread, bias, padding=rate).relu())  # type: ignore[arg-type]
    mean = F.adaptive_avg_pool2d(x, 1)
    views.append(F.conv2d(mean, net.mean.conv.weight, net.mean.conv.bias).relu().expand_as(x))
    expected = F.conv2d(torch.cat(views, 1), net.project.conv.weight, net.project.conv.bias).relu()
    torch.testing.assert_close(net(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("k", [3, 7])
def test_gcn_sees_k_by_k_pixels_by_lines(k: int) -> None:
    """One point of light reaches exactly k x k pixels, and its image is the sum of both orders' outer products."""
    torch.manual_seed(0)
    net = GlobalConvolution(1, GCN(kernel=k))  # type: ignore[arg-type]
    for line in (*net.down_across, *net.across_down):
        torch.nn.init.uniform_(line.weight, 0.1, 1)  # type: ignore[arg-type]
        torch.nn.init.zeros_(line.bias)  # type: ignore[arg-type]
    x = torch.zeros(1, 1, 21, 21)
    x[0, 0, 10, 10] = 1
    seen = net(x)[0, 0]
    down, across = net.down_across[0].weight.flatten().flip(0), net.down_across[1].weight.flatten().flip(0)  # type: ignore[operator]
    across2, down2 = net.across_down[0].weight.flatten().flip(0), net.across_down[1].weight.flatten().flip(0)  # type: ignore[operator]
    expected = torch.outer(down, across) + torch.outer(down2, across2)
    low = 10 - k // 2
    torch.testing.assert_close(seen[low : low + k, low : low + k], expected, atol=1e-5, rtol=1e-4)
    assert int((seen > 0).sum()) == k * k


def test_none_adds_nothing_to_the_branch() -> None:
    assert isinstance(build_context(C, NoContext(), "none"), torch.nn.Identity)
    assert not [name for name in SemanticBranch(C, Semantic(channels=C)).state_dict() if name.startswith("context")]


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_batch_of_one_trains_with_any_norm(norm: str) -> None:
    for config in (ASPP(rates=(1,)), GCN()):
        build_context(C, config, norm)(torch.randn(1, C, 4, 4)).sum().backward()  # type: ignore[arg-type]
