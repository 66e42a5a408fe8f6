import pathlib
import re

import pydantic
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tfbrats import config, config_file
from tfbrats.errors import InputError
from tfbrats.records import manifest

# Keys that runs and records from before there was a choice do not say.
LATER = {
    *("n4", "tf32", "frozen", "reestimate_moments", "open_shards", "select", "ema", "validation_scope"),
    "intensity_change",
}


def written(tmp_path, change):
    """A copy of smoke_2d.yaml with its nested mapping changed."""
    content = yaml.safe_load((config_file.SHIPPED / "smoke_2d.yaml").read_text())
    change(content)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def refusal(path, *overrides) -> str:
    with pytest.raises(InputError) as error:
        config_file.load(path, overrides)
    return str(error.value)


# --- finding --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", config_file.shipped_names())
def test_every_shipped_config_loads_by_its_bare_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = config_file.load(name)
    assert loaded == config_file.load(config_file.SHIPPED / name)


def test_a_file_of_the_same_name_wins_over_the_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, lambda c: c["model"].update(width=3)).rename(tmp_path / "cun.yaml")
    assert config_file.load("cun.yaml").model.width == 3


def test_an_unknown_config_names_both_places_and_what_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refusal("cun_lvs.yaml")
    assert str(tmp_path / "cun_lvs.yaml") in said
    assert str(config_file.SHIPPED) in said
    assert all(name in said for name in config_file.shipped_names())
    assert "Did you mean cun_lws.yaml?" in said


def test_a_missing_path_is_not_looked_up_among_the_shipped_ones(tmp_path):
    assert "no/such/cun.yaml" in refusal("no/such/cun.yaml")


def test_what_is_not_yaml_is_named(tmp_path):
    (tmp_path / "bad.yaml").write_text("model: [1, 2\n")
    assert "bad.yaml: not valid YAML" in refusal(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert "list.yaml" in refusal(tmp_path / "list.yaml")
    assert "train.epochs=2" in refusal(tmp_path / "list.yaml", "train.epochs=2")


# --- keys -----------------------------------------------------------------------------------------------


def test_a_misspelt_key_is_an_error_with_the_nearest_name(tmp_path):
    path = written(tmp_path, lambda c: c["train"].update(learnig_rate=0.1))
    said = refusal(path)
    assert "mine.yaml" in said
    assert "unknown key train.learnig_rate; did you mean train.learning_rate?" in said


def test_a_key_below_a_value_or_with_a_dot_in_it_is_told_where_it_belongs(tmp_path):
    assert "'run.dir.x=1': nothing stands below run.dir." in refusal("smoke_2d.yaml", "run.dir.x=1")
    path = written(tmp_path, lambda c: c.update({"run.dir": c.pop("run")["dir"]}))
    assert "unknown key run.dir; write dir: on a line of its own, indented, below run:" in refusal(path)
    path = written(tmp_path, lambda c: c["run"].update({"dir.x": 1}))
    assert "unknown key run.dir.x; run.dir is one value, with nothing below it" in refusal(path)


def test_a_misspelt_section_is_an_error_with_the_nearest_name(tmp_path):
    said = refusal(written(tmp_path, lambda c: c.update(trian=c.pop("train"))))
    assert "unknown key trian; did you mean train?" in said
    assert "missing key train" in said


def test_a_missing_key_is_an_error(tmp_path):
    assert "missing key lws.beta" in refusal(written(tmp_path, lambda c: c["lws"].pop("beta")))


def test_every_key_is_required(tmp_path):
    content = yaml.safe_load((config_file.SHIPPED / "smoke_2d.yaml").read_text())
    for section, keys in content.items():
        for key in keys.keys() - LATER:
            lacking = {s: {k: v for k, v in c.items() if (s, k) != (section, key)} for s, c in content.items()}
            with pytest.raises(InputError, match=rf"missing key {section}\.{key}"):
                config_file.from_mapping(lacking, "x")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epochs=0", "train.epochs = 0"),
        ("train.epochs=many", "train.epochs = 'many'"),
        ("train.batch_size=-2", "train.batch_size = -2"),
        ("model.name=unet9d", "model.name = 'unet9d'"),
        ("data.modalities=[flair, t1, t1]", "each modality once"),
        ("data.modalities=[flair, dwi]", "dwi"),
        ("data.flip=1.5", "data.flip = 1.5"),
        ("preprocess.n4_modalities=[t9]", "t9"),
        ("records.slice_shape=[100, 96]", "multiple of 16"),
        ("lws.contour_weight=0.5", "lws.contour_weight = 0.5"),
        ("lws.scope=everywhere", "lws.scope = 'everywhere'"),
        ("train.precision=float8", "float8"),
    ],
)
def test_an_impossible_value_is_named_with_its_key(override, said):
    assert said in refusal("smoke_2d.yaml", override)


