"""G_t where a mask path carries more than one feature: levels, details, a second branch's input."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class PackedFlow(nn.Module):
    """Reads m^-, the first `width` channels; what it says is added to every level alike and to no details."""

    def __init__(self, flow: nn.Module, width: int, levels: int, details: int) -> None:
        super().__init__()
        self.flow, self.width, self.levels, self.details = flow, width, levels, details

    def forward(self, features: Float[Tensor, "N _ 14 14"]) -> Float[Tensor, "N _ 14 14"]:
        """(N, at least width, 14, 14) -> (N, levels C + details, 14, 14)"""
        said = self.flow(features[:, : self.width]).repeat(1, self.levels, 1, 1)
        return F.pad(said, (0, 0, 0, 0, 0, self.details))
