"""Uploads are taken or refused for one reason each, and nothing but what the challenge takes is packed."""

import dataclasses
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import nibabel
import numpy as np
import pytest

from tfbrats import check_submission, labels
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.predictions import submission, submission_files, submission_rules
from tfbrats.predictions.submission_rules import RULES

NAMES = ("BraTS2021_00003.nii.gz", "BraTS2021_00007.nii.gz")
IDENTITY = np.eye(4)


def segmentation(
    edition="2021",
    shape=None,
    dtype=np.uint8,
    values=None,
    qform=None,
    sform=None,
    codes=(1, 1),
    slope=None,
    change=None,
    compress=True,
):
    """Bytes of a mask of zeros with a few voxels of `values`, by default all of the edition's."""
    rules = RULES[edition]
    array = np.zeros(shape or rules.shape, dtype)
    values = labels.EDITIONS[edition].tissue_of_value if values is None else values
    array.flat[: len(values)] = list(values)
    qform = np.array(rules.qform if qform is None else qform, float)
    image = nibabel.Nifti1Image(array, None)
    image.set_qform(qform, codes[0])
    image.set_sform(qform if sform is None else sform, codes[1])
    if not codes[0]:
        image.header["qform_code"] = 0
    content = bytearray(image.to_bytes())
    header = nibabel.Nifti1Header(bytes(content[:348]))
    if slope is not None:
        header["scl_slope"], header["scl_inter"] = slope
    if change:
        change(header)
    content[:348] = header.binaryblock
    return gzip.compress(bytes(content), 1) if compress else bytes(content)


@pytest.fixture(scope="module")
def good():
    """By edition: the bytes of a mask with nothing wrong."""
    return {edition: segmentation(edition) for edition in ("2021", "2023", "2024")}


def check(content, *more, edition="2021", case_ids=None):
    """`content` under a good name of 2021, and more members, against an edition's rules."""
    members = [submission.Member(NAMES[0], lambda: content), *more]
    return submission.check(members, RULES[edition], case_ids)


def main(capsys, *arguments):
    """Exit code and what was printed."""
    code = check_submission.main([str(one) for one in arguments])
    return code, capsys.readouterr().out


def zipped(path, contents):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


# --- one file, one fault --------------------------------------------------------------------------------


@pytest.mark.parametrize("edition", RULES)
def test_the_rules_of_every_edition_take_a_file_that_keeps_them(edition):
    rules = RULES[edition]
    name = f"{rules.example}.nii.gz"
    verdict = submission.check([submission.Member(name, lambda: segmentation(edition))], rules)
    assert verdict.accepted and verdict.faults == () and verdict.warnings == ()
    assert verdict.segmentations == (name,)


def test_the_rules_are_the_challenge_s():
    until_2023 = {(rules.shape, rules.qform) for edition, rules in RULES.items() if edition < "2024"}
    assert until_2023 == {((240, 240, 155), ((-1, 0, 0, 0), (0, -1, 0, 239), (0, 0, 1, 0), (0, 0, 0, 1)))}
    assert RULES["2024"].shape == (182, 218, 182)
    with pytest.raises(dataclasses.FrozenInstanceError):
        RULES["2024"].shape = (1, 1, 1)


