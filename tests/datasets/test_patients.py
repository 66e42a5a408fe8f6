"""Which patient: scans of one stay together whatever they are called, and patients stay apart."""

import json
import re

import pytest

from beam_pipelines import nifti_to_tfrecord
from tfbrats import inspect, labels, splits
from tfbrats.cases import split_files as split_files
from tfbrats.cases.dealing import split_cases
from tfbrats.datasets import case_names, layouts, patients
from tfbrats.errors import InputError
from tfbrats.workflows import table_plan

NO_LINKS = patients.Links()


def a_dataset(case_ids, tables=()) -> layouts.Dataset:
    cases = [
        layouts.CaseFiles(
            case_id=name,
            patient_id=case_names.patient_of(name),
            layout="",
            schema=labels.EDITIONS["2021"],
            images=(("t1", f"/data/{name}_t1.nii", None),),
            label=f"/data/{name}.nii",
        )
        for name in case_ids
    ]
    united, links = patients.united({case.case_id: case.patient_id for case in cases}, tables)
    return layouts.Dataset("/data", tuple(cases), (), patients=united, links=links)


@pytest.mark.parametrize(
    ("patient", "case_ids"),
    [
        ("UPENN-GBM-00001", ["UPENN-GBM-00001_11", "UPENN-GBM-00001_21"]),
        ("UCSF-PDGM-0429", ["UCSF-PDGM-0429", "UCSF-PDGM-0429_FU003d", "UCSF-PDGM-0429_nifti"]),
        ("UCSD-PTGBM-0002", ["UCSD-PTGBM-0002_01", "UCSD-PTGBM-0002_02"]),
        ("RHUH-0001", ["RHUH-0001_0", "RHUH-0001_2"]),
        ("PatientID_0003", ["PatientID_0003_Timepoint_1", "PatientID_0003_Timepoint_2"]),
        ("100001", ["100001_time1", "100001_time2"]),
        (
            "sub-007",
            ["sub-007", "sub-007_ses-01", "sub-007_ses-02_run-1", "sub-007/ses-03", "sub-007_ses-preop"],
        ),
        ("PAT001", ["PAT001_20200101", "PAT001_2020-01-31", "PAT001-2021.12.09", "PAT001_31.12.2021"]),
        ("TCGA-02-0001", ["TCGA-02-0001_1997.07.05", "TCGA-02-0001-01A", "TCGA-02-0001"]),
        ("W39", ["W39_1998.09.19", "W39_1999.01.02"]),
        ("Patient-001", ["Patient-001_week-000-1", "Patient-001_week-044", "Patient-001_baseline"]),
        (
            "P01",
            ["P01_followup1", "P01-fu-2", "P01_visit2", "P01-visit3", "P01_scan1", "P01_session-2", "P01_tp1"],
        ),
        (
            "P01",
            ["P01_t0", "P01_t1", "P01_pre", "P01_post", "P01_preop", "P01-post-op", "P01_m06", "P01_12months"],
        ),
        (
            "P02",
            [
                "P02preop",
                "P02postop",
                "P02Scan1",
                "P02sess2",
                "P02-first",
                "P02_MR1",
                "P02_wk8",
                "P02-2020",
                "P02_2021-05",
            ],
        ),
        ("BraTSReg_001", ["BraTSReg_001_00_0000", "BraTSReg_001_01_0106"]),
        ("BraTS-GLI-00495", ["BraTS-GLI-00495-000", "BraTS-GLI-00495-101"]),
        ("BraTS-MEN-RT-0001", ["BraTS-MEN-RT-0001-1"]),
        ("BraTS-PED-00002", ["BraTS-PED-00002-000"]),
        ("Brats17_2013_10", ["Brats17_2013_10_1"]),
    ],
)
def test_scans_of_a_patient_have_one_patient(patient, case_ids):
    assert {case_names.patient_of(name) for name in case_ids} == {patient}


