"""The SavedModel: named signatures, one copy of each variable, the same answers as the Keras model."""

import collections
import contextlib
import gzip
import json
import os
import pathlib
import sys

import nibabel
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tfbrats import config_file, export, inspect, predict
from tfbrats.cases import case, nifti
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.exports import card, next_version, rehearsal, saving
from tfbrats.exports.chosen import chosen_from
from tfbrats.graphs.pieces import MOST_CASES
from tfbrats.inference import signatures
from tfbrats.inference.saved_model import WARM_UP, SavedModel
from tfbrats.inference.saved_segmenter import SavedSegmenter
from tfbrats.labels import EDITIONS, MODALITIES
from tfbrats.machine import packing
from tfbrats.networks import folding
from tfbrats.phantoms import simulation
from tfbrats.predictions import doubts, model_card, seen
from tfbrats.records import tfrecord
from tfbrats.runs.folder import RunFolder
from tfbrats.training import best_weights
from tfbrats.workflows import whole_run


@pytest.fixture(scope="module")
def trained(record_set, tmp_path_factory):
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("export") / "run"
    whole_run.train(
        record_set.config(
            f"run.dir={folder}", "train.epochs=1", "train.steps_per_epoch=2", "train.learning_rate=1e-4"
        )
    )
    return str(folder)


_COUNTED: list[collections.Counter] = []  # an audit hook stays for good: it counts while there is a counter


def _count(event, arguments):
    if event == "open" and _COUNTED and isinstance(arguments[0], str):
        _COUNTED[-1][os.path.realpath(arguments[0])] += 1


sys.addaudithook(_count)


@contextlib.contextmanager
def opens():
    """Path -> how often it is opened until the block ends."""
    _COUNTED.append(collections.Counter())
    try:
        yield _COUNTED[-1]
    finally:
        _COUNTED.pop()


def of_run(counts, folder):
    """Of the counts those of a run's own files, by their names in it; its checkpoints are TensorFlow's."""
    inside = {os.path.relpath(path, os.path.realpath(folder)): count for path, count in counts.items()}
    return {
        name: count for name, count in inside.items() if not name.startswith("..") and "checkpoints" not in name
    }


@pytest.fixture(scope="module")
def export_and_opens(trained, tmp_path_factory):
    with opens() as counts:
        folder = next_version.export(trained, tmp_path_factory.mktemp("models") / "tiny")
    return folder, counts


@pytest.fixture(scope="module")
def exported(export_and_opens):
    return export_and_opens[0]


def test_the_first_version_is_1(exported):
    assert exported.endswith("/1")


def test_one_export_opens_each_file_of_the_run_once(export_and_opens, trained):
    names = ("config.yaml", "records.json", "splits.json", "history.csv")
    assert of_run(export_and_opens[1], trained) == dict.fromkeys(names, 1)


def test_the_command_opens_each_file_of_a_cascades_run_once(cascade_run, tmp_path, monkeypatch, capsys):
    for name in ("_save", "rehearse"):  # what comes after the run is read; it takes most of the time
        monkeypatch.setattr(saving, name, lambda folder, *_: os.makedirs(folder, exist_ok=True))
    monkeypatch.setattr(export, "_tell_of_serving", lambda folder: None)  # reads what `_save` writes
    with opens() as counts:
        export.main(["--run", cascade_run.folder, "--output", str(tmp_path / "m")])
    names = ("config.yaml", "records.json", "splits.json", "wt/history.csv", "tc/history.csv", "et/history.csv")
    assert of_run(counts, cascade_run.folder) == dict.fromkeys(names, 1)
    said = capsys.readouterr().out
    assert "note:" not in said
    assert "callers send raw scans: the z-score is done in the model; axes LPS: " in " ".join(said.split())


