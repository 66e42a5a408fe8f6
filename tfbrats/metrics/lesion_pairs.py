"""Which lesion of a prediction is which of the reference: pairs, one to one. Pure numpy and SciPy: no I/O.

The pairs are those whose Dice together is largest: a maximum bipartite matching weighted by Dice. A lesion that
would lower the sum goes without a partner, though it may overlap with one.
"""

import math
from collections.abc import Iterator

import numpy as np
from scipy import optimize, sparse

_LARGEST_TABLE = 1_000_000  # lesions x predicted lesions: 8 MB, a second


def one_to_one(predicted: np.ndarray, lesions: np.ndarray, least_dice: float) -> dict[int, tuple[int, float]]:
    """Number of a reference lesion -> number of its partner and their Dice; without those that have none.

    Args:
        predicted: numbers of the predicted lesions [I, J, K] from 1 on, 0 outside.
        lesions: of the reference's, same shape.
        least_dice: what a pair must exceed.
    """
    sizes, predicted_sizes = (np.bincount(each.ravel(order="K"))[1:] for each in (lesions, predicted))
    both = (predicted > 0) & (lesions > 0)
    pairs = overlaps(predicted[both] - 1, lesions[both] - 1, len(predicted_sizes))
    found = of_counts(predicted_sizes, sizes, *pairs, least_dice)
    return {lesion + 1: (partner + 1, dice) for lesion, (partner, dice) in found.items()}


def overlaps(
    predicted: np.ndarray, lesions: np.ndarray, number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which pairs overlap, and by how many voxels: predicted [Q], lesion [Q], voxels [Q], sorted by lesion.

    Args:
        predicted: of each voxel that both sides have, its predicted lesion from 0 on, [V].
        lesions: its lesion of the reference.
        number: of predicted lesions.
    """
    pairs, shared = np.unique(lesions.astype(np.int64) * number + predicted, return_counts=True)
    rows, columns = np.divmod(pairs, max(number, 1))
    return columns, rows, shared


def of_counts(
    predicted_sizes: np.ndarray,
    sizes: np.ndarray,
    predicted: np.ndarray,
    lesions: np.ndarray,
    shared: np.ndarray,
    least_dice: float,
) -> dict[int, tuple[int, float]]:
    """As `one_to_one`, from voxels counted once: every lesion by its index, from 0 on.

    Args:
        predicted_sizes: voxels of each predicted lesion.
        sizes: of each lesion of the reference.
        predicted, lesions, shared: of `overlaps`.
    """
    dice = 2 * shared / (sizes[lesions] + predicted_sizes[predicted])
    rows, columns, dice = (each[dice > least_dice] for each in (lesions, predicted, dice))
    partner_of = {}
    for here, there, table in _tables(rows, columns, dice, (len(sizes), len(predicted_sizes))):
        for row, column in zip(*optimize.linear_sum_assignment(table, maximize=True), strict=True):
            if table[row, column] > 0:
                partner_of[int(here[row])] = int(there[column]), float(table[row, column])
    return partner_of


def _tables(
    rows: np.ndarray, columns: np.ndarray, dice: np.ndarray, shape: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Which rows, which columns and their Dice [rows, columns]: one table of all, unless that grew too large.

    Then lesions that share no candidate have tables apart: thousands of specks on both sides need none of
    millions. The sums are the same, but of equally good partners others may be chosen; so not without need.

    Args:
        rows: of each candidate pair, as `columns` and `dice`.
        shape: of the whole table.
    """
    if math.prod(shape) <= _LARGEST_TABLE:
        table = np.zeros(shape)
        table[rows, columns] = dice
        yield np.arange(shape[0]), np.arange(shape[1]), table
        return
    edges = sparse.coo_matrix((dice, (rows, shape[0] + columns)), (sum(shape), sum(shape)))
    islands = sparse.csgraph.connected_components(edges, directed=False)[1][rows]
    order = np.argsort(islands, kind="stable")
    for together in np.split(order, np.flatnonzero(np.diff(islands[order])) + 1):
        here, row_at = np.unique(rows[together], return_inverse=True)
        there, column_at = np.unique(columns[together], return_inverse=True)
        table = np.zeros((len(here), len(there)))
        table[row_at, column_at] = dice[together]
        yield here, there, table