def test_a_name_that_is_nothing_but_a_time_point_is_told_from_a_patients():
    points = "2019-01-01 20190101 week-000-1 baseline baseline1 followup2 ses-01 visit2 scan1 preop MR2 sess1"
    others = "P1 001 2019 Pat1_visit2 HGG BraTS2021_00000 sub-01 preop_P1 case_1 site1"
    assert all(map(case_names.is_time_point, [*points.split(), "visit 2", "t0"]))
    assert not any(map(case_names.is_time_point, others.split()))


@pytest.mark.parametrize(
    "case_ids",
    [
        ["BraTS2021_00000", "BraTS2021_00001"],
        ["BraTS20_Training_001", "BraTS20_Training_002", "BraTS20_Validation_001"],
        ["case_1", "case_2", "subject_01", "subject_02", "patient-3", "scan_1", "mri_2"],
        ["BRATS_001", "BRATS_002", "001", "002", "20200101", "20200102"],
        ["P001_1", "P001_2", "P002_1"],  # nobody knows; told, not merged
        ["site1_visit1", "site2_visit1", "site1_scan2", "Task01_001", "cohort2_20200101"],
        [
            "MRI_20200101",
            "MRI_20200102",
            "glioma_scan1",
            "glioma_scan2",
        ],  # no number but the date's or the scan's
        ["LGG-104", "LGG-105", "IXI002-Guys-0828", "sub-01", "sub-02", "sub-a-1_ses-1", "sub-a-2_ses-1"],
        ["UPENN-GBM-00001_11", "UPENN-GBM-00002_11", "TCGA-02-0001", "TCGA-02-0003", "TCGA-06-0001"],
        ["Brats18_TCIA08_167_1", "Brats18_TCIA02_167_1", "Brats18_2013_2_1", "Brats18_2013_3_1"],
    ],
)
def test_patients_are_never_merged(case_ids):
    assert len(set(a_dataset(case_ids).patient_of.values())) == len(case_ids)


@pytest.mark.parametrize(
    "case_ids",
    [
        ["BraTS2021_00495", "BraTS-GLI-00495-000", "BraTS-GLI-00495-001"],
        ["BraTS-GLI-00495-000", "brats-gli-00495-001"],
        ["Brats18_CBICA_AAB_1", "BraTS19_CBICA_AAB_1"],
        ["PAT001_20200101", "pat001_20210101"],
    ],
)
def test_names_of_two_editions_are_one_patient_whose_cases_keep_their_own_ids(case_ids):
    others = [f"BraTS2021_{n:05d}" for n in range(10)]
    dataset = a_dataset([*case_ids, *others])
    assert len({dataset.patient_of[name] for name in case_ids}) == 1
    assert len(set(dataset.patient_of.values())) == 11
    # A shard's hash covers the cases' own fields.
    assert [case.patient_id for case in dataset.cases[: len(case_ids)]] == list(
        map(case_names.patient_of, case_ids)
    )
    for seed in range(5):
        dealt = split_cases(dataset, (1, 1, 1), seed)
        assert sum(bool(set(ids) & set(case_ids)) for ids in dealt.values()) == 1


def test_a_table_of_the_challenge_tells_a_patients_names(tmp_path):
    table = tmp_path / "name_mapping.csv"
    table.write_text(
        "Grade,BraTS_2017_subject_ID,BraTS_2018_subject_ID,TCGA_TCIA_subject_ID,BraTS_2019_subject_ID,Age\n"
        "HGG,Brats17_TCIA_167_1,Brats18_TCIA08_167_1,TCGA-06-0001,BraTS19_TCIA08_167_1,7\n"
        "HGG,NA,NA,NA,BraTS19_CBICA_AAA_1,7\n"
    )
    names = [
        "Brats17_TCIA_167_1",
        "Brats18_TCIA08_167_1",
        "TCGA-06-0001_2001.02.03",
        "BraTS19_CBICA_AAA_1",
        "7",
    ]
    found = a_dataset(names, [str(table)]).patient_of
    assert len({found[name] for name in names[:3]}) == 1 and len(set(found.values())) == 3
    assert len(set(a_dataset(names).patient_of.values())) == 5


