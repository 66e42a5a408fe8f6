"""The client against the embedded server: cases on the disk in, segmentations on the disk out."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
import types
from concurrent import futures

import grpc
import nibabel
import numpy as np
import pytest
import tensorflow as tf
import tiny_model
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from serving import calls, client, messages, rounds, server, services
from tfbrats.cases import case as cases
from tfbrats.cases import nifti, preprocess
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, MODALITIES, Tissue
from tfbrats.machine import files
from tfbrats.predictions import model_card
from tfbrats.terminal import command

CODE = grpc.StatusCode
ENDINGS = {
    "2020": dict(zip(MODALITIES, ("_flair", "_t1", "_t1ce", "_t2"), strict=True)),
    "2023": dict(zip(MODALITIES, ("-t2f", "-t1n", "-t1c", "-t2w"), strict=True)),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Base path of the tiny model in the labels of 2020. Read only."""
    base = tmp_path_factory.mktemp("served") / "tiny"
    tiny_model.write(base)
    return base


@pytest.fixture(scope="module")
def served(base):
    with server.start(base) as running:
        yield running


def write_case(root, case_id="BraTS20_Training_001", edition="2020", axes=nifti.AXES, seed=0, add=0.0, **more):
    """A box of noise in a black volume, one bright enough for every rule; its folder."""
    grid = nifti.new_grid((9, 8, 7), (1, 1.5, 2), axes)
    random = np.random.default_rng(seed)
    for name, ending in ENDINGS[edition].items():
        array = np.zeros((9, 8, 7), np.float32 if add else np.int16)
        array[1:-1, 1:-1, 1:-1] = random.integers(1, 1500, (7, 6, 5)) + add + more.get(name, 0)
        path = root / case_id / f"{case_id}{ending}.nii.gz"
        files.write_bytes(path, nifti.to_bytes(array, grid, path.name))
    return root / case_id


def read(folder, ending):
    """The file's own array and header, by nibabel alone."""
    (path,) = folder.glob(f"*{ending}.nii.gz")
    image = nibabel.load(path)
    return np.asanyarray(image.dataobj), image


def run(served, case, output, *more):
    return client.main(
        [
            "--server",
            served.address,
            "--model-name",
            "tiny",
            "--input",
            str(case),
            "--output",
            str(output),
            *more,
        ]
    )


# --- the messages ---------------------------------------------------------------------------------------


def test_our_messages_have_the_field_numbers_and_types_of_tensorflow_servings():
    compared = set()

    def compare(ours, theirs):
        if ours.full_name in compared:
            return
        compared.add(ours.full_name)
        for field in ours.fields:
            other = theirs.fields_by_number[field.number]
            assert field.name == other.name
            same_bytes = {field.TYPE_INT32, field.TYPE_ENUM}
            assert field.type == other.type or {field.type, other.type} == same_bytes
            assert (field.is_repeated, field.is_packed) == (other.is_repeated, other.is_packed)
            if field.message_type is not None:
                compare(field.message_type, other.message_type)

    compare(messages.PredictRequest.DESCRIPTOR, predict_pb2.PredictRequest.DESCRIPTOR)
    compare(messages.PredictResponse.DESCRIPTOR, predict_pb2.PredictResponse.DESCRIPTOR)
    metadata = get_model_metadata_pb2
    compare(messages.MetadataRequest.DESCRIPTOR, metadata.GetModelMetadataRequest.DESCRIPTOR)
    compare(messages.MetadataResponse.DESCRIPTOR, metadata.GetModelMetadataResponse.DESCRIPTOR)
    compare(messages.Signatures.DESCRIPTOR, metadata.SignatureDefMap.DESCRIPTOR)
    # Each map has a message for its entries beside those of the table.
    maps = [kind for fields in messages.FIELDS.values() for _, kind in fields.values() if kind[0] == "{"]
    assert len(compared) == len(messages.FIELDS) + len(maps)


@pytest.mark.parametrize(
    "dtype",
    ["float16", "float32", "float64", "bool"]
    + [f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)],
)
def test_tensors_agree_with_tensorflow_both_ways_and_in_both_encodings(dtype):
    array = (np.arange(24).reshape(2, 3, 4) * 10.5).astype(dtype)
    sent = to_theirs(messages.to_tensor(array))
    read_by_them = tf.make_ndarray(sent)
    assert read_by_them.dtype == array.dtype
    np.testing.assert_array_equal(read_by_them, array)
    by_value = type(sent)(dtype=sent.dtype, tensor_shape=sent.tensor_shape)
    values = array.view(np.uint16) if dtype == "float16" else array
    _, field = messages._TYPES[sent.dtype]
    getattr(by_value, field).extend(values.ravel().tolist())
    for theirs in (tf.make_tensor_proto(array), by_value):
        ours = messages.to_array(messages.Tensor.FromString(theirs.SerializeToString()))
        assert ours.dtype == array.dtype
        np.testing.assert_array_equal(ours, array)


def to_theirs(tensor):
    return type(tf.make_tensor_proto(0)).FromString(tensor.SerializeToString())


def test_bytes_travel_as_strings_of_any_shape():
    array = np.array([[b"a", b"\0b\0"], [b"", b"d" * 1000]], object)
    np.testing.assert_array_equal(tf.make_ndarray(to_theirs(messages.to_tensor(array))), array)
    back = messages.to_array(messages.Tensor.FromString(tf.make_tensor_proto(array).SerializeToString()))
    np.testing.assert_array_equal(back, array)


def test_one_value_stands_for_all_and_the_last_for_the_rest():
    shape = {"dim": [{"size": 2}, {"size": 2}]}
    one = messages.Tensor(dtype=4, tensor_shape=shape, int_val=[3])
    np.testing.assert_array_equal(messages.to_array(one), [[3, 3], [3, 3]])
    two = messages.Tensor(dtype=1, tensor_shape=shape, float_val=[1, 2])
    np.testing.assert_array_equal(messages.to_array(two), [[1, 2], [2, 2]])
    none = messages.Tensor(dtype=1, tensor_shape=shape)
    np.testing.assert_array_equal(messages.to_array(none), np.zeros((2, 2)))


