"""Which training pictures an epoch holds, and which of them share a batch."""

from htc.config.section import Fraction, Section


class Sampling(Section):
    """How often pictures are seen in an epoch, and how they are grouped; the default is once each, in any company."""

    group_by_shape: bool = False
    """Landscape and portrait pictures in batches of their own, so that little of a batch is padding."""
    repeat_threshold: Fraction | None = None
    """Repeat-factor sampling (LVIS, Gupta et al. 2019, appendix A): a class c that only a fraction f(c) below this
    threshold t of the pictures shows is seen sqrt(t / f(c)) times as often, by repeating its pictures. LVIS takes
    0.001. Null: every picture once.
    """
