import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tfbrats import labels
from tfbrats.datasets import label_names
from tfbrats.errors import InputError
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
        match=r"case_7.*\[3\].* --edition 2023 \(3 ET; .*, --edition ped \(3 CC\)",
    ):
        EDITIONS[edition].to_tissues(np.array([0, 3]), "case_7")


def test_4_is_no_label_in_2023_and_a_resection_cavity_in_2024():
    with pytest.raises(
        labels.UnknownLabelError, match=r"\[4\].* --edition 2024 \(3 ET, 4 RC; .*, --edition ped \(3 CC, 4 ED\)"
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


# --- every table, and what is said of values that do not fit -----------------------------------------------

TABLES = {  # by hand, from the challenges' own papers
    **{key: {1: "NCR", 2: "ED", 4: "ET"} for key in ("2017", "2018", "2019", "2020", "2021", "upenn", "ucsf")},
    **{key: {1: "NCR", 2: "ED", 3: "ET"} for key in ("2023", "ssa", "men")},
    **{key: {1: "NCR", 2: "ED", 3: "ET", 4: "RC"} for key in ("2024", "2025", "2026", "met")},
    "ped": {1: "ET", 2: "NCR", 3: "CC", 4: "ED"},
    "msd": {1: "ED", 2: "NCR", 3: "ET"},
}


def test_every_edition_has_its_own_table():
    tables = {key: {v: t.name for v, t in schema.values if v} for key, schema in EDITIONS.items()}
    assert tables == TABLES


def test_tables_are_told_with_the_challenges_own_words():
    assert EDITIONS["ped"].describe() == "0 BACKGROUND, 1 ET, 2 NCR (NETC), 3 CC, 4 ED"
    assert EDITIONS["2025"].describe() == "0 BACKGROUND, 1 NCR (NETC), 2 ED (SNFH), 3 ET, 4 RC"
    assert EDITIONS["2020"].describe() == "0 BACKGROUND, 1 NCR, 2 ED, 4 ET"


@pytest.mark.parametrize(
    ("own", "given", "values", "reads"),
    [
        ("2021", "2024", (0, 1, 2, 4), "edition 2024 reads 4 RC, .* tell edition 2021, .* reads 4 ET"),
        ("2021", "ped", (0, 1, 2, 4), "reads 1 ET, 2 NCR"),
        ("upenn", "2025", (4,), "reads 4 RC"),
        ("ped", "2024", (1, 2, 3, 4), "reads 1 NCR .*, 2 ED .*, 3 ET, 4 RC"),
        ("ped", "2023", (1, 2), "reads 1 NCR, 2 ED"),
        ("2023", "ped", (0, 1, 2, 3), "reads 1 ET"),
    ],
)
def test_values_that_fit_the_names_table_are_not_read_by_another(own, given, values, reads):
    schema = EDITIONS[given].overruling(EDITIONS[own])
    with pytest.raises(labels.UnknownLabelError, match=rf"mask\.nii: .*{reads}.*Leave {given} out"):
        schema.to_tissues(np.array(values), "mask.nii")
    assert schema == EDITIONS[given]


@pytest.mark.parametrize(
    ("own", "given", "values"),
    [
        ("2021", "2023", (0, 1, 2, 3)),  # rewritten: 3 is not in the table of 2021
        ("2021", "2024", (0, 1, 2)),  # the same in both
        ("2023", "2024", (1, 2, 3)),
        ("2024", "2023", (1, 2, 3)),
        ("2023", "msd", (1, 2, 3)),  # nnU-Net's preparation writes any edition so
        ("2021", "2020", (1, 2, 4)),
    ],
)
def test_a_table_that_was_given_is_taken_where_the_names_do_not_speak_against_it(own, given, values):
    schema = EDITIONS[given].overruling(EDITIONS[own])
    expected = [EDITIONS[given].tissue_of_value[value] for value in values]
    assert schema.to_tissues(np.array(values), "x").tolist() == expected


@pytest.mark.parametrize(
    ("schema", "values", "advised", "never"),
    [
        (
            "2021",
            (0, 1, 2, 3),
            ["--edition 2023 (1 NCR, 2 ED, 3 ET; ", "--edition msd (1 ED, 2 NCR, 3 ET)"],
            ["pass --edition"],
        ),
        (
            "2023",
            (0, 1, 2, 4),
            ["--edition 2017 (1 NCR, 2 ED, 4 ET; so do 2018, ", "--edition ped", "4 RC"],
            ["pass --edition"],
        ),
        (
            "2023",
            (3, 4),
            ["--edition 2024 (3 ET, 4 RC; so do 2025, 2026, met)", "--edition ped (3 CC, 4 ED)"],
            ["2021"],
        ),
        ("2020", (0, 7), ["No edition has all of its values, [0, 7]"], ["2023"]),
    ],
)
def test_advice_names_every_table_that_has_the_values_and_what_they_mean_there(schema, values, advised, never):
    text = labels.advice(EDITIONS[schema], values)
    assert all(part in text for part in advised) and not any(part in text for part in never)


def test_advice_says_first_the_table_in_which_there_is_enhancing_tumour():
    text = labels.advice(EDITIONS["2023"], (0, 1, 2, 4))
    assert text.index("4 ET") < text.index("4 RC")


def test_advice_of_a_wrong_edition_is_to_leave_it_out_where_the_names_table_fits():
    schema = EDITIONS["2023"].overruling(EDITIONS["2021"])
    with pytest.raises(labels.UnknownLabelError, match=r"tell edition 2021, .*: leave --edition out"):
        schema.to_tissues(np.array([0, 1, 2, 4]), "x")


@pytest.mark.parametrize(
    ("edition", "tissues", "said"),
    [
        ("2024", {Tissue.NCR, Tissue.ED, Tissue.RC}, "value 4 as resection cavity, and no mask has enhancing"),
        ("2024", {Tissue.NCR, Tissue.ED, Tissue.RC, Tissue.ET}, None),
        ("2020", {Tissue.NCR}, "value 1 alone, read as 1 NCR"),
        ("2020", {Tissue.NCR, Tissue.ED}, None),
        ("ped", {Tissue.ET}, "value 1 alone, read as 1 ET"),
        ("2020", set(), None),
    ],
)
def test_a_whole_set_of_masks_that_looks_like_another_table_is_doubted(edition, tissues, said):
    remarks = labels.doubts(EDITIONS[edition], tissues)
    assert [said in remark for remark in remarks] == [True] * (said is not None)


@pytest.mark.parametrize(
    ("names", "expected", "ignored"),
    [
        (
            {"background": 0, "whole_tumor": [1, 2, 3], "tumor_core": [2, 3], "enhancing_tumor": 3},
            "ED NCR ET",
            None,
        ),
        ({"WT": [1, 2, 3], "TC": [1, 3], "ET": 3, "ignore": 4}, "NCR ED ET", 4),
        (
            {"whole tumour": [1, 2, 3, 4], "tumour core": [1, 3, 4], "enhancing tumour": [4], "cyst": 3},
            "NCR ED CC ET",
            None,
        ),
        (
            {"whole_tumor": [1, 2, 3], "tumor_core": [1, 3], "enhancing_tumor": 3, "resection_cavity": [4]},
            "NCR ED ET RC",
            None,
        ),
        ({"background": 0, "ET": 1, "NETC": 2, "CC": 3, "ED": 4}, "ET NCR CC ED", None),
        ({"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3, "ignore": 9}, "NCR ED ET", 9),
        ({"whole_tumor": [1], "tumor_core": [1], "enhancing_tumor": [1]}, "ET", None),
    ],
)
def test_regions_of_one_value_and_ignore_are_understood(names, expected, ignored):
    schema = label_names.schema_from_names(names, "dataset.json")
    assert " ".join(tissue.name for value, tissue in schema.values if value) == expected
    assert schema.ignored == ignored
    assert LabelSchema.from_json(schema.to_json()) == schema
    if ignored is not None:
        with pytest.raises(labels.UnknownLabelError, match=rf"\[{ignored}\].*calls ignore.*nobody labelled"):
            schema.to_tissues(np.array([0, ignored]), "x")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            {"whole_tumor": [1, 2], "tumor_core": [2, 3], "enhancing_tumor": 3},
            r"TC has values \[2, 3\].*not all in WT",
        ),
        ({"whole_tumor": [1, 2, 3], "tumor_core": [2, 3], "enhancing_tumor": 3, "edema": 2}, "value 2 is ED"),
        ({"background": 0, "edema": 1, "necrosis": 1, "enhancing": 3}, "value 1 is both ED and 'necrosis'"),
        ({"background": 0, "edema": 1, "enhancing": 3, "ignore": 3}, "value 3 is both 'ignore' and ET"),
        ({"background": 0, "edema": "one"}, "'edema' = 'one'"),
        ({"background": 0, "edema": 300}, "0 to 255"),
    ],
)
def test_label_names_that_contradict_each_other_are_refused(names, said):
    with pytest.raises(InputError, match=rf"dataset\.json.*{said}"):
        label_names.schema_from_names(names, "dataset.json")


