"""The shipped configs are lab notes: what, from where, how to run, what to expect."""

import pathlib

import pytest

from tfbrats import config

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_is_valid_and_names_its_own_folders(path):
    settings = config.load(path.name)
    assert settings.run.dir == f"runs/{path.stem}"
    assert settings.data.records.startswith("records/")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_its_header_holds_the_commands(path):
    header = path.read_text().partition("\nmodel:")[0]
    assert f"nifti_to_tfrecord --config {path.name}" in header or "records are those of" in header
    assert f"tfbrats.train --config {path.name}" in header


@pytest.mark.parametrize("name", ["cun.yaml", "cun_lws.yaml"])
def test_a_papers_config_names_paper_row_score_and_data(name):
    header = (CONFIGS[0].parent / name).read_text().partition("\nmodel:")[0]
    for word in ("Paper A", "Table 1", "arXiv 1907.07677", "Paper's Dice", "Hours", "Deviations"):
        assert word in header, word


def test_cun_and_its_sampled_twin_differ_in_sampling_and_folder_alone():
    plain, sampled = (config.load(name).model_dump() for name in ("cun.yaml", "cun_lws.yaml"))
    assert config.differences(plain, sampled) == [
        "lws.enabled: False, there True",
        "run.dir: runs/cun, there runs/cun_lws",
    ]