@pytest.mark.parametrize(
    ("edition", "names", "sha256"),
    [
        (
            "2018",
            [f"Brats18_CBICA_A{chr(65 + n % 26)}{chr(65 + n // 26)}_1" for n in range(60)],
            "916632a0c8c6",
        ),
        ("2020", [f"BraTS20_Training_{n:03d}" for n in range(1, 370)], "d8ef91a4be1b"),
        ("2021", [f"BraTS2021_{n:05d}" for n in range(0, 1600, 7)], "f0a6c5fffab3"),
        (
            "2023",
            [f"BraTS-GLI-{n:05d}-{scan:03d}" for n in range(0, 900, 5) for scan in range(1 + n % 2)],
            "241090e9557f",
        ),
        ("msd", [f"BRATS_{n:03d}" for n in range(1, 485)], "d43368ea5931"),
        ("own", [f"case_{n}" for n in range(50)], "035fb97ae4ba"),
    ],
)
def test_a_split_that_was_right_stays_to_the_id(edition, names, sha256):
    """The hashes are those of version 0.1.0 of November 2026, before names were looked at more closely."""
    dataset = a_dataset(names)
    assert split_files.sha256_of_split(split_cases(dataset, (3, 1, 1), seed=7)).startswith(sha256)
    assert patients.notes(dataset.patient_of, NO_LINKS) == []


# --- what names do not tell ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case_ids", "named"),
    [
        (["P001_1", "P001_2", "P002_1"], "P001_1 and P001_2 are patients or scans"),
        (["P001", "P001_2", "P002"], "P001 and P001_2 are"),
        (["100101A", "100101B", "100102A", "100102B"], r"100101A and 100101B \(and 1 more such groups\)"),
        (["anna_visit1", "anna_visit2", "bert_visit1"], "anna_visit1 and anna_visit2 are"),
        (["JohnDoe_1", "JohnDoe_2", "JaneDoe_1"], "JohnDoe_1 and JohnDoe_2 are"),
        (["anna1", "anna2", *(f"case_{n}" for n in range(400))], "anna1 and anna2 are"),
        (["P7x1", "P7x2", "P8x1"], "P7x1 and P7x2 are"),
        (["P7_a-1", "P7_b-1", "P8_a-1"], "P7_a-1 and P7_b-1 are"),
        (["Z_001_00_0000", "Z_001_01_0106", "Z_002_00_0000"], "Z_001_00_0000 and Z_001_01_0106 are"),
        (["S7-01", "S7-02", "S7-03", "S7-04"], "S7-01, S7-02, S7-03 and 1 more are"),
    ],
)
def test_names_that_may_be_scans_or_patients_are_told(case_ids, named):
    (note,) = patients.notes(a_dataset(case_ids).patient_of, NO_LINKS)
    assert re.search(f"names do not tell whether {named}", note) and "--patients FILE" in note


def test_a_guess_by_names_is_told_and_a_published_rule_is_not():
    (note,) = patients.notes(a_dataset(["P01_t0", "P01_t1", "P02_t0", "P02_t1", "P03_t0"]).patient_of, NO_LINKS)
    assert note.startswith(
        "P01_t0 and P01_t1 are taken for scans of one patient, by their names, and so 1 more"
    )
    assert patients.notes(a_dataset(["UPENN-GBM-00001_11", "UPENN-GBM-00001_21"]).patient_of, NO_LINKS) == []


MAPPING = (
    "Grade,BraTS_2017_subject_ID,BraTS_2019_subject_ID,BraTS_2020_subject_ID\n"
    "HGG,NA,BraTS19_TCIA01_401_1,BraTS20_Training_001\n"
)
NEWER = "BraTS2021,BraTS2020,Site No\nBraTS2021_00000,BraTS20_Training_001,1\n"


def notes_of(dataset):
    return patients.notes(dataset.patient_of, dataset.links)


