"""The suite checks the shapes that functions and dataclasses annotate."""

import pytest
import torch
from jaxtyping import TypeCheckError

from htc.ops.boxes import iou


def test_a_wrong_shape_is_an_error() -> None:
    with pytest.raises(TypeCheckError, match="first"):
        iou(torch.zeros(3, 5), torch.zeros(2, 4))