def test_n4_of_a_modality_that_is_not_read_is_refused():
    said = refusal("cun.yaml", "data.modalities=[flair, t2]", "preprocess.n4_modalities=[t1]")
    assert "preprocess.n4_modalities names ['t1']" in said


def test_all_faults_come_at_once(tmp_path):
    said = refusal("smoke_2d.yaml", "train.epochs=0", "train.epoch=1", "model.width=wide")
    assert all(word in said for word in ("train.epochs", "train.epoch;", "model.width"))


# --- overrides ------------------------------------------------------------------------------------------


def test_overrides_replace_single_values_and_the_last_one_wins():
    before = config_file.load("smoke_2d.yaml")
    after = config_file.load("smoke_2d.yaml", ["model.width=5", "train.epochs=9", "model.width=7"])
    assert (after.model.width, after.train.epochs) == (7, 9)
    assert after.data == before.data and after.lws == before.lws


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.learning_rate=1e-3", 0.001),
        ("train.learning_rate=1.0e-3", 0.001),
        ("train.learning_rate=2", 2.0),
    ],
)
def test_numbers_are_understood_as_people_write_them(override, value):
    assert config_file.load("smoke_2d.yaml", [override]).train.learning_rate == value


def test_overrides_take_lists_and_nothing():
    loaded = config_file.load(
        "smoke_2d.yaml",
        ["data.modalities=[t2, flair]", "train.steps_per_epoch=null", "preprocess.n4_modalities=[]"],
    )
    assert loaded.data.modalities == ("t2", "flair")
    assert loaded.train.steps_per_epoch is None
    assert loaded.preprocess.n4_modalities == ()


@pytest.mark.parametrize("override", ["epochs=3", "train.epochs", "=3", "train.=3", ".epochs=3"])
def test_an_override_that_is_no_section_key_value_shows_how_one_reads(override):
    assert "section.key=value" in refusal("smoke_2d.yaml", override)


def test_a_key_that_stands_twice_is_not_decided_by_its_place(tmp_path):
    path = tmp_path / "mine.yaml"
    text = (config_file.SHIPPED / "smoke_2d.yaml").read_text()
    for twice in (text.replace("model:\n", "model:\n  width: 4\n"), text + text):
        path.write_text(twice)
        assert re.search(r"mine.yaml.*(width|model) stands twice. Keep one.*line \d+", refusal(path), re.DOTALL)


def test_an_override_of_an_unknown_key_gets_the_nearest_name():
    assert "did you mean lws.floor?" in refusal("smoke_2d.yaml", "lws.flor=0.1")


def test_a_key_in_the_wrong_section_is_shown_the_right_one():
    assert "did you mean model.width?" in refusal("smoke_2d.yaml", "train.width=8")


def test_where_no_name_is_near_the_names_there_are_are_listed():
    said = refusal("smoke_2d.yaml", "train.lr=0.1")
    assert "did you mean" not in said
    assert "unknown key train.lr; train has epochs," in said and "learning_rate" in said
    assert "unknown key foo; the sections are model, data," in refusal("smoke_2d.yaml", "foo.bar=1")


# --- the two papers -------------------------------------------------------------------------------------


def test_the_networks_name_decides_which_papers_keys_apply():
    assert isinstance(config_file.load("cun.yaml"), config.SliceConfig)
    for name in ("msm.yaml", "msm_noaspp.yaml", "unet3d.yaml", "smoke_3d.yaml"):
        assert isinstance(config_file.load(name), config.PatchConfig)
    assert "unknown key train.omega; train has epochs" in refusal("msm.yaml", "train.omega=1")
    assert "unknown key sampling; the sections are model, data" in refusal("cun.yaml", "sampling.patch_size=8")
    said = refusal("msm.yaml", "model.name=cun")
    assert "missing key lws" in said and "unknown key sampling" in said