def test_editions_that_share_patients_under_other_names_are_told_unless_a_table_names_both(tmp_path):
    names = ["BraTS20_Training_001", "BraTS2021_00000", "BraTS2021_00001"]
    (note,) = notes_of(a_dataset(names))
    assert note.startswith("cases of BraTS 2020, 2021 or later: ") and "name_mapping.csv" in note
    table, newer, workbook = (
        tmp_path / name for name in ("name_mapping.csv", "BraTS21-17_Mapping.csv", "BraTS21-17_Mapping.xlsx")
    )
    table.write_text(MAPPING)  # of 2020, and so of nobody in 2021
    assert notes_of(a_dataset(names, [str(table)])) == [note]
    three = [*names, "BraTS19_TCIA01_401_1"]
    (of_three,) = notes_of(a_dataset(three, [str(table)]))  # each of 2019 and of 2020 with 2021
    assert of_three.startswith("cases of BraTS 2019, 2020, 2021 or later: ")
    workbook.write_bytes(b"PK\x03\x04")
    (note,) = notes_of(a_dataset(names, [str(table), str(workbook)]))
    assert re.search(r"Save .*BraTS21-17_Mapping\.xlsx as CSV beside it", note)
    newer.write_text(NEWER, "utf-16")
    dataset = a_dataset(names, [str(table), str(newer), str(workbook)])
    assert notes_of(dataset) == []
    assert dataset.patient_of["BraTS20_Training_001"] == dataset.patient_of["BraTS2021_00000"]
    assert len(set(dataset.patient_of.values())) == 2


def test_a_table_that_tells_no_ids_is_told(tmp_path):
    (tmp_path / "mapping.csv").write_text("ID,Other ID\nBRATS_001,p7\n")
    assert notes_of(a_dataset(["BraTS2021_00000"], [str(tmp_path / "mapping.csv")])) == []
    for name, content in (("a_mapping.csv", b"x,y\n1,2\n"), ("b_mapping.csv", b"\x00\x01\x02" * 9)):
        (tmp_path / name).write_bytes(content)
        (note,) = notes_of(a_dataset(["BraTS2021_00000"], [str(tmp_path / name)]))
        assert name in note and "no case id is read from it" in note


def test_patients_whom_a_file_names_in_both_editions_need_no_other_table(tmp_path):
    (tmp_path / "p.csv").write_text("case,patient\nBraTS20_Training_001,A\nBraTS2021_00000,A\n")
    dataset = a_dataset(["BraTS20_Training_001", "BraTS2021_00000"]).with_patients(tmp_path / "p.csv")
    assert notes_of(dataset) == []


@pytest.mark.parametrize(
    ("case_ids", "named"),
    [
        (["BRATS_001", "BraTS20_Training_001"], "BraTS 2020, MSD Task01"),
        (["UPENN-GBM-00001_11", "BraTS2021_00000"], "BraTS 2021 or later, UPenn-GBM"),
        (["UCSF-PDGM-0004", "BraTS-GLI-00001-000"], "BraTS 2021 or later, UCSF-PDGM"),
        (["TCGA-02-0006_1996.08.23", "Brats17_TCIA_401_1"], "BraTS 2017, TCGA-GBM/LGG"),
        (["BRATS_001", "UPENN-GBM-00001_11"], "MSD Task01, UPenn-GBM"),
    ],
)
def test_collections_that_hold_the_same_people_are_told(case_ids, named):
    (note,) = notes_of(a_dataset(case_ids))
    assert ("name_mapping.csv" in note) == ("TCGA" in named)  # whose column it has
    assert note.startswith(f"cases of {named}: these collections hold some of the same people")


def test_collections_of_other_people_and_names_that_tell_are_not():
    assert notes_of(a_dataset(["UPENN-GBM-00001_11", "UCSF-PDGM-0004"])) == []
    assert notes_of(a_dataset(["BraTS-PED-00001-000", "BraTS2021_00000"])) == []
    goats = [
        "BraTS-GoAT-00001",
        "BraTS-GoAT-00002",
        "PatientID_0003",
        "PatientID_0004",
        "C3L-00016",
        "C3L-00017",
    ]
    assert notes_of(a_dataset(goats[:4])) == [] and len(notes_of(a_dataset(goats))) == 1
    assert notes_of(a_dataset(["Brats18_CBICA_AAB_1", "BraTS19_CBICA_AAB_1"])) == []
    assert patients.notes(a_dataset(["BraTS2021_00000", "BraTS-GLI-00001-000"]).patient_of, NO_LINKS) == []


