"""Whose scan is which, where files are named in any way: told, or refused with what to do."""

import pytest

import tfbrats
from tfbrats.datasets import layouts
from tfbrats.dicom import scan_words
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, MODALITIES
from tfbrats.machine import files
from tfbrats.predictions import own_scans


def touch(root, *names):
    for name in names:
        files.write_bytes(files.join(str(root), name), b"")
    return str(root)


def scans_of(entry):
    return {modality: files.name(path) for modality, path, _ in entry.images}


@pytest.mark.parametrize(
    ("modality", "names"),
    [
        (
            "flair",
            "flair FLAIR Smith_FLAIR_brain AX_T2_FLAIR_7 t2_tirm_tra_dark-fluid t2f flair_to_t1ce FLAIR_post",
        ),
        (
            "t1",
            "T1 Smith_T1 t1_mprage_sag_p2_iso MPRAGE 3DT1 T1_pre T1_pre_contrast T1_without_contrast T1_native "
            "T1_postop T1_post_op T1_reg t1n sub-01_T1w t1_in_t1ce_space",
        ),
        (
            "t1ce",
            "Smith_T1_post T1Post T1_MPRAGE_GD 4_t1_mprage_KM T1wCE T1+C ct1 SAG_3D_T1_BRAVO_POST t1c t1gd "
            "ax_t1_fs_post_contrast T1_postcontrast",
        ),
        ("t2", "T2 t2_tse_tra rT2 T2w T2_in_T1ce_space t2w_brain"),
        (
            None,
            "IM0001 T1_T2 T1_pre_post T2star t2_star swi adc flair_seg brain_mask tumor_label dwi_t2 scout_t1",
        ),
    ],
)
def test_the_words_of_a_name_tell_the_modality(modality, names):
    for name in names.split():
        assert scan_words.modality_in(name) == modality, name


@pytest.mark.parametrize(
    "names",
    [
        ("flair.nii.gz", "t1.nii.gz", "t1ce.nii.gz", "t2.nii.gz"),
        ("FLAIR.nii", "Smith_T1.nii.gz", "Smith_T1_post.nii.gz", "t2_tse_tra.nii.gz"),
        ("3_t2_flair_fs.nii.gz", "4_t1_mprage.nii.gz", "5_t1_mprage_KM.nii.gz", "6_t2_tse.nii.gz"),
    ],
)
def test_a_patient_s_folder_needs_no_edition_whatever_its_names(place, names):
    touch(place, *(f"patient1/{name}" for name in (*names, "patient1_seg.nii.gz", "report.pdf")))
    dataset = own_scans.find(files.join(place, "patient1"))
    (entry,) = dataset.cases
    assert entry.case_id == "patient1" and dataset.untold == {"patient1"}
    assert scans_of(entry) == dict(zip(MODALITIES, names, strict=True))
    is_guess = names[0] != "flair.nii.gz"
    assert len(dataset.guesses) == is_guess
    if is_guess:
        assert f"flair {names[0]}" in dataset.guesses[0] and "--flair FILE" in dataset.guesses[0]


def test_several_patients_are_each_read_by_their_own_folder(tmp_path):
    for patient in ("Jones", "Smith"):
        touch(tmp_path, *(f"{patient}/nifti/{n}.nii.gz" for n in ("T1_pre", "T1_post", "AX_FLAIR", "AX_T2")))
    dataset = own_scans.find(str(tmp_path))
    assert [case.case_id for case in dataset.cases] == ["Jones_nifti", "Smith_nifti"]
    assert all(len(case.images) == 4 for case in dataset.cases)


def test_a_stripped_copy_goes_before_the_scan_with_the_skull(tmp_path):
    names = ["T1_pre", "T1_pre_brain", "T1_post_brain", "AX_FLAIR_brain", "AX_T2_brain", "AX_T2"]
    touch(tmp_path / "p", *(f"{name}.nii.gz" for name in names))
    dataset = own_scans.find(str(tmp_path / "p"))
    assert set(scans_of(dataset.cases[0]).values()) == {f"{n}.nii.gz" for n in names if n.endswith("brain")}
    assert "left out: AX_T2.nii.gz, T1_pre.nii.gz" in dataset.guesses[0]