def test_signatures_go_by_the_names_of_the_modalities(exported):
    saved = tf.saved_model.load(exported)
    whole_case = {"serving_default", "int16", "gzip_int16", "any_axes_int16", "cases_int16"}
    assert set(saved.signatures) == {*whole_case, "slices", "describe"}
    assert set(model_card.read(exported).signatures) == set(saved.signatures)
    for name, dtype in (("serving_default", tf.float32), ("int16", tf.int16)):
        _, inputs = saved.signatures[name].structured_input_signature
        assert set(inputs) == set(MODALITIES)
        assert {spec.dtype for spec in inputs.values()} == {dtype}
        assert {tuple(spec.shape) for spec in inputs.values()} == {(None, None, None)}
        outputs = saved.signatures[name].structured_outputs
        assert {key: spec.dtype for key, spec in outputs.items()} == {
            "segmentation": tf.uint8,
            "probabilities": tf.float32,
        }
    _, inputs = saved.signatures["slices"].structured_input_signature
    assert tuple(inputs["image"].shape) == (None, 48, 48, 4)
    assert set(saved.signatures["slices"].structured_outputs) == {"branch1", "branch2"}


def test_slices_gives_probabilities(exported):
    saved = tf.saved_model.load(exported)
    answer = saved.signatures["slices"](image=tf.random.normal([3, 48, 48, 4]))
    for name, classes in (("branch1", 2), ("branch2", 4)):
        assert answer[name].shape == (3, 48, 48, classes)
        assert np.allclose(tf.reduce_sum(answer[name], axis=-1), 1, atol=1e-5)


def test_each_variable_is_written_once(exported):
    reader = tf.train.load_checkpoint(str(pathlib.Path(exported) / "variables" / "variables"))
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    large = [reader.get_tensor(name).tobytes() for name in names if reader.get_tensor(name).size > 100]
    assert len(large) > 30
    assert len(large) == len(set(large))


def test_no_xla_is_in_the_artefact(exported):
    saved_model = saved_model_pb2.SavedModel.FromString(
        (pathlib.Path(exported) / "saved_model.pb").read_bytes()
    )
    for meta_graph in saved_model.meta_graphs:
        fields = {field.name: value for field, value in meta_graph.graph_def.ListFields()}
        for function in fields["library"].function:
            assert not function.attr["_XlaMustCompile"].b, function.signature.name


def test_it_describes_itself_on_disk_and_over_the_wire(exported, record_set):
    card = model_card.read(exported)
    served = tf.saved_model.load(exported).signatures["describe"](file=tf.constant(model_card.FILE))
    assert model_card.parse(served["content"].numpy(), "wire") == card
    assert card.name == "tiny" and card.version == 1
    assert card.modalities == MODALITIES
    assert card.schema_of_labels.edition == "2020"
    assert card.training_data["split_sha256"] == record_set.manifest.split_sha256
    assert card.training_data["cases"] == {"train": 3, "validation": 1, "test": 0}
    of_splits = {case_id: split for split, ids in record_set.manifest.cases.items() for case_id in ids}
    assert len(of_splits) == 4
    assert seen.kinds_of(card.training_data, [*of_splits, "x"]) == of_splits | {"x": "unseen"}
    assert "BraTS20_Training" not in card.to_json()
    assert card.scores["split"] == "validation"
    assert card.scores["epoch"] == 1 and 0 <= card.scores["dice_wt"] <= 1
    assert "not for diagnostic use" in card.intended_use


@pytest.mark.parametrize("kind", ["exported", pytest.param("cascade_model", marks=pytest.mark.slow)])
def test_each_signature_says_what_its_caller_does(kind, request):
    card = model_card.read(request.getfixturevalue(kind))
    asked = {name: entry.get("caller") for name, entry in card.signatures.items()}
    assert asked.pop("describe") is None  # a file's name needs no preparation
    told = asked.pop("any_axes_int16")
    assert told == list(doubts.asked_of_caller(card, tells_axes=True)) and any("RAS" in text for text in told)
    for name in ("serving_default", "int16", "gzip_int16", "cases_int16"):
        assert asked.pop(name) == list(doubts.asked_of_caller(card))
    assert asked and all(wants == list(doubts.asked_of_network(card)) for wants in asked.values())