@pytest.fixture
def doubtful(tiny_dataset, tmp_path):
    """P001_1, P001_2, P002_1 on the disk."""
    images = layouts.find(tiny_dataset("2020")).cases[0]
    for name in ("P001_1", "P001_2", "P002_1"):
        (tmp_path / "BraTS2020" / name).mkdir(parents=True)
        for kind, path in [*((m, path) for m, path, _ in images.images), ("seg", images.label)]:
            (tmp_path / "BraTS2020" / name / f"{name}_{kind}.nii.gz").symlink_to(path)
    (tmp_path / "patients.csv").write_text("Case,Patient\nP001_1,P001\nP001_2,P001\nP002_1,P002\nP003_1,P003\n")
    return tmp_path


def test_splits_inspect_and_the_beam_job_say_it_and_take_a_file_that_tells(doubtful, capsys):
    data, table, out = doubtful / "BraTS2020", doubtful / "patients.csv", doubtful / "splits.json"
    told = "names do not tell whether P001_1 and P001_2 are"
    job = ["--config=smoke_2d.yaml", f"--input={data}", f"--output={doubtful / 'rec'}", "--price"]
    assert splits.main([f"--input={data}", f"--output={out}", "--ratio=1,1,0"]) == 0
    assert told in capsys.readouterr().out
    assert inspect.main([str(data)]) == 0
    printed = capsys.readouterr().out
    assert told in printed and "cases    3 of 3 patients" in printed
    assert nifti_to_tfrecord.main([*job, "records.split=[1,1,0]"]) == 0
    assert told in capsys.readouterr().out

    for seed in range(4):
        with_file = [f"--patients={table}", f"--seed={seed}", "--overwrite"]
        assert splits.main([f"--input={data}", f"--output={out}", "--ratio=1,1,0", *with_file]) == 0
        assert told not in capsys.readouterr().out
        dealt = split_files.read(out)
        assert sorted(map(len, dealt.values())) == [0, 1, 2] and ["P001_1", "P001_2"] in dealt.values()
    assert inspect.main([str(data), f"--patients={table}"]) == 0
    assert "cases    3 of 2 patients" in capsys.readouterr().out
    split_files.write(out, {"train": ["P001_1", "P002_1"], "validation": [], "test": ["P001_2"]}, True)
    assert inspect.main([str(data), f"--patients={table}", f"--splits={out}", "--json"]) == 1
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert "patient P001 is in more than one split (train: P001_1; test: P001_2)" in fault
    with pytest.raises(InputError, match="patient P001 is in more than one split"):
        nifti_to_tfrecord.main([*job, f"--patients={table}", f"--splits={out}"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("P001_1,P001\n", "first line is case,patient"),
        ("", "first line is case,patient"),
        ("case,patient\nP001_1\n", "row 2 is 'P001_1'; expected a case and its patient"),
        ("case,patient\nP001_1,A\nP001_1,B\n", "P001_1 is of A and of B"),
        ("case,patient\nQ,R\n", "names none of the cases, but Q"),
    ],
)
def test_a_patients_file_that_is_none_is_refused(tmp_path, text, said):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(InputError, match=rf"p\.csv: .*{said}"):
        a_dataset(["P001_1"]).with_patients(tmp_path / "p.csv")


def test_a_patients_file_need_not_name_all(tmp_path):
    (tmp_path / "p.csv").write_text("\ufeffpatient,case\nA,P001_1\nA,P002_1\n", "utf-8")
    dataset = a_dataset(["P001_1", "P001_2", "P002_1"]).with_patients(tmp_path / "p.csv")
    assert dataset.patient_of == {"P001_1": "A", "P001_2": "P001_2", "P002_1": "A"}
    assert "does not name P001_2; their names decide" in dataset.notes[0]


