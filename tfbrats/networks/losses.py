"""The losses of both papers: loss weighted sampling (A, arXiv 1907.07677, eq. 1-4), binary cross-entropy (B);
and the outlines that paper A's baseline BFCN learns beside the regions.

keras.ops only. Tissues, regions and classes stay as they come, uint8: Keras' `ops.equal(uint8, 1)` compares
int32, which TensorFlow does in the host's memory, also where a GPU trains.

Sums and ratios are kept apart: numerator and denominator are returned, and whoever holds the global batch
divides. A mean of each replica's ratio would not be the paper's loss.
"""

from keras import ops

from tfbrats.labels import LEARNED_OF, LwsRegion, Tissue


def targets(tissues):
    """The two U-Nets' classes from tissues [N, H, W], integers too: WT 0/1, and 0..3 as `labels.Tissue`.

    The papers know neither a resection cavity (2024), which counts as non-tumour, nor a cyst (PED), which
    counts as NCR: it belongs to the core and does not enhance.
    """
    tissues = ops.convert_to_tensor(tissues)
    rest, core = (
        ops.convert_to_tensor(int(tissue), tissues.dtype) for tissue in (Tissue.BACKGROUND, Tissue.NCR)
    )
    parts = ops.where(_is(tissues, Tissue.RC), rest, tissues)
    parts = ops.where(_is(parts, Tissue.CC), core, parts)
    return ops.cast(ops.greater(parts, rest), tissues.dtype), parts


def _is(classes, value: int):
    """Where `classes`, integers of any shape, have a value; compared in their own type."""
    classes = ops.convert_to_tensor(classes)
    return ops.equal(classes, ops.convert_to_tensor(int(value), classes.dtype))


def region_counts(regions, whole_tumour):
    """N_pos and N_S2 of each slice, float32 [N] each.

    N_pos counts all tumour pixels in the brain, the contour's included ([ours]: counting S3 alone, small
    tumours, which are all contour, would give p2 = 0).
    """
    in_brain = ops.logical_not(_is(regions, LwsRegion.S1))
    tumour = ops.logical_and(_is(whole_tumour, 1), in_brain)
    normal = _is(regions, LwsRegion.S2)
    return (
        ops.sum(ops.cast(tumour, "float32"), axis=(1, 2)),
        ops.sum(ops.cast(normal, "float32"), axis=(1, 2)),
    )


def sampling_probability(positives, normals, beta: float, floor: float):
    """p2 = min(1, beta * N_pos / N_S2), at least `floor` (eq. 3). Any shape."""
    share = beta * positives / ops.maximum(normals, 1.0)
    return ops.clip(share, floor, 1.0)


def sample_weights(regions, draws, p2, contour_weight: float):
    """W of U-Net1 and U-Net2 (eq. 2), float32 [N, H, W] each.

    Args:
        regions: `labels.LwsRegion` [N, H, W].
        draws: uniform in [0, 1), float32 [N, H, W]: a normal-brain pixel counts when its draw is below p2.
        p2: scalar, or [N] with `lws.scope: slice`.
        contour_weight: alpha1.

    Returns:
        U-Net1: S1 0, S2 0 or 1 (drawn), S3 1, S4 alpha1. U-Net2: S1 0, S2 0, S3 1, S4 1 (alpha2).
    """
    p2 = ops.reshape(ops.convert_to_tensor(p2), (-1, 1, 1))
    drawn = ops.cast(ops.less(draws, p2), "float32")
    inside = ops.cast(_is(regions, LwsRegion.S3), "float32")
    contour = ops.cast(_is(regions, LwsRegion.S4), "float32")
    normal = ops.cast(_is(regions, LwsRegion.S2), "float32")
    return drawn * normal + inside + contour_weight * contour, inside + contour


def weighted_cross_entropy_sum(logits, classes, weights):
    """The numerator of eq. 1: sum of W * CE over everything.

    Args:
        logits: float32 [N, H, W, C].
        classes: integers [N, H, W].
        weights: float32 [N, H, W].
    """
    # A row for each class: loops over pixels are long, those over a pixel's few classes are not.
    rows = ops.transpose(ops.reshape(logits, (-1, logits.shape[-1])))
    chosen = ops.one_hot(ops.reshape(classes, (-1,)), logits.shape[-1], axis=0, dtype=logits.dtype)
    entropy = ops.logsumexp(rows - ops.sum(chosen * rows, axis=0), axis=0)
    return ops.sum(ops.reshape(weights, (-1,)) * entropy)


def ratio(numerator, denominator):
    """Eq. 1's quotient; 0 where no pixel has weight (U-Net2 on a batch without tumour)."""
    return ops.where(denominator > 0, numerator / ops.maximum(denominator, 1e-7), 0.0)


def data_loss(parts, branches, omega):
    """Eq. 4 without its last term: L1 + L2 + omega * (the eight auxiliary losses). `parts`: {name: loss}."""
    return sum(parts[name] for name in branches) + omega * sum(
        loss for name, loss in parts.items() if name not in branches
    )


def outlines(tissues, width_px: int):
    """Where the outline of WT, TC or ET runs: 0 or 1, uint8 [N, H, W].

    A region's outermost pixels, those with a pixel outside the region among their eight neighbours, make a line
    one pixel wide; it is widened by as much on either side. Where the slice ends is no outline.

    Args:
        tissues: integers [N, H, W].
        width_px: 1, 3, 5 ...: of the line, with the outermost pixels in its middle.
    """
    _, parts = targets(tissues)
    masks = [
        sum(ops.cast(_is(parts, tissue), "float32") for tissue in classes) for classes in LEARNED_OF.values()
    ]
    regions = ops.stack(masks, axis=-1)
    touches_outside = ops.max_pool(1.0 - regions, 3, strides=1, padding="same", data_format="channels_last")
    line = ops.max(regions * touches_outside, axis=-1, keepdims=True)
    wide = ops.max_pool(line, width_px, strides=1, padding="same", data_format="channels_last")
    return ops.cast(wide[..., 0], "uint8")


def balancing_weights(positive, valid, positives, pixels):
    """W of a rare class and the rest: 1/frequency and 1, so that neither outweighs the other.

    Args:
        positive: 0 or 1, [N, H, W].
        valid: float32, broadcasts to it; 0 where nothing counts.
        positives, pixels: how many of the global batch's counting pixels are positive, and how many there are.
    """
    weight = pixels / ops.maximum(positives, 1.0)
    return ops.where(_is(positive, 1), weight, 1.0) * valid


def binary_cross_entropy_sum(logits, targets, weights):
    """Paper B's loss (eq. 2, whose minus sign is missing in print), summed over everything.

    Args:
        logits: float32 [N, ...], before the sigmoid.
        targets: 0 or 1, [N, ...].
        weights: float32 [N], of whole examples.
    """
    targets = ops.cast(targets, logits.dtype)
    # -log sigmoid(x) where the target is 1, -log(1 - sigmoid(x)) where it is 0: no overflow, and a gradient of
    # one half at 0, where max(x, 0) has none.
    entropy = ops.softplus(logits * (1.0 - 2.0 * targets))
    return ops.sum(weights * ops.sum(entropy, axis=tuple(range(1, len(logits.shape)))))