def test_inspect_says_of_a_model_what_its_caller_does_and_of_a_folder_of_predictions_nothing(
    exported, tmp_path, capsys
):
    card = model_card.read(exported)
    for named in (exported, os.path.dirname(exported)):
        assert inspect.main([named]) == 0
        said = capsys.readouterr().out
        assert f"model       {card.name} version 1: " in said
        assert all(text in said for text in doubts.asked_of_caller(card))
    assert inspect.main([exported, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.pop("caller") == list(doubts.asked_of_caller(card)) and told == json.loads(card.to_json())
    model_card.keep(card, tmp_path)
    with pytest.raises(InputError, match="no case found"):
        inspect.main([str(tmp_path)])


def test_other_files_are_not_described(exported):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"only tfbrats\.json"):
        tf.saved_model.load(exported).signatures["describe"](file=tf.constant("/etc/passwd"))


def test_warm_up_requests_are_small_and_name_real_signatures(exported):
    from tensorflow_serving.apis import prediction_log_pb2

    path = pathlib.Path(exported) / WARM_UP
    assert path.stat().st_size < 3000
    logs = [prediction_log_pb2.PredictionLog.FromString(content) for content in tfrecord.read_records(path)]
    asked = [
        (log.predict_log.request.model_spec.signature_name, list(log.predict_log.request.output_filter))
        for log in logs
    ]
    alone = ["segmentation"]
    of_client = [(name, alone) for name in ("serving_default", "int16", "gzip_int16")]
    assert asked == [("serving_default", []), *of_client, ("describe", []), ("slices", [])]


@pytest.mark.slow
def test_versions_count_up_and_a_failed_export_leaves_nothing(trained, tmp_path, monkeypatch):
    model = tmp_path / "model"
    (model / "1").mkdir(parents=True)
    (model / "7").mkdir()
    monkeypatch.setattr(rehearsal, "replay", lambda *_: (_ for _ in ()).throw(RuntimeError("would not load")))
    with pytest.raises(RuntimeError, match="would not load"):
        next_version.export(trained, model)
    assert sorted(os.listdir(model)) == ["1", "7"]
    monkeypatch.undo()
    assert next_version.export(trained, model).endswith("model/8")


class Other(SavedModel):
    """A model that answers with other labels."""

    def __call__(self, signature, inputs, outputs=None):
        found = super().__call__(signature, inputs, outputs)
        return {name: array + 1 if name == "segmentation" else array for name, array in found.items()}


@pytest.mark.slow  # an export; what tells it is below
def test_a_model_that_answers_differently_is_not_exported(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal, "SavedModel", Other)
    with pytest.raises(RuntimeError, match="voxels differ"):
        next_version.export(trained, tmp_path / "model")
    assert os.listdir(tmp_path / "model") == []


def test_a_model_that_answers_differently_is_told(trained, exported, monkeypatch):
    chosen = chosen_from(trained)
    segmenter = saving.segmenter_of(chosen)
    offered = signatures.signatures_of(segmenter, chosen.config, str)
    monkeypatch.setattr(rehearsal, "SavedModel", Other)
    with pytest.raises(RuntimeError, match="voxels differ"):
        rehearsal.rehearse(exported, segmenter, offered, saving.plane(chosen.config), "float32")


def test_what_fails_leaves_no_version(tmp_path):
    final = tmp_path / "1"
    with pytest.raises(RuntimeError), next_version._renamed_at_the_end(os.fspath(final)) as temporary:
        os.makedirs(temporary)
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_batch_normalisation_is_folded_and_the_card_says_so(exported):
    assert model_card.read(exported).batch_norm == "18 of 35 folded into the convolutions before them"


@pytest.mark.slow  # two exports of one model
def test_where_folding_changes_the_answer_the_network_is_exported_as_it_was(trained, tmp_path, monkeypatch):
    plain = folding._folded

    def shifted(conv, norm):
        found = plain(conv, norm)
        found.bias.assign(found.bias + 0.5)
        return found

    monkeypatch.setattr(folding, "_folded", shifted)
    folder = next_version.export(trained, tmp_path / "model")
    assert model_card.read(folder).batch_norm.startswith("none folded: signature serving_default: ")
    variables = tf.train.list_variables(os.path.join(folder, "variables", "variables"))
    assert len(variables) > 230  # those of all normalisations


def test_a_session_finds_every_variable_as_tensorflow_serving_would(exported):
    """TensorFlow's own loader is more forgiving than the server's."""
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph)
    with graph.as_default():
        tf.compat.v1.saved_model.load(session, ["serve"], exported)
        handles = [op.outputs[0] for op in graph.get_operations() if op.type == "VarHandleOp"]
        known = session.run(tf.stack([tf.raw_ops.VarIsInitializedOp(resource=h) for h in handles]))
    assert len(handles) > 150  # those of the normalisations that are folded are gone
    assert known.all()


