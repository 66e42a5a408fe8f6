"""The bytes of a record set: exact, readable by TensorFlow, and never silently damaged."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfbrats import config_file
from tfbrats.cases.rejected import Rejected
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.records import schema, tfrecord
from tfbrats.records.manifest import (
    MANIFEST,
    CaseRow,
    Manifest,
    Shard,
    check_identity,
    check_shard,
    read_manifest,
)
from tfbrats.records.schema import SCHEMAS, SLICES, decode, encode, field_descriptions

SIZES = st.integers(0, 6)


@st.composite
def example(draw):
    height, width, channels = draw(SIZES), draw(SIZES), draw(st.integers(0, 4))
    return {
        # Any bit pattern: NaN, infinities and denormal numbers included.
        "image": draw(hnp.arrays(np.uint16, (height, width, channels))).view(np.float16),
        "label": draw(hnp.arrays(np.uint8, (height, width))),
        "region": draw(hnp.arrays(np.uint8, (height, width))),
        "origin_ij": draw(hnp.arrays(np.int64, 2)),
        "slice_k": draw(st.integers(-(2**63), 2**63 - 1)),
        "case_id": draw(st.text()),
    }


def a_slice(seed=0, height=5, width=7):
    random = np.random.default_rng(seed)
    return {
        "image": random.normal(size=(height, width, 4)).astype(np.float16),
        "label": random.integers(0, 4, (height, width), np.uint8),
        "region": random.integers(0, 4, (height, width), np.uint8),
        "origin_ij": np.array([3, 400]),
        "slice_k": 77 + seed,
        "case_id": "BraTS20_Training_001",
    }


def encoded(seed=0):
    return encode(SLICES, a_slice(seed))


def write(path, contents):
    files.write_bytes(path, b"".join(map(tfrecord.frame, contents)))


# --- examples -------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(example())
def test_what_is_encoded_is_decoded_to_the_bit(given_example):
    got = decode(SLICES, encode(SLICES, given_example))
    assert list(got) == [field.name for field in SLICES]
    for name, value in given_example.items():
        if isinstance(value, np.ndarray):
            assert got[name].dtype == value.dtype and got[name].shape == value.shape
            assert got[name].tobytes() == value.tobytes()
        else:
            assert got[name] == value


def test_the_same_example_is_the_same_bytes_whatever_the_order_of_its_entries():
    content = a_slice()
    turned = dict(reversed(content.items()))
    turned["image"] = np.asfortranarray(turned["image"])  # nor how it lies in memory
    assert encode(SLICES, turned) == encode(SLICES, content)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image", np.zeros((5, 7, 4), np.float32), r"image: expected float16 .*received float32 \(5, 7, 4\)"),
        ("label", np.zeros((5, 7, 1), np.uint8), r"label: expected uint8 .*received uint8 \(5, 7, 1\)"),
        ("origin_ij", np.zeros(3, np.int64), r"origin_ij: expected int64 \(2,\), received int64 \(3,\)"),
        ("image", np.zeros((5, 7, 4), ">f2"), r"image: expected float16"),
    ],
)
def test_an_entry_of_another_type_or_shape_than_the_schema_says_is_an_error(name, value, message):
    with pytest.raises(ValueError, match=message):
        encode(SLICES, a_slice() | {name: value})


def test_a_missing_entry_is_an_error_that_names_it():
    content = a_slice()
    del content["region"]
    with pytest.raises(ValueError, match=r"'region'.*not there"):
        encode(SLICES, content)


def test_a_record_of_another_schema_or_of_none_is_an_error():
    shorter = [field for field in SLICES if field.name != "region"]
    with pytest.raises(InputError, match="lacks region; it holds case_id, image"):
        decode(SLICES, encode(shorter, a_slice()))
    with pytest.raises(InputError, match=r"not a tf.train.Example"):
        decode(SLICES, b"\xff\xff\xff no example")


# --- TensorFlow's readers and writers -------------------------------------------------------------------


def test_tensorflow_reads_our_examples_and_our_tfrecord_files(tmp_path):
    import tensorflow as tf

    path = str(tmp_path / "a.tfrecord")
    write(path, [encoded(0), encoded(1), b""])  # an empty record is one, too
    assert list(tf.data.TFRecordDataset(path).as_numpy_iterator()) == [encoded(0), encoded(1), b""]
    feature = tf.train.Example.FromString(encoded(1)).features.feature
    content = a_slice(1)
    assert feature["case_id"].bytes_list.value[:] == [b"BraTS20_Training_001"]
    assert feature["slice_k"].int64_list.value[:] == [78]
    assert feature["image/shape"].int64_list.value[:] == [5, 7, 4]
    assert feature["image"].bytes_list.value[0] == content["image"].tobytes()
    assert feature["origin_ij"].bytes_list.value[0] == np.array([3, 400], "<i8").tobytes()


def test_we_read_tensorflow_s_examples_and_tfrecord_files(tmp_path):
    import tensorflow as tf

    content = a_slice()

    def of_bytes(*values):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    def of_ints(*values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    feature = {"case_id": of_bytes(b"BraTS20_Training_001"), "slice_k": of_ints(77)}
    for name in ("image", "label", "region", "origin_ij"):
        feature[name] = of_bytes(content[name].tobytes())
        feature[f"{name}/shape"] = of_ints(*content[name].shape)
    theirs = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
    path = str(tmp_path / "theirs.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(theirs)
        writer.write(b"second")
    assert list(tfrecord.read_records(path)) == [theirs, b"second"]
    got = decode(SLICES, theirs)
    assert all(np.array_equal(got[name], value) for name, value in content.items())


# --- damage ---------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_flipped_bit_is_an_error_that_names_file_and_record(tmp_path_factory, data):
    path = str(tmp_path_factory.getbasetemp() / "flipped bit.tfrecord")
    contents = [b"first", b"", b"the third record"]
    whole = bytearray(b"".join(map(tfrecord.frame, contents)))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= 1 << data.draw(st.integers(0, 7))
    files.write_bytes(path, bytes(whole))
    damaged = 0 if place < 21 else 1 if place < 37 else 2
    sound = []
    with pytest.raises(
        InputError, match=rf"flipped bit.tfrecord: record {damaged} .*is damaged\. Run tfbrats prepare"
    ):
        for content in tfrecord.read_records(path):
            sound.append(content)
    assert sound == contents[:damaged]


def test_a_file_cut_off_anywhere_inside_a_record_is_an_error(tmp_path):
    path = str(tmp_path / "short.tfrecord")
    whole = tfrecord.frame(b"first") + tfrecord.frame(b"second")
    for length in [*range(1, 21), *range(22, len(whole))]:
        files.write_bytes(path, whole[:length])
        number = 0 if length < 21 else 1
        with pytest.raises(InputError, match=rf"record {number} \(at byte {21 * number}\) is damaged"):
            list(tfrecord.read_records(path))
    files.write_bytes(path, whole[:21])  # between two records nothing tells; the manifest's checksum does
    assert list(tfrecord.read_records(path)) == [b"first"]


# --- the manifest ---------------------------------------------------------------------------------------


@pytest.fixture
def settings_of_run():
    return config_file.load("smoke_2d.yaml")


def a_manifest(settings_of_run, folder):
    """A record set of one shard, on disk."""
    path = files.join(folder, "train-00000-of-00001.tfrecord")
    write(path, [encoded(0), encoded(1)])
    shard = Shard(
        file="train-00000-of-00001.tfrecord",
        split="train",
        cases=(CaseRow(case_id="a", examples=2, spacing_mm=(1, 1, 1)),),
        rejected=(Rejected(case_id="b", stage="read", reason="no t1", hint="look"),),
        examples=2,
        bytes=files.size(path),
        crc32c=tfrecord.file_crc32c(path),
        task_sha256="0" * 64,
    )
    manifest = Manifest(
        tfbrats_version="0",
        kind="slices",
        fields=field_descriptions(SLICES),
        identity=settings_of_run.records_identity(),
        modalities=("flair", "t1", "t1ce", "t2"),
        label_schemas=({"edition": "2020", "values": {"0": "BACKGROUND"}},),
        layouts=("x",),
        spacing_mm=(1.0, 1.0, 1.0),
        examples={"train": 2, "validation": 0, "test": 0},
        cases={"train": ("a",), "validation": (), "test": ()},
        split_sha256="0" * 64,
        bytes=shard.bytes,
        rejected=1,
        shards=(shard,),
    )
    files.write_bytes(files.join(folder, MANIFEST), manifest.model_dump_json().encode())
    return manifest


def test_a_manifest_is_read_as_it_was_written(settings_of_run, place):
    manifest = a_manifest(settings_of_run, place)
    assert read_manifest(place) == manifest
    assert manifest.shards_of("train") == list(manifest.shards)
    assert manifest.shards_of("test") == []


def test_a_folder_without_records_names_the_command_that_makes_them(tmp_path):
    with pytest.raises(
        InputError, match=r"no dataset.json: there are no records here(.|\n)*\n  python -m the.job --now"
    ):
        read_manifest(tmp_path, "python -m the.job --now")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{ not JSON", r"dataset.json: not valid JSON .*--overwrite"),
        ('{"name": "BRATS", "labels": {"0": "background"}}', r"dataset.json: not the manifest of a record set"),
        ('["a"]', r"dataset.json: not the manifest of a record set"),
        ('{"format": 99, "shards": []}', r"records of format 99; this version reads 2.*--overwrite"),
        ('{"format": 2, "shards": []}', r"dataset.json: damaged \(\d+ faults\).*--overwrite"),
    ],
)
def test_what_is_no_manifest_of_ours_is_refused_with_a_cure(tmp_path, content, message):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)


def test_records_of_another_config_are_refused_and_only_the_differing_keys_are_listed(
    settings_of_run, tmp_path
):
    manifest = a_manifest(settings_of_run, str(tmp_path))
    check_identity(manifest, settings_of_run, tmp_path)
    # What the records do not depend on may differ.
    check_identity(manifest, config_file.load("smoke_2d.yaml", ["train.epochs=3", "lws.beta=2"]), tmp_path)
    other = config_file.load("smoke_2d.yaml", ["records.dropped_fraction=0.1", "lws.contour_width_mm=5"])
    with pytest.raises(InputError) as caught:
        check_identity(manifest, other, tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[1:-1] == ["  records.dropped_fraction: 0.1, there 0.3", "  contour_width_mm: 5.0, there 4.0"]


def test_the_identity_survives_json(settings_of_run, tmp_path):
    content = json.loads(a_manifest(settings_of_run, str(tmp_path)).model_dump_json())
    assert content["identity"] == settings_of_run.records_identity()


def test_a_shard_that_is_missing_cut_off_or_changed_is_told_apart(settings_of_run, place):
    shard = a_manifest(settings_of_run, place).shards[0]
    path = files.join(place, shard.file)
    whole = files.read_bytes(path)
    assert check_shard(place, shard) is None
    changed = bytearray(whole)
    changed[40] ^= 1
    files.write_bytes(path, bytes(changed))
    assert f"{shard.file}: damaged: its checksum is not" in check_shard(place, shard)
    assert check_shard(place, shard, content=False) is None
    files.write_bytes(path, whole[:-1])
    assert f"{shard.bytes - 1} bytes; dataset.json says {shard.bytes}" in check_shard(place, shard)
    files.remove(path)
    assert f"{shard.file}: missing. Run tfbrats prepare again" in check_shard(place, shard)


# --- kinds ----------------------------------------------------------------------------------------------


def of_kind(manifest, kind, regions=()):
    return manifest.model_copy(update={"kind": kind, "regions": regions, "identity": None})


@pytest.mark.parametrize(
    ("held", "name", "said"),
    [
        (
            "slices",
            "smoke_3d.yaml",
            r"holds slices; this config \(msm\) trains on volumes\. Write them with this",
        ),
        (
            "volumes",
            "smoke_2d.yaml",
            r"holds volumes; this config \(cun\) trains on slices\. Write them with this",
        ),
        ("patches", "smoke_3d.yaml", r"holds patches; .* on volumes\..* or pass records\.kind=patches"),
        ("volumes", "msm.yaml", r"holds volumes; .* on patches\..* or pass records\.kind=volumes"),
    ],
)
def test_records_of_another_kind_are_refused_with_what_there_is_and_the_way_on(
    settings_of_run, tmp_path, held, name, said
):
    manifest = of_kind(a_manifest(settings_of_run, str(tmp_path)), held)
    with pytest.raises(InputError, match=said) as caught:
        check_identity(manifest, config_file.load(name), tmp_path)
    # Slices are no choice of paper B's, nor patches of paper A's.
    if "slices" in (held, config_file.load(name).records.kind):
        assert "records.kind=" not in str(caught.value)


def test_patches_of_other_regions_are_refused_by_name(settings_of_run, tmp_path):
    wt = config_file.load("msm.yaml", ["region=wt"])
    manifest = of_kind(a_manifest(settings_of_run, str(tmp_path)), "patches", ("WT",))
    manifest = manifest.model_copy(update={"identity": wt.records_identity()})
    check_identity(manifest, wt, tmp_path)
    with pytest.raises(InputError, match=r"holds patches of WT, none of TC\. Train region=wt on it, or write"):
        check_identity(manifest, config_file.load("msm.yaml", ["region=tc"]), tmp_path)
    with pytest.raises(InputError, match=r"none of TC, ET"):
        check_identity(manifest, config_file.load("msm.yaml"), tmp_path)


def test_shards_and_counts_of_a_region_are_its_own_and_those_of_slices_serve_all(settings_of_run, tmp_path):
    manifest = a_manifest(settings_of_run, str(tmp_path))
    shard = manifest.shards[0]
    regions = [
        shard.model_copy(update={"region": r, "examples": n}) for r, n in (("WT", 2), ("TC", 3), ("ET", 5))
    ]
    of_patches = manifest.model_copy(update={"shards": tuple(regions)})
    assert [s.region for s in of_patches.shards_of("train", "TC")] == ["TC"]
    assert (of_patches.count("train", "ET"), of_patches.count("train"), of_patches.count("test", "ET")) == (
        5,
        10,
        0,
    )
    assert manifest.shards_of("train", "ET") == list(manifest.shards) and manifest.count("train", "ET") == 2


@pytest.mark.parametrize("kind", ["patches", "volumes"])
def test_tensorflow_parses_paper_bs_records_to_the_bit(patch_records, kind):
    from tfbrats.batches import stream

    schema = SCHEMAS[kind]
    shard = patch_records.manifest(kind).shards[0]
    for content in tfrecord.read_records(f"{patch_records.folders[kind]}/{shard.file}"):
        ours, theirs = decode(schema, content), stream.parse(schema, content)
        for field in schema:
            value = theirs[field.name].numpy()
            value = value.decode() if field.dtype == "string" else value
            assert np.array_equal(value, ours[field.name]), field.name


@pytest.mark.parametrize("kind", SCHEMAS)
@pytest.mark.parametrize("side", [0, 1, 40])
def test_an_example_is_the_bytes_that_protobufs_own_encoder_makes(kind, side):
    def value_of(field):
        if field.dtype == "string":
            return "é" * side * 5
        if not field.is_array:
            return -side
        shape = [side + n if size == -1 else size for n, size in enumerate(field.shape)]
        return (np.arange(np.prod(shape)) % 200).reshape(shape).astype(field.dtype)

    example = {field.name: value_of(field) for field in SCHEMAS[kind]}
    encoded = encode(SCHEMAS[kind], example)
    assert schema._Example.FromString(encoded).SerializeToString(deterministic=True) == encoded