def test_an_unknown_network_is_told_the_names_of_the_paper_whose_sections_stand_there():
    assert "'msm', 'msm_noaspp' or 'unet3d'" in refusal("msm.yaml", "model.name=mms")
    assert "'cun'" in refusal("cun.yaml", "model.name=cum")


def test_what_only_cun_has_must_be_off_for_a_baseline():
    said = refusal("cun_lws.yaml", "model.name=unet2d")
    assert "unet2d has neither auxiliary losses nor loss weighted sampling" in said
    assert "set train.omega=0 train.omega_floor=0 lws.enabled=false" in said
    off = ("train.omega=0", "train.omega_floor=0")
    assert said != refusal("cun_lws.yaml", "model.name=drn", *off)
    assert "set lws.enabled=false" in refusal("cun_lws.yaml", "model.name=drn", *off)
    assert config_file.load("cun_lws.yaml", ["model.name=drn", *off, "lws.enabled=false"]).model.name == "drn"


def test_outlines_are_settled_for_bfcn_and_for_no_other():
    for name in ("unet2d", "drn"):
        said = refusal("bfcn.yaml", f"model.name={name}")
        assert "unknown key boundary; the sections are model, data" in said
    assert "missing key boundary" in refusal("unet2d.yaml", "model.name=bfcn")
    content = yaml.safe_load((config_file.SHIPPED / "bfcn.yaml").read_text())
    for key in content["boundary"]:
        lacking = {**content, "boundary": {k: v for k, v in content["boundary"].items() if k != key}}
        with pytest.raises(InputError, match=rf"missing key boundary\.{key}"):
            config_file.from_mapping(lacking, "x")
    assert "did you mean boundary.width_px?" in refusal("bfcn.yaml", "boundary.width=3")
    assert "boundary.width_px = 4: a line centred on pixels is" in refusal("bfcn.yaml", "boundary.width_px=4")
    assert "boundary.region_weight = -1" in refusal("bfcn.yaml", "boundary.region_weight=-1")


def test_every_key_of_paper_b_is_required():
    content = yaml.safe_load((config_file.SHIPPED / "smoke_3d.yaml").read_text())
    for section, keys in content.items():
        for key in keys.keys() - LATER if isinstance(keys, dict) else [None]:
            lacking = {
                s: {k: v for k, v in c.items() if (s, k) != (section, key)} if isinstance(c, dict) else c
                for s, c in content.items()
                if (s, None) != (section, key)
            }
            named = section if key is None else rf"{section}\.{key}"
            with pytest.raises(InputError, match=rf"missing key {named}"):
                config_file.from_mapping(lacking, "x")


def test_a_region_is_chosen_without_a_section():
    assert config_file.load("msm.yaml").regions == ("WT", "TC", "ET")
    assert config_file.load("msm.yaml", ["region=tc"]).regions == ("TC",)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("region=core", "region = 'core': Input should be 'all', 'wt', 'tc' or 'et'"),
        ("region=WT", "region = 'WT': Input should be 'all', 'wt', 'tc' or 'et'"),
        ("region=", "region = None"),
        ("region.name=wt", "has no section region"),
        ("epochs=3", "an override reads section.key=value"),
        ("sampling.patch_size=60", "sampling.patch_size = 60: Input should be a multiple of 8"),
        ("sampling.patch_size=0", "sampling.patch_size = 0"),
        ("sampling.patches_per_case=0", "sampling.patches_per_case = 0"),
        ("sampling.region_fraction=1.5", "sampling.region_fraction = 1.5"),
        ("sampling.boxes=true", "sampling.boxes = True: Input should be 'reference' or 'predicted'"),
        ("sampling.box_jitter=-1", "sampling.box_jitter = -1"),
        ("cascade.stride=65", "cascade.stride 65 is more than sampling.patch_size 64"),
        ("cascade.threshold=1", "cascade.threshold = 1"),
        ("cascade.mask=mask", "cascade.mask = 'mask': Input should be 'box' or 'multiply'"),
        ("cascade.tile_batch=0", "cascade.tile_batch = 0"),
        ("records.kind=slices", "records.kind = 'slices': Input should be 'patches' or 'volumes'"),
        ("train.beta2=1", "train.beta2 = 1"),
        ("sampling.boxes=predicted", "sampling.boxes=predicted needs records.kind=volumes"),
    ],
)
def test_an_impossible_value_of_paper_b_is_named_with_its_key(override, said):
    assert said in refusal("msm.yaml", override)