SHIFTED = np.diag([-1.0, -1, 1, 1])  # right but for its origin
REFUSED = {
    "cropped": (dict(shape=(160, 192, 128)), r"shape \(160, 192, 128\); expected \(240, 240, 155\)"),
    "axes in another order": (dict(shape=(155, 240, 240)), r"shape \(155, 240, 240\)"),
    "a fourth axis": (dict(shape=(240, 240, 155, 1)), r"shape \(240, 240, 155, 1\)"),
    "identity affine": (dict(qform=IDENTITY), r"qform \[\[1, 0, 0, 0\].*expected \[\[-1, 0, 0, 0\]"),
    "another origin": (dict(qform=SHIFTED), r"qform .*\[0, -1, 0, 0\].*header"),
    "2 mm voxels": (dict(qform=np.diag([-2, -2, 2, 1])), r"qform \[\[-2, 0, 0, 0\]"),
    "an sform of its own": (dict(sform=IDENTITY), r"its sform \[\[1, 0, 0, 0\].*is not its qform \[\[-1"),
    "no whole numbers": (dict(dtype=np.float32, values=[1, 0.5]), r"not whole numbers, e\.g\. 0\.5"),
    "not a number": (dict(dtype=np.float32, values=[1, np.nan]), r"not whole numbers, e\.g\. nan"),
    "fractions by scaling": (dict(values=[1], slope=(0.5, 0)), r"not whole numbers, e\.g\. 0\.5"),
    "labels of 2023": (
        dict(values=[1, 2, 3]),
        r"label values \[3\] .*edition 2021.*those of 2023 or msd: write",
    ),
    "negative labels": (dict(dtype=np.int16, values=[-1]), r"label values \[-1\]"),
    "training ids": (dict(dtype=np.int16, values=range(40)), "40 different values: an image"),
    "complex": (dict(dtype=np.complex64, values=[1]), "voxels of type complex64"),
    "not compressed": (dict(compress=False), "not compressed, but named .nii.gz"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_each_fault_alone_is_refused_with_its_own_words(what):
    settings, words = REFUSED[what]
    verdict = check(segmentation(**settings))
    assert not verdict.accepted
    (fault,) = verdict.faults
    assert re.fullmatch(rf"{NAMES[0]}: .*{words}.*\.", fault, re.DOTALL), fault


def test_faults_of_one_file_are_all_said():
    verdict = check(segmentation(shape=(20, 20, 20), qform=IDENTITY, values=[9]))
    assert [re.search("shape|qform|label values", fault).group() for fault in verdict.faults] == [
        "shape",
        "qform",
        "label values",
    ]


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "empty"),
        (b"<html>log in</html>", "HTML"),
        (gzip.compress(b"no image " * 100, mtime=0), "not a NIfTI file"),
        (None, "truncated"),
    ],
)
def test_what_cannot_be_read_is_named(good, content, words):
    (fault,) = check(good["2021"][:-100] if content is None else content).faults
    assert fault.startswith(f"{NAMES[0]}: ") and words in fault and fault.count(NAMES[0]) == 1


def test_a_header_that_tells_of_more_voxels_than_there_are_is_refused():
    content = segmentation(shape=(240, 240, 100), change=lambda header: header.set_data_shape((240, 240, 155)))
    (fault,) = check(content).faults
    assert "truncated" in fault


def test_a_header_that_tells_of_fewer_voxels_than_there_are_is_refused():
    def lie(header):
        header.set_data_shape((240, 240, 155))

    (fault,) = check(segmentation(shape=(240, 240, 156), change=lie)).faults
    assert "57600 bytes more than the uint8 voxels of its header" in fault


def test_a_qform_that_is_no_rotation_is_refused():
    def spoil(header):
        header["quatern_b"] = 3

    (fault,) = check(segmentation(change=spoil)).faults
    assert "qform is damaged" in fault


def test_the_upload_check_reads_the_qform_alone_and_so_a_missing_sform_is_no_fault():
    assert check(segmentation(codes=(1, 0), sform=IDENTITY)).accepted


# --- taken, with a word ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(values=[]), "empty: no voxel is tumour"),
        (dict(dtype=np.float32), "whole numbers, stored as float32"),
        (dict(values=[1, 2], slope=(2, 0)), "scales the values"),
        (dict(codes=(0, 0)), "neither qform nor sform"),
    ],
)
def test_what_the_challenge_takes_but_a_person_should_know_is_a_warning(settings, words):
    verdict = check(segmentation(**settings))
    assert verdict.accepted
    (warning,) = verdict.warnings
    assert warning.startswith(f"{NAMES[0]}: ") and words in warning


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32])
def test_every_integer_type_is_as_good_as_uint8(dtype):
    verdict = check(segmentation(dtype=dtype))
    assert verdict.accepted and not verdict.warnings


