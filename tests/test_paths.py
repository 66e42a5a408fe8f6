"""What a person's path means, wherever it comes in: on a command line, in an override, in a YAML."""

import os
import pathlib
import shlex

import fsspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tfbrats import config, export, files, literal, paths, runs, stores, train
from tfbrats.command import InputError

# Any name of one part that a disk holds and a line of text can show.
NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/", exclude_categories=("Cc", "Zl", "Zp", "Cs")),
    min_size=1,
).filter(lambda text: text not in (".", "..") and len(text.encode()) < 200)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, and a working folder that is another."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


# --- on a command line ----------------------------------------------------------------------------------


@given(NAMES)
def test_a_name_is_the_file_of_that_name_for_every_reader(name):
    path = paths.given(name)
    assert os.path.normpath(path) == name
    assert stores.located(path) == (stores.DISK, os.path.join(os.getcwd(), name))
    assert paths.given(path) == path and not path.startswith(("-", "~"))
    assert config.load("smoke_2d.yaml", [f"run.dir={name}"]).run.dir == path


def test_a_home_folder_that_the_shell_has_left_is_the_home_folder_for_every_reader(home):
    assert paths.given("~/run") == f"{home}/run"
    assert paths.given("~/out/") == f"{home}/out/"  # a client tells a folder by the slash
    assert config.load("smoke_2d.yaml", ["run.dir=~/run"]).run.dir == f"{home}/run"
    files.write_bytes(paths.given("~/a/b"), b"1")
    assert (home / "a" / "b").read_bytes() == b"1" and not os.listdir(".")


def test_a_folder_that_is_called_like_a_home_folder_is_itself(home):
    assert paths.given("~") == "./~"
    assert paths.given("./~/x") == "./~/x"
    assert paths.given("~nobody-of-this-name/x") == "./~nobody-of-this-name/x"
    assert paths.given("a~/x") == "a~/x"
    files.write_bytes("./~/x", b"1")
    assert pathlib.Path("~/x").read_bytes() == b"1" and not os.listdir(home)
    with pytest.raises(InputError, match=rf"~/x: a folder ~ lies here.* Write \./~/x or {home}/x\."):
        paths.given("~/x")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "an empty path"),
        ("file://", "an empty path"),
        ("a\nb", r"holds '\\n', a line break"),
        ("a\x00b", r"holds '\\x00'"),
        ("a\udcffb", "not UTF-8"),
        ("gss://bucket/x", r"gss:// is no store .* write \./gss://bucket/x"),
    ],
)
def test_what_can_be_no_path_is_refused_before_work_begins(text, reason, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=reason):
        paths.given(text)
    for main, option in ((train.main, "--run"), (export.main, "--output")):
        with pytest.raises(SystemExit) as ended:
            main(["--config=smoke_2d.yaml", f"{option}={text}"])
        assert ended.value.code == 2
        assert f"argument {option}: " in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def test_an_address_with_a_known_scheme_is_a_store_and_nothing_else_is():
    for address in ("gs://bucket/a", "memory://a", "s3://b/c"):
        assert paths.given(address) == paths.absolute(address) == address and not files.is_local(address)
    for name in ("gs:/bucket", "memory::x", "simplecache::gs://b/c", "a://", "./gs://bucket", "x/y://z"):
        assert files.is_local(name) is (paths.scheme(name) == "")
    assert files.is_local("simplecache::gs://b/c")
    assert paths.given("file:///a/b") == paths.absolute("file:///a/b") == "/a/b"


@given(st.lists(NAMES, min_size=1, max_size=3))
def test_a_printed_command_is_pasted_as_it_was_meant(names):
    arguments = [paths.given(name) for name in names]
    assert shlex.split(paths.command_line("tfbrats.export", *arguments)) == [
        *("python", "-m", "tfbrats.export"),
        *arguments,
    ]


# --- in a YAML ------------------------------------------------------------------------------------------


def _with_folder(written: str, key: str = "dir") -> pathlib.Path:
    lines = (config.SHIPPED / "smoke_2d.yaml").read_text().splitlines()
    path = pathlib.Path("config.yaml")
    path.write_text(
        "".join(f"  {key}: {written}\n" if one.startswith(f"  {key}:") else f"{one}\n" for one in lines)
    )
    return path