def test_of_two_values_for_one_tissue_the_first_is_written():
    schema = label_names.schema_from_names({"WT": [1, 2, 3, 4], "TC": [1, 2, 3], "ET": 1}, "dataset.json")
    tissues = schema.to_tissues(np.array([0, 1, 2, 3, 4]), "x")
    assert tissues.tolist() == [0, Tissue.ET, Tissue.NCR, Tissue.NCR, Tissue.ED]
    assert schema.to_values(tissues, "x").tolist() == [0, 1, 2, 2, 4]


@pytest.mark.parametrize(
    ("name", "tissue"),
    [
        ("non-contrast-enhancing tumor", "NCR"),
        ("non-gadolinium-enhancing", "NCR"),
        ("non_enhancing", "NCR"),
        ("not enhancing tumor", "NCR"),
        ("unenhancing", "NCR"),
        ("non-enhanced", "NCR"),
        ("necrotic/non-enhancing", "NCR"),
        ("necrosis in resection margin", "NCR"),
        ("contrast-enhancing tumor", "ET"),
        ("GD-enhancing tumor", "ET"),
        ("surrounding non-enhancing FLAIR hyperintensity", "ED"),
        ("FLAIR hyperintensity without enhancing tumor", "ED"),
        ("peritumoral edematous/invaded tissue", "ED"),
        ("surgical cavity", "RC"),
        ("resection cavity", "RC"),
        ("non-enhancing cystic component", "CC"),
    ],
)
def test_a_name_of_a_dataset_json_means_its_tissue(name, tissue):
    schema = label_names.schema_from_names({"background": 0, name: 1}, "dataset.json")
    assert schema.tissue_of_value[1].name == tissue


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"cystic or necrotic core": 1}, "'cystic or necrotic core' may mean CC or NCR"),
        ({"enhancing and non-enhancing tumor": 1}, "may mean NCR or ET"),
        ({"edema and non-enhancing tumor": 1}, "may mean NCR or ED"),
        ({"enhancing": 1, "residual enhancing": 4}, "values 1 and 4 .* both mean ET"),
        ({"edema": 1, "SNFH": 2}, "values 1 and 2 .* both mean ED"),
        ({"resection cavity": 1, "RC": 2}, "values 1 and 2 .* both mean RC"),
    ],
)
def test_a_name_that_may_be_two_tissues_and_two_values_of_one_are_refused(names, words):
    with pytest.raises(InputError, match=words):
        label_names.schema_from_names({"background": 0, **names}, "dataset.json")


def test_necrosis_and_non_enhancing_tumour_may_have_a_value_each():
    names = {"background": 0, "necrosis": 1, "non-enhancing tumor": 2, "edema": 3, "enhancing": 4}
    tissues = label_names.schema_from_names(names, "dataset.json").tissue_of_value
    assert [tissues[value].name for value in range(5)] == ["BACKGROUND", "NCR", "NCR", "ED", "ET"]
