import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tfbrats import label_names, labels
from tfbrats.command import InputError
from tfbrats.labels import EDITIONS, LabelSchema, Tissue


@given(st.sampled_from(sorted(EDITIONS)), st.data())
def test_file_values_come_back_after_a_round_trip_through_tissues(edition, data):
    schema = EDITIONS[edition]
    values = data.draw(
        arrays.arrays(np.uint8, (2, 3, 4), elements=st.sampled_from([v for v, _ in schema.values]))
    )
    assert np.array_equal(schema.to_values(schema.to_tissues(values, "x"), "x"), values)


@pytest.mark.parametrize("edition", ["2017", "2018", "2019", "2020", "2021"])
def test_until_2021_enhancing_tumour_is_4_and_3_does_not_exist(edition):
    assert EDITIONS[edition].to_tissues(np.array([4]), "x") == [Tissue.ET]
    with pytest.raises(
        labels.UnknownLabelError,
        match=r"case_7.*\[3\].* of 2023, .*msd \(3 ET\); of ped \(3 CC\)\. .*--edition",
    ):
        EDITIONS[edition].to_tissues(np.array([0, 3]), "case_7")


def test_4_is_no_label_in_2023_and_a_resection_cavity_in_2024():
    with pytest.raises(
        labels.UnknownLabelError, match=r"\[4\].* of 2024, 2025, 2026 \(3 ET, 4 RC\); of ped \(3 CC, 4 ED\)"
    ):
        EDITIONS["2023"].to_tissues(np.array([3, 4]), "x")
    assert EDITIONS["2024"].to_tissues(np.array([3, 4]), "x").tolist() == [Tissue.ET, Tissue.RC]


def test_the_decathlon_swaps_oedema_and_core_against_brats():
    values = np.array([1, 2, 3])
    assert EDITIONS["msd"].to_tissues(values, "x").tolist() == [Tissue.ED, Tissue.NCR, Tissue.ET]
    assert EDITIONS["2023"].to_tissues(values, "x").tolist() == [Tissue.NCR, Tissue.ED, Tissue.ET]


def test_a_resection_cavity_cannot_be_written_as_2020():
    with pytest.raises(labels.UnknownLabelError, match=r"out\.nii.*2020.*RC"):
        EDITIONS["2020"].to_values(np.array([0, Tissue.RC], np.uint8), "out.nii")


@pytest.mark.parametrize("value", [-1, 5, 255, 1000])
def test_a_value_in_no_table_is_refused_by_every_edition(value):
    for schema in EDITIONS.values():
        with pytest.raises(labels.UnknownLabelError, match=f"{value}"):
            schema.to_tissues(np.array([0, value]), "x")


def test_regions_are_nested_and_a_cavity_is_in_none():
    tissues = np.array(list(Tissue))
    whole, core, enhancing = (labels.region_mask(tissues, region) for region in ("WT", "TC", "ET"))
    assert (enhancing <= core).all() and (core <= whole).all()
    assert [whole.sum(), core.sum(), enhancing.sum()] == [4, 3, 1]  # a cyst (CC) belongs to the core
    assert not whole[Tissue.RC] and not whole[Tissue.BACKGROUND]


@given(
    st.sampled_from([(name, s) for name, all_ in labels.MODALITY_SYNONYMS.items() for s in all_]),
    st.data(),
)
def test_a_modality_is_understood_in_any_letter_case(pair, data):
    name, synonym = pair
    spelt = "".join(data.draw(st.sampled_from([c.lower(), c.upper()])) for c in synonym)
    assert labels.modality_named(f" {spelt} ") == name


@pytest.mark.parametrize("text", ["", "t3", "seg", "t1t2", "dwi"])
def test_other_words_name_no_modality(text):
    assert labels.modality_named(text) is None


NNUNET_REGIONS = {
    "background": 0,
    "whole tumor": [1, 2, 3],
    "tumor core": [2, 3],
    "enhancing tumor": [3],
}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (NNUNET_REGIONS, {1: "ED", 2: "NCR", 3: "ET"}),
        ({"whole_tumor": [1, 2, 3], "tumor_core": [1, 3], "ET": [3]}, {1: "NCR", 2: "ED", 3: "ET"}),
        ({"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}, {1: "NCR", 2: "ED", 4: "ET"}),
        (
            {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumour": 3},
            {1: "ED", 2: "NCR", 3: "ET"},
        ),
        ({"background": 0, "NCR/NET": 1, "ED": 2, "ET": 4}, {1: "NCR", 2: "ED", 4: "ET"}),
        (
            {"background": 0, "NETC": 1, "SNFH": 2, "ET": 3, "RC": 4},
            {1: "NCR", 2: "ED", 3: "ET", 4: "RC"},
        ),
        (
            {"background": 0, "necrotic core": 1, "peritumoral oedema": 2, "enhancing": 3},
            {1: "NCR", 2: "ED", 3: "ET"},
        ),
    ],
)
def test_the_label_names_of_a_dataset_json_are_understood(names, expected):
    schema = label_names.schema_from_names(names, "dataset.json")
    assert {v: t.name for v, t in schema.values} == {0: "BACKGROUND", **expected}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"background": 0, "liver": 1}, "liver"),
        ({"background": 1, "edema": 0}, "background"),
        ({"whole tumor": [1, 2, 3], "tumor core": [2, 3]}, "ET"),
        ({"whole tumor": [1, 2], "spleen": [2]}, "spleen"),
    ],
)
def test_label_names_that_are_no_tumour_are_refused_by_name(names, said):
    with pytest.raises(InputError, match=rf"dataset\.json.*{said}"):
        label_names.schema_from_names(names, "dataset.json")


@pytest.mark.parametrize("edition", sorted(EDITIONS))
def test_a_schema_survives_json(edition):
    assert LabelSchema.from_json(EDITIONS[edition].to_json()) == EDITIONS[edition]


def test_a_schema_with_one_value_for_two_tissues_is_refused():
    with pytest.raises(InputError, match="twice"):
        LabelSchema("odd", ((0, Tissue.BACKGROUND), (1, Tissue.ED), (1, Tissue.ET)))
