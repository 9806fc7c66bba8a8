"""Images of an epoch, their order, and their distribution over ranks: pure functions of (seed, epoch), equal in every
process.
"""

import hashlib
from math import ceil

import numpy as np
import torch
from jaxtyping import Float

from htc.config import Sampling
from htc.data.columns import table_of
from htc.data.dataset import Dataset


def pure_seed(*parts: int | str) -> int:
    """A 63-bit hash of `parts`, the same in every process and on every platform."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def pure_generator(*parts: int | str) -> torch.Generator:
    """A random generator that is seeded by `parts` only."""
    return torch.Generator().manual_seed(pure_seed(*parts))


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """Random order of the images 0 .. count-1 in an epoch."""
    return torch.randperm(count, generator=pure_generator("order", seed, epoch)).tolist()


def images_of_epoch(dataset: Dataset, sampling: Sampling, seed: int, epoch: int, step_size: int) -> list[int]:
    """Images of an epoch in their order; each step of all ranks takes the next `step_size`."""
    order = epoch_order(len(dataset), seed, epoch)
    if sampling.repeat_threshold is not None:
        factors = repeat_factors(dataset, sampling.repeat_threshold)
        order = repeated(order, factors, pure_generator("repeats", seed, epoch))
    if sampling.group_by_shape:
        landscape = [height <= width for height, width in table_of(dataset.images).sizes.tolist()]
        order = grouped(order, landscape, step_size, pure_generator("groups", seed, epoch))
    return order


def epoch_length(dataset: Dataset, sampling: Sampling) -> int:
    """Number of images per epoch, including repeats."""
    if sampling.repeat_threshold is None:
        return len(dataset)
    return _length(repeat_factors(dataset, sampling.repeat_threshold))


def batches_per_epoch(dataset: Dataset, sampling: Sampling, batch_size: int, ranks: int = 1) -> int:
    """Number of batches per epoch and rank, for `ranks` processes with `batch_size` images each; the last may be
    smaller.
    """
    return ceil(epoch_length(dataset, sampling) / (batch_size * ranks))


def repeat_factors(dataset: Dataset, threshold: float) -> Float[np.ndarray, " N"]:
    """Average number of repeats of each image per epoch (LVIS, Gupta et al. 2019, appendix A): the maximum of max(1,
    sqrt(threshold / f(c))) over its classes c, where f(c) is the fraction of images that contain c; 1 without
    instances.
    """
    table = table_of(dataset.images).without_crowds()
    labels, images = np.unique(np.stack((table.labels, table.owners)), axis=1)
    counts = np.bincount(labels)
    factors = np.ones(len(dataset))
    np.maximum.at(factors, images, np.sqrt(threshold * len(dataset) / counts[labels]))
    return factors


def _length(factors: Float[np.ndarray, " N"]) -> int:
    whole = np.floor(factors)
    return int(whole.sum()) + ceil(float((factors - whole).sum()) - 1e-9)


def repeated(order: list[int], factors: Float[np.ndarray, " N"], generator: torch.Generator) -> list[int]:
    """Repeat each image by its factor on average, with the same total in every epoch.

    Fractions are rounded by systematic sampling along the order: their sum (rounded up) is reached exactly in every
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


def grouped(order: list[int], landscape: list[bool], group_size: int, generator: torch.Generator) -> list[int]:
    """Reorder the images so that each group of `group_size` has one orientation; the remainder of each comes last."""
    full: list[list[int]] = []
    rest: list[int] = []
    for shape in (True, False):
        alike = [image for image in order if landscape[image] == shape]
        cut = len(alike) - len(alike) % group_size
        full += [alike[start : start + group_size] for start in range(0, cut, group_size)]
        rest += alike[cut:]
    shuffled = [full[index] for index in torch.randperm(len(full), generator=generator).tolist()]
    return [image for group in shuffled for image in group] + rest


def rank_positions(count: int, batch_size: int, rank: int, ranks: int) -> list[list[int]]:
    """Positions of one rank in every step of an epoch of `count` images; every rank has the same number of steps."""
    steps = []
    for start in range(0, count, batch_size * ranks):
        positions = list(range(start, min(start + batch_size * ranks, count)))
        positions += [position % count for position in range(-len(positions) % ranks)]
        steps.append(positions[rank::ranks])
    return steps