def test_values_that_do_not_fit_the_shape_are_refused():
    shape = {"dim": [{"size": 2}]}
    for tensor in (
        messages.Tensor(dtype=4, tensor_shape=shape, int_val=[1, 2, 3]),
        messages.Tensor(dtype=4, tensor_shape=shape, tensor_content=b"123"),
        messages.Tensor(dtype=99, tensor_shape=shape),
    ):
        with pytest.raises(ValueError, match=r"shape|dtype"):
            messages.to_array(tensor)
    with pytest.raises(ValueError, match="complex64"):
        messages.to_tensor(np.zeros(2, np.complex64))


# --- one case -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_content", [False, True], ids=["repeated_fields", "tensor_content"])
@pytest.mark.parametrize("axes", ["LPS", "RAS", "SLA"])
def test_a_segmentation_lies_voxel_by_voxel_on_its_scan_with_its_header(base, tmp_path, axes, as_content):
    case = write_case(tmp_path, axes=tuple(axes))
    with server.start(base, tensor_content=as_content) as running:
        assert run(running, case, tmp_path / "seg.nii.gz") is None
    images = {name: read(case, ending)[0] for name, ending in ENDINGS["2020"].items()}
    scan = read(case, "_flair")[1]
    written = nibabel.load(tmp_path / "seg.nii.gz")
    segmentation = np.asanyarray(written.dataobj)
    # All in the file's own axes: thresholds know no orientation.
    np.testing.assert_array_equal(segmentation, np.array([0, 1, 2, 4])[tiny_model.tissues_by_rule(images)])
    assert set(np.unique(segmentation)) == {0, 1, 2, 4}
    assert segmentation.dtype == np.uint8
    np.testing.assert_array_equal(written.affine, scan.affine)
    for key in ("qform_code", "sform_code", "pixdim", "srow_x", "srow_y", "srow_z", "xyzt_units"):
        np.testing.assert_array_equal(written.header[key], scan.header[key])


@pytest.mark.parametrize(
    ("case_id", "edition", "more", "values"),
    [
        ("BraTS-GLI-00001-000", "2023", [], [0, 1, 2, 3]),
        ("patient_1", "2020", ["--edition", "msd"], [0, 2, 1, 3]),
    ],
)
def test_a_case_of_another_edition_than_the_models_gets_its_own_label_values(
    served, tmp_path, case_id, edition, more, values
):
    case = write_case(tmp_path, case_id, edition)
    run(served, case, tmp_path / "seg.nii.gz", *more)
    images = {name: read(case, ending)[0] for name, ending in ENDINGS[edition].items()}
    segmentation = np.asanyarray(nibabel.load(tmp_path / "seg.nii.gz").dataobj)
    np.testing.assert_array_equal(segmentation, np.array(values)[tiny_model.tissues_by_rule(images)])


def test_probabilities_are_written_as_4d_in_the_files_axes(served, tmp_path):
    case = write_case(tmp_path, axes=("R", "A", "S"))
    run(served, case, tmp_path / "seg.nii", "--probabilities", str(tmp_path / "prob.nii.gz"))
    probabilities = np.asanyarray(nibabel.load(tmp_path / "prob.nii.gz").dataobj)
    segmentation = np.asanyarray(nibabel.load(tmp_path / "seg.nii").dataobj)
    assert probabilities.shape == (9, 8, 7, 3)
    np.testing.assert_array_equal(probabilities[..., 0], 0.75 * (segmentation > 0))
    np.testing.assert_array_equal(probabilities[..., 2], 0.75 * (segmentation == 4))


@pytest.fixture
def asked(monkeypatch):
    """Signature and outputs of every call that the embedded server runs."""
    calls = []
    original = services.run

    def recording(servable, request, seconds):
        calls.append((request.model_spec.signature_name, list(request.output_filter)))
        return original(servable, request, seconds)

    monkeypatch.setattr(services, "run", recording)
    return calls


def test_whole_numbers_travel_compressed_and_only_what_is_wanted_comes_back(served, tmp_path, asked):
    run(served, write_case(tmp_path), tmp_path / "seg.nii.gz")
    assert asked == [("describe", ["content"]), ("gzip_int16", ["segmentation"])]


def test_every_signature_for_whole_cases_gives_the_same_file(served, tmp_path, asked):
    case = write_case(tmp_path)
    written = set()
    for signature in ("serving_default", "int16", "gzip_int16"):
        run(served, case, tmp_path / f"{signature}.nii.gz", "--signature", signature)
        assert asked[-1][0] == signature
        written.add((tmp_path / f"{signature}.nii.gz").read_bytes())
    assert len(written) == 1


def test_a_model_without_the_compressed_signature_is_sent_int16(served, tmp_path, asked):
    card = tiny_model.card()
    older = card.model_copy(
        update={"signatures": {k: v for k, v in card.signatures.items() if "gzip" not in k}}
    )
    (tmp_path / "tfbrats.json").write_text(older.to_json())
    run(served, write_case(tmp_path), tmp_path / "seg.nii.gz", "--card", str(tmp_path / "tfbrats.json"))
    assert asked == [("int16", ["segmentation"])]


def test_fractions_are_not_cut_off(served, tmp_path, asked):
    case = write_case(tmp_path, add=0.5)
    run(served, case, tmp_path / "seg.nii.gz")
    assert asked[-1][0] == "serving_default"
    images = {name: read(case, ending)[0] for name, ending in ENDINGS["2020"].items()}
    segmentation = np.asanyarray(nibabel.load(tmp_path / "seg.nii.gz").dataobj)
    np.testing.assert_array_equal(segmentation, np.array([0, 1, 2, 4])[tiny_model.tissues_by_rule(images)])
    for signature in ("int16", "gzip_int16"):
        with pytest.raises(InputError, match="fractions"):
            run(served, case, tmp_path / "other.nii.gz", "--signature", signature)


def test_raw_scans_go_to_a_model_that_corrects_the_bias_field_itself(served, tmp_path, capsys, asked):
    card = tiny_model.card(n4=tiny_model.of_graph("t1ce"))
    (tmp_path / "tfbrats.json").write_text(card.to_json())
    run(served, write_case(tmp_path), tmp_path / "seg.nii.gz", "--card", str(tmp_path / "tfbrats.json"))
    assert "N4" not in capsys.readouterr().out
    assert asked == [("gzip_int16", ["segmentation"])]