# --- names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edition, name, key",
    [
        ("2017", "Brats17_CBICA_AAB_1", "Brats17_CBICA_AAB_1"),
        ("2017", "Brats17_CBICA_AAB_1_seg", None),
        ("2018", "Brats18_WashU_S040_1", "Brats18_WashU_S040_1"),
        ("2018", "Brats17_CBICA_AAB_1", None),
        ("2020", "BraTS20_Validation_001", "BraTS20_Validation_001"),
        ("2020", "BraTS20_Validation_1", None),
        ("2021", "BraTS2021_00003", "00003"),
        ("2021", "ours_00003", "00003"),
        ("2021", "BraTS2021_00003_seg", None),
        ("2021", "BraTS2021_100003", None),
        ("2023", "BraTS-GLI-00003-000", "00003-000"),
        ("2023", "BraTS-GLI-00003", None),
        ("2024", "BraTS-GLI-02060-101", "02060-101"),
    ],
)
def test_a_case_is_known_by_what_the_challenge_looks_for_in_its_name(edition, name, key):
    assert RULES[edition].key(name) == key


@pytest.mark.parametrize(
    "name, words",
    [
        ("BraTS2021_00003_seg.nii.gz", "does not tell a case of 2021; expected e.g. BraTS2021_00001.nii.gz"),
        ("BraTS2021_00003_probabilities.nii.gz", "These are probabilities: leave them out"),
        ("BraTS2021_00003.nii", "expected an ending in .nii.gz, in small letters. Compress"),
        ("BraTS2021_00003.NII.GZ", "expected an ending in .nii.gz, in small letters"),
        ("metrics.csv", "an upload may hold nothing else. Leave it out"),
        (".BraTS2021_00007.nii.gz.partial-0123", "an upload may hold nothing else"),
        ("tfbrats.json", "an upload may hold nothing else"),
    ],
)
def test_names_that_do_not_belong_are_refused(good, name, words):
    verdict = check(good["2021"], submission.Member(name, lambda: good["2021"]))
    (fault,) = verdict.faults
    assert fault.startswith(f"{name}: ") and words in fault


@pytest.mark.parametrize("name", [".DS_Store", "__MACOSX/._BraTS2021_00003.nii.gz", "~notes.txt"])
def test_what_the_challenge_passes_over_is_passed_over(good, name):
    verdict = check(good["2021"], submission.Member(name, lambda: b""))
    assert verdict.accepted and verdict.ignored == (name,) and verdict.segmentations == (NAMES[0],)


@pytest.mark.parametrize(
    "folder", ["/etc/", "../", "mine/../../", "..\\", "\\", "C:\\", "C:", "__MACOSX/../../"]
)
def test_a_path_that_leads_out_of_the_folder_is_refused(good, tmp_path, capsys, folder):
    path = zipped(tmp_path / "up.zip", {NAMES[0]: good["2021"], f"{folder}{NAMES[1]}": good["2021"]})
    code, said = main(capsys, path)
    assert code == 1 and f"{folder}{NAMES[1]}: its path leads out of the folder" in said
    assert "refused: 1 fault in" in said


@pytest.mark.parametrize(
    "name", [f"a/b/{NAMES[1]}", f"./{NAMES[1]}", f"..a/{NAMES[1]}", "a..BraTS_00007.nii.gz"]
)
def test_folders_and_dots_in_a_name_lead_nowhere(good, name):
    assert check(good["2021"], submission.Member(name, lambda: good["2021"])).accepted


def test_two_files_of_one_case_are_refused_wherever_they_lie(good):
    verdict = check(good["2021"], *(submission.Member(n, lambda: good["2021"]) for n in ("a/x_00003.nii.gz",)))
    (fault,) = verdict.faults
    assert fault == f"{NAMES[0]}, a/x_00003.nii.gz: 2 segmentations of case 00003. Keep one."