@pytest.mark.slow
def test_the_edition_of_the_output_can_be_chosen(trained, tmp_path):
    folder = next_version.export(trained, tmp_path / "model", edition="2023")
    assert model_card.read(folder).label_schema["values"]["3"] == "ET"
    with pytest.raises(InputError, match="choose from"):
        next_version.export(trained, tmp_path / "model", edition="1999")


def test_no_run_and_no_checkpoint_are_said(tmp_path, record_set):
    with pytest.raises(InputError, match="no run here"):
        next_version.export(tmp_path / "none", tmp_path / "model")
    RunFolder(tmp_path / "begun").start(record_set.config())
    with pytest.raises(InputError, match="no checkpoint yet"):
        next_version.export(tmp_path / "begun", tmp_path / "model")


def test_predict_writes_each_case_on_its_own_grid_and_goes_on(exported, record_set, tmp_path):
    dataset = layouts.find(record_set.cases)
    assert predict.predict(exported, dataset, str(tmp_path), probabilities=True) == []
    for one in dataset.cases:
        tissues, grid = case.load_label(tmp_path / f"{one.case_id}.nii.gz", one.schema)
        loaded = case.load(one)
        assert not case.grid_differences(grid, loaded.grid)
        assert tissues.shape == loaded.label.shape
        probabilities = nifti.read(tmp_path / f"{one.case_id}_probabilities.nii.gz").array
        assert probabilities.shape == (*grid.file_shape, 3)
    first = tmp_path / f"{dataset.cases[0].case_id}.nii.gz"
    second = tmp_path / f"{dataset.cases[1].case_id}.nii.gz"
    stamp = second.stat().st_mtime_ns
    content = first.read_bytes()
    first.unlink()
    predict.predict(exported, dataset, str(tmp_path))
    assert first.read_bytes() == content
    assert second.stat().st_mtime_ns == stamp


@pytest.mark.slow  # an export more; tests/predictions hold the rule
def test_results_of_two_models_are_not_mixed(trained, exported, record_set, tmp_path):
    other = next_version.export(trained, tmp_path / "models" / "other")
    dataset = layouts.find(record_set.cases)
    ids = [dataset.cases[0].case_id]
    predict.predict(exported, dataset, str(tmp_path / "out"), ids)
    with pytest.raises(InputError, match="another model, tiny version 1"):
        predict.predict(other, dataset, str(tmp_path / "out"), ids)
    predict.predict(other, dataset, str(tmp_path / "out"), ids, overwrite=True)
    another = [dataset.cases[1].case_id]
    with pytest.raises(InputError, match=f"not only of the cases named now: {ids[0]}"):
        predict.predict(exported, dataset, str(tmp_path / "out"), another, overwrite=True)


def test_predict_names_the_cases_that_fail_and_does_the_others(exported, record_set, tmp_path):
    import shutil

    cases = tmp_path / "cases"
    shutil.copytree(record_set.cases, cases)
    broken = sorted(cases.glob("*/*_t2.nii.gz"))[0]
    broken.write_bytes(broken.read_bytes()[:500])
    faults = predict.predict(exported, layouts.find(cases), str(tmp_path / "out"))
    assert len(faults) == 1 and broken.name in faults[0]
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 3


def test_a_folder_without_a_model_is_said(tmp_path):
    with pytest.raises(InputError, match=r"no tfbrats\.json"):
        SavedSegmenter(tmp_path)


def test_the_card_is_plain_json(exported):
    content = json.loads((pathlib.Path(exported) / model_card.FILE).read_text())
    assert content["modalities"] == list(MODALITIES)