def test_for_an_older_model_n4_is_done_here_on_the_modalities_that_its_card_names(
    served, tmp_path, capsys, asked
):
    case = write_case(tmp_path, t1ce=2000)
    card = tiny_model.card(n4=tiny_model.of_caller("t1ce"))
    (tmp_path / "tfbrats.json").write_text(tiny_model.old_text(card))
    run(served, case, tmp_path / "seg.nii.gz", "--card", str(tmp_path / "tfbrats.json"))
    assert "N4 of t1ce is done here, by SimpleITK" in capsys.readouterr().out
    assert asked == [("serving_default", ["segmentation"])]  # a given card is not fetched
    loaded = cases.load(layouts.find(case).cases[0])
    corrected = preprocess.correct_bias(loaded, ("t1ce",), 4, n4="itk")
    expected = tiny_model.tissues_by_rule({m: corrected[..., i] for i, m in enumerate(MODALITIES)})
    written, _ = cases.load_label(tmp_path / "seg.nii.gz", EDITIONS["2020"])
    np.testing.assert_array_equal(written, expected)


def test_guesses_and_another_spacing_than_the_models_are_told(served, tmp_path, capsys, without_codes):
    case_folder = write_case(tmp_path)
    run(served, case_folder, tmp_path / "seg.nii.gz")
    first, *_ = capsys.readouterr().out.splitlines()
    note = (
        "note: BraTS20_Training_001: its voxels are 1 x 1.5 x 2 mm, and the model tiny was trained on 1 x 1 x 1"
    )
    assert first.startswith(note)
    without_codes(case_folder)
    run(served, case_folder, tmp_path / "again.nii.gz")
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("note: BraTS20_Training_001: BraTS20_Training_001_flair.nii.gz, ")
    assert "(LPS)" in first and second.startswith(note)


def test_the_whole_way_imports_no_tensorflow(served, tmp_path):
    case = write_case(tmp_path)
    program = (
        "import sys; from serving import client; code = client.main(sys.argv[1:]);"
        "print([m for m in sys.modules if m.startswith(('tensorflow', 'keras'))]); sys.exit(code or 0)"
    )
    arguments = ["--server", served.address, "--model-name", "tiny", "--input", str(case), "--output"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments, str(tmp_path / "seg.nii.gz")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "WT" in done.stdout and "by tiny version 1" in done.stdout


# --- the library ----------------------------------------------------------------------------------------


def test_the_card_comes_from_the_server(served):
    with client.Client(served.address, "tiny") as connection:
        assert connection.card() == tiny_model.card()


def test_segment_gives_tissues_probabilities_and_the_version(served, tmp_path):
    case = cases.load(layouts.find(write_case(tmp_path)).cases[0])
    with client.Client(served.address, "tiny", version=1) as connection:
        result = connection.segment(case, probabilities=True)
        assert connection.segment(case).probabilities is None
    images = {name: case.image[..., m] for m, name in enumerate(MODALITIES)}
    np.testing.assert_array_equal(result.tissues, tiny_model.tissues_by_rule(images))
    np.testing.assert_array_equal(
        result.probabilities[..., 2], 0.75 * (result.tissues == Tissue.ET), strict=False
    )
    assert result.model_version == 1


def test_a_model_may_be_named_in_the_address_and_a_case_by_its_folder(served, tmp_path):
    folder = write_case(tmp_path)
    with client.Client(f"{served.address}/tiny") as connection:
        tissues = connection.segment(folder).tissues
    loaded = cases.load(layouts.find(folder).cases[0])
    images = {name: loaded.image[..., m] for m, name in enumerate(MODALITIES)}
    np.testing.assert_array_equal(tissues, tiny_model.tissues_by_rule(images))


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("localhost:8500/cun", ("localhost:8500", "cun")),
        ("dns:///serving.default.svc:8500/cun", ("dns:///serving.default.svc:8500", "cun")),
        ("[::1]:8500/cun", ("[::1]:8500", "cun")),
    ],
)
def test_address_and_model_are_told_apart(address, parts):
    connection = client.Client(address)
    assert (connection.address, connection.model) == parts
    connection.close()


@pytest.mark.parametrize("address", ["localhost:8500", "dns:///localhost:8500", "localhost:8500/", "/cun"])
def test_an_address_without_a_model_is_refused(address):
    with pytest.raises(InputError, match="which model"):
        client.Client(address)


def test_a_folder_of_many_cases_is_no_case(served, dataset):
    with client.Client(served.address, "tiny") as connection, pytest.raises(InputError, match="found 3"):
        connection.segment(dataset)


def test_a_version_goes_by_number_or_by_label_and_not_by_both(base, tmp_path):
    shutil.copytree(base, tmp_path / "tiny")
    shutil.copytree(base / "1", tmp_path / "tiny" / "2")
    path = tmp_path / "models.config"
    path.write_text(
        f"""model_config_list {{ config {{
            name: "tiny" base_path: "{tmp_path}/tiny" model_platform: "tensorflow"
            model_version_policy {{ specific {{ versions: 1 versions: 2 }} }}
            version_labels {{ key: "stable" value: 1 }}
        }} }}"""
    )
    folder = write_case(tmp_path)
    with server.start(model_config_file=path) as running:
        for more, version in (({}, 2), ({"label": "stable"}, 1), ({"version": 1}, 1)):
            with client.Client(running.address, "tiny", **more) as connection:
                assert connection.segment(folder).model_version == version
        with pytest.raises(calls.ServerError, match="no version labelled 'canary'"):
            run(running, folder, tmp_path / "seg.nii.gz", "--version_label", "canary")
    with pytest.raises(InputError, match="one of the two"):
        client.Client("localhost:1", "tiny", version=1, label="stable")


def test_what_the_server_takes_is_looked_at_before_a_case_is_sent(served, tmp_path, asked):
    case = write_case(tmp_path)
    card = tiny_model.card()
    (tmp_path / "tfbrats.json").write_text(
        card.model_copy(update={"modalities": ("flair", "t1", "t1ce")}).to_json()
    )
    with pytest.raises(calls.ServerError, match=r"takes .*t2 string.*would be sent.*another model's"):
        run(served, case, tmp_path / "seg.nii.gz", "--card", str(tmp_path / "tfbrats.json"))
    assert asked == []


