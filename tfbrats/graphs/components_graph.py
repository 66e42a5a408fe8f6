"""Connected components of a mask inside the graph, and its holes: the twin of `metrics.components`.

Of a mask only its runs are looked at: voxels that follow each other along the last axis. Runs of neighbouring
lines that touch are found by binary search, and they are united by hooking and pointer jumping (Shiloach and
Vishkin, J. Algorithms 1982): each root hooks onto the smallest root that it touches, every run jumps to its
root, and pairs that have one root by now are dropped. The rounds are few, however long and winding a component
is. Memory goes by the runs, which touch two or three others in each of four lines on the mean.
"""

import tensorflow as tf

from tfbrats.graphs.boxes_graph import box_of, crop, uncrop

# Neighbours of a voxel -> of each line after its own, (di, dj), how far along k the two may be apart.
_LINES = {
    6: (((0, 1), 0), ((1, 0), 0)),
    18: (((0, 1), 1), ((1, 0), 1), ((1, -1), 0), ((1, 1), 0)),
    26: (((0, 1), 1), ((1, 0), 1), ((1, -1), 1), ((1, 1), 1)),
}


def numbered(mask, neighbours: int = 26):
    """Mask -> the number of each voxel's component.

    Args:
        mask: bool [I, J, K], of any size, 0 too.
        neighbours: of a voxel: 6, 18 or 26.

    Returns:
        int32 [I, J, K], from 1 on in C order of each component's first voxel, 0 outside; and how many there
        are, int32 [].
    """
    box = box_of(mask)
    inside = crop(mask, box)
    begins, ends = _runs(inside)
    roots = _united(tf.shape(begins)[0], *_touching(begins, ends, tf.shape(inside), neighbours))
    is_root = tf.cast(tf.equal(roots, tf.range(tf.shape(roots)[0])), tf.int32)
    of_runs = tf.gather(tf.cumsum(is_root), roots)
    return uncrop(_spread(of_runs, inside), box, tf.shape(mask)), tf.reduce_sum(is_root)


def holes(mask):
    """Parts of the background, 6-connected, that do not touch the border: bool [I, J, K]."""
    box = box_of(mask)
    # Round the mask's box all is background, in one part with what touches the border: it comes first.
    framed = tf.pad(crop(mask, box), [[1, 1]] * 3)
    parts, _ = numbered(tf.logical_not(framed), neighbours=6)
    return uncrop(parts[1:-1, 1:-1, 1:-1] > 1, box, tf.shape(mask))


def _runs(mask):
    """First and last voxel of each run along k, in C order, int32 [R] each: places in a grid of K + 2 a line.

    A line's voxels stand one place further on than in the mask: what lies beside its ends is in no other line.
    """
    _, _, depth = tf.unstack(tf.shape(mask))
    framed = tf.reshape(tf.pad(mask, [[0, 0], [0, 0], [1, 1]]), [-1, depth + 2])
    begins = tf.logical_and(framed[:, 1:], tf.logical_not(framed[:, :-1]))
    ends = tf.logical_and(framed[:, :-1], tf.logical_not(framed[:, 1:]))

    def places(marks, shift: int):
        line, k = tf.unstack(tf.cast(tf.where(marks), tf.int32), axis=1)
        return line * (depth + 2) + k + shift

    return places(begins, 1), places(ends, 0)


def _touching(begins, ends, shape, neighbours: int):
    """Pairs of runs that touch, int32 [E] each.

    Args:
        begins, ends: of `_runs`.
        shape: of the mask, int32 [3].
    """
    width, depth = shape[1], shape[2] + 2
    j = tf.math.floormod(begins // depth, width)
    ones, others = [], []
    for (di, dj), reach in _LINES[neighbours]:
        there = (di * width + dj) * depth
        first = tf.searchsorted(ends, begins + there - reach, side="left")
        after = tf.searchsorted(begins, ends + there + reach, side="right")
        is_beside = tf.logical_and(j + dj >= 0, j + dj < width)
        counts = tf.where(is_beside, after - first, 0)
        # Run r touches those from first[r] on, counts[r] of them.
        past = tf.cumsum(counts)
        pair = tf.range(tf.reduce_sum(counts))
        one = tf.searchsorted(past, pair, side="right")
        ones.append(one)
        others.append(tf.gather(first, one) + pair - tf.gather(past - counts, one))
    return tf.concat(ones, axis=0), tf.concat(others, axis=0)


def _united(runs, ones, others):
    """The smallest run of each run's component: int32 [R].

    Args:
        runs: R, int32 [].
        ones, others: of `_touching`.
    """

    def jump(roots, _):
        above = tf.gather(roots, roots)
        return above, tf.reduce_any(tf.not_equal(above, roots))

    def hook(roots, ones, others):
        low, high = tf.minimum(ones, others), tf.maximum(ones, others)
        roots = tf.minimum(roots, tf.math.unsorted_segment_min(low, high, runs))
        roots, _ = tf.while_loop(lambda _, is_deep: is_deep, jump, (roots, tf.constant(True)))
        ones, others = tf.gather(roots, ones), tf.gather(roots, others)
        apart = tf.not_equal(ones, others)
        return roots, tf.boolean_mask(ones, apart), tf.boolean_mask(others, apart)

    any_length = tf.TensorShape([None])
    return tf.while_loop(
        lambda _, ones, __: tf.size(ones) > 0,
        hook,
        (tf.range(runs), ones, others),
        shape_invariants=(any_length,) * 3,
    )[0]


def _spread(of_runs, mask):
    """A number of each run, int32 [R], at each of its voxels, 0 outside the mask: int32 [i, j, k]."""
    before = tf.pad(mask, [[0, 0], [0, 0], [1, 0]])[:, :, :-1]
    begins = tf.reshape(tf.logical_and(mask, tf.logical_not(before)), [-1])
    run = tf.cumsum(tf.cast(begins, tf.int32))
    spread = tf.reshape(tf.gather(tf.pad(of_runs, [[1, 0]]), run), tf.shape(mask))
    return tf.where(mask, spread, 0)