@pytest.mark.parametrize(
    "name",
    [
        "2024-05-01",
        "007",
        "010",
        "12:30",
        "1e3",
        "1_000",
        "0x1F",
        "0o17",
        "true",
        "off",
        "Yes",
        ".inf",
        ".5",
        "1.10",
    ],
)
def test_a_folder_in_a_yaml_is_as_it_is_written(name, home):
    assert config.load(_with_folder(name)).run.dir == name
    assert config.load(_with_folder(f"{name}  # where it goes")).run.dir == name
    assert config.load(_with_folder(f"'{name}'")).run.dir == name
    assert config.load(_with_folder(name, "records")).data.records == name


@pytest.mark.parametrize("written", ["~", "null", "", "[v1]", "{a}", "Null"])
def test_what_yaml_makes_no_text_of_asks_for_quotes(written, home):
    with pytest.raises(InputError, match=r"run\.dir = .*between quotes"):
        config.load(_with_folder(written))
    if written:
        assert os.path.normpath(config.load(_with_folder(f"'{written}'")).run.dir) == written


def test_a_name_that_yaml_would_cut_at_a_comment_is_refused(home):
    with pytest.raises(InputError, match=r"exp #2: what stands behind # is a comment .*between quotes"):
        config.load(_with_folder("exp #2"))
    assert config.load(_with_folder("'exp #2'  #2")).run.dir == "exp #2"
    assert config.load(_with_folder("exp#2 # the second")).run.dir == "exp#2"


def test_numbers_of_a_yaml_stay_numbers(home):
    loaded = config.load(_with_folder("007"))
    assert (loaded.train.epochs, loaded.train.learning_rate) == (6, 0.01)


@given(NAMES)
def test_what_a_run_writes_down_reads_back(name):
    settings = config.load("smoke_2d.yaml", [f"run.dir=./{name}/{name}", f"data.records={name}"])
    assert config.from_mapping(yaml.safe_load(settings.to_yaml()), "again") == settings


# --- stores ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "sibling"), [("exp*", "exp2"), ("[ab]", "a"), ("what?", "whatX")])
def test_a_name_in_a_store_is_no_pattern(place, name, sibling):
    for folder in (name, sibling):
        files.write_bytes(files.join(place, folder, "x"), folder.encode())
    with files.on_disk(files.join(place, name)) as copy:
        assert {path: pathlib.Path(copy, path).read_bytes() for path in os.listdir(copy)} == {
            "x": name.encode()
        }
    files.write_bytes(files.join(place, name, "y*"), b"1")
    files.rename(files.join(place, name, "y*"), files.join(place, name, "z?"))
    files.remove(files.join(place, name, "z?"))
    assert [files.name(path) for path in files.walk(files.join(place, name))] == ["x"]
    files.remove(files.join(place, name))
    assert not files.exists(files.join(place, name))
    assert files.read_bytes(files.join(place, sibling, "x")) == sibling.encode()


def test_runs_in_a_store_are_found_by_name(place):
    for name in ("exp*", "exp2"):
        folder = files.join(place, name, "run")
        files.write_bytes(files.join(folder, "config.yaml"), config.load("smoke_2d.yaml").to_yaml().encode())
    found, _ = runs.find(files.join(place, "exp*"))
    assert [one.name for one in found] == ["run"]


def test_a_bucket_is_never_deleted(monkeypatch):
    deleted = []
    memory = fsspec.filesystem("memory")
    monkeypatch.setattr(type(memory), "rmdir", lambda _, path: deleted.append(path))
    monkeypatch.setattr(type(memory), "isdir", lambda *_: True)
    monkeypatch.setattr(type(memory), "find", lambda *_, **__: {})
    stores.remove(memory, "bucket")
    assert not deleted


# --- for TensorFlow -------------------------------------------------------------------------------------


def test_a_folder_that_tensorflow_takes_for_a_pattern_gets_a_second_name_and_no_other_does(tmp_path):
    for name in ("[v1]", "a*", "b?", "c\\d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
        link = literal.folder(tmp_path / name)
        assert link == literal.folder(tmp_path / name) and not set(link) & set("[*?\\")
        assert pathlib.Path(link, "x").read_text() == name
        assert literal.file(tmp_path / name / "ckpt-1") == f"{link}/ckpt-1"
    for name in ("runs/cun", "a b", "{a}", "x]", "gs://bucket/run"):
        assert literal.folder(name) == literal.file(name) == name
    with pytest.raises(InputError, match=r"gs://bucket/\[v1\]: TensorFlow takes \[ in a store's address"):
        literal.folder("gs://bucket/[v1]")