def test_a_signature_that_the_server_lacks_is_named_before_a_case_is_sent(served, tmp_path, asked, monkeypatch):
    monkeypatch.setattr(calls.Calls, "signatures", lambda *_: (1, {"int16": {}, "describe": {}}))
    with pytest.raises(calls.ServerError, match="has no signature 'gzip_int16'; it has describe, int16"):
        run(served, write_case(tmp_path), tmp_path / "seg.nii.gz")
    assert asked == [("describe", ["content"])]


def test_the_server_tells_its_version_and_its_signatures_types(served):
    with client.Client(served.address, "tiny") as connection:
        version, signatures = connection.signatures()
    assert version == 1
    assert signatures["int16"] == dict.fromkeys(MODALITIES, "int16")
    assert signatures["gzip_int16"] == {"plane": "int32", **dict.fromkeys(MODALITIES, "string")}
    assert signatures["describe"] == {"file": "string"}


def test_a_case_that_lacks_a_modality_is_refused_by_name(served, tmp_path):
    case = cases.load(layouts.find(write_case(tmp_path)).cases[0], ("flair", "t1"))
    with (
        client.Client(served.address, "tiny") as connection,
        pytest.raises(InputError, match=r"takes flair, t1, t1ce, t2; received flair, t1\."),
    ):
        connection.segment(case)


def test_a_model_swapped_under_the_client_is_read_by_its_own_card(tmp_path):
    tiny_model.write(tmp_path / "tiny", 1, "2020")
    case = cases.load(layouts.find(write_case(tmp_path)).cases[0])
    with (
        server.start(tmp_path / "tiny", poll_s=0.05) as running,
        client.Client(running.address, "tiny") as connection,
    ):
        before = connection.segment(case)
        # Its 3 is enhancing tumour; version 1 has no 3.
        tiny_model.write(tmp_path / "other", 2, "2023").rename(tmp_path / "tiny" / "2")
        end = time.monotonic() + 15
        while running.version == 1:
            assert time.monotonic() < end
            time.sleep(0.02)
        after = connection.segment(case)
    assert (before.model_version, after.model_version) == (1, 2)
    np.testing.assert_array_equal(before.tissues, after.tissues)


def test_servers_of_different_versions_behind_one_name_answer_every_case(tmp_path):
    for version, edition in ((1, "2020"), (2, "2023")):  # as while a new version is rolled out
        tiny_model.write(tmp_path / str(version) / "tiny", version, edition)
    case = cases.load(layouts.find(write_case(tmp_path)).cases[0])
    images = {name: case.image[..., m] for m, name in enumerate(MODALITIES)}
    with server.start(tmp_path / "1" / "tiny") as one, server.start(tmp_path / "2" / "tiny") as two:
        addresses = f"ipv4:127.0.0.1:{one.port},127.0.0.1:{two.port}"
        with client.Client(addresses, "tiny") as connection, futures.ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda _: connection.segment(case), range(6)))
    assert {result.model_version for result in found} <= {1, 2}
    for result in found:
        np.testing.assert_array_equal(result.tissues, tiny_model.tissues_by_rule(images))


def test_a_folder_is_done_by_one_of_several_versions_behind_a_name(dataset, tmp_path):
    for version, edition in ((1, "2020"), (2, "2023")):
        tiny_model.write(tmp_path / str(version) / "tiny", version, edition)
    with server.start(tmp_path / "1" / "tiny") as one, server.start(tmp_path / "2" / "tiny") as two:
        both = types.SimpleNamespace(address=f"ipv4:127.0.0.1:{one.port},127.0.0.1:{two.port}")
        assert run(both, dataset, f"{tmp_path}/out/", "--workers", "4", "--provenance") is None
    told = [json.loads(path.read_text())["model"]["version"] for path in (tmp_path / "out").glob("BraTS*.json")]
    assert told == [model_card.read(tmp_path / "out").version] * 3


@pytest.fixture
def swapped_on_loading(tmp_path, monkeypatch):
    """A server of version 1 for which version 2 takes over when the first case is loaded."""
    tiny_model.write(tmp_path / "tiny", 1, "2020")
    with server.start(tmp_path / "tiny", poll_s=0.05) as running:
        load = cases.load

        def swap_and_load(*arguments, **named):
            if running.version == 1:
                tiny_model.write(tmp_path / "other", 2, "2023").rename(tmp_path / "tiny" / "2")
            end = time.monotonic() + 15
            while running.models[0].served != (2,) and time.monotonic() < end:
                time.sleep(0.02)
            return load(*arguments, **named)

        monkeypatch.setattr(cases, "load", swap_and_load)
        yield running


def test_provenance_names_the_version_that_answered(swapped_on_loading, tmp_path):
    run(swapped_on_loading, write_case(tmp_path), tmp_path / "seg.nii.gz", "--provenance")
    assert json.loads((tmp_path / "seg.json").read_text())["model"]["version"] == 2


def test_with_a_given_card_too_the_results_of_a_folder_are_one_versions(base, dataset, tmp_path, monkeypatch):
    shutil.copytree(base, tmp_path / "tiny")
    (tmp_path / "tfbrats.json").write_text(tiny_model.card().to_json())
    with server.start(tmp_path / "tiny", poll_s=0.05) as running:
        real = cases.save_segmentation

        def save_and_swap(*arguments):
            real(*arguments)
            shutil.copytree(base / "1", tmp_path / "2.partial")
            (tmp_path / "2.partial").rename(tmp_path / "tiny" / "2")
            end = time.monotonic() + 15
            while running.version == 1 and time.monotonic() < end:
                time.sleep(0.02)

        monkeypatch.setattr(cases, "save_segmentation", save_and_swap)
        with pytest.raises(calls.ServerError, match=r"version 2 of tiny took over; .* of version 1"):
            run(running, dataset, f"{tmp_path}/out/", "--card", str(tmp_path / "tfbrats.json"))
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1


def test_an_answer_above_grpcs_four_mebibytes_is_received(served):
    arrays = {name: np.full((150, 150, 50), 900, np.int16) for name in MODALITIES}
    with client.Client(served.address, "tiny") as connection:
        outputs, _ = connection.predict(arrays, "int16", ["probabilities"])
    assert outputs["probabilities"].nbytes > 4 * 2**20
    assert (outputs["probabilities"] == 0.75).all()