# --- signatures for the wire ----------------------------------------------------------------------------


def _whole_numbers(shape, seed=0):
    """Volumes of a phantom by modality, int16."""
    image, _ = simulation.simulate(shape, seed=seed, number=0)
    return {name: image[..., MODALITIES.index(name)].astype(np.int16) for name in MODALITIES}


def _packed(volumes):
    """What gzip_int16 takes."""
    plane = np.array(next(iter(volumes.values())).shape[:2], np.int32)
    return {"plane": plane, **{name: packing.packed(volume) for name, volume in volumes.items()}}


@pytest.fixture(scope="module", params=["slices", pytest.param("cascade", marks=pytest.mark.slow)])
def either(request):
    """`either(signature, inputs)` of a model of either kind, as TensorFlow Serving answers."""
    of = {"slices": "exported", "cascade": "cascade_model"}
    return SavedModel(request.getfixturevalue(of[request.param]))


@pytest.mark.parametrize("shape", [(40, 44, 16), (33, 30, 19), (7, 5, 1)])
def test_packed_and_in_float32_a_case_gets_the_answer_of_int16(either, shape):
    volumes = _whole_numbers((48, 48, 24))
    volumes = {name: volume[tuple(slice(4, 4 + side) for side in shape)] for name, volume in volumes.items()}
    plain = either("int16", volumes)
    assert plain["segmentation"].shape == shape
    for signature, inputs in (
        ("gzip_int16", _packed(volumes)),
        ("serving_default", {name: volume.astype(np.float32) for name, volume in volumes.items()}),
    ):
        answer = either(signature, inputs)
        assert set(answer) == set(plain)
        for name, array in plain.items():
            assert np.array_equal(answer[name], array), (signature, name)


@pytest.mark.parametrize("axes", ["RAS", "SPR"])
def test_of_other_axes_a_case_gets_the_same_answer_on_its_own_grid(either, axes):
    codes = nibabel.orientations.axcodes2ornt
    away = nibabel.orientations.ornt_transform(codes(nifti.AXES), codes(axes))
    volumes = _whole_numbers((40, 44, 16))
    plain = either("int16", volumes)
    turned = {name: nibabel.orientations.apply_orientation(volume, away) for name, volume in volumes.items()}
    answer = either("any_axes_int16", {**turned, "axes": axes})
    assert set(answer) == set(plain)
    for name, array in plain.items():
        on_grid = array.shape[:3] == (40, 44, 16)
        expected = nibabel.orientations.apply_orientation(array, away) if on_grid else array
        assert np.array_equal(answer[name], expected), name


def test_several_cases_get_the_answers_that_each_gets_alone(either):
    cases = [_whole_numbers((40, 44, 16), seed) for seed in (1, 2, 3)]
    together = either("cases_int16", {m: np.stack([one[m] for one in cases]) for m in MODALITIES})
    assert together["segmentation"].shape == (3, 40, 44, 16)
    for n, one in enumerate(cases):
        alone = either("int16", one)
        for name, array in together.items():
            assert np.array_equal(array[n], alone[name])
    assert set(alone) - set(together) == {"probabilities"}
    for count, odd in ((0, 0), (MOST_CASES + 1, MOST_CASES + 1), (1, 2)):
        volumes = {m: np.zeros((odd if m == "t2" else count, 4, 5, 6), np.int16) for m in MODALITIES}
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=rf"(?s)equally many cases.*1 to.*{MOST_CASES}"
        ):
            either("cases_int16", volumes)


# What takes the place of the packed t1ce, and what is said of it.
BAD_VOLUMES = {
    "a slice too few": (lambda slices: slices[:-1], "several shapes"),
    "no slices": (lambda slices: slices[:0], "1 to"),
    "a bomb": (
        lambda slices: np.array([gzip.compress(bytes(10**6), 9), *slices[1:]], object),
        "is expected; found",
    ),
    "cut off": (lambda slices: np.array([*slices[:-1], slices[-1][:-9]], object), "."),
}


