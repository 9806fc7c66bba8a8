"""Necks: the pyramid P2-P6 from C2-C5."""

from typing import Literal

from htc.config.section import Positive, Section

LayerNorm = Literal["none", "batch", "sync", "group"]


class FPN(Section):
    """Feature pyramid network: P2-P5, and P6 as a stride-2 subsample of P5."""

    kind: Literal["fpn"] = "fpn"
    channels: Positive = 256
    norm: LayerNorm = "none"


class PAFPN(Section):
    """FPN with PANet's bottom-up path, as the original implements it."""

    kind: Literal["pafpn"] = "pafpn"
    channels: Positive = 256
    norm: LayerNorm = "none"


class RecursiveFPN(Section):
    """DetectoRS' recursive feature pyramid: FPN, and again after a second backbone that knows the first pyramid.
    Needs a ResNet.
    """

    kind: Literal["rfp"] = "rfp"
    channels: Positive = 256
    norm: LayerNorm = "none"
