"""From shards to batches of patches: both kinds hold the same voxels, an epoch is the same every time."""

import numpy as np
import pytest
import tensorflow as tf
from upsampling import upsampled_centre

from tfbrats.batches import patch_stream
from tfbrats.batches.stream import Share
from tfbrats.cases import patches
from tfbrats.cases.boxes import box_of
from tfbrats.errors import InputError
from tfbrats.inference import patches_graph, scales
from tfbrats.labels import REGIONS, Tissue, region_mask
from tfbrats.machine import files
from tfbrats.records import tfrecord
from tfbrats.records.schema import SCHEMAS, decode

KINDS = ("patches", "volumes")


def take(dataset, steps=10**6):
    return [{name: value.numpy() for name, value in batch.items()} for batch in dataset.take(steps)]


def training(
    patch_records, kind, region="TC", epoch=0, batch=2, steps=6, overrides=(), workers=1, worker=0, **more
):
    settings, manifest = patch_records.config(kind, *overrides), patch_records.manifest(kind)
    share = Share(batch, workers, worker)
    return take(patch_stream.training(manifest, settings, region, epoch, share, **more), steps)


def validation(patch_records, kind, region="TC", batch=4, overrides=(), workers=1, worker=0):
    settings, manifest = patch_records.config(kind, *overrides), patch_records.manifest(kind)
    share = Share(batch, workers, worker)
    return take(patch_stream.validation(manifest, settings, region, "validation", share))


def same(a, b):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        if not all(np.array_equal(one[name], other[name]) for name in one):
            return False
    return True


def stored(patch_records, kind, shard):
    schema = SCHEMAS[kind]
    path = files.join(patch_records.folders[kind], shard.file)
    return [decode(schema, content) for content in tfrecord.read_records(path)]


@pytest.fixture(scope="module")
def volumes(patch_records):
    """case id -> the stored volume."""
    found = {}
    for shard in patch_records.manifest("volumes").shards:
        found |= {one["case_id"]: one for one in stored(patch_records, "volumes", shard)}
    return found


@pytest.fixture(scope="module")
def centre_of(volumes):
    """`centre_of(patch)` -> case id and voxel of the crop, or None if its middle is outside the brain."""
    places = {}
    for case_id, volume in volumes.items():
        for voxel in np.argwhere(volume["brain"]):
            places[volume["image"][tuple(voxel)].tobytes()] = (case_id, tuple(voxel))

    def of(patch):
        middle = patch[8, 8, 8]
        return places[middle.tobytes()] if middle.any() else None

    return of


def drawn(label, region, box, count=4000, fraction=0.5, seed=0):
    """Centres by the rule in the graph."""
    box = tf.constant(np.array(box), tf.int32)
    seeds = tf.constant([seed, 7])
    return patch_stream._centres(tf.constant(label), region, box, tf.range(count), fraction, seeds).numpy()


def a_label(shape=(18, 15, 12)):
    label = np.zeros(shape, np.uint8)
    label[4:14, 3:12, 2:9] = Tissue.ED
    label[6:11, 5:10, 4:8] = Tissue.NCR
    label[7:9, 6:9, 5:7] = Tissue.ET
    return label


# --- the two kinds --------------------------------------------------------------------------------------


def test_what_is_cut_from_a_stored_volume_is_what_was_stored_as_a_patch_to_the_bit(patch_records, volumes):
    seen = dict.fromkeys(REGIONS, 0)
    beyond = 0
    for shard in patch_records.manifest("patches").shards:
        for patch in stored(patch_records, "patches", shard):
            volume = volumes[patch["case_id"]]
            centre = (patch["centre_ijk"] - volume["origin_ijk"]).astype(np.int32)
            assert np.all((centre >= 0) & (centre < volume["label"].shape))
            image = patches_graph.framed(volume["image"])
            found = patch_stream.cut(image, tf.constant(volume["label"]), tf.constant(centre), 16)
            for name in ("x1", "half", "label"):
                assert found[name].dtype == patch[name].dtype
                assert found[name].numpy().tobytes() == patch[name].tobytes(), (patch["case_id"], name)
            seen[patch["region"]] += 1
            beyond += np.any(centre < 8) or np.any(centre + 8 > volume["label"].shape)
    assert set(seen.values()) == {5 * 6}
    assert beyond > 10  # patches that reach out of their volume