def test_a_name_that_could_mean_two_things_is_refused_with_what_to_do(tmp_path):
    touch(tmp_path / "p", *(f"{n}.nii.gz" for n in ("FLAIR", "T1", "T1_post_2019", "T1_post_2020", "T2_tse")))
    with pytest.raises(InputError, match=r"T1_post_2019.* and T1_post_2020.* may both be t1ce.*--flair FILE"):
        own_scans.find(str(tmp_path / "p"))


def test_names_that_tell_nothing_are_refused_with_what_to_do(tmp_path):
    touch(tmp_path / "p", *(f"IM{n}.nii.gz" for n in range(4)))
    with pytest.raises(InputError, match=r"no scan told; IM0.* not understood.*--t1ce FILE.*your-own-case"):
        own_scans.find(str(tmp_path / "p"))


@pytest.mark.parametrize(
    ("name", "said"),
    [("t1.nrrd", r"Convert the scans to \.nii\.gz"), ("a.txt", "--flair")],
)
def test_files_that_are_no_nifti_are_told_with_the_tool(tmp_path, name, said):
    touch(tmp_path, name)
    with pytest.raises(InputError, match=f"no case found among 1 files(?s:.*){said}"):
        own_scans.find(str(tmp_path))


def test_a_published_data_set_is_read_as_ever_also_where_a_case_lacks_a_scan(tiny_dataset, tmp_path):
    root = tiny_dataset("2020")
    assert own_scans.find(root) == layouts.find(root)
    case = "BraTS20_Training_007"
    touch(tmp_path, *(f"{case}/{case}_{kind}.nii.gz" for kind in ("flair", "t1", "t1ce")))
    (entry,) = own_scans.find(str(tmp_path)).cases
    assert entry.case_id == case and len(entry.images) == 3 and entry.schema == EDITIONS["2020"]


def test_an_edition_that_is_given_holds_for_own_scans_too(tmp_path):
    names = ("AX_FLAIR", "Smith_T1", "Smith_T1_post", "t2_tse")
    touch(tmp_path / "p", *(f"{n}.nii.gz" for n in names))
    dataset = own_scans.find(str(tmp_path / "p"), "2020")
    (entry,) = dataset.cases
    assert scans_of(entry) == {m: f"{n}.nii.gz" for m, n in zip(MODALITIES, names, strict=True)}
    assert entry.schema == EDITIONS["2020"] and not dataset.untold
    assert own_scans.written_as(dataset, EDITIONS["2023"]).cases == dataset.cases


@pytest.mark.parametrize("clean", [MODALITIES, ("AX_FLAIR", "T1_pre", "T1_post", "T2_tse")])
def test_a_patient_whose_scans_are_not_told_is_never_left_out_silently(tmp_path, clean):
    touch(tmp_path / "a", *(f"{n}.nii.gz" for n in clean))
    touch(tmp_path / "b", *(f"{n}.nii.gz" for n in ("flair_ax", "t1_se_pre", "t1_IV", "post_t1_se", "t2_tse")))
    dataset = own_scans.find(str(tmp_path))
    assert [case.case_id for case in dataset.cases] == ["a"]
    assert dataset.guesses[-1].startswith("not segmented: ")
    assert f"{tmp_path / 'b'}: " in dataset.guesses[-1] and "may both be t1" in dataset.guesses[-1]


def test_folders_beside_a_patient_s_scans_that_hold_none_do_not_count(tmp_path):
    names = ("AX_FLAIR", "Smith_T1", "Smith_T1_post", "t2_tse")
    touch(tmp_path / "p", "dwi/dwi.nii.gz", *(f"{n}.nii.gz" for n in names))
    assert [case.case_id for case in own_scans.find(str(tmp_path / "p")).cases] == ["p"]
    touch(tmp_path / "p", "T1_other.nii.gz")
    with pytest.raises(InputError, match=r"/p: which file .*Smith_T1.* and T1_other.* may both be t1"):
        own_scans.find(str(tmp_path / "p"))


