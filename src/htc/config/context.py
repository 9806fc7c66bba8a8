"""What widens the view of the semantic branch after its 3x3 convolutions."""

from typing import Annotated, Literal

from pydantic import Field

from htc.config.section import Positive, Section


class NoContext(Section):
    """Nothing: the branch as the paper has it."""

    kind: Literal["none"] = "none"


class ASPP(Section):
    """Atrous spatial pyramid pooling (DeepLab v3, Chen et al. 2017): one 1x1 and several dilated 3x3 convolutions
    and the picture's mean.
    """

    kind: Literal["aspp"] = "aspp"
    rates: Annotated[tuple[Positive, ...], Field(min_length=1)] = (12, 24, 36)
    """Dilation of each 3x3 convolution, in pixels of stride 8."""


class GCN(Section):
    """Global convolutional network (Peng et al. 2017): two pairs of k x 1 and 1 x k convolutions, in either order,
    summed.
    """

    kind: Literal["gcn"] = "gcn"
    kernel: Literal[3, 5, 7, 9, 11, 13, 15] = 7
    """k."""


Context = Annotated[NoContext | ASPP | GCN, Field(discriminator="kind")]