def test_what_does_not_go_together_is_said():
    volumes = ("records.kind=volumes", "sampling.boxes=predicted")
    assert "goes with cascade.mask=box" in refusal("msm.yaml", *volumes, "cascade.mask=multiply")
    assert config_file.load("msm.yaml", volumes).sampling.boxes == "predicted"
    assert config_file.load("msm.yaml", ["cascade.stride=64"]).cascade.stride == 64  # side by side: no gap


def test_a_region_is_unknown_to_paper_a():
    assert "unknown key region; the sections are model, data" in refusal("cun.yaml", "region=wt")


@pytest.mark.parametrize(
    ("override", "patches_same", "volumes_same"),
    [
        ("region=tc", True, True),  # whose patches they are is told apart elsewhere
        ("model.name=unet3d", True, True),
        ("train.seed=4", True, True),
        ("data.patches_per_read=1", True, True),
        ("cascade.stride=8", True, True),
        ("cascade.threshold=0.4", True, True),
        ("cascade.margin=1", False, True),
        ("cascade.mask=multiply", False, True),
        ("sampling.patch_size=32", False, True),
        ("sampling.patches_per_case=3", False, True),
        ("sampling.region_fraction=0.1", False, True),
        ("sampling.box_jitter=1", False, True),
        ("records.seed=5", False, False),
        ("preprocess.n4_modalities=[t1]", False, False),
        ("data.modalities=[t1, t1ce, t2, flair]", False, False),
    ],
)
def test_patches_depend_on_how_they_are_cut_and_volumes_do_not(override, patches_same, volumes_same):
    for kind, same in (("patches", patches_same), ("volumes", volumes_same)):
        given = [f"records.kind={kind}"]
        before = config_file.load("msm.yaml", ["cascade.stride=32", *given]).records_identity()
        changes = [override, *(["cascade.stride=8"] if override == "sampling.patch_size=32" else [])]
        assert (config_file.load("msm.yaml", [*given, *changes]).records_identity() == before) is same, kind


# --- what a config is -----------------------------------------------------------------------------------


def test_a_config_is_frozen():
    loaded = config_file.load("cun.yaml")
    with pytest.raises(pydantic.ValidationError):
        loaded.train.epochs = 3


@pytest.mark.parametrize("name", config_file.shipped_names())
def test_the_resolved_yaml_gives_the_same_config_back(name, tmp_path):
    loaded = config_file.load(name)
    (tmp_path / "config.yaml").write_text(loaded.to_yaml())
    assert config_file.load(tmp_path / "config.yaml") == loaded


@given(st.integers(1, 500), st.floats(1e-8, 10), st.booleans())
def test_any_value_survives_the_resolved_yaml(epochs, learning_rate, enabled):
    loaded = config_file.load(
        "smoke_2d.yaml",
        [
            f"train.epochs={epochs}",
            f"train.learning_rate={learning_rate!r}",
            f"lws.enabled={str(enabled).lower()}",
        ],
    )
    assert (loaded.train.epochs, loaded.train.learning_rate, loaded.lws.enabled) == (
        epochs,
        learning_rate,
        enabled,
    )
    assert config_file.from_mapping(yaml.safe_load(loaded.to_yaml()), "again") == loaded


def test_the_two_papers_runs_share_one_record_set():
    plain, weighted = config_file.load("cun.yaml"), config_file.load("cun_lws.yaml")
    assert plain != weighted
    assert plain.records_identity() == weighted.records_identity()


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("train.epochs=2", True),
        ("model.width=4", True),
        ("lws.beta=3", True),
        ("data.flip=0", True),
        ("data.modalities=[t2, flair, t1, t1ce]", False),
        ("preprocess.n4_shrink=2", False),
        ("records.dropped_fraction=0", False),
        ("records.seed=5", False),
        ("lws.contour_width_mm=1", False),
    ],
)
def test_records_are_of_another_config_only_if_their_bytes_would_differ(override, same):
    identity = config_file.load("smoke_2d.yaml").records_identity()
    assert (config_file.load("smoke_2d.yaml", [override]).records_identity() == identity) is same


