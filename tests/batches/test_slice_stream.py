"""From shards to batches: nothing lost, nothing twice, the same again."""

import numpy as np
import pytest
import tensorflow as tf

from tfbrats import config_file, labels
from tfbrats.batches import slice_stream
from tfbrats.batches.stream import Share, parse
from tfbrats.cases import case as cases
from tfbrats.cases import preprocess
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.records import schema, tfrecord
from tfbrats.records.manifest import Manifest, Shard


def _take(dataset, steps):
    return [{name: value.numpy() for name, value in batch.items()} for batch in dataset.take(steps)]


def test_validation_yields_every_slice_once_in_place_and_fills_up_with_nothing(record_set):
    settings, manifest = record_set.config(), record_set.manifest
    batches = _take(slice_stream.validation(manifest, settings, "validation", Share(4)), 100)
    valid = np.concatenate([batch["valid"] for batch in batches])
    count = manifest.examples["validation"]
    assert valid.sum() == count
    assert len(valid) == -(-count // 4) * 4
    label = np.concatenate([batch["label"] for batch in batches])[valid == 1]
    image = np.concatenate([batch["image"] for batch in batches])[valid == 1]

    # The same slices by hand: the whole volume, normalised, on the canvas.
    loaded = cases.load(layouts.find(record_set.cases).cases[3], settings.data.modalities)
    brain = preprocess.brain_mask(loaded.image)
    whole = preprocess.z_score(loaded.image, brain)
    with_brain = np.flatnonzero(brain.any(axis=(0, 1)))
    padded = np.pad(whole, ((4, 4), (2, 2), (0, 0), (0, 0)))
    assert np.array_equal(label, np.pad(loaded.label, ((4, 4), (2, 2), (0, 0))).transpose(2, 0, 1)[with_brain])
    assert np.array_equal(image, padded.transpose(2, 0, 1, 3)[with_brain].astype(np.float16))


def test_an_epoch_sees_every_training_slice_once(record_set):
    manifest = record_set.manifest
    settings = record_set.config("data.rotation_degrees=0", "data.flip=0")
    count = manifest.examples["train"]
    batches = _take(slice_stream.training(manifest, settings, 0, Share(count)), 1)
    keys = {
        label.tobytes() + image.tobytes()
        for label, image in zip(batches[0]["label"], batches[0]["image"], strict=True)
    }
    assert len(keys) == count


def test_the_same_epoch_is_the_same_stream_and_the_next_another(record_set):
    settings, manifest = record_set.config(), record_set.manifest
    first, again, other = (
        _take(slice_stream.training(manifest, settings, epoch, Share(4)), 5) for epoch in (1, 1, 2)
    )
    for a, b in zip(first, again, strict=True):
        for name in a:
            assert np.array_equal(a[name], b[name]), name
    assert not np.array_equal(first[0]["image"], other[0]["image"])


def test_going_on_at_step_three_sees_what_step_three_would_have_seen(record_set):
    settings, manifest = record_set.config(), record_set.manifest
    whole = _take(slice_stream.training(manifest, settings, 0, Share(4)), 6)
    rest = _take(slice_stream.training(manifest, settings, 0, Share(4), first_example=12), 3)
    for a, b in zip(whole[3:], rest, strict=True):
        for name in a:
            assert np.array_equal(a[name], b[name]), name


def test_other_intensities_are_drawn_for_training_alone_and_are_the_same_again(record_set):
    plain = record_set.config("data.rotation_degrees=0", "data.flip=0")
    other = record_set.config("data.rotation_degrees=0", "data.flip=0", "data.intensity_change=0.3")
    of = [
        _take(slice_stream.training(record_set.manifest, settings, epoch, Share(4), first), 2)
        for settings, epoch, first in ((plain, 0, 4), (other, 0, 4), (other, 0, 0), (other, 1, 0))
    ]
    before, after = of[0][0], of[1][0]
    assert np.array_equal(before["label"], after["label"])
    brain = (before["image"] != 0).any(-1, keepdims=True)
    moved = np.abs(after["image"] - before["image"])
    assert moved[brain[..., 0]].mean() > 0.05 and (moved * ~brain == 0).all()
    assert np.array_equal(after["image"], of[2][1]["image"])  # gone on with, it is what it would have been
    assert not np.array_equal(of[2][0]["image"], of[3][0]["image"])
    first, second = (
        _take(slice_stream.validation(record_set.manifest, settings, "validation", Share(4)), 2)[1]["image"]
        for settings in (plain, other)
    )
    assert np.array_equal(first, second)


def test_going_on_with_another_batch_sees_the_rest_of_the_same_slices(record_set):
    settings, manifest = record_set.config(), record_set.manifest
    whole = _take(slice_stream.training(manifest, settings, 0, Share(4)), 6)
    rest = _take(slice_stream.training(manifest, settings, 0, Share(6), first_example=12), 2)
    for name in rest[0]:
        expected = np.concatenate([batch[name] for batch in whole[3:]])
        assert np.array_equal(np.concatenate([batch[name] for batch in rest]), expected), name


def test_asked_for_so_many_batches_it_gives_them_and_no_more(record_set):
    common = (record_set.manifest, record_set.config())
    for share in (Share(4), Share(6, 2, 1), Share(12, 3)):
        whole = _take(slice_stream.training(*common, 0, share, 12), 3)
        few = _take(slice_stream.training(*common, 0, share, 12, batches=3), 10)
        assert [one["draws"].tobytes() for one in few] == [one["draws"].tobytes() for one in whole]


def test_a_worker_with_shards_of_its_own_skips_its_own_part(record_set):
    """Three shards, three workers: a step takes four slices of each."""
    settings, manifest = record_set.config(), record_set.manifest
    share = Share(12, workers=3)
    assert share.has_own_shards(len(manifest.shards_of("train")))
    whole = _take(slice_stream.training(manifest, settings, 0, share), 2)
    rest = _take(slice_stream.training(manifest, settings, 0, share, first_example=12), 1)
    assert whole[1]["image"].shape[0] == 4
    assert np.array_equal(whole[1]["image"], rest[0]["image"])


@pytest.mark.parametrize("seen", [0, 6])
def test_workers_that_read_all_shards_have_a_batch_between_them(record_set, seen):
    settings, manifest = record_set.config(), record_set.manifest
    assert not Share(6, workers=2).has_own_shards(len(manifest.shards_of("train")))
    common = (manifest, settings)
    whole = _take(slice_stream.training(*common, 0, Share(6), seen), 3)
    parts = [_take(slice_stream.training(*common, 0, Share(6, 2, worker), seen), 3) for worker in range(2)]
    assert _together(parts, "draws") == [batch["draws"].tobytes() for batch in whole]


@pytest.mark.parametrize("batch", [4, 10])
def test_workers_validate_every_slice_once_and_fill_up_the_same_batch(record_set, batch):
    common = (record_set.manifest, record_set.config(), "validation")
    whole = _take(slice_stream.validation(*common, Share(batch)), 100)
    parts = [_take(slice_stream.validation(*common, Share(batch, 2, worker)), 100) for worker in range(2)]
    for name in ("image", "valid"):
        assert _together(parts, name) == [one[name].tobytes() for one in whole]
    assert whole[-1]["valid"].sum() < batch


def _together(parts, name):
    """The workers' parts of each batch, one after the other."""
    return [np.concatenate([part[name] for part in step]).tobytes() for step in zip(*parts, strict=True)]


def test_workers_with_shards_of_their_own_see_every_slice_once_together(record_set):
    settings, manifest = record_set.config(), record_set.manifest
    shards = [one.examples for one in manifest.shards_of("train")]
    seen = []
    for worker in range(3):
        stream = slice_stream.training(manifest, settings, 0, Share(3, workers=3, worker=worker))
        # One shard each, and no shard has more slices than this: a stream that were not its own would go on.
        batches = _take(stream, max(shards))
        seen.append({batch["draws"].tobytes() for batch in batches})
    assert sorted(map(len, seen)) == [max(shards)] * 3  # a smaller shard's second round is drawn anew
    assert len(set.union(*seen)) == 3 * max(shards)
    whole = _take(slice_stream.training(manifest, settings, 0, Share(1)), sum(shards))
    assert {batch["draws"].tobytes() for batch in whole} <= set.union(*seen)


def test_a_second_round_through_few_slices_is_turned_and_drawn_anew(record_set):
    settings, manifest = record_set.config(), record_set.manifest
    count = manifest.examples["train"]
    first, second = _take(slice_stream.training(manifest, settings, 0, Share(count)), 2)
    assert not {d.tobytes() for d in first["draws"]} & {d.tobytes() for d in second["draws"]}


def test_draws_are_uniform_and_new_each_epoch(record_set):
    manifest, common = record_set.manifest, (record_set.manifest, record_set.config())
    first, other = (
        np.concatenate([b["draws"] for b in _take(slice_stream.training(*common, epoch, Share(4)), 5)])
        for epoch in (0, 1)
    )
    assert abs(first.mean() - 0.5) < 0.01
    assert first.min() >= 0 and first.max() < 1
    # A slice's draws differ between epochs, and between two slices of one epoch.
    assert not {row.tobytes() for row in first} & {row.tobytes() for row in other}
    assert len({row.tobytes() for row in first[: manifest.examples["train"]]}) > 1


def test_the_parser_reads_what_the_writer_wrote_to_the_bit(record_set):
    folder, manifest = record_set.folder, record_set.manifest
    for content in tfrecord.read_records(f"{folder}/{manifest.shards[0].file}"):
        ours = schema.decode(schema.SLICES, content)
        theirs = parse(schema.SLICES, content)
        for field in schema.SLICES:
            value = theirs[field.name].numpy()
            value = value.decode() if field.dtype == "string" else value
            assert np.array_equal(value, ours[field.name]), field.name


def test_where_cases_choose_each_slice_says_whose_it_is(record_set):
    settings, manifest = record_set.config("train.select=dice"), record_set.manifest
    batches = _take(slice_stream.validation(manifest, settings, "train", Share(8)), 100)
    case, valid = (np.concatenate([batch[name] for batch in batches]) for name in ("case", "valid"))
    rows = {row.case_id: row.examples for shard in manifest.shards_of("train") for row in shard.cases}
    assert np.bincount(case[valid > 0]).tolist() == [rows[case_id] for case_id in manifest.cases["train"]]


def test_padding_is_background_everywhere(record_set):
    settings, manifest = record_set.config(), record_set.manifest
    batch = _take(slice_stream.validation(manifest, settings, "validation", Share(4)), 1)[0]
    corner = batch["region"][:, 0, 0]
    assert (corner == labels.LwsRegion.S1).all()
    assert not batch["image"][:, 0, 0].any()


def test_no_stream_waits_for_a_thread_that_tunes_it_when_it_ends(record_set):
    settings, manifest = record_set.config(), record_set.manifest
    streams = [
        slice_stream.training(manifest, settings, 0, Share(2)),
        slice_stream.validation(manifest, settings, "validation", Share(2)),
    ]
    assert [stream.options().autotune.enabled for stream in streams] == [False, False]


def test_an_empty_split_is_an_error_that_names_it(record_set):
    settings, manifest = record_set.config(), record_set.manifest
    with pytest.raises(InputError, match="no test examples"):
        slice_stream.validation(manifest, settings, "test", Share(4))


# --- how well cases are mixed ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def papers_scale(tmp_path_factory):
    """Folder and manifest of 126 cases in 22 shards, as paper A's records are: of each slice its case alone."""
    folder, rng = tmp_path_factory.mktemp("scale"), np.random.default_rng(0)
    sizes, shards = rng.normal(98, 8, 126).round().astype(int), []
    for n, numbers in enumerate(np.array_split(np.arange(126), 22)):
        path = folder / f"train-{n:05}-of-00022.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for number in np.repeat(numbers, sizes[numbers]):
                writer.write(b"%d" % number)
        examples = int(sizes[numbers].sum())
        shards.append(Shard.model_construct(file=path.name, split="train", region="", examples=examples))
    return folder, Manifest.model_construct(kind="slices", shards=tuple(shards))


def _cases_in_turn(papers_scale, *overrides):
    """The case of each slice of an epoch, as training reads them: over the index alone."""
    folder, manifest = papers_scale
    settings = config_file.load("cun_lws.yaml", [f"data.records={folder}", *overrides])
    stream, count = slice_stream.shuffled(manifest, settings, 0, Share(8))
    cases = np.array([int(case) for case in stream.as_numpy_iterator()])
    assert len(cases) == count == manifest.count("train")
    return cases


def _effective(cases, slices=80):
    """From how many cases so many slices on end are: 1 / sum of squared shares; at the end, and on average."""
    found = []
    for end in range(len(cases), slices, -slices):
        _, counts = np.unique(cases[end - slices : end], return_counts=True)
        found.append(slices**2 / (counts**2).sum())
    return found[0], np.mean(found)


def test_what_the_moments_remember_is_of_forty_cases_at_the_papers_scale(papers_scale):
    """Ten steps of eight slices, by momentum 0.9. Drawn at random they would be of 49."""
    last, mean = _effective(_cases_in_turn(papers_scale))
    assert mean >= 40 and last >= 38


def test_a_run_from_before_reads_four_shards_as_it_did(papers_scale):
    asked, unsaid = (
        _cases_in_turn(papers_scale, "data.shuffle_buffer=512", f"data.open_shards={n}") for n in ("4", "null")
    )
    assert np.array_equal(asked, unsaid)
    assert max(_effective(unsaid)) < 15