@pytest.mark.parametrize("fault", BAD_VOLUMES)
def test_a_packed_case_that_is_none_is_refused_and_the_next_one_answered(either, fault):
    spoil, said = BAD_VOLUMES[fault]
    volumes = _whole_numbers((40, 44, 16))
    good = _packed(volumes)
    with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.DataLossError), match=said):
        either("gzip_int16", {**good, "t1ce": spoil(good["t1ce"])})
    expected = either("int16", volumes)["segmentation"]
    assert np.array_equal(either("gzip_int16", good)["segmentation"], expected)


def test_a_case_that_is_too_large_is_refused_whatever_the_signature(either):
    long = {name: np.ones((600, 1, 1), np.int16) for name in MODALITIES}
    for signature, inputs in (
        ("int16", long),
        ("serving_default", {name: volume.astype(np.float32) for name, volume in long.items()}),
        ("cases_int16", {name: volume[None] for name, volume in long.items()}),
        ("gzip_int16", _packed(long)),
        ("any_axes_int16", {**long, "axes": "RAS"}),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match="512"):
            either(signature, inputs)


# --- precision ------------------------------------------------------------------------------------------


@pytest.mark.slow  # two exports; tests/exports/test_bfloat16 has the trial
@pytest.mark.parametrize("kind", ["slices", "cascade"])
def test_in_bfloat16_the_weights_are_the_same_and_the_answers_near(kind, request, tmp_path):
    folder = (
        request.getfixturevalue("trained")
        if kind == "slices"
        else request.getfixturevalue("cascade_run").folder
    )
    plain = request.getfixturevalue({"slices": "exported", "cascade": "cascade_model"}[kind])
    half = next_version.export(folder, tmp_path / "model", precision="mixed_bfloat16")
    assert model_card.read(plain).precision == "float32"
    assert model_card.read(half).precision == "mixed_bfloat16"
    weights = [tf.train.load_checkpoint(os.path.join(one, "variables", "variables")) for one in (plain, half)]
    names = weights[0].get_variable_to_shape_map()
    assert names == weights[1].get_variable_to_shape_map()
    for name in names:
        if name.endswith("VARIABLE_VALUE"):
            assert np.array_equal(weights[0].get_tensor(name), weights[1].get_tensor(name))
    volumes = _whole_numbers((40, 44, 16))
    answers = [SavedModel(one)("int16", volumes)["probabilities"] for one in (plain, half)]
    apart = np.abs(answers[0] - answers[1])
    assert apart.max() > 0 and np.median(apart[answers[0] > 0]) < 0.02


def test_a_precision_that_is_none_is_refused(trained, tmp_path, capsys):
    with pytest.raises(SystemExit):
        export.main(["--run", trained, "--output", str(tmp_path / "model"), "--precision", "mixed_float16"])
    assert "float32, mixed_bfloat16" in capsys.readouterr().err.replace("'", "")
    assert not (tmp_path / "model").exists()


# --- the cascade ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(cascade_model):
    """`served(signature, inputs)`, as TensorFlow Serving answers."""
    return SavedModel(cascade_model)


@pytest.fixture(scope="module")
def a_case(patch_records):
    """Volumes by modality of the validation case."""
    loaded = case.load(layouts.find(patch_records.cases).cases[3])
    return {name: loaded.image[..., m].astype(np.float32) for m, name in enumerate(loaded.modalities)}


def test_a_cascade_is_called_as_a_slice_model_is_and_tells_its_tiles(cascade_model):
    saved = tf.saved_model.load(cascade_model)
    assert set(saved.signatures) == {
        *("serving_default", "int16", "gzip_int16", "any_axes_int16", "cases_int16", "describe"),
        *("patches_wt", "patches_tc", "patches_et"),
    }
    for name, dtype in (("serving_default", tf.float32), ("int16", tf.int16)):
        _, inputs = saved.signatures[name].structured_input_signature
        assert {key: (spec.dtype, tuple(spec.shape)) for key, spec in inputs.items()} == {
            modality: (dtype, (None, None, None)) for modality in MODALITIES
        }
        outputs = saved.signatures[name].structured_outputs
        assert {key: spec.dtype for key, spec in outputs.items()} == {
            "segmentation": tf.uint8,
            "probabilities": tf.float32,
            "tiles": tf.int32,
        }
    for region in ("wt", "tc", "et"):
        _, inputs = saved.signatures[f"patches_{region}"].structured_input_signature
        assert tuple(inputs["patch"].shape) == (None, 16, 16, 16, 12)
        assert set(saved.signatures[f"patches_{region}"].structured_outputs) == {"probabilities"}


