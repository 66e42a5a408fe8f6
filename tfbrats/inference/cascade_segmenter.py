"""A whole case -> label map through paper B's cascade WT -> TC -> ET, as one TensorFlow graph.

`predict`, the exported SavedModel and the server run all of it; training asks it for predicted boxes. Each
stage slides its network over a box: the brain's for WT, then the parent region's grown by a margin. A region
lies in its parent whatever its network says, and where a parent is empty no tile of its children is run.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfbrats.config import Cascade
from tfbrats.errors import InputError
from tfbrats.graphs.boxes_graph import box_of, crop, grown, is_empty, uncrop
from tfbrats.graphs.pieces import in_pieces
from tfbrats.graphs.preprocess_graph import cropped
from tfbrats.inference import patches_graph, rules_graph
from tfbrats.inference.answers import in_values, label_values
from tfbrats.inference.ensemble import Ensemble, entropy_of
from tfbrats.inference.scales import multi_scale
from tfbrats.labels import REGIONS, LabelSchema
from tfbrats.tuning.choices import PLAIN, Tuned

_SCALES = 3  # x1, x0.5, x2


# --- one stage ------------------------------------------------------------------------------------------


def tile_origins(low, high, size: int, stride: int):
    """First voxels of the tiles along one axis of a box [low, high), which they cover: int32 [n].

    They step by `stride` and the last one ends with the box; a box no longer than a tile gets one tile, round
    its middle, which may stick out of it; an empty box none.
    """
    length = high - low
    steps = tf.maximum(-(-(length - size) // stride), 0)
    stepped = tf.minimum(low + stride * tf.range(steps + 1), high - size)
    origins = tf.where(length > size, stepped, low + (length - size) // 2)
    return origins[: tf.where(length > 0, steps + 1, 0)]


def _scales_of(network: keras.Model, modalities: int, region: str) -> int:
    """How many scales of a patch a network takes: 3, or 1 for x1 alone."""
    channels = network.inputs[0].shape[-1]
    if channels not in (modalities, _SCALES * modalities):
        raise InputError(
            f"the network of {region} takes {channels} channels; expected {modalities} (the modalities at x1) "
            f"or {_SCALES * modalities} (at x1, x0.5 and x2). Was it trained on other modalities?"
        )
    return channels // modalities


def _probabilities(network: keras.Model, patch):
    """float32 [N, S, S, S, channels] -> [N, S, S, S, 1]."""
    return tf.sigmoid(tf.cast(network(patch, training=False)["logits"], tf.float32))


def _that_hold(parent, origins, size: int):
    """Those of the tiles, int32 [n, 3], in which some of the parent region, bool [i, j, k], lies."""
    shape = tf.shape(parent)

    def holds(start):
        inside = tf.stack([tf.maximum(start, 0), tf.minimum(start + size, shape)], axis=1)
        return tf.reduce_any(crop(parent, inside))

    return tf.boolean_mask(origins, tf.map_fn(holds, origins, fn_output_signature=tf.bool))


def _patches(image, halved, origins, size: int):
    """What a network sees of tiles, int32 [n, 3]: float32 [n, S, S, S, M], or 3 M where there is `halved`."""
    x1 = patches_graph.window(image, origins, size)
    if halved is None:
        return x1
    return multi_scale(x1, patches_graph.cut_half(halved, origins - size // 2, size))


def _add(total, tiles, origins, box):
    """Adds tiles [n, S, S, S] to the sum over a box, float32 of its shape; only what lies in the box counts."""
    low, high = box[:, 0], box[:, 1]
    size = tiles.shape[1]

    def add_tile(n, total):
        start = origins[n]
        first, last = tf.maximum(low - start, 0), tf.minimum(high - start, size)
        inside = crop(tiles[n], tf.stack([first, last], axis=1))
        place = tf.stack([start + first - low, start + last - low], axis=1)
        return n + 1, total + uncrop(inside, place, high - low)

    return tf.while_loop(
        lambda n, _: n < tf.shape(origins)[0],
        add_tile,
        (0, total),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None] * 3)),
        parallel_iterations=1,
    )[1]


def _tiles_on_each_voxel(axes, box, size: int):
    """How many tiles of the whole grid hold each voxel of a box: float32 of its shape.

    Args:
        axes: for each axis the first voxels of the tiles along it, int32 [n].
    """
    # Tiles form a grid: how many hold a voxel is a product over the axes.
    along = []
    for axis, origins in enumerate(axes):
        from_start = tf.range(box[axis, 0], box[axis, 1])[:, None] - origins
        holds = tf.logical_and(from_start >= 0, from_start < size)
        along.append(tf.reduce_sum(tf.cast(holds, tf.float32), axis=1))
    return along[0][:, None, None] * along[1][:, None] * along[2]


def slide(network: keras.Model, image, box, patch_size: int, settings: Cascade, parent=None, halved=None):
    """Slides a network over a box; where tiles overlap, the plain mean of their probabilities.

    Memory is that of `settings.tile_batch` tiles, the box and a second image, however many tiles there are.

    Args:
        network: of `networks.build`, from patches at three scales or at x1 alone.
        image: float32 [i, j, k, M], z-scored.
        box: int32 [3, 2], half-open ranges; may be empty.
        patch_size: S.
        parent: bool [i, j, k]: tiles that hold none of it are not run, and only in it is the answer right.
            None: the whole box.
        halved: of `patches_graph.halves`, where several stages see one image; not looked at for x1 alone.

    Returns:
        probabilities, float32 of the box's shape, and how many tiles were run, int32 [].
    """
    scales = _scales_of(network, image.shape[-1], network.name)
    axes = [tile_origins(box[axis, 0], box[axis, 1], patch_size, settings.stride) for axis in range(3)]
    # origins: ~4 x 5 x 4 of them for a brain
    origins = tf.reshape(tf.stack(tf.meshgrid(*axes, indexing="ij"), axis=-1), [-1, 3])
    if parent is not None:
        origins = _that_hold(parent, origins, patch_size)
    tiles = tf.shape(origins)[0]
    if scales == 1:
        halved = None
    elif halved is None:
        halved = patches_graph.halves(image)

    def add_batch(done, total):
        batch = origins[done : done + settings.tile_batch]
        # patches: 1 x 64 x 64 x 64 x 12
        probabilities = _probabilities(network, _patches(image, halved, batch, patch_size))[..., 0]
        return done + tf.shape(batch)[0], _add(total, probabilities, batch, box)

    _, total = tf.while_loop(
        lambda done, _: done < tiles,
        add_batch,
        (0, tf.zeros(box[:, 1] - box[:, 0])),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None] * 3)),
        parallel_iterations=1,
    )
    return total / _tiles_on_each_voxel(axes, box, patch_size), tiles


# --- the cascade ----------------------------------------------------------------------------------------


class Stage(NamedTuple):
    """A stage's answer, on the crop's grid.

    Attributes:
        probabilities: float32 [i, j, k], 0 outside the parent region.
        mask: bool [i, j, k]: where they reach the threshold.
        child_box: int32 [3, 2]: the mask's box grown by the margin, where the next stage looks; may be empty.
        tiles: int32 []: how many were run.
    """

    probabilities: Any
    mask: Any
    child_box: Any
    tiles: Any


def _descend(networks: Mapping, image, brain, regions: Sequence[str], patch_size: int, settings: Cascade):
    """Runs stages one after the other from the brain down: region -> Stage."""
    shape = tf.shape(brain)
    parent, box = brain, box_of(brain)
    stages = {}
    several = settings.mask == "box" and len(regions) > 1
    halved = patches_graph.halves(image) if several else None
    for region in regions:
        seen = tf.where(parent[..., None], image, 0.0) if settings.mask == "multiply" else image
        average, tiles = slide(networks[region], seen, box, patch_size, settings, parent, halved)
        probabilities = tf.where(parent, uncrop(average, box, shape), 0.0)
        mask = tf.logical_and(parent, probabilities >= settings.threshold)
        parent, box = mask, grown(box_of(mask), settings.margin, shape)
        stages[region] = Stage(probabilities, mask, box, tiles)
    return stages


class Parent(NamedTuple):
    """Where a region's patches are to be cut, going by the networks above it.

    Attributes:
        found: bool []; False: a stage above found nothing, and box and mask are empty.
        box: int32 [3, 2], half-open ranges: the parent's, grown by the margin.
        mask: bool [i, j, k]: the parent itself, outside which `mask: multiply` zeroes the image.
    """

    found: Any
    box: Any
    mask: Any


def predicted_parent(
    networks: Mapping[str, keras.Model], image, brain, region: str, patch_size: int, settings: Cascade
) -> Parent:
    """The parent of a region as a whole case would give it: for training on predicted boxes.

    Over many cases, call it in a `tf.function(reduce_retracing=True)`.

    Args:
        networks: region -> network, of at least the regions above.
        image: float32 or float16 [i, j, k, M], z-scored and cropped to the brain; a tensor or numpy.
        brain: bool or uint8 [i, j, k].
        region: whose parent; WT's is the brain.
    """
    image, brain = tf.cast(image, tf.float32), tf.cast(brain, tf.bool)
    order = list(REGIONS)
    above = order[: order.index(region)]
    if not above:
        box, mask = box_of(brain), brain
    else:
        last = _descend(networks, image, brain, above, patch_size, settings)[above[-1]]
        box, mask = last.child_box, last.mask
    return Parent(tf.logical_not(is_empty(box)), box, mask)


class CascadeSegmenter(tf.Module):
    """Three trained networks with everything round them, from raw modalities to a label map.

    Args:
        networks: region -> trained network of `networks.build`.
        modalities: names and order of the image's channels.
        patch_size: S, the tile that the networks were trained on.
        settings: the config's section `cascade`.
        schema: the label values that come out.
        n4_modalities, n4_shrink: as `preprocess_graph.cropped`.
        tuned: what was chosen on validation cases.

    Raises:
        InputError: a network is missing or takes other channels, the stride leaves gaps, the schema lacks a
            tissue, or `tuned` chooses what a cascade does not have.
    """

    def __init__(
        self,
        networks: Mapping[str, keras.Model],
        modalities: Sequence[str],
        patch_size: int,
        settings: Cascade,
        schema: LabelSchema,
        n4_modalities: Sequence[str] = (),
        n4_shrink: int = 1,
        tuned: Tuned = PLAIN,
    ):
        super().__init__()
        missing = [region for region in REGIONS if region not in networks]
        if missing:
            raise InputError(
                f"no network of {', '.join(missing)}; a cascade needs {', '.join(REGIONS)}. Train it first."
            )
        if settings.stride > patch_size:
            raise InputError(
                f"cascade.stride is {settings.stride}, tiles are {patch_size} voxels wide: gaps would stay "
                f"between them. Choose at most {patch_size}."
            )
        for region in REGIONS:
            _scales_of(networks[region], len(modalities), region)
        self.networks = {region: networks[region] for region in REGIONS}
        self.modalities = tuple(modalities)
        self._patch_size, self._settings = patch_size, settings
        self._values = label_values(schema)
        self._n4 = tuple(n4_modalities), n4_shrink
        tuned.check_fits("regions", "cascade")
        self.tuned = tuned

    @property
    def is_average(self) -> bool:
        """Whether an answer is the mean of several passes."""
        return any(isinstance(network, Ensemble) for network in self.networks.values())

    def patches(self, region: str, patch):
        """float32 [N, S, S, S, channels] z-scored patches -> probabilities of the region, [N, S, S, S, 1]."""
        return in_pieces(
            lambda some: {"probabilities": _probabilities(self.networks[region], some)},
            patch,
            self._settings.tile_batch,
            {"probabilities": tf.zeros([0, *[self._patch_size] * 3, 1])},
        )

    def __call__(self, volumes: dict) -> dict:
        """Segments one case.

        Args:
            volumes: modality -> [I, J, K] of any size, int16 or float32, brain extracted, background 0.

        Returns:
            segmentation: uint8 [I, J, K] in the schema's values.
            probabilities: float32 [I, J, K, 3] of WT, TC, ET; at the threshold and above where the region is.
            entropy: uint8 [I, J, K, 3] of these before pieces and holes; of `Ensemble`s alone.
            tiles: int32 [3], how many tiles each stage ran.
        """
        image, brain, box, shape = cropped(volumes, self.modalities, *self._n4)
        stages = self._stages(image, brain)
        if self.tuned.is_plain:
            values = _values_of({region: stage.mask for region, stage in stages.items()}, self._values)
            regions = tf.stack([stages[region].probabilities for region in REGIONS], axis=-1)
            undecided = regions
        else:
            evidence, chosen = _evidence_of(stages, brain), self.tuned.in_cascade(self._settings.threshold)
            tissues, regions = rules_graph.decide(evidence, chosen)
            undecided = rules_graph.undecided(evidence, chosen)
            values = in_values(tissues, self._values)
        return {
            "segmentation": uncrop(values, box, shape),
            "probabilities": uncrop(regions, box, shape),
            **({"entropy": uncrop(entropy_of(undecided), box, shape)} if self.is_average else {}),
            "tiles": tf.stack([stages[region].tiles for region in REGIONS]),
        }

    def evidence(self, volumes: dict) -> dict:
        """What the networks say of a case before anything is decided: the evidence of `tuning.rules`.

        A network sees what the stage above found, and its probabilities depend on that. One level alone settles
        it, `Tuned.floor` (by default `cascade.threshold`): the next stage's box, the tiles that are run and,
        with `mask: multiply`, what of the image is zeroed go by where the probability reaches the floor.
        Thresholds and all other rules come after the last stage. So one evidence serves every choice with that
        floor, and numpy and graph decide alike. A threshold may lie under the floor: what lies between the two
        has none of the regions inside.

        Args:
            volumes: as a whole case's.

        Returns:
            on the grid [i, j, k] of the brain's box: `regions`, float32 [i, j, k, 3], 0 where the region above
            does not reach the floor; `brain`, bool. And `box`, int32 [3, 2], and `shape`, int32 [3]: which box
            of which grid that is (`boxes_graph.uncrop`); `tiles`, int32 [3].
        """
        image, brain, box, shape = cropped(volumes, self.modalities, *self._n4)
        stages = self._stages(image, brain)
        tiles = tf.stack([stages[region].tiles for region in REGIONS])
        return {**_evidence_of(stages, brain), "box": box, "shape": shape, "tiles": tiles}

    def _stages(self, image, brain) -> dict[str, Stage]:
        floor = self._settings.threshold if self.tuned.floor is None else self.tuned.floor
        settings = self._settings.model_copy(update={"threshold": floor})
        return _descend(self.networks, image, brain, list(REGIONS), self._patch_size, settings)


def _evidence_of(stages: Mapping[str, Stage], brain) -> dict:
    return {"regions": tf.stack([stages[region].probabilities for region in REGIONS], axis=-1), "brain": brain}


def _values_of(masks: Mapping, values: Sequence[int]):
    """Nested regions, bool [i, j, k], as the values to write, of `label_values`."""
    background, ncr, ed, et = (tf.constant(value, tf.uint8) for value in values)
    written = background
    for region, value in (("WT", ed), ("TC", ncr), ("ET", et)):
        written = tf.where(masks[region], value, written)
    return written
