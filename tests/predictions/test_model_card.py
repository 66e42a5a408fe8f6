"""What an exported model says of itself, and what a client sends because of it."""

import json
import uuid

import numpy as np
import pytest
import tiny_model

from tfbrats import labels
from tfbrats.cases import case, nifti, preprocess
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.phantoms import simulation
from tfbrats.predictions import doubts, model_card

SHAPE = (24, 24, 16)


def a_card(**changes):
    return model_card.ModelCard(
        **{
            "name": "cun",
            "version": 3,
            "description": "d",
            "tfbrats_version": "0.1.0",
            "modalities": labels.MODALITIES,
            "axes": "LPS",
            "n4": tiny_model.of_graph(),
            "normalisation": "z-score",
            "spacing_mm": (1.0, 1.0, 1.0),
            "label_schema": labels.EDITIONS["2020"].to_json(),
            "regions": {"WT": ("NCR", "ED", "ET")},
            "signatures": {},
            "training_data": {"cases": 3},
            "scores": {},
            "license": "Apache-2.0",
            "intended_use": "research",
            **changes,
        }
    )


def a_case(modalities=labels.MODALITIES):
    image, tissues = simulation.simulate(SHAPE, 5, 1)
    return case.Case(
        case_id="Case_1",
        patient_id="Case_1",
        image=image[..., [labels.MODALITIES.index(name) for name in modalities]],
        modalities=tuple(modalities),
        label=tissues,
        spacing_mm=(1.0, 1.0, 1.0),
        schema=labels.EDITIONS["2020"],
        grid=nifti.new_grid(SHAPE),
    )


def test_a_card_is_read_as_it_was_written(tmp_path):
    (tmp_path / "tfbrats.json").write_text(a_card().to_json())
    assert model_card.read(tmp_path) == a_card()
    assert model_card.parse(a_card().to_json().encode(), "here") == a_card()
    assert a_card().schema_of_labels == labels.EDITIONS["2020"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{ no JSON", r"card: not a tfbrats.json"),
        ("[]", r"card: not a tfbrats.json"),
        ('{"name": "MONAI"}', r"card: not a tfbrats.json"),
        # Another version's card is told by its format, whatever its entries are called.
        ('{"format": 3, "channels": []}', r"card: format 3; this version reads 1 and 2. .*export it again"),
    ],
)
def test_what_is_no_card_of_this_version_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        model_card.parse(text, "card")


def test_a_card_with_a_missing_or_strange_entry_names_it():
    content = json.loads(a_card().to_json())
    del content["axes"]
    content["colour"] = "blue"
    with pytest.raises(InputError, match=r"card: axes: .*colour: .*Export the model again") as caught:
        model_card.parse(json.dumps(content), "card")
    assert "https://" not in str(caught.value)


def test_a_folder_without_card_says_which_folder_to_point_to(tmp_path):
    with pytest.raises(InputError, match=r"no tfbrats.json here. Point to one version's folder"):
        model_card.read(tmp_path)


def _with_versions(folder, *versions):
    for version in versions:
        (folder / version).mkdir(parents=True)
        (folder / version / "tfbrats.json").write_text(a_card(version=int(version)).to_json())
    return str(folder)


def test_of_a_model_s_versions_the_newest_is_taken_and_a_named_one_is_itself(tmp_path):
    model = _with_versions(tmp_path / "cun", "2", "9", "10")
    (tmp_path / "cun" / "11").mkdir()  # half an export
    (tmp_path / "cun" / "old").mkdir()
    assert model_card.version_folder(model) == f"{model}/10"
    assert model_card.version_folder(f"{model}/2") == f"{model}/2"
    assert model_card.read(model_card.version_folder(f"{model}/")).version == 10


def test_a_model_in_a_store_has_versions_too():
    store = f"memory://{uuid.uuid4().hex}/models/cun"
    for version in ("3", "12"):
        files.write_bytes(f"{store}/{version}/tfbrats.json", a_card().to_json().encode())
    assert model_card.version_folder(store) == f"{store}/12"


@pytest.mark.parametrize(
    "made, said",
    [
        ((), "There is no such folder"),
        (("a/",), "Found a."),
        (("cun/1/",), r"Found cun. Did you mean .*/models/cun\?"),
        (("config.yaml", "wt/"), "It is a run: `tfbrats export --run .*/models`"),
        (tuple(f"f{n}" for n in range(8)), "Found f0, f1, f2, f3, f4 and more"),
    ],
)
def test_a_place_without_a_model_is_refused_by_what_lies_there(tmp_path, made, said):
    for name in made:
        path = tmp_path / "models" / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text("x")
    with pytest.raises(InputError, match=f"models: no tfbrats.json here, nor in a numbered.*{said}"):
        model_card.version_folder(str(tmp_path / "models"))


def test_inputs_go_by_name_whatever_order_the_case_was_loaded_in():
    turned = ("t2", "flair", "t1ce", "t1")
    ours, theirs = model_card.inputs(a_card(), a_case()), model_card.inputs(a_card(), a_case(turned))
    assert set(ours) == set(labels.MODALITIES)
    for name in labels.MODALITIES:
        assert ours[name].dtype == np.int16 and ours[name].flags.c_contiguous
        assert np.array_equal(ours[name], theirs[name])
    assert model_card.signature_for(ours) == "int16"