def test_a_server_that_comes_back_within_the_time_is_waited_for(base):
    with server.start(base) as running:
        port = running.port
    with client.Client(f"127.0.0.1:{port}", "tiny") as connection:
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(connection.card()))
        waiting.start()
        time.sleep(0.3)
        with server.start(base, port=port):
            waiting.join(15)
    assert answers == [tiny_model.card()]


def signatures(request, context):
    """The answer of a server with whole-case signatures, by GetModelMetadata."""
    number = {"float32": 1, "int16": 5, "string": 7, "int32": 3}
    offered = {
        "serving_default": dict.fromkeys(MODALITIES, "float32"),
        "int16": dict.fromkeys(MODALITIES, "int16"),
        "gzip_int16": {"plane": "int32", **dict.fromkeys(MODALITIES, "string")},
    }
    told = messages.Signatures()
    for name, inputs in offered.items():
        for alias, kind in inputs.items():
            told.signature_def[name].inputs[alias].dtype = number[kind]
    response = messages.MetadataResponse()
    response.model_spec.version.value = 1
    response.metadata["signature_def"].value = told.SerializeToString()
    return response


class Scripted:
    """A gRPC server whose Predict does what it is told."""

    def __init__(self, predict, credentials=None):
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        handlers = {}
        for path, answer, request, response in (
            (messages.PREDICT, predict, messages.PredictRequest, messages.PredictResponse),
            (messages.METADATA, signatures, messages.MetadataRequest, messages.MetadataResponse),
        ):
            service, method = path.strip("/").split("/")
            handlers[method] = grpc.unary_unary_rpc_method_handler(
                answer, request.FromString, response.SerializeToString
            )
        if predict:
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        if credentials:
            port = self._server.add_secure_port("localhost:0", credentials)
        else:
            port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"localhost:{port}"

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_):
        self._server.stop(0).wait()


def described(request, context):
    """Answers `describe`, and a segmentation of the wrong shape."""
    response = messages.PredictResponse()
    response.model_spec.version.value = 1
    if request.model_spec.signature_name == "describe":
        response.outputs["content"].CopyFrom(messages.to_tensor(tiny_model.card().to_json()))
    else:
        response.outputs["segmentation"].CopyFrom(messages.to_tensor(np.zeros((3, 3, 3), np.uint8)))
    return response


def test_a_server_that_is_briefly_unavailable_is_tried_again():
    calls = []

    def flaky(request, context):
        calls.append(request)
        if len(calls) < 3:
            context.abort(CODE.UNAVAILABLE, "loading")
        return described(request, context)

    with Scripted(flaky) as running, client.Client(running.address, "tiny") as connection:
        assert connection.card() == tiny_model.card()
    assert len(calls) == 3


def test_a_server_that_is_full_is_asked_again_and_one_for_which_it_is_too_long_is_not():
    asked = []

    def full_at_first(request, context):
        asked.append(request)
        if len(asked) == 1:
            context.abort(CODE.RESOURCE_EXHAUSTED, "No room: 24 at most may run or wait.")
        return described(request, context)

    with Scripted(full_at_first) as running, client.Client(running.address, "tiny") as connection:
        assert connection.card() == tiny_model.card()
    assert len(asked) == 2

    def too_long(request, context):
        asked.append(request)
        context.abort(CODE.RESOURCE_EXHAUSTED, "Received message larger than max (700000000 vs. 671088640)")

    with (
        Scripted(too_long) as running,
        client.Client(running.address, "tiny") as connection,
        pytest.raises(calls.ServerError, match=r"no room for the case .*larger than max"),
    ):
        connection.card()
    assert len(asked) == 3


def test_a_server_that_stays_full_is_said_to_be_full_when_the_time_is_up():
    def full(request, context):
        context.abort(CODE.RESOURCE_EXHAUSTED, "No room: 24 at most may run or wait.")

    with Scripted(full) as running, client.Client(running.address, "tiny", timeout_s=1.5) as connection:
        start = time.monotonic()
        with pytest.raises(calls.ServerError, match=r"no room for the case \(No room: 24") as caught:
            connection.card()
    assert caught.value.code is CODE.RESOURCE_EXHAUSTED
    assert time.monotonic() - start < 5


def test_a_server_that_stays_unavailable_is_given_up_at_the_timeout():
    def never(request, context):
        context.abort(CODE.UNAVAILABLE, "loading")

    with (
        Scripted(never) as running,
        client.Client(running.address, "tiny", timeout_s=1) as connection,
        pytest.raises(calls.ServerError, match="went away"),
    ):
        start = time.monotonic()
        connection.card()
    assert time.monotonic() - start < 5


def test_an_answer_that_does_not_fit_the_case_is_refused_and_nothing_is_written(tmp_path):
    case = write_case(tmp_path)
    with Scripted(described) as running, pytest.raises(InputError, match=r"came as uint8 \(3, 3, 3\)"):
        run(running, case, tmp_path / "out" / "seg.nii.gz")
    assert not (tmp_path / "out").exists()


def test_a_grpc_server_of_another_kind_is_recognised(tmp_path):
    with Scripted(None) as running, pytest.raises(calls.ServerError, match="no TensorFlow Serving"):
        run(running, write_case(tmp_path), tmp_path / "seg.nii.gz")