def test_differences_name_the_key_and_both_values():
    ours = {"records": {"seed": 0, "split": [3, 1, 1]}, "modalities": ["t1"]}
    theirs = {"records": {"seed": 1, "split": [3, 1, 1]}, "modalities": ["t1"], "extra": 2}
    assert config.differences(ours, theirs) == ["records.seed: 0, there 1", "extra: None, there 2"]
    assert config.differences(ours, ours) == []


def test_the_shipped_configs_lie_where_setup_py_takes_them_from():
    assert pathlib.Path(config_file.SHIPPED).name == "configs"
    assert {"cun.yaml", "cun_lws.yaml", "smoke_2d.yaml"} <= set(config_file.shipped_names())


# --- whose N4 -------------------------------------------------------------------------------------------


def test_a_config_that_does_not_say_whose_n4_is_of_before_there_was_ours():
    content = yaml.safe_load((config_file.SHIPPED / "cun.yaml").read_text())
    assert config_file.from_mapping(content, "cun.yaml").preprocess.n4 == "ours"
    del content["preprocess"]["n4"]
    assert config_file.from_mapping(content, "older").preprocess.n4 == "itk"
    assert "preprocess.n4 = 'ants'" in refusal("cun.yaml", "preprocess.n4=ants")


def test_a_run_that_does_not_say_tf32_was_trained_with_tensorflows_own():
    content = yaml.safe_load((config_file.SHIPPED / "cun.yaml").read_text())
    del content["train"]["tf32"]
    assert config_file.from_mapping(content, "older").train.tf32


def test_a_run_from_before_the_keys_of_the_stream_goes_on_as_it_was():
    later = {
        "model": {"reestimate_moments": 0},
        "data": {"open_shards": None},
        "train": {"select": "loss", "ema": 0},
        "lws": {"validation_scope": "as_trained"},
    }
    for name, sections in (("cun_lws.yaml", later), ("msm.yaml", dict(list(later.items())[:3]))):
        content = config_file.load(name).model_dump(mode="json")
        for section, keys in sections.items():
            for key in keys:
                del content[section][key]
        older = config_file.from_mapping(content, "older").model_dump(mode="json")
        for section, keys in sections.items():
            assert {key: older[section][key] for key in keys} == keys


def test_the_floor_by_itself_meets_paper_as_own_condition():
    for epochs in (1, 6, 50, 400):
        settings = config_file.load("cun_lws.yaml", [f"train.epochs={epochs}"])
        assert settings.lws.floor == "auto"
        assert settings.lws.beta * settings.p2_floor * epochs == pytest.approx(1)
    assert config_file.load("cun_lws.yaml", ["lws.floor=auto", "lws.beta=0.5", "train.epochs=1"]).p2_floor == 1
    assert config_file.load("cun_lws.yaml", ["lws.floor=1e-2"]).p2_floor == 0.01
    for wrong in ("2", "-0.1", "low", "true", "[0.1]"):
        assert "Input should be from 0 to 1, or auto" in refusal("cun_lws.yaml", f"lws.floor={wrong}")


def test_records_of_another_n4_are_others_unless_nothing_is_corrected():
    ours, itk = (
        config_file.load("cun.yaml", [f"preprocess.n4={whose}"]).records_identity() for whose in ("ours", "itk")
    )
    assert "n4" not in itk["preprocess"]  # as it was written before there was ours: shards keep their hashes
    assert manifest.other_records(ours, itk) == ["preprocess.n4: ours, there itk"]
    assert manifest.other_records(itk, ours) == ["preprocess.n4: itk, there ours"]
    assert manifest.other_records(itk, itk) == manifest.other_records(ours, ours) == []
    neither = [
        config_file.load("cun.yaml", [f"preprocess.n4={n4}", "preprocess.n4_modalities=[]"]).records_identity()
        for n4 in ("ours", "itk")
    ]
    assert neither[0] == neither[1]
    # Not "n4: itk, there ours" of a config that says ours.
    assert manifest.other_records(neither[0], ours) == [
        "preprocess.n4_modalities: [], there ['flair', 't1', 't1ce', 't2']"
    ]