def test_to_a_graph_that_corrects_the_bias_field_itself_raw_scans_go():
    sent = model_card.inputs(a_card(n4=tiny_model.of_graph("t1", "t2")), one := a_case())
    assert all(np.array_equal(sent[m], one.image[..., i]) for i, m in enumerate(labels.MODALITIES))
    assert model_card.signature_for(sent) == "int16"


def test_for_an_older_model_the_modalities_that_it_names_are_corrected_here_and_then_all_travel_as_float():
    one = a_case()
    sent = model_card.inputs(a_card(n4=tiny_model.of_caller("t1")), one)
    at = labels.MODALITIES.index("t1")
    expected = preprocess.corrected_by_itk(one.image[..., at], preprocess.brain_mask(one.image), 4)
    assert np.array_equal(sent["t1"], expected)
    assert np.array_equal(sent["t2"], one.image[..., labels.MODALITIES.index("t2")])
    assert {volume.dtype for volume in sent.values()} == {np.dtype(np.float32)}
    assert model_card.signature_for(sent) == "serving_default"


def test_a_case_without_a_modality_that_the_model_takes_is_refused():
    with pytest.raises(InputError, match=r"Case_1: the model cun takes flair, t1, t1ce, t2; received t1, t2"):
        model_card.inputs(a_card(), a_case(("t1", "t2")))


def test_the_graph_s_label_values_become_tissues_and_unknown_ones_an_error():
    segmentation = np.array([0, 1, 2, 4], np.uint8)
    tissues = model_card.tissues(a_card(), segmentation, "out")
    assert tissues.tolist() == [labels.Tissue[name] for name in ("BACKGROUND", "NCR", "ED", "ET")]
    with pytest.raises(labels.UnknownLabelError, match=r"out: label values \[3\]"):
        model_card.tissues(a_card(), np.array([3], np.uint8), "out")


def test_the_first_model_to_write_into_a_folder_owns_it(tmp_path):
    mine, theirs = a_card(), a_card().model_copy(update={"version": 9})
    model_card.keep(mine, tmp_path)
    model_card.keep(mine, tmp_path)
    with pytest.raises(model_card.OtherModelError, match="another command has begun to write results"):
        model_card.keep(theirs, tmp_path)
    assert model_card.read(tmp_path) == mine


def test_of_two_models_that_find_a_folder_empty_at_one_time_one_owns_it(tmp_path, monkeypatch):
    mine, theirs = a_card(), a_card(version=9)
    with monkeypatch.context() as patched:
        patched.setattr(model_card.files, "exists", lambda path: False)  # both looked before either wrote
        model_card.keep(mine, tmp_path)
        with pytest.raises(model_card.OtherModelError, match="another command has begun to write results"):
            model_card.keep(theirs, tmp_path)
        model_card.keep(mine, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tfbrats.json"]
    assert model_card.read(tmp_path) == mine


# --- who corrects the bias field ------------------------------------------------------------------------


def test_a_card_from_before_the_graph_corrected_means_that_the_caller_does_by_simpleitk(tmp_path):
    now = a_card(n4=tiny_model.of_caller("t1", "t1ce"))
    (tmp_path / "tfbrats.json").write_text(tiny_model.old_text(now))
    old = model_card.read(tmp_path)
    assert old == now and old.n4_of_caller == ("t1", "t1ce")
    assert old.to_file() == (tmp_path / "tfbrats.json").read_bytes()
    note = doubts.n4_note(old)
    assert "cun version 3 was exported before" in note and "N4 of t1, t1ce is done here, by SimpleITK" in note


def test_of_a_model_whose_graph_corrects_or_that_wants_none_nothing_is_said():
    for n4 in (tiny_model.of_graph("t1"), tiny_model.of_graph(), tiny_model.of_caller()):
        card = a_card(n4=n4)
        assert card.n4_of_caller == () and doubts.n4_note(card) is None
        assert doubts.other_n4_note(card) is None


def test_records_of_another_n4_than_the_graph_s_are_told():
    note = doubts.other_n4_note(a_card(n4=tiny_model.of_graph("t1", of_records="SimpleITK")))
    assert note.startswith("its records were corrected by SimpleITK's N4") and "tfbrats's" in note
    assert doubts.other_n4_note(a_card(n4=tiny_model.of_graph(of_records="SimpleITK"))) is None


# --- as it was written ----------------------------------------------------------------------------------


def an_old_text() -> str:
    """A card's as an older version wrote it: without an entry that came later, indented otherwise."""
    content = json.loads(a_card().to_json())
    del content["precision"]
    return json.dumps(content, indent=4)


@pytest.mark.parametrize("of", [str, str.encode])
def test_a_card_is_kept_as_it_was_read_byte_for_byte(tmp_path, of):
    card = model_card.parse(of(an_old_text()), "here")
    model_card.keep(card, tmp_path)
    assert (tmp_path / "tfbrats.json").read_text() == an_old_text() != card.to_json()


def test_cards_are_equal_by_what_they_say_however_they_were_written():
    old = model_card.parse(an_old_text(), "here")
    assert old == a_card() == model_card.parse(a_card().to_json(), "there")
    assert old != a_card(version=9) and old != an_old_text()


def test_a_changed_copy_is_not_what_was_read():
    changed = model_card.parse(an_old_text(), "here").model_copy(update={"version": 9})
    assert changed.to_file() == a_card(version=9).to_json().encode()