@pytest.mark.parametrize("region", ["WT", "TC", "ET"])
def test_patches_gives_the_probabilities_of_its_own_network(cascade_run, served, region):
    patch = np.random.default_rng(0).normal(size=(2, 16, 16, 16, 12)).astype(np.float32)
    answer = served(f"patches_{region.lower()}", {"patch": patch})["probabilities"]
    network = best_weights.best_networks(cascade_run.config, [region])[region]
    expected = tf.sigmoid(network(patch, training=False)["logits"])
    assert answer.shape == (2, 16, 16, 16, 1)
    assert np.allclose(answer, expected, atol=1e-5)
    assert answer.std() > 1e-3


def test_a_cascade_describes_itself(cascade_model, patch_records):
    card = model_card.read(cascade_model)
    served = tf.saved_model.load(cascade_model).signatures["describe"](file=tf.constant(model_card.FILE))
    assert model_card.parse(served["content"].numpy(), "wire") == card
    assert card.modalities == MODALITIES and card.n4.modalities == ()
    assert card.training_data["cases"] == {"train": 4, "validation": 1, "test": 0}
    assert card.training_data["split_sha256"] == patch_records.manifest("patches").split_sha256
    assert card.training_data["config"]["cascade"]["stride"] == 8
    assert "tiles" in card.signatures["serving_default"]["outputs"]
    assert "[N, 16, 16, 16, 12]" in card.signatures["patches_et"]["inputs"]["patch"]
    assert set(card.scores) >= {"split", "WT", "TC", "ET"}


def test_a_cascade_warms_up_the_whole_case_and_every_network(cascade_model):
    from tensorflow_serving.apis import prediction_log_pb2

    path = pathlib.Path(cascade_model) / WARM_UP
    assert path.stat().st_size < 3000
    logs = [prediction_log_pb2.PredictionLog.FromString(content) for content in tfrecord.read_records(path)]
    asked = {
        (log.predict_log.request.model_spec.signature_name, *log.predict_log.request.output_filter)
        for log in logs
    }
    of_client = {(name, "segmentation", "tiles") for name in ("serving_default", "int16", "gzip_int16")}
    of_networks = {("patches_wt",), ("patches_tc",), ("patches_et",)}
    assert asked == {("serving_default",), *of_client, ("describe",), *of_networks}


def test_each_variable_of_the_three_networks_is_written_once(cascade_run, cascade_model):
    reader = tf.train.load_checkpoint(str(pathlib.Path(cascade_model) / "variables" / "variables"))
    written = [n for n in reader.get_variable_to_shape_map() if n.endswith("VARIABLE_VALUE") and "weights" in n]
    networks = best_weights.best_networks(cascade_run.config, ["WT", "TC", "ET"])
    folded = [folding.folded(network)[0] for network in networks.values()]
    assert len(written) == sum(len(network.variables) for network in folded)


@pytest.mark.slow
def test_what_may_be_chosen_anew_changes_the_graph_and_the_card(cascade_run, served, a_case, tmp_path):
    plain = served("serving_default", a_case)
    chosen = ("cascade.tile_batch=1", "cascade.stride=2")
    other = next_version.export(cascade_run.folder, tmp_path / "model", overrides=chosen)
    found = SavedModel(other)("serving_default", a_case)
    assert found["tiles"][0] > plain["tiles"][0]
    assert not np.array_equal(found["probabilities"], plain["probabilities"])
    assert model_card.read(other).training_data["config"]["cascade"]["stride"] == 2
    assert RunFolder(cascade_run.folder).config.cascade.stride == 8  # the run stays as it was