def test_missing_and_unknown_cases_are_said(good):
    verdict = check(good["2021"], case_ids=["BraTS2021_00007", "BraTS2021_00009"])
    unknown, *missing = verdict.faults
    assert unknown.startswith(f"{NAMES[0]}: case 00003 is not one of the 2 wanted")
    assert [fault.split(":")[0] for fault in missing] == ["BraTS2021_00007", "BraTS2021_00009"]
    assert check(good["2021"], case_ids=["BraTS2021_00003"]).accepted


def test_nothing_to_look_at_is_refused():
    (fault,) = submission.check([], RULES["2021"]).faults
    assert "no segmentation among 0 files" in fault


# --- editions -------------------------------------------------------------------------------------------


def test_each_edition_has_its_own_grid_and_labels(good):
    (fault,) = check(segmentation("2023"), edition="2021").faults
    assert "label values [3]" in fault
    member = submission.Member("BraTS-GLI-00003-100.nii.gz", lambda: good["2024"])
    assert submission.check([member], RULES["2024"]).accepted
    faults = submission.check([member], RULES["2023"]).faults
    assert [re.search("shape|qform|label values", fault).group() for fault in faults] == [
        "shape",
        "qform",
        "label values",
    ]


@pytest.mark.parametrize(
    "editions, words",
    [
        ([], "the names do not tell the edition"),
        (["msd"], "edition msd has no upload check"),
        (["2020", "2021"], r"several editions \(2020, 2021\)"),
        (["2021", "msd"], "several editions"),
    ],
)
def test_an_edition_that_is_not_told_is_asked_for(editions, words):
    with pytest.raises(InputError, match=rf"^here: .*{words}.*--edition"):
        submission_rules.rules_for(editions, "here")


# --- folders, archives and the command ------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, good):
    """A sound upload of 2021 beside our own card."""
    (tmp_path / "out").mkdir()
    for name in NAMES:
        (tmp_path / "out" / name).write_bytes(good["2021"])
    (tmp_path / "out" / "tfbrats.json").write_text("{}")
    return tmp_path / "out"


def test_a_folder_and_its_archive_are_taken(folder, tmp_path, capsys):
    code, said = main(capsys, folder, "--pack", tmp_path / "up.zip")
    assert code == 0 and "accepted: 2 files" in said
    assert "ignored  tfbrats.json; pack without tfbrats.json" in said
    with zipfile.ZipFile(tmp_path / "up.zip") as archive:
        assert archive.namelist() == list(NAMES) and archive.testzip() is None
        assert archive.read(NAMES[0]) == (folder / NAMES[0]).read_bytes()
    code, said = main(capsys, tmp_path / "up.zip")
    assert code == 0 and "accepted: 2 files" in said and "ignored" not in said


def test_the_same_files_pack_to_the_same_bytes(folder, tmp_path, capsys):
    for name in ("a.zip", "b.zip"):
        main(capsys, folder, "--pack", tmp_path / name)
        (folder / NAMES[0]).touch()
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_nothing_is_packed_of_what_is_refused(folder, tmp_path, capsys):
    (folder / "notes.txt").write_text("1")
    code, said = main(capsys, folder, "--pack", tmp_path / "up.zip")
    assert code == 1 and "refused: 1 fault in" in said and "not written" in said
    assert not (tmp_path / "up.zip").exists()
    (folder / "more.txt").write_text("1")
    assert "refused: 2 faults in" in main(capsys, folder)[1]


def test_one_file_is_one_file(folder, capsys):
    (folder / NAMES[1]).unlink()
    assert "accepted: 1 file;" in main(capsys, folder)[1]


