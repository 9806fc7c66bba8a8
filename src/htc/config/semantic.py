"""The semantic branch."""

from typing import Annotated, Literal

from pydantic import Field

from htc.config.context import Context, NoContext
from htc.config.neck import LayerNorm
from htc.config.section import Positive, Section


class Semantic(Section):
    """The semantic branch (paper, section 3.3): fused at stride 8, four 3x3 convolutions, a prediction and an
    embedding.
    """

    classes: Positive = 183
    channels: Positive = 256
    convs: Positive = 4
    norm: LayerNorm = "none"
    context: Context = NoContext()
    """What follows the 3x3 convolutions (paper, section 4.6)."""
    loss_weight: Annotated[float, Field(ge=0)] = 0.2
    """beta of Eq. 7: 1 in the paper, 0.2 in every released configuration."""
    ignore: int = 255
    loss_average: Literal["labelled", "all"] = "labelled"
    """Divide by the labelled pixels (the paper's code) or by all pixels (mmdetection since August 2021)."""