def test_the_batches_of_both_kinds_have_one_form(patch_records):
    one, other = (training(patch_records, kind, steps=1)[0] for kind in KINDS)
    for batch in (one, other):
        assert {name: (value.shape, value.dtype.name) for name, value in batch.items()} == {
            "x1": ((2, 16, 16, 16, 4), "float16"),
            "half": ((2, 16, 16, 16, 4), "float16"),
            "target": ((2, 16, 16, 16), "uint8"),
            "valid": ((2,), "float32"),
        }
        assert set(np.unique(batch["target"])) <= {0, 1} and np.all(batch["valid"] == 1)
        # What a device is sent: 17 bytes a voxel, where the network's input in float32 has 48.
        assert sum(value.nbytes for value in batch.values()) == 2 * (16**3 * 17 + 4)


def test_a_stored_patch_reaches_the_network_as_x1_half_and_the_upsampled_x1(patch_records):
    manifest = patch_records.manifest("patches")
    [shard] = manifest.shards_of("validation", "WT")
    written = stored(patch_records, "patches", shard)
    batches = validation(patch_records, "patches", "WT", batch=3)
    images = np.concatenate([scales.network_input(batch) for batch in batches])
    targets = np.concatenate([batch["target"] for batch in batches])
    assert len(images) == len(written)
    for image, target, patch in zip(images, targets, written, strict=True):
        assert np.array_equal(image[..., :4], patch["x1"].astype(np.float32))
        assert np.array_equal(image[..., 4:8], patch["half"].astype(np.float32))
        assert np.array_equal(image[..., 8:], upsampled_centre(patch["x1"]))
        assert np.array_equal(target, region_mask(patch["label"], "WT"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_original_unet_sees_the_modalities_at_x1_alone(patch_records, kind):
    plain = training(patch_records, kind, overrides=("model.name=unet3d",), steps=2)
    scaled = training(patch_records, kind, steps=2)
    for one, three in zip(plain, scaled, strict=True):
        assert set(one) == {"x1", "target", "valid"}
        assert np.array_equal(one["x1"], three["x1"])
        assert np.array_equal(scales.network_input(one), scales.network_input(three)[..., :4])


@pytest.mark.parametrize("kind", KINDS)
def test_modalities_of_a_patch_are_in_the_configs_order(patch_records, volumes, kind):
    """The brightest modality of a voxel far inside is the brightest in the volume that it was cut from."""
    assert patch_records.manifest(kind).modalities == patch_records.config(kind).data.modalities
    known = {v["image"][tuple(c)].tobytes() for v in volumes.values() for c in np.argwhere(v["brain"])}
    for batch in training(patch_records, kind, steps=3):
        for image in batch["x1"]:
            middle = image[8, 8, 8]
            assert not middle.any() or middle.tobytes() in known


# --- streams --------------------------------------------------------------------------------------------


def test_a_regions_stream_holds_its_own_patches_and_an_epoch_each_of_them_once(patch_records):
    manifest = patch_records.manifest("patches")
    for region in REGIONS:
        shards = manifest.shards_of("train", region)
        assert {shard.region for shard in shards} == {region}
        written = [one for shard in shards for one in stored(patch_records, "patches", shard)]
        assert {one["region"] for one in written} == {region}
        settings = patch_records.config("patches")
        assert patch_stream.count(manifest, settings, "train", region) == len(written) == 24
        batches = training(patch_records, "patches", region, batch=8, steps=3)
        got = sorted(image.tobytes() for batch in batches for image in batch["x1"])
        assert got == sorted(one["x1"].tobytes() for one in written)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_epoch_is_the_same_stream_and_the_next_another(patch_records, kind):
    first, again, other = (training(patch_records, kind, "ET", epoch) for epoch in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)
    reseeded = training(patch_records, kind, "ET", 1, overrides=("train.seed=9",))
    assert not same(first, reseeded)


def test_volumes_give_new_patches_every_epoch_and_patches_the_old_ones_in_another_order(patch_records):
    def of(kind, epoch):
        return {
            image.tobytes()
            for batch in training(patch_records, kind, "WT", epoch, batch=8, steps=3)
            for image in batch["x1"]
        }

    assert of("patches", 0) == of("patches", 1)
    fresh, later = of("volumes", 0), of("volumes", 1)
    assert len(fresh) > 20 and len(fresh & later) < 3


def test_regions_are_cut_at_places_of_their_own(patch_records):
    one, other = (training(patch_records, "volumes", region, batch=8, steps=3) for region in ("WT", "ET"))
    places = [{image.tobytes() for batch in stream for image in batch["x1"]} for stream in (one, other)]
    assert len(places[0] & places[1]) < 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first_step", [5, 14])
def test_going_on_at_a_step_sees_what_that_step_would_have_seen(patch_records, kind, first_step):
    """An epoch is 12 steps: step 14 lies in the second round."""
    whole = training(patch_records, kind, steps=first_step + 3)
    rest = training(patch_records, kind, steps=3, first_example=2 * first_step)
    assert same(whole[first_step:], rest)


@pytest.mark.parametrize("kind", KINDS)
def test_other_intensities_are_drawn_for_training_alone_and_are_the_same_again(patch_records, kind):
    change = ("data.intensity_change=0.3",)
    before, after = training(patch_records, kind), training(patch_records, kind, overrides=change)
    assert same(after[3:], training(patch_records, kind, overrides=change, first_example=6, steps=3))
    assert same(validation(patch_records, kind), validation(patch_records, kind, overrides=change))
    for name in ("x1", "half"):
        one, other = (np.float32([batch[name] for batch in batches]) for batches in (before, after))
        brain = (one != 0).any(-1)
        assert np.abs(other - one)[brain].mean() > 0.05 and (other[~brain] == 0).all()
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one["target"], other["target"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_with_shards_of_its_own_skips_its_own_part(patch_records, kind):
    """Two shards, two workers: of a step of two patches each worker gives one."""
    whole = training(patch_records, kind, "WT", steps=3, workers=2)
    rest = training(patch_records, kind, "WT", steps=1, first_example=4, workers=2)
    assert same(whole[2:3], rest)


@pytest.mark.parametrize("kind", KINDS)
def test_workers_that_read_all_shards_have_a_batch_between_them(patch_records, kind):
    """Two shards, three workers."""
    whole = training(patch_records, kind, "WT", batch=6, steps=2, first_example=6)
    parts = [
        training(patch_records, kind, "WT", batch=6, steps=2, first_example=6, workers=3, worker=worker)
        for worker in range(3)
    ]
    assert same([together(step) for step in zip(*parts, strict=True)], whole)


@pytest.mark.parametrize("kind", KINDS)
def test_workers_validate_every_patch_once_and_fill_up_the_same_batch(patch_records, kind):
    whole = validation(patch_records, kind, batch=8)
    parts = [validation(patch_records, kind, batch=8, workers=2, worker=worker) for worker in range(2)]
    assert same([together(step) for step in zip(*parts, strict=True)], whole)


def together(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "padding"), [(5, 4), (6, 0)])
def test_validation_is_the_same_every_time_counts_each_patch_once_and_fills_up_with_nothing(
    patch_records, kind, batch, padding
):
    batches = validation(patch_records, kind, batch=batch)
    assert same(batches, validation(patch_records, kind, batch=batch))
    valid = np.concatenate([one["valid"] for one in batches])
    assert valid.tolist() == [1] * 6 + [0] * padding
    images, targets = (np.concatenate([one[name] for one in batches]) for name in ("x1", "target"))
    assert not images[6:].any() and not targets[6:].any()
    assert len({image.tobytes() for image in images[:6]}) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_where_cases_choose_each_patch_says_whose_it_is(patch_records, kind):
    settings, manifest = patch_records.config(kind, "train.select=dice"), patch_records.manifest(kind)
    batches = take(patch_stream.validation(manifest, settings, "TC", "train", Share(5)))
    case, valid = (np.concatenate([batch[name] for batch in batches]) for name in ("case", "valid"))
    each = settings.sampling.patches_per_case
    assert np.bincount(case[valid > 0]).tolist() == [each] * len(manifest.cases["train"])
    # The case without a tumour is the one whose targets are empty.
    full = np.concatenate([batch["target"].any(axis=(1, 2, 3)) for batch in batches])
    of_tumour = {manifest.cases["train"][n] for n in case[full]}
    assert of_tumour == {*manifest.cases["train"]} - {patch_records.without_tumour}


def test_validation_on_volumes_is_no_matter_of_how_many_patches_a_read_gives(patch_records):
    counts = {
        per_read: sum(
            one["valid"].sum()
            for one in validation(patch_records, "volumes", overrides=(f"data.patches_per_read={per_read}",))
        )
        for per_read in (1, 5, 100)
    }
    assert set(counts.values()) == {6}


def test_an_epoch_on_volumes_draws_as_many_patches_of_every_case(patch_records, volumes):
    """Uneven reads too: 6 patches by 4 a read are 4 and 2."""
    in_order = ("data.shuffle_buffer=1",)  # a shuffled stream looks ahead into the next round
    batches = training(patch_records, "volumes", batch=24, steps=1, overrides=in_order)
    voxels = {
        case_id: {voxel.tobytes() for voxel in volume["image"][volume["brain"] > 0]}
        for case_id, volume in volumes.items()
    }
    owners = []
    for image in batches[0]["x1"]:
        first = image[image.any(axis=-1)][0].tobytes()
        owners += [case_id for case_id, known in voxels.items() if first in known]
    train = patch_records.manifest("volumes").cases["train"]
    assert sorted(owners) == sorted(6 * train)
    assert sorted(owners[:16]) == sorted(4 * train)  # no case gives more before all have given these


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_split_is_an_error_that_names_it(patch_records, kind):
    settings, manifest = patch_records.config(kind), patch_records.manifest(kind)
    with pytest.raises(InputError, match="no test examples"):
        patch_stream.validation(manifest, settings, "WT", "test", Share(2))


@pytest.mark.parametrize("kind", KINDS)
def test_no_stream_waits_for_a_thread_that_tunes_it_when_it_ends(patch_records, kind):
    common = (patch_records.manifest(kind), patch_records.config(kind), "WT")
    streams = [
        patch_stream.training(*common, 0, Share(2)),
        patch_stream.validation(*common, "validation", Share(2)),
    ]
    assert [stream.options().autotune.enabled for stream in streams] == [False, False]


# --- the sampling rule in the graph ---------------------------------------------------------------------


@pytest.mark.parametrize("region", REGIONS)
def test_the_graph_draws_centres_as_numpy_does(region):
    label = a_label()
    box = patches.parent_box(label, region, 1)
    ours = drawn(label, region, box)
    theirs = patches.centres(label, region, box, 4000, 0.5, np.random.default_rng(0))
    low, high = np.array(box).T
    mask = region_mask(label, region)
    for found in (ours, theirs):
        assert np.all((found >= low) & (found < high))
        assert np.all(mask[tuple(found[1::2].T)])  # every second one is drawn on the region
        # Uniform in the box: every face is reached, and the mean is its middle.
        assert np.array_equal(found[::2].min(axis=0), low) and np.array_equal(found[::2].max(axis=0), high - 1)
        assert np.allclose(found[::2].mean(axis=0), (low + high - 1) / 2, atol=0.5)
        # ... and uniform on the region: every voxel about as often.
        _, times = np.unique(found[1::2], axis=0, return_counts=True)
        assert len(times) > 0.9 * mask.sum() and times.max() < 4 * max(times.mean(), 5)
    spread = [
        np.histogramdd(found, bins=(6, 5, 4), range=[(0, n) for n in label.shape])[0]
        for found in (ours, theirs)
    ]
    assert np.abs(spread[0] - spread[1]).max() < 6 * np.sqrt(spread[0].max())


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_the_same_patches_of_a_case_are_on_the_region_in_graph_and_numpy(fraction):
    label = a_label()
    far = ((14, 18), (12, 15), (9, 12))  # a box without a voxel of the region
    found = drawn(label, "ET", far, 100, fraction)
    on_region = region_mask(label, "ET")[tuple(found.T)]
    assert np.array_equal(on_region, patches.on_region(np.arange(100), fraction))


def test_a_later_read_of_a_case_goes_on_where_the_one_before_ended():
    label, far = a_label(), tf.constant([[14, 18], [12, 15], [9, 12]])
    found = [
        patch_stream._centres(
            tf.constant(label), "ET", far, tf.range(first, first + 1), 0.5, tf.constant([1, n])
        )
        for n, first in enumerate(range(6))
    ]
    assert [bool(region_mask(label, "ET")[tuple(c.numpy()[0])]) for c in found] == [False, True] * 3


@pytest.mark.parametrize("missing", ["ET", "TC", "WT"])
@pytest.mark.parametrize("region", REGIONS)
def test_box_and_mask_of_what_lies_above_are_numpys_whatever_a_case_lacks(region, missing):
    label = a_label()
    keep = {"ET": (Tissue.NCR, Tissue.ED), "TC": (Tissue.ED,), "WT": ()}[missing]
    label = np.where(np.isin(label, keep), label, 0).astype(np.uint8)
    for margin in (0, 2, 50):
        ours = patches_graph.parent_box(tf.constant(label), region, margin).numpy().tolist()
        assert ours == [list(side) for side in patches.parent_box(label, region, margin)]
    above = patches.ancestor(label, region)
    expected = np.ones(label.shape, bool) if above is None else region_mask(label, above)
    assert np.array_equal(patches_graph.ancestor(tf.constant(label), region), expected)
    mask = region_mask(label, region)
    found = drawn(label, region, patches.parent_box(label, region, 2), 200)
    assert mask[tuple(found.T)].any() == mask.any()  # negatives alone where there is no region


@pytest.mark.parametrize("jitter", [0, 1, 6])
def test_jitter_moves_each_face_by_no_more_than_itself_and_leaves_a_box(jitter):
    shape, box = (18, 15, 12), [[0, 3], [7, 8], [5, 12]]
    moved = np.array(
        [
            patches_graph.jittered(tf.constant(box), jitter, tf.constant(shape), tf.constant([3, seed])).numpy()
            for seed in range(300)
        ]
    )
    low, high = moved[..., 0], moved[..., 1]
    assert np.all((low >= 0) & (low < high) & (high <= shape))
    for n, (was_low, was_high) in enumerate(box):
        assert np.all(np.abs(low[:, n] - was_low) <= jitter)
        assert np.all((np.abs(high[:, n] - was_high) <= jitter) | (high[:, n] == low[:, n] + 1))
        # The bounds are reached, as far as the volume goes.
        assert low[:, n].min() == max(was_low - jitter, 0) and low[:, n].max() == was_low + jitter
        assert high[:, n].max() == max(min(was_high + jitter, shape[n]), low[:, n].max() + 1)


def test_jitter_changes_where_patches_are_cut(patch_records):
    still, shaken = (
        training(
            patch_records, "volumes", "ET", overrides=(f"sampling.box_jitter={n}", "sampling.region_fraction=0")
        )
        for n in (0, 4)
    )
    assert not same(still, shaken)


def test_a_predicted_box_takes_the_place_of_the_references(patch_records, volumes, centre_of):
    cases = patch_records.manifest("volumes").cases["train"]
    given = {cases[0]: [[5, 7], [8, 10], [6, 8]], cases[1]: [[2, 3], [9, 12], [5, 6]]}
    nowhere = ("sampling.region_fraction=0",)
    batches = training(patch_records, "volumes", "TC", batch=8, overrides=nowhere, boxes=given, steps=6)
    found = list(filter(None, (centre_of(patch) for batch in batches for patch in batch["x1"])))
    assert {case_id for case_id, _ in found} == set(cases)
    outside = 0
    for case_id, voxel in found:
        box = given.get(case_id)
        if box is None:  # nothing was predicted there: the reference's
            margin = patch_records.config("volumes").cascade.margin
            box = patches.parent_box(volumes[case_id]["label"], "TC", margin)
            outside += not all(low <= at < high for at, (low, high) in zip(voxel, given[cases[0]], strict=True))
        assert all(low <= at < high for at, (low, high) in zip(voxel, box, strict=True)), case_id
    assert outside > 3
    assert same(
        training(patch_records, "volumes", "TC", boxes={}), training(patch_records, "volumes", "TC", boxes=None)
    )


def test_multiply_blanks_the_image_as_numpy_does(patch_records, volumes, centre_of):
    """Against `patches.cut` on the masked volume, at the places where the graph cut."""
    masked, whole = (
        training(patch_records, "volumes", "TC", overrides=(f"cascade.mask={mask}",))
        for mask in ("multiply", "box")
    )
    blanked = 0
    for one, other in zip(masked, whole, strict=True):
        assert np.array_equal(one["target"], other["target"])  # cut at the same places
        for image, blurred, plain in zip(one["x1"], one["half"], other["x1"], strict=True):
            if centre_of(plain) is None:
                continue
            case_id, centre = centre_of(plain)
            volume = volumes[case_id]
            above = patches.ancestor(volume["label"], "TC")
            seen = volume["image"]
            if above:
                seen = np.where(region_mask(volume["label"], above)[..., None], seen, np.float16(0))
                blanked += 1
            x1, half = patches.cut(seen, centre, 16)
            assert np.array_equal(image, x1) and np.array_equal(blurred, half)
    assert blanked > 5
    assert same(
        *(
            training(patch_records, "volumes", "WT", overrides=(f"cascade.mask={m}",))
            for m in ("multiply", "box")
        )
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_without_tumour_gives_patches_of_every_region_and_all_are_negative(
    patch_records, volumes, centre_of, kind
):
    case_id = patch_records.without_tumour
    assert not volumes[case_id]["label"].any()
    manifest = patch_records.manifest(kind)
    for region in REGIONS:
        batches = training(patch_records, kind, region, batch=8, steps=3)
        targets = {}
        for batch in batches:
            for image, target in zip(batch["x1"], batch["target"], strict=True):
                if centre_of(image):
                    targets.setdefault(centre_of(image)[0], []).append(target.any())
        assert targets[case_id] and not any(targets[case_id])
        assert any(any(found) for found in targets.values())
    if kind == "patches":
        rows = [row for shard in manifest.shards for row in shard.cases if row.case_id == case_id]
        assert [row.examples for row in rows] == [6, 6, 6]


def test_the_tumour_lies_in_the_box_that_volumes_keep(volumes):
    """Crop and label belong together: the box of WT lies in the brain's."""
    for volume in volumes.values():
        assert volume["image"].shape[:3] == volume["brain"].shape == volume["label"].shape
        assert box_of(volume["brain"] > 0) == tuple((0, n) for n in volume["brain"].shape)