def test_our_card_is_refused_inside_an_archive(folder, tmp_path, capsys):
    path = zipped(tmp_path / "up.zip", {path.name: path.read_bytes() for path in folder.iterdir()})
    code, said = main(capsys, path)
    assert code == 1 and "tfbrats.json: no .nii.gz; an upload may hold nothing else" in said


def test_files_in_a_folder_of_the_archive_are_found_and_packed_side_by_side(folder, tmp_path, good, capsys):
    path = zipped(tmp_path / "up.zip", {f"mine/{name}": good["2021"] for name in NAMES})
    code, _ = main(capsys, path, "--pack", tmp_path / "flat.zip")
    assert code == 0
    assert zipfile.ZipFile(tmp_path / "flat.zip").namelist() == list(NAMES)


def test_a_place_in_memory_is_as_good_as_a_folder(place, good):
    for name in NAMES:
        files.write_bytes(files.join(place, "deep", name), good["2021"])
    members = submission_files.members(place)
    assert [member.name for member in members] == [f"deep/{name}" for name in NAMES]
    verdict = submission.check(members, RULES["2021"])
    submission_files.pack(members, verdict, files.join(place, "up.zip"))
    assert [member.name for member in submission_files.members(files.join(place, "up.zip"))] == list(NAMES)


def test_damage_in_an_archive_is_named(tmp_path, good, capsys):
    path = zipped(tmp_path / "up.zip", dict.fromkeys(NAMES, good["2021"]))
    content = bytearray(path.read_bytes())
    content[len(good["2021"]) // 2] ^= 255
    path.write_bytes(content)
    code, said = main(capsys, path)
    assert (
        code == 1 and f"{NAMES[0]}: damaged or encrypted in the archive" in said and f"{NAMES[1]}:" not in said
    )
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"up\.zip: no ZIP archive, or a damaged one"):
        main(capsys, path)


def test_all_cases_may_be_named_by_a_file_or_a_data_set(folder, tmp_path, tiny_dataset, capsys):
    (tmp_path / "ids.txt").write_text("BraTS2021_00003\r\n\nBraTS2021_00007\n")
    assert main(capsys, folder, "--expected", tmp_path / "ids.txt")[0] == 0
    code, said = main(capsys, folder, "--expected", tiny_dataset("2021"))  # its cases: 1 and 2
    assert code == 1 and "00003 is not one of the 2" in said
    assert (
        "2 cases: no segmentation. Predict it; an empty one counts as one.\n"
        "    BraTS2021_00001, BraTS2021_00002\n" in said
    )
    (tmp_path / "ids.txt").write_text("\n")
    with pytest.raises(InputError, match="--expected names no case"):
        main(capsys, folder, "--expected", tmp_path / "ids.txt")
    with pytest.raises(InputError, match="BraTS2021_Validatoin: no such file or folder"):
        main(capsys, folder, "--expected", "BraTS2021_Validatoin")


def test_the_old_name_of_expected_still_works_and_says_the_new_one(folder, tmp_path, capsys):
    (tmp_path / "ids.txt").write_text("BraTS2021_00003\nBraTS2021_00007\n")
    assert check_submission.main([str(folder), "--cases", str(tmp_path / "ids.txt")]) == 0
    printed = capsys.readouterr()
    assert "accepted: 2 files\n" in printed.out and printed.err == "note: --cases is now --expected\n"


