"""Which images an epoch holds, in which order, and who takes which: pure functions of (seed, epoch), the same on
every process.
"""

import hashlib
from collections import Counter
from math import ceil, sqrt

import numpy as np
import torch
from jaxtyping import Float

from htc.config import Sampling
from htc.data.dataset import Dataset


def pure_seed(*parts: int | str) -> int:
    """A 63-bit number that depends on `parts` alone, whatever the process or platform."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def pure_generator(*parts: int | str) -> torch.Generator:
    """Random numbers that depend on `parts` alone."""
    return torch.Generator().manual_seed(pure_seed(*parts))


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """The images 0 .. count-1 in the order of that epoch."""
    return torch.randperm(count, generator=pure_generator("order", seed, epoch)).tolist()


def images_of_epoch(dataset: Dataset, sampling: Sampling, seed: int, epoch: int, together: int) -> list[int]:
    """The images of an epoch in their order; a step of all processes takes the next `together`."""
    order = epoch_order(len(dataset), seed, epoch)
    if sampling.repeat_threshold is not None:
        factors = repeat_factors(dataset, sampling.repeat_threshold)
        order = repeated(order, factors, pure_generator("repeats", seed, epoch))
    if sampling.group_by_shape:
        landscape = [record.width >= record.height for record in dataset.images]
        order = grouped(order, landscape, together, pure_generator("groups", seed, epoch))
    return order


def epoch_length(dataset: Dataset, sampling: Sampling) -> int:
    """Images in every epoch, repeats included."""
    if sampling.repeat_threshold is None:
        return len(dataset)
    return _length(repeat_factors(dataset, sampling.repeat_threshold))


def batches_per_epoch(dataset: Dataset, sampling: Sampling, batch_size: int, ranks: int = 1) -> int:
    """Batches of an epoch for each of `ranks` processes, of `batch_size` images; the last may be smaller."""
    return ceil(epoch_length(dataset, sampling) / (batch_size * ranks))


def repeat_factors(dataset: Dataset, threshold: float) -> Float[np.ndarray, " N"]:
    """How often each image is to be seen in an epoch, on average (LVIS, Gupta et al. 2019, appendix A): the largest
    max(1, sqrt(threshold / f(c))) of its classes c, where f(c) is the fraction of images that show c; 1 without
    objects.
    """
    shown = [{instance.label for instance in record.instances if not instance.crowd} for record in dataset.images]
    images = Counter(label for labels in shown for label in labels)
    factors = {label: max(1.0, sqrt(threshold * len(dataset) / count)) for label, count in images.items()}
    return np.array([max((factors[label] for label in labels), default=1.0) for labels in shown])


def _length(factors: Float[np.ndarray, " N"]) -> int:
    whole = np.floor(factors)
    return int(whole.sum()) + ceil(float((factors - whole).sum()) - 1e-9)


def repeated(order: list[int], factors: Float[np.ndarray, " N"], generator: torch.Generator) -> list[int]:
    """Each image about as often as its factor says, and as many in all in every epoch.

    Fractions are rounded by systematic sampling along the order: their sum (rounded up) is met exactly, whatever the
    draw.
    """
    whole = np.floor(factors[order])
    fractions = factors[order] - whole
    extra = _length(factors) - int(whole.sum())
    counts = whole.astype(np.int64)
    if extra:
        ends = np.cumsum(fractions) * (extra / fractions.sum())
        ends[-1] = extra
        start = float(torch.rand(1, generator=generator, dtype=torch.double))
        counts += np.diff(np.floor(ends + start), prepend=0.0).astype(np.int64)
    often = np.repeat(np.array(order), counts)
    return often[torch.randperm(len(often), generator=generator).numpy()].tolist()


def grouped(order: list[int], landscape: list[bool], together: int, generator: torch.Generator) -> list[int]:
    """The same images so that each next `together` are of one shape, but for what is left over of each, which
    comes last.
    """
    full: list[list[int]] = []
    rest: list[int] = []
    for shape in (True, False):
        alike = [image for image in order if landscape[image] == shape]
        cut = len(alike) - len(alike) % together
        full += [alike[start : start + together] for start in range(0, cut, together)]
        rest += alike[cut:]
    shuffled = [full[place] for place in torch.randperm(len(full), generator=generator).tolist()]
    return [image for group in shuffled for image in group] + rest


def rank_positions(count: int, batch_size: int, rank: int, ranks: int) -> list[list[int]]:
    """The positions of one rank in every step of an epoch of `count` images; the same number of steps for every
    rank.
    """
    steps = []
    for start in range(0, count, batch_size * ranks):
        together = list(range(start, min(start + batch_size * ranks, count)))
        together += [position % count for position in range(-len(together) % ranks)]
        steps.append(together[rank::ranks])
    return steps