def test_results_beside_the_scans_do_not_hide_them(tmp_path):
    names = ("AX_FLAIR", "Smith_T1", "Smith_T1_post", "t2_tse")
    touch(tmp_path / "p", *(f"{n}.nii.gz" for n in names))
    before = own_scans.find(str(tmp_path / "p"))
    touch(tmp_path / "p", "p.nii.gz", "p_probabilities.nii.gz", "tfbrats.json", "volumes.csv")
    assert own_scans.find(str(tmp_path / "p")).cases == before.cases
    touch(tmp_path, "out/p.nii.gz", "out/tfbrats.json")
    assert own_scans.find(str(tmp_path)).cases == before.cases


def test_another_scan_of_a_modality_that_is_not_taken_is_told(tmp_path):
    touch(tmp_path / "p", *(f"{n}.nii.gz" for n in ("FLAIR", "T1", "T1ce", "T2", "T1_post")))
    dataset = own_scans.find(str(tmp_path / "p"))
    assert scans_of(dataset.cases[0])["t1ce"] == "T1ce.nii.gz"
    (guess,) = dataset.guesses
    assert (
        "t1ce T1ce.nii.gz" in guess and "left out: T1_post.nii.gz" in guess and "in Python {'flair': " in guess
    )


def test_a_case_whose_labels_nothing_tells_is_written_as_the_model_writes(tmp_path):
    touch(tmp_path / "p", *(f"{n}.nii.gz" for n in MODALITIES))
    touch(tmp_path / "BraTS2021_00001", *(f"BraTS2021_00001_{n}.nii.gz" for n in MODALITIES))
    dataset = own_scans.written_as(own_scans.find(str(tmp_path)), EDITIONS["msd"])
    assert {case.case_id: case.schema.edition for case in dataset.cases} == {
        "BraTS2021_00001": "2021",
        "p": "msd",
    }


# --- file by file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "case_id"),
    [
        (("a", "b", "c", "d"), "here"),
        (("Smith_flair", "Smith_t1", "Smith_t1ce", "Smith_t2"), "Smith"),
        (("t1_x", "t1_y"), "here"),
        (("P 07 - T1", "P 07 - T2"), "P 07"),
    ],
)
def test_scans_that_are_named_are_one_case(tmp_path, names, case_id):
    touch(tmp_path / "here", *(f"{name}.nii.gz" for name in names))
    given = {
        modality: str(tmp_path / "here" / f"{name}.nii.gz")
        for modality, name in zip(MODALITIES, names, strict=False)
    }
    dataset = own_scans.named(given)
    assert [case.case_id for case in dataset.cases] == [case_id] and dataset.untold == {case_id}
    assert {modality: path for modality, path, _ in dataset.cases[0].images} == given


def test_a_scan_that_cannot_be_one_is_refused_by_its_option(tmp_path):
    touch(tmp_path, "a.nii.gz", "b.dcm", "series/1", "d.png")
    for given, said in (
        ({"t1": "a.nii.gz", "t2": "series/../a.nii.gz"}, "--t1 and --t2 both name"),
        ({"t1": "b.dcm"}, r"--t1 .*b\.dcm: no DICOM image lies here"),
        ({"t1": "series"}, r"--t1 .*series: no DICOM image lies here"),
        ({"t1": "d.png"}, r"--t1 .*d\.png: expected a \.nii\.gz .* or a folder of DICOM"),
        ({"t1": "c.nii.gz"}, r"--t1 .*c\.nii\.gz: no such file"),
    ):
        with pytest.raises(InputError, match=said):
            own_scans.named({name: f"{tmp_path}/{path}" for name, path in given.items()})


def test_a_scan_that_python_names_is_refused_without_a_flag(tmp_path):
    touch(tmp_path, "a.nii.gz")
    for given, said in (
        ({"t1": "a.nii.gz", "t2": "a.nii.gz"}, "^t1 and t2 both name"),
        ({"t1": "c.nii.gz"}, r"^t1 .*c\.nii\.gz: no such file"),
    ):
        with pytest.raises(InputError, match=said):
            tfbrats.load_case({name: f"{tmp_path}/{path}" for name, path in given.items()})


def test_copies_of_a_published_case_are_refused_as_ever(tmp_path):
    case = "BraTS20_Training_007"
    for copy in ("one", "two"):
        touch(tmp_path, *(f"{copy}/{case}/{case}_{kind}.nii.gz" for kind in MODALITIES))
    with pytest.raises(InputError, match="case ids occur twice: BraTS20_Training_007"):
        own_scans.find(str(tmp_path))