@pytest.fixture
def pem(tmp_path):
    """Folder with key.pem and certificate.pem of localhost, which is its own authority."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here to make a certificate with")
    made = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    files = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "certificate.pem"]
    subprocess.run([openssl, *made.split(), *files], check=True, capture_output=True)
    return tmp_path


def segmented(request, context):
    """Answers `describe`, and an empty segmentation of the case that `write_case` writes."""
    response = described(request, context)
    if "segmentation" in response.outputs:
        response.outputs["segmentation"].CopyFrom(messages.to_tensor(np.zeros((9, 8, 7), np.uint8)))
    return response


def test_an_encrypted_server_is_spoken_to_with_its_certificate(pem):
    key, certificate = (pem / "key.pem").read_bytes(), (pem / "certificate.pem").read_bytes()
    with Scripted(described, grpc.ssl_server_credentials([(key, certificate)])) as running:
        trusted = grpc.ssl_channel_credentials(certificate)
        with client.Client(running.address, "tiny", credentials=trusted) as connection:
            assert connection.card() == tiny_model.card()
        with (
            client.Client(running.address, "tiny", connect_timeout_s=0.5) as connection,
            pytest.raises(calls.ServerError, match="--tls-root-certificates"),
        ):
            connection.card()


def test_a_server_that_asks_for_the_clients_certificate_gets_it(pem, tmp_path):
    key, certificate = (pem / "key.pem").read_bytes(), (pem / "certificate.pem").read_bytes()
    both_ways = grpc.ssl_server_credentials([(key, certificate)], certificate, require_client_auth=True)
    case, output = write_case(tmp_path), tmp_path / "seg.nii.gz"
    roots = ["--tls-root-certificates", str(pem / "certificate.pem"), "--connect-timeout", "1"]
    own = ["--tls-certificate", str(pem / "certificate.pem"), "--tls-key", str(pem / "key.pem")]
    with Scripted(segmented, both_ways) as running:
        with pytest.raises(calls.ServerError, match="no gRPC server answers"):
            run(running, case, output, *roots)
        run(running, case, output, *roots, *own)
    assert output.exists()
    with pytest.raises(InputError, match="need all three"):
        run(running, case, tmp_path / "other.nii.gz", *own)


# --- what people get wrong ------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_named_within_the_connect_timeout(tmp_path):
    case = write_case(tmp_path)
    arguments = [
        "--server",
        "localhost:1",
        "--model-name",
        "cun",
        "--input",
        str(case),
        "--connect-timeout",
        "1",
    ]
    start = time.monotonic()
    with pytest.raises(calls.ServerError, match=r"localhost:1: no gRPC server .*`tfbrats serve "):
        client.main([*arguments, "--output", str(tmp_path / "out" / "seg.nii.gz")])
    assert time.monotonic() - start < 5
    assert not (tmp_path / "out").exists()


def test_an_unknown_model_version_or_signature_is_named(served, tmp_path):
    case = write_case(tmp_path)
    output = tmp_path / "seg.nii.gz"
    with pytest.raises(calls.ServerError, match="serves no cunn ") as caught:
        run(served, case, output, "--model", "cunn")
    assert caught.value.code is CODE.NOT_FOUND
    with pytest.raises(calls.ServerError, match="serves no tiny version 7"):
        run(served, case, output, "--model-version", "7")
    with pytest.raises(InputError, match=r"--signature slices: takes no whole case.*serving_default"):
        run(served, case, output, "--signature", "slices")
    assert not output.exists()


def test_what_the_graph_refuses_is_passed_on(served, tmp_path):
    case = write_case(tmp_path, t2=tiny_model.TOO_BRIGHT)
    with pytest.raises(InputError, match=r"(?s)_001: .*refuses the inputs: .*t2 is too bright"):
        run(served, case, tmp_path / "seg.nii.gz")


def test_a_case_that_takes_too_long_says_to_raise_the_timeout(served):
    with (
        client.Client(served.address, "tiny", timeout_s=0.5) as connection,
        pytest.raises(calls.ServerError, match=r"within 0.5 s. Raise --timeout"),
    ):
        connection.predict({"rounds": np.array(10**12)}, "spin", ["done"])


def test_a_card_that_is_none_is_refused(served, tmp_path):
    case = write_case(tmp_path)
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(InputError, match=r"card.json: not a tfbrats.json of"):
        run(served, case, tmp_path / "seg.nii.gz", "--card", str(tmp_path / "card.json"))


def test_outputs_that_exist_or_are_no_nifti_are_refused_before_anything_is_sent(tmp_path):
    nowhere = type("Nowhere", (), {"address": "localhost:1"})
    case = write_case(tmp_path)
    there = tmp_path / "there.nii.gz"
    there.write_bytes(b"precious")
    with pytest.raises(InputError, match=r"there.nii.gz exists.*--overwrite"):
        run(nowhere, case, there)
    with pytest.raises(InputError, match=r"there.nii.gz exists.*--overwrite"):
        run(nowhere, case, tmp_path / "seg.nii.gz", "--probabilities", str(there))
    with pytest.raises(InputError, match=r"ends in .nii.gz"):
        run(nowhere, case, tmp_path / "seg.mha")
    with pytest.raises(InputError, match="one case"):
        run(nowhere, case, f"{tmp_path}/out/", "--probabilities", str(tmp_path / "p.nii.gz"))
    assert there.read_bytes() == b"precious"


def test_the_cases_own_files_are_not_overwritten_even_when_asked_to(tmp_path):
    nowhere = type("Nowhere", (), {"address": "localhost:1"})
    case = write_case(tmp_path)
    scan = case / "BraTS20_Training_001_t1.nii.gz"
    before = scan.read_bytes()
    with pytest.raises(InputError, match=r"_t1\.nii\.gz: belongs to the input"):
        run(nowhere, case, scan, "--overwrite")
    with pytest.raises(InputError, match=r"_t1\.nii\.gz: belongs to the input"):
        run(nowhere, case, tmp_path / "seg.nii.gz", "--probabilities", str(scan), "--overwrite")
    assert scan.read_bytes() == before


def test_one_file_cannot_hold_segmentation_and_probabilities(tmp_path):
    nowhere = type("Nowhere", (), {"address": "localhost:1"})
    with pytest.raises(InputError, match="by --output and by --probabilities"):
        run(nowhere, write_case(tmp_path), tmp_path / "s.nii", "--probabilities", f"{tmp_path}/x/../s.nii")


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_sent(tmp_path):
    nowhere = type("Nowhere", (), {"address": "localhost:1"})
    (tmp_path / "file").write_bytes(b"1")
    for output in ("file/seg.nii.gz", "file/"):
        with pytest.raises(InputError, match="cannot be written"):
            run(nowhere, write_case(tmp_path), f"{tmp_path}/{output}")


def test_a_segmentation_does_not_depend_on_the_experts(served, tmp_path):
    case = write_case(tmp_path)
    run(served, case, tmp_path / "without.nii.gz")
    (case / "BraTS20_Training_001_seg.nii.gz").write_bytes(b"not an image")
    run(served, case, tmp_path / "with.nii.gz")
    assert (tmp_path / "with.nii.gz").read_bytes() == (tmp_path / "without.nii.gz").read_bytes()


def test_the_command_ends_with_one_line_and_exit_code_1(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        sys, "argv", ["client", "--model-name", "m", "--input", str(tmp_path / "x"), "--output", "o/"]
    )
    with pytest.raises(SystemExit) as caught:
        command.run(client.main)
    assert caught.value.code == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'x'}: no such folder.\n"


# --- many cases -----------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path):
    for number in (1, 2, 3):
        write_case(tmp_path / "data", f"BraTS20_Training_00{number}", seed=number)
    return tmp_path / "data"


def test_one_output_for_many_cases_is_refused_with_their_names(served, dataset, tmp_path):
    with pytest.raises(InputError, match=r"BraTS20_Training_001, .*_002, .*_003.*--case"):
        run(served, dataset, tmp_path / "seg.nii.gz")
    with pytest.raises(InputError, match="no case 009; it has BraTS20_Training_001"):
        run(served, dataset, tmp_path / "seg.nii.gz", "--case", "009")
    run(served, dataset, tmp_path / "seg.nii.gz", "--case", "BraTS20_Training_002")
    run(served, dataset / "BraTS20_Training_002", tmp_path / "same.nii.gz")
    assert (tmp_path / "seg.nii.gz").read_bytes() == (tmp_path / "same.nii.gz").read_bytes()


def test_a_folder_as_output_gets_every_case_and_keeps_those_done(served, dataset, tmp_path, asked, capsys):
    out = tmp_path / "out"
    run(served, dataset, f"{out}/")
    names = [f"BraTS20_Training_00{n}.nii.gz" for n in (1, 2, 3)]
    assert sorted(p.name for p in out.iterdir()) == [*names, "tfbrats.json", "volumes.csv"]
    assert model_card.read(out).version == 1
    (out / "BraTS20_Training_002.nii.gz").write_bytes(b"mine")
    asked.clear()
    capsys.readouterr()
    run(served, dataset, out)
    assert {signature for signature, _ in asked} <= {"describe"}  # whose results they are, and no more
    assert "3 of 3 cases are done already" in capsys.readouterr().out
    assert (out / "BraTS20_Training_002.nii.gz").read_bytes() == b"mine"
    run(served, dataset, out, "--overwrite")
    assert [signature for signature, _ in asked].count("gzip_int16") == 3
    assert (out / "BraTS20_Training_002.nii.gz").read_bytes() != b"mine"


def test_own_scans_need_no_data_set_and_are_written_in_the_model_s_values(tmp_path, capsys):
    case = write_case(tmp_path, "BraTS20_Training_004")
    mine = tmp_path / "mine"
    mine.mkdir()
    names = dict(zip(MODALITIES, ("AX_FLAIR", "T1_pre", "T1_post", "T2_tse"), strict=True))
    for modality, name in names.items():
        shutil.copy(case / f"{case.name}_{modality}.nii.gz", mine / f"{name}.nii.gz")
    tiny_model.write(tmp_path / "tiny", 1, "2023")
    flags = [text for m, name in names.items() for text in (f"--{m}", str(mine / f"{name}.nii.gz"))]

    def said() -> list[str]:
        return [line for line in capsys.readouterr().out.splitlines() if "its voxels are" not in line]

    with server.start(tmp_path / "tiny") as running:
        asked = ["--server", running.address, "--model-name", "tiny"]
        client.main([*asked, *flags, "--output", str(tmp_path / "seg.nii.gz")])
        first = said()
        client.main([*asked, "--input", str(mine), "--output", str(tmp_path / "out")])
        second = said()
        with pytest.raises(InputError, match=r"takes flair, t1, t1ce, t2; found .*Give --t2 FILE too"):
            client.main([*asked, *flags[:-2], "--output", str(tmp_path / "o")])
    told, *_ = first[0].partition(" (request ")  # each time another
    assert told.startswith("mine: WT ") and second[1].startswith(f"{told} (request ")
    assert second[0].startswith("note: mine: by their names, flair AX_FLAIR.nii.gz, t1 T1_pre.nii.gz")
    assert "by tiny version 1" in first[1] and "3 ET" in first[1] and first[2].startswith("next: look at ")
    assert (tmp_path / "seg.nii.gz").read_bytes() == (tmp_path / "out" / "mine.nii.gz").read_bytes()
    assert (tmp_path / "out" / "volumes.csv").read_text().splitlines()[1].startswith("mine,")
    assert set(np.unique(nifti.read(tmp_path / "seg.nii.gz").array)) <= {0, 1, 2, 3}


def test_old_options_work_and_say_their_new_names(served, dataset, tmp_path, capsys):
    asked = ["--server", served.address, "--model", "tiny", "--version", "1", "--concurrency", "2"]
    client.main([*asked, "--input", str(dataset), "--connect_timeout", "3", "--output", str(tmp_path / "out")])
    said = capsys.readouterr()
    for old, new in (("model", "model-name"), ("version", "model-version"), ("concurrency", "workers")):
        assert f"note: --{old} is now --{new}\n" in said.err
    assert "3 segmentations by tiny version 1 in " in said.out
    assert said.out.splitlines()[-1].startswith("next: look at ")  # there is no mask to score against


def test_faulty_cases_are_listed_at_the_end_and_the_others_done(served, dataset, tmp_path, capsys):
    write_case(dataset, "BraTS20_Training_000", t2=tiny_model.TOO_BRIGHT)
    truncated = dataset / "BraTS20_Training_002" / "BraTS20_Training_002_t1.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:100])
    assert run(served, dataset, f"{tmp_path}/out/") == 1
    said = capsys.readouterr()
    assert "2 of 4 cases failed" in said.out
    assert "t2 is too bright" in said.out and "_002_t1.nii.gz: truncated" in said.out
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == [
        "BraTS20_Training_001.nii.gz",
        "BraTS20_Training_003.nii.gz",
        "tfbrats.json",
        "volumes.csv",
    ]
    assert not said.err  # these faults are the files', not ours


def test_a_row_that_a_killed_command_left_out_comes_back_though_a_case_fails(served, dataset, tmp_path):
    truncated = dataset / "BraTS20_Training_002" / "BraTS20_Training_002_t1.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:100])
    table = tmp_path / "out" / "volumes.csv"
    assert run(served, dataset, f"{tmp_path}/out/") == 1
    rows = table.read_text()
    assert len(rows.splitlines()) == 3
    table.write_text("".join(rows.splitlines(True)[:-1]))
    assert run(served, dataset, f"{tmp_path}/out/") == 1
    assert table.read_text() == rows


def test_as_many_cases_are_under_way_as_are_asked_for(served, dataset, tmp_path, monkeypatch):
    at_once, most = [], []
    real = rounds._Round.segment_one

    def counting(*arguments):
        at_once.append(1)
        most.append(len(at_once))
        time.sleep(0.2)
        try:
            return real(*arguments)
        finally:
            at_once.pop()

    monkeypatch.setattr(rounds._Round, "segment_one", counting)
    for number in (1, 2):
        most.clear()
        assert run(served, dataset, f"{tmp_path}/out{number}/", "--workers", str(number)) is None
        assert max(most) == number
    one, two = (sorted((tmp_path / f"out{number}").glob("*.nii.gz")) for number in (1, 2))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    with pytest.raises(InputError, match="--workers 0"):
        run(served, dataset, f"{tmp_path}/out/", "--workers", "0")


def test_a_case_that_concerns_all_ends_the_others_under_way(served, dataset, tmp_path, monkeypatch):
    def fails(*_):
        raise calls.ServerError("gone", CODE.NOT_FOUND)

    monkeypatch.setattr(rounds._Round, "segment_one", fails)
    with pytest.raises(calls.ServerError, match="gone"):
        run(served, dataset, f"{tmp_path}/out/", "--workers", "2")


def test_provenance_lies_beside_each_case_and_is_made_up_for(served, dataset, tmp_path):
    out = tmp_path / "out"
    run(served, dataset, f"{out}/")
    assert not list(out.glob("BraTS*.json"))
    run(served, dataset, f"{out}/", "--provenance")
    for path in sorted(out.glob("*.nii.gz")):
        content = json.loads((out / f"{path.name.removesuffix('.nii.gz')}.json").read_text())
        assert content["model"]["name"] == "tiny" and content["model"]["version"] == 1
        assert content["segmentation"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert len(content["inputs"]) == 4
    run(served, dataset, f"{out}/", "--overwrite")
    assert not list(out.glob("BraTS*.json"))  # of the files that were replaced


def test_faults_so_far_are_listed_when_something_ends_them_all(served, dataset, tmp_path, monkeypatch, capsys):
    truncated = dataset / "BraTS20_Training_001" / "BraTS20_Training_001_t1.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:100])

    def gone(*_):
        raise calls.ServerError("gone", CODE.NOT_FOUND)

    monkeypatch.setattr(client.Client, "segment", gone)
    with pytest.raises(calls.ServerError, match="gone"):
        run(served, dataset, f"{tmp_path}/out/")
    assert "_001_t1.nii.gz: truncated" in capsys.readouterr().out


def test_an_error_that_nobody_expected_costs_one_case(served, dataset, tmp_path, monkeypatch, capsys):
    real = client.Client.segment

    def fails_once(self, case, *arguments):
        if case.case_id.endswith("002"):
            raise ValueError("surprise")
        return real(self, case, *arguments)

    monkeypatch.setattr(client.Client, "segment", fails_once)
    assert run(served, dataset, f"{tmp_path}/out/") == 1
    said = capsys.readouterr()
    assert "_002: ValueError: surprise" in said.out
    assert "in fails_once" in said.err  # where, for whoever mends it
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


def test_a_folder_that_is_done_needs_no_server(base, dataset, tmp_path, capsys):
    with server.start(base) as running:
        run(running, dataset, f"{tmp_path}/out/")
    assert run(running, dataset, f"{tmp_path}/out/", "--connect-timeout", "0.5") is None
    said = capsys.readouterr().out
    assert "3 of 3 cases are done already" in said and "no server answers" in said


@pytest.mark.parametrize("option", ["--timeout", "--connect-timeout"])
@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_time_that_is_none_is_refused(served, dataset, tmp_path, option, seconds):
    with pytest.raises(InputError, match=f"{option.strip('-').replace('-', '_')} {seconds}: seconds above 0"):
        run(served, dataset, f"{tmp_path}/out/", f"{option}={seconds}")


def test_the_results_of_two_models_are_not_mixed_in_one_folder(served, dataset, tmp_path):
    out = tmp_path / "out"
    other = tiny_model.card().model_copy(update={"name": "another", "version": 7})
    (out / "mine").mkdir(parents=True)
    (out / "tfbrats.json").write_text(other.to_json())
    (out / "BraTS20_Training_001.nii.gz").write_bytes(b"theirs")
    with pytest.raises(InputError, match="segmentations of another model, another version 7"):
        run(served, dataset, f"{out}/")
    assert (out / "BraTS20_Training_001.nii.gz").read_bytes() == b"theirs"
    run(served, dataset, f"{out}/", "--overwrite")
    assert model_card.read(out).name == "tiny"


def test_a_model_that_is_not_there_stops_the_whole_run(served, dataset, tmp_path):
    card = tmp_path / "tfbrats.json"
    card.write_text(tiny_model.card().to_json())
    with pytest.raises(calls.ServerError, match="serves no nobody"):
        run(served, dataset, f"{tmp_path}/out/", "--model-name", "nobody", "--card", str(card))


def test_a_version_that_takes_over_in_the_middle_of_a_folder_ends_it(dataset, tmp_path, monkeypatch):
    tiny_model.write(tmp_path / "tiny", 1, "2020")
    out = tmp_path / "out"
    with server.start(tmp_path / "tiny", poll_s=0.05) as running:
        real = cases.save_segmentation

        def save_and_swap(*arguments):
            real(*arguments)
            tiny_model.write(tmp_path / "other", 2, "2023").rename(tmp_path / "tiny" / "2")
            end = time.monotonic() + 15
            while running.version == 1 and time.monotonic() < end:
                time.sleep(0.02)

        monkeypatch.setattr(cases, "save_segmentation", save_and_swap)
        with pytest.raises(
            calls.ServerError, match="version 1, with which this was begun, is not served any more"
        ):
            run(running, dataset, f"{out}/")
        monkeypatch.undo()
        assert len(list(out.glob("*.nii.gz"))) == 1
        assert model_card.read(out).version == 1
        run(running, dataset, f"{out}/", "--overwrite")
    assert len(list(out.glob("*.nii.gz"))) == 3
    assert model_card.read(out).version == 2