def test_equal_faults_are_one_and_each_is_counted(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    for n in range(5):
        (tmp_path / "out" / f"BraTS2021_0000{n}.nii.gz").write_bytes(segmentation(shape=(20, 20, 20)))
    (tmp_path / "out" / "notes.txt").write_text("1")
    code, said = main(capsys, tmp_path / "out")
    lines = said.splitlines()
    (at,) = (n for n, line in enumerate(lines) if "shape (20, 20, 20)" in line)
    assert code == 1 and lines[at].startswith("  5 files: shape (20, 20, 20); expected (240, 240, 155).")
    named = ", ".join(f"BraTS2021_0000{n}.nii.gz" for n in range(3))
    assert lines[at + 1] == f"    {named} and 2 more"
    assert "  notes.txt: no .nii.gz" in said and "refused: 6 faults in" in said
    assert len(json.loads(main(capsys, tmp_path / "out", "--json")[1])["faults"]) == 6


def test_each_end_says_what_to_do_next(folder, tmp_path, capsys):
    (tmp_path / "ids.txt").write_text("BraTS2021_00003\nBraTS2021_00007\n")
    expected = ("--expected", tmp_path / "ids.txt")

    def next_of(*arguments):
        return main(capsys, *arguments)[1].splitlines()[-1].replace(f"{tmp_path}/", "")

    assert next_of(folder) == "next: tfbrats check out --expected DATASET"
    assert next_of(folder, *expected) == "next: tfbrats check out --expected ids.txt --pack out.zip"
    packed = next_of(folder, *expected, "--pack", tmp_path / "up.zip")
    assert packed == next_of(tmp_path / "up.zip", *expected) == "next: upload up.zip to the challenge"
    (folder / NAMES[0]).write_bytes(b"")
    assert next_of(folder) == "next: mend what is listed, then tfbrats check out"


def test_arguments_are_looked_at_before_what_opens_images_is_loaded(tmp_path):
    code = (
        "import sys\n"
        "from tfbrats import check_submission, errors\n"
        "try: check_submission.main(sys.argv[1:])\n"
        "except errors.InputError as error: print(error)\n"
        "print(sorted({'scipy', 'pydantic', 'nibabel', 'SimpleITK'} & set(sys.modules)))\n"
    )
    for arguments in ((tmp_path / "nowhere",), (tmp_path, "--expected", tmp_path / "nowhere")):
        line = [sys.executable, "-c", code, *map(str, arguments)]
        ended = subprocess.run(line, capture_output=True, text=True, check=True)
        assert ended.stdout == f"{tmp_path}/nowhere: no such file or folder.\n[]\n"


def test_the_edition_of_the_command_overrides_the_names(tmp_path, good, capsys):
    path = zipped(tmp_path / "up.zip", {"x-00003-000.nii.gz": good["2023"]})
    with pytest.raises(InputError, match="the names do not tell the edition"):
        main(capsys, path)
    code, said = main(capsys, path, "--edition", "2023")
    assert code == 0 and "edition  2023" in said


def test_a_folder_without_any_segmentation_is_not_asked_for_its_edition(tmp_path, capsys):
    with pytest.raises(InputError, match="no segmentation among 0 files"):
        main(capsys, tmp_path)


def test_an_uncompressed_file_tells_its_edition_and_is_refused_for_its_ending(folder, capsys):
    for name in NAMES:
        (folder / name).rename(folder / name.removesuffix(".gz"))
    code, said = main(capsys, folder)
    assert code == 1 and "edition  2021" in said
    assert "  2 files: expected an ending in .nii.gz" in said
    assert ", ".join(name.removesuffix(".gz") for name in NAMES) in said


def test_only_with_the_cases_wanted_it_is_known_that_all_are_there(folder, tmp_path, capsys):
    assert "accepted: 2 files; whether these are the cases wanted" in main(capsys, folder)[1]
    (tmp_path / "ids.txt").write_text("\n".join(NAMES))
    assert "accepted: 2 files\n" in main(capsys, folder, "--expected", tmp_path / "ids.txt")[1]


def test_json_says_the_same(folder, tmp_path, capsys):
    code, said = main(capsys, folder, "--json")
    content = json.loads(said)
    assert code == 0 and content["accepted"] and content["segmentations"] == list(NAMES)
    assert content["edition"] == "2021" and content["ignored"] == ["tfbrats.json"]
    (folder / NAMES[1]).write_bytes(b"")
    code, said = main(capsys, folder, "--json")
    assert code == 1 and not json.loads(said)["accepted"] and len(json.loads(said)["faults"]) == 1
    code, said = main(capsys, tmp_path / "nothing", "--json")
    assert code == 1 and "no such file" in json.loads(said)["faults"][0]


def test_an_archive_to_write_needs_its_ending(folder, tmp_path, capsys):
    with pytest.raises(InputError, match=r"expected the name of an archive that ends in \.zip"):
        main(capsys, folder, "--pack", tmp_path / "up")


def test_an_archive_is_known_by_its_ending_as_in_the_upload(tmp_path, good, capsys):
    contents = {NAMES[0]: good["2021"]}
    for name in ("ok.tar.gz", "up.ZIP", "zip"):
        with pytest.raises(InputError, match=rf"{name}: a ZIP archive, but .* ends in \.zip.*Rename it"):
            main(capsys, zipped(tmp_path / name, contents))
    assert main(capsys, zipped(tmp_path / "up.zip", contents))[0] == 0


def test_an_archive_is_not_put_into_the_folder_that_it_is_made_of(folder, tmp_path, capsys):
    (tmp_path / "link").symlink_to(folder)
    for target in (folder / "in.zip", folder / "deep" / "in.zip", tmp_path / "link" / "in.zip"):
        with pytest.raises(InputError, match=r"in\.zip: lies in the folder that is checked"):
            main(capsys, folder, "--pack", target)
    assert main(capsys, folder)[0] == 0
    # A neighbour whose name begins alike is none of it.
    assert main(capsys, folder, "--pack", tmp_path / "out2" / "in.zip")[0] == 0


def test_an_archive_is_not_packed_onto_itself_but_another_is_replaced(tmp_path, good, capsys):
    path = zipped(tmp_path / "up.zip", {f"mine/{NAMES[0]}": good["2021"]})
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"up\.zip: is the archive that is checked"):
        main(capsys, path, "--pack", tmp_path / "x" / ".." / "up.zip")
    assert path.read_bytes() == before
    (tmp_path / "flat.zip").write_bytes(b"older")
    assert main(capsys, path, "--pack", tmp_path / "flat.zip")[0] == 0
    assert zipfile.ZipFile(tmp_path / "flat.zip").namelist() == [NAMES[0]]
    with pytest.raises(SystemExit):
        main(capsys, "--help")
    assert "one that exists is replaced" in " ".join(capsys.readouterr().out.split())


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc on this system")
def test_a_place_that_takes_no_files_is_one_message(folder, capsys):
    with pytest.raises(InputError, match=r"^/proc/up\.zip: cannot be written|^/proc: cannot be written"):
        main(capsys, folder, "--pack", "/proc/up.zip")


