"""What is random in a phantom, and the soft shapes that it is built of. Pure numpy."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Draws:
    """All that is drawn for one case: each thing from a stream of its own, so that no change moves the others.

    Attributes:
        seed: of the data set.
        number: of the case.
    """

    seed: int
    number: int

    def stream(self, what: str) -> np.random.Generator:
        """The stream of one thing, e.g. "tumour"."""
        return np.random.default_rng([self.seed, self.number, zlib.crc32(what.encode())])

    def noise(self, what: str, cells: int, shape: Sequence[int]) -> np.ndarray:
        """A smooth field of `smooth_noise`, from the stream of that name."""
        return smooth_noise(self.stream(what), cells, shape)

    def is_one_in(self, period: int, what: str) -> bool:
        """Whether this is the one case number in `period` that has something; which one depends on the seed."""
        return (self.number + zlib.crc32(f"{what} {self.seed}".encode())) % period == 0


def smooth_noise(random: np.random.Generator, cells: int, shape: Sequence[int]) -> np.ndarray:
    """A cubic B-spline through random knots: float32 of `shape`, mean about 0, deviation about 1.

    Args:
        cells: between knots, along each axis; features are about this many across.
    """
    field = random.standard_normal((cells + 3,) * 3, dtype=np.float32)
    for side in shape:
        # Each pass contracts the first axis with its splines and appends the sampled one.
        position = np.linspace(0, cells, side)
        distance = np.abs(position[:, None] + 1 - np.arange(cells + 3))
        near = 2 / 3 - distance**2 + distance**3 / 2
        spline = np.where(distance < 1, near, np.clip(2 - distance, 0, None) ** 3 / 6)
        field = np.tensordot(field, spline.astype(np.float32), axes=(0, 1))
    # The knots' weights sum to 1 and their squares, on average, to 0.479 an axis.
    return field / np.float32(0.479**1.5)


def ramp(value: np.ndarray, centre: float, width: float) -> np.ndarray:
    """0 below, 1 above, linear over `width` around `centre`: a share of a voxel."""
    return np.clip((value - centre) / width + 0.5, 0, 1)


def ellipsoid(x, y, z, centre: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    """About the distance inside the surface: positive within, 0 on it."""
    squares = [((a - c) / r) ** 2 for a, c, r in zip((x, y, z), centre, radii, strict=True)]
    return (1 - np.sqrt(squares[0] + squares[1] + squares[2])) * min(radii)
