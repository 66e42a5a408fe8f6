"""Which patient: scans of one stay together whatever they are called, and patients stay apart."""

import json
import re

import pytest

from beam_pipelines import nifti_to_tfrecord
from tfbrats import inspect, labels, layouts, naming, patients, plans, records, split_files, splits
from tfbrats.command import InputError
from tfbrats.splits import split_cases


def a_dataset(case_ids, tables=()) -> layouts.Dataset:
    cases = [
        layouts.CaseFiles(
            case_id=name,
            patient_id=naming.patient_of(name),
            layout="",
            schema=labels.EDITIONS["2021"],
            images=(("t1", f"/data/{name}_t1.nii", None),),
            label=f"/data/{name}.nii",
        )
        for name in case_ids
    ]
    united = patients.united({case.case_id: case.patient_id for case in cases}, tables)
    return layouts.Dataset("/data", tuple(cases), (), patients=united, has_patient_table=bool(tables))


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
        ("BraTS-GLI-00495", ["BraTS-GLI-00495-000", "BraTS-GLI-00495-101"]),
        ("BraTS-MEN-RT-0001", ["BraTS-MEN-RT-0001-1"]),
        ("BraTS-PED-00002", ["BraTS-PED-00002-000"]),
        ("Brats17_2013_10", ["Brats17_2013_10_1"]),
    ],
)
def test_scans_of_a_patient_have_one_patient(patient, case_ids):
    assert {naming.patient_of(name) for name in case_ids} == {patient}


def test_a_name_that_is_nothing_but_a_time_point_is_told_from_a_patients():
    points = "2019-01-01 20190101 week-000-1 baseline baseline1 followup2 ses-01 visit2 scan1 preop MR2 sess1"
    others = "P1 001 2019 Pat1_visit2 HGG BraTS2021_00000 sub-01 preop_P1 case_1 site1"
    assert all(map(naming.is_time_point, [*points.split(), "visit 2", "t0"]))
    assert not any(map(naming.is_time_point, others.split()))


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
        map(naming.patient_of, case_ids)
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
    assert records.sha256_of_split(split_cases(dataset, (3, 1, 1), seed=7)).startswith(sha256)
    assert patients.notes(dataset.patient_of, False) == []


# --- what names do not tell ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case_ids", "named"),
    [
        (["P001_1", "P001_2", "P002_1"], "P001_1 and P001_2 are patients or scans"),
        (["P001", "P001_2", "P002"], "P001 and P001_2 are"),
        (["100101A", "100101B", "100102A", "100102B"], r"100101A and 100101B \(and 1 more such groups\)"),
        (["anna_visit1", "anna_visit2", "bert_visit1"], "anna_visit1 and anna_visit2 are"),
        (["S7-01", "S7-02", "S7-03", "S7-04"], "S7-01, S7-02, S7-03 and 1 more are"),
    ],
)
def test_names_that_may_be_scans_or_patients_are_told(case_ids, named):
    (note,) = patients.notes(a_dataset(case_ids).patient_of, False)
    assert re.search(f"names do not tell whether {named}", note) and "--patients FILE" in note


def test_a_guess_by_names_is_told_and_a_published_rule_is_not():
    (note,) = patients.notes(a_dataset(["P01_t0", "P01_t1", "P02_t0", "P02_t1", "P03_t0"]).patient_of, False)
    assert note.startswith(
        "P01_t0 and P01_t1 are taken for scans of one patient, by their names, and so 1 more"
    )
    assert patients.notes(a_dataset(["UPENN-GBM-00001_11", "UPENN-GBM-00001_21"]).patient_of, False) == []


def test_editions_that_share_patients_under_other_names_are_told_unless_a_table_is_there():
    both = a_dataset(["BraTS20_Training_001", "BraTS2021_00000"]).patient_of
    (note,) = patients.notes(both, False)
    assert note.startswith("cases of BraTS 2020, 2021 or later: ") and "name_mapping.csv" in note
    assert patients.notes(both, True) == []
    assert patients.notes(a_dataset(["BraTS2021_00000", "BraTS-GLI-00001-000"]).patient_of, False) == []


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
        ("case,patient\nQ,R\n", "names none of the cases, but e.g. Q"),
    ],
)
def test_a_patients_file_that_is_none_is_refused(tmp_path, text, said):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(InputError, match=rf"p\.csv: .*{said}"):
        patients.read(tmp_path / "p.csv", ["P001_1"])


def test_a_patients_file_need_not_name_all(tmp_path):
    (tmp_path / "p.csv").write_text("\ufeffpatient,case\nA,P001_1\nA,P002_1\n", "utf-8")
    dataset = a_dataset(["P001_1", "P001_2", "P002_1"]).with_patients(tmp_path / "p.csv")
    assert dataset.patient_of == {"P001_1": "A", "P001_2": "P001_2", "P002_1": "A"}
    assert "does not name P001_2; their names decide" in dataset.notes[0]


def test_a_test_set_of_another_edition_is_known_to_hold_the_patients_that_were_trained_on(monkeypatch):
    trained = a_dataset(["BraTS2021_00495", "BraTS2021_00496"])
    monkeypatch.setattr(
        plans.layouts, "find", lambda _: a_dataset(["BraTS-GLI-00495-000", "BraTS-GLI-00700-000"])
    )
    dealt = {"train": ["BraTS2021_00495", "BraTS2021_00496"], "validation": [], "test": []}
    with pytest.raises(InputError, match=r"of patients who are trained .* BraTS-GLI-00495-000\."):
        plans._unseen("data", trained, dealt, ["t1"])