# --- real ones ------------------------------------------------------------------------------------------


def test_the_experts_own_masks_are_taken(real_masks, tmp_path, capsys):
    for path in sorted(real_masks.glob("*_seg.nii.gz")):
        shutil.copy(path, tmp_path / path.name.replace("_seg", ""))
    code, said = main(capsys, tmp_path)
    assert code == 0 and "accepted: 5 files" in said and "warnings" not in said


def test_predictions_of_public_models_are_taken(real_masks, tmp_path, capsys):
    for path in sorted(real_masks.glob("*_pred_baseline_attention.nii.gz")):
        shutil.copy(path, tmp_path / path.name.replace("_pred_baseline_attention", ""))
    assert main(capsys, tmp_path)[0] == 0


def test_the_real_cases_own_masks_are_taken_for_their_data_set(real_cases, tmp_path, capsys):
    for path in sorted(real_cases.glob("*/*_seg.nii.gz")):
        shutil.copy(path, tmp_path / path.name.replace("_seg", ""))
    code, said = main(capsys, tmp_path, "--expected", real_cases)
    assert code == 0 and "accepted: 6 files" in said


def test_a_data_set_is_no_upload(real_cases, capsys):
    code, said = main(capsys, real_cases / "BraTS2021_00006")
    assert code == 1 and "different values: an image, no segmentation" in said
