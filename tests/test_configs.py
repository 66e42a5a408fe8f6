"""The shipped configs are lab notes: what, from where, how to run, what to expect."""

import pathlib

import pytest

from tfbrats import config, config_file

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_is_valid_and_names_its_own_folders(path):
    settings = config_file.load(path.name)
    assert settings.run.dir == f"runs/{path.stem}"
    assert settings.data.records.startswith("records/")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_its_header_holds_the_commands(path):
    header = path.read_text().partition("\nmodel:")[0]
    assert f"tfbrats prepare --config {path.name}" in header or "records are those of" in header
    assert f"tfbrats train --config {path.name}" in header


@pytest.mark.parametrize("name", ["cun.yaml", "cun_lws.yaml"])
def test_a_papers_config_names_paper_row_score_and_data(name):
    header = (CONFIGS[0].parent / name).read_text().partition("\nmodel:")[0]
    for word in ("Paper A", "Table 1", "arXiv 1907.07677", "Paper's Dice", "Hours", "docs/why/papers.md"):
        assert word in header, word


def test_cun_and_its_sampled_twin_differ_in_sampling_and_folder_alone():
    plain, sampled = (config_file.load(name).model_dump() for name in ("cun.yaml", "cun_lws.yaml"))
    assert config.differences(plain, sampled) == [
        "lws.enabled: False, there True",
        "run.dir: runs/cun, there runs/cun_lws",
    ]


# --- paper B --------------------------------------------------------------------------------------------

PAPER_B = {  # Table 1: mean Dice on the 66 validation cases
    "msm.yaml": ("with ASPP", {"WT": 0.903, "TC": 0.832, "ET": 0.809}),
    "msm_noaspp.yaml": ("without ASPP", {"WT": 0.899, "TC": 0.820, "ET": 0.773}),
    "unet3d.yaml": ("Original U-Net", {"WT": 0.882, "TC": 0.788, "ET": 0.739}),
}


@pytest.mark.parametrize("name", PAPER_B)
def test_the_recipe_of_paper_b_is_the_papers(name):
    settings = config_file.load(name)
    assert settings.model.name == name.removesuffix(".yaml")
    train, sampling = settings.train, settings.sampling
    assert (train.learning_rate, train.beta1, train.beta2) == (2e-4, 0.5, 0.9999)  # section 2.5
    assert (train.batch_size, train.epochs, train.steps_per_epoch) == (24, 10, None)  # section 3
    assert (sampling.patch_size, sampling.patches_per_case) == (64, 400)  # section 3
    assert (sampling.boxes, sampling.box_jitter, settings.cascade.mask) == (
        "reference",
        0,
        "box",
    )  # section 2.2
    assert set(settings.preprocess.n4_modalities) == {"t1", "t1ce"}  # section 2.1
    assert set(settings.data.modalities) == {"flair", "t1", "t1ce", "t2"}
    assert settings.records.split == (1, 0, 0)  # all 285 training cases
    assert settings.records.kind == "patches" and settings.region == "all"


@pytest.mark.parametrize("name", PAPER_B)
def test_a_config_of_paper_b_names_paper_row_score_and_data(name):
    header = " ".join((CONFIGS[0].parent / name).read_text().partition("\nregion:")[0].split("\n#"))
    row, dice = PAPER_B[name]
    for word in ("Paper B, Table", row, "10.1007/978-3-030-11726-9_20", "285", "Hours", "docs/why/papers.md"):
        assert word in header, word
    scores = header.partition("Paper's Dice")[2].partition("Disk")[0]
    for region, value in dice.items():
        assert f"{region} {value:.3f}" in scores, region


@pytest.mark.parametrize("name", [name for name in PAPER_B if name != "msm.yaml"])
def test_the_rows_of_paper_bs_table_differ_in_network_and_folder_alone(name):
    ours, theirs = (config_file.load(one).model_dump() for one in ("msm.yaml", name))
    other = name.removesuffix(".yaml")
    assert config.differences(ours, theirs) == [
        f"model.name: msm, there {other}",
        f"run.dir: runs/msm, there runs/{other}",
    ]
    identities = [config_file.load(one).records_identity() for one in ("msm.yaml", name)]
    assert identities[0] == identities[1]  # one record set serves the table
