"""Float32 products through oneDNN stay float32, and the switch is put back."""

import pytest
import torch

from htc.ops.onednn import exact_onednn_matmul


def precision() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]


def test_products_are_as_exact_as_the_default() -> None:
    numbers = torch.Generator().manual_seed(3)
    a, b = torch.randn(300, 700, generator=numbers), torch.randn(200, 700, generator=numbers)
    exact = a.double() @ b.double().T
    with exact_onednn_matmul():
        product = torch.nn.functional.linear(a, b)
    assert (product - exact).abs().max() / exact.std() < 1e-5


def test_the_switch_is_put_back_also_after_an_error() -> None:
    before = precision()
    with exact_onednn_matmul(), exact_onednn_matmul():
        pass
    assert precision() == before
    with pytest.raises(ZeroDivisionError), exact_onednn_matmul():
        raise ZeroDivisionError
    assert precision() == before
