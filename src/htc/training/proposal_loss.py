"""The losses of whatever makes the proposals."""

from typing import Any

from htc.model.rpn import ProposalHead
from htc.model.variants.guided_anchoring import GuidedHead
from htc.training.guided_loss import guided_losses
from htc.training.losses import Term
from htc.training.rpn_loss import rpn_losses
from htc.types import Batch


def proposal_losses(head: ProposalHead | GuidedHead, levels: Any, batch: Batch) -> dict[str, Term]:
    """Terms named `rpn.*` of what `head` said of the pyramid's levels."""
    match head:
        case ProposalHead():
            return rpn_losses(head, levels, batch)
        case GuidedHead():
            return guided_losses(head, levels, batch)