def test_a_partial_file_never_tears_a_patient_apart(tmp_path):
    (tmp_path / "p.csv").write_text("case,patient\nBraTS-GLI-00001-000,A\nBraTS-GLI-00007-000,A\n")
    ids = ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS2021_00007", "BraTS-GLI-00007-000"]
    dataset = a_dataset([*ids, *(f"BraTS-GLI-{n:05d}-000" for n in range(20, 30))])
    dataset = dataset.with_patients(tmp_path / "p.csv")
    assert {dataset.patient_of[name] for name in ids} == {"A"} and len(set(dataset.patient_of.values())) == 11
    for seed in range(8):
        dealt = split_cases(dataset, (1, 1, 1), seed)
        assert sum(bool(set(ids) & set(those)) for those in dealt.values()) == 1
    assert "does not name BraTS-GLI-00001-001 and BraTS2021_00007; " in dataset.notes[0]


def test_a_file_that_puts_a_patients_scans_apart_decides_where_it_names_them_all(tmp_path):
    (tmp_path / "p.csv").write_text("case,patient\nP1_t0,A\nP1_t1,B\n")
    dataset = a_dataset(["P1_t0", "P1_t1", "P2_t0"]).with_patients(tmp_path / "p.csv")
    assert dataset.patient_of == {"P1_t0": "A", "P1_t1": "B", "P2_t0": "P2"}
    assert any("puts scans apart that are one patient's by their names: P1" in note for note in dataset.notes)
    with pytest.raises(InputError, match=r"does not name P1_t2 \(of A or of B\?\)\. Name all"):
        a_dataset(["P1_t0", "P1_t1", "P1_t2"]).with_patients(tmp_path / "p.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
@pytest.mark.parametrize("row", ["{},{}", "{};{}", "{}\t{}", '"{}";"{}"', '"{}", "{}"'])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_patients_file_is_read_as_spreadsheets_save_it(tmp_path, encoding, row, end):
    rows = [("case", "patient"), ("P001_1", "Müller"), ("P001_2", "Möller"), ("P002_1", "Müller")]
    text = "".join(row.format(*cells) + end for cells in rows)
    (tmp_path / "p.csv").write_bytes(text.encode(encoding))
    dataset = a_dataset(["P001_1", "P001_2", "P002_1"]).with_patients(tmp_path / "p.csv")
    assert dataset.patient_of == dict(rows[1:]) and dataset.notes == ()


def test_a_slip_of_the_pen_is_told_with_the_nearest_name_and_a_workbook_is_refused(tmp_path):
    names = ["BraTS-GLI-00001-000", "BraTS-GLI-00002-000"]
    path = tmp_path / "p.csv"
    path.write_text("case,patient\nBraTS-GLI-00001-000,A\nBraTS-GLI-0002-000,A\nzz,B\n")
    first, _ = a_dataset(names).with_patients(path).notes
    assert "there is no case BraTS-GLI-0002-000 (is BraTS-GLI-00002-000 meant?) and zz" in first
    path.write_text("case,patient\nBraTS-GLI-0002-000,A\n")
    with pytest.raises(InputError, match=r"none of the cases, but .*\(is BraTS-GLI-00002-000 meant\?\)"):
        a_dataset(names).with_patients(path)
    path.write_bytes(b"PK\x03\x04...")
    with pytest.raises(InputError, match=r"p\.csv: is a workbook.*Save it as CSV"):
        a_dataset(names).with_patients(path)


def test_a_test_set_of_another_edition_is_known_to_hold_the_patients_that_were_trained_on(monkeypatch):
    trained = a_dataset(["BraTS2021_00495", "BraTS2021_00496"])
    monkeypatch.setattr(
        table_plan.layouts, "find", lambda _: a_dataset(["BraTS-GLI-00495-000", "BraTS-GLI-00700-000"])
    )
    dealt = {"train": ["BraTS2021_00495", "BraTS2021_00496"], "validation": [], "test": []}
    with pytest.raises(InputError, match=r"of patients who are trained .* BraTS-GLI-00495-000\."):
        table_plan._unseen("data", trained, dealt, ["t1"])