@pytest.mark.slow
def test_the_tile_batch_and_the_threshold_chosen_at_export_do_what_they_say(cascade_run, a_case):
    """Without a SavedModel: `export` and this take the same segmenter."""

    def answer(*overrides):
        segmenter = saving.segmenter_of(chosen_from(cascade_run.folder, overrides=overrides))
        found = tf.function(segmenter)({name: tf.constant(array) for name, array in a_case.items()})
        return {name: value.numpy() for name, value in found.items()}

    plain, one_by_one, all_of_it = (
        answer(f"cascade.{o}") for o in ("threshold=0.5", "tile_batch=1", "threshold=0.001")
    )
    assert np.array_equal(plain["segmentation"], one_by_one["segmentation"])
    assert np.allclose(plain["probabilities"], one_by_one["probabilities"], atol=1e-6)
    assert np.array_equal(plain["tiles"], one_by_one["tiles"])
    brain = np.any(list(a_case.values()), axis=0)
    assert np.array_equal(all_of_it["segmentation"] > 0, brain)


@pytest.mark.parametrize(
    "override",
    ["model.width=8", "cascade.mask=multiply", "sampling.patch_size=8", "region=wt", "train.epochs=9"],
)
def test_what_training_has_settled_is_not_chosen_anew_at_export(cascade_run, tmp_path, override):
    with pytest.raises(
        InputError, match=rf"{override}: settled by training\. .*cascade\.margin, cascade\.stride"
    ):
        next_version.export(cascade_run.folder, tmp_path / "model", overrides=[override, "cascade.stride=4"])
    assert not (tmp_path / "model").exists()


def test_an_override_at_export_is_checked_like_any_other(cascade_run, trained, tmp_path):
    with pytest.raises(InputError, match=r"cascade\.stride 17 is more than sampling\.patch_size 16"):
        next_version.export(cascade_run.folder, tmp_path / "model", overrides=["cascade.stride=17"])
    with pytest.raises(InputError, match=r"cascade\.threshold = 2"):
        next_version.export(cascade_run.folder, tmp_path / "model", overrides=["cascade.threshold=2"])
    with pytest.raises(InputError, match="settled by training"):  # a network of slices has no cascade
        next_version.export(trained, tmp_path / "model", overrides=["cascade.stride=4"])
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_the_volume_that_tries_a_cascade_out_holds_two_tiles_and_a_phantom(size):
    plane = signatures.plane(config_file.load("msm.yaml", [f"sampling.patch_size={size}", "cascade.stride=8"]))
    assert plane[0] > size and plane[1] >= size
    simulation.simulate((*plane, 24), seed=0, number=0)


def test_cases_smaller_than_a_tile_and_without_tumour_are_predicted(
    cascade_model, served, patch_records, tmp_path
):
    """The shared cases' brains are thinner than a tile; this volume has five voxels along k."""
    dataset = layouts.find(patch_records.cases)
    assert predict.predict(cascade_model, dataset, str(tmp_path), [patch_records.without_tumour]) == []
    tissues, _ = case.load_label(tmp_path / f"{patch_records.without_tumour}.nii.gz", dataset.cases[0].schema)
    assert tissues.shape == (24, 28, 16)
    random = np.random.default_rng(0)
    for shape in ((7, 6, 5), (1, 1, 1), (40, 3, 9)):
        volumes = {name: random.normal(500, 50, shape).astype(np.float32) for name in MODALITIES}
        answer = served("serving_default", volumes)
        assert answer["segmentation"].shape == shape and answer["probabilities"].shape == (*shape, 3)
        assert answer["tiles"][0] >= 1 and np.isfinite(answer["probabilities"]).all()
    nothing = served("serving_default", {name: np.zeros((9, 8, 7), np.float32) for name in MODALITIES})
    assert not nothing["segmentation"].any() and nothing["tiles"].tolist() == [0, 0, 0]


def test_a_model_of_the_paediatric_table_says_that_it_predicts_no_cyst():
    assert "CC" in card._unlearned(EDITIONS["ped"]) and "NCR" in card._unlearned(EDITIONS["ped"])
    assert not any(card._unlearned(schema) for key, schema in EDITIONS.items() if key != "ped")
