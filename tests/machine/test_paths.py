"""What a person's path means, wherever it comes in: on a command line, in an override, in a YAML."""

import os
import pathlib
import shlex
import sys

import fsspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tfbrats import config_file, export, train
from tfbrats.errors import InputError
from tfbrats.machine import files, literal, paths, stores
from tfbrats.runs import listing
from tfbrats.terminal import verbs

# Any name of one part that a disk holds and a line of text can show.
NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/", exclude_categories=("Cc", "Zl", "Zp", "Cs")),
    min_size=1,
).filter(lambda text: text not in (".", "..") and len(text.encode()) < 200)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, and a working folder that is another."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


# --- on a command line ----------------------------------------------------------------------------------


@given(NAMES)
def test_a_name_is_the_file_of_that_name_for_every_reader(name):
    path = paths.given(name)
    assert os.path.normpath(path) == name
    assert stores.located(path) == (stores.DISK, os.path.join(os.getcwd(), name))
    assert paths.given(path) == path and not path.startswith(("-", "~"))
    assert config_file.load("smoke_2d.yaml", [f"run.dir={name}"]).run.dir == path


def test_a_home_folder_that_the_shell_has_left_is_the_home_folder_for_every_reader(home):
    assert paths.given("~/run") == f"{home}/run"
    assert paths.given("~/out/") == f"{home}/out/"  # a client tells a folder by the slash
    assert config_file.load("smoke_2d.yaml", ["run.dir=~/run"]).run.dir == f"{home}/run"
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


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("lnk/../up", "real/up"),
        ("lnk/../up/", "real/up"),
        ("./lnk/../../up", "up"),
        ("sub/../up", "up"),
        ("none/../up", "up"),
        ("lnk/up", "real/deep/up"),
        ("../here/lnk/../up", "real/up"),
        ("..up/x", "..up/x"),
    ],
)
def test_up_from_behind_a_link_is_where_the_system_has_it(text, place, home):
    os.makedirs("real/deep")
    os.makedirs("sub")
    os.symlink("real/deep", "lnk")
    for written in (text, f"{os.getcwd()}/{text}", f"file://{os.getcwd()}/{text}"):
        path = paths.given(written)
        assert paths.given(path) == path and path.endswith("/") == text.endswith("/")
        # What goes by the text finds the place too, and what a program gives is the same one.
        expected = os.path.realpath(place)
        assert os.path.realpath(os.path.normpath(path)) == os.path.realpath(path) == expected
        assert (
            os.path.realpath(paths.absolute(written)) == os.path.realpath(literal.folder(written)) == expected
        )
        assert config_file.load("smoke_2d.yaml", [f"run.dir={written}"]).run.dir == path
    assert paths.given("../up") == "../up"
    files.write_bytes("lnk/../up2/x", b"1")
    assert pathlib.Path("real/up2/x").read_bytes() == b"1" and not os.path.exists("up2")


@pytest.mark.parametrize(
    "kind", ["http", "https", "data", "zip", "dir", "hdfs", "ftp", "simplecache", "github"]
)
def test_a_scheme_that_nothing_here_can_write_is_refused(kind):
    with pytest.raises(
        InputError, match=rf"{kind}://a/b: {kind}:// is no store that is known here\. Correct it"
    ):
        paths.given(f"{kind}://a/b")
    with pytest.raises(InputError, match=f"{kind}:// is no store that is known here"):
        files.exists(f"{kind}://a/b")


@pytest.mark.parametrize(
    "address", ["gs://", "gs:///x", "GS:///x", "s3://", "abfs:///", "gs://./x", "gs://../x"]
)
def test_an_address_without_a_bucket_is_refused(address):
    with pytest.raises(InputError, match=r"names no bucket\. Write [a-z0-9]+://bucket/folder\."):
        paths.given(address)


def test_an_address_is_one_place_however_its_scheme_is_written():
    assert paths.given("GS://Bucket/A") == paths.given("gcs://Bucket/A") == "gs://Bucket/A"
    for text in ("FILE:///a/b", "file://localhost/a/b", "local:///a/b"):
        assert paths.given(text) == paths.absolute(text) == "/a/b"
    for text in ("file://tmp/x", "file://localhost", "local://x/y"):
        for reading in (paths.given, paths.absolute, files.exists):
            with pytest.raises(InputError, match=rf"{text}: .* Write file:///"):
                reading(text)


@pytest.mark.parametrize(("address", "package"), [("s3://b/x", "s3fs"), ("abfs://b/x", "adlfs")])
def test_a_store_whose_package_is_not_there_is_told_with_it(address, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{address}: cannot be opened .* Install {package}\."):
        files.exists(address)


@given(st.lists(NAMES, min_size=1, max_size=3))
def test_a_printed_command_is_pasted_as_it_was_meant(names):
    arguments = [paths.given(name) for name in names]
    assert shlex.split(verbs.command_line("tfbrats.export", *arguments)) == [
        *("tfbrats", "export"),
        *arguments,
    ]


# --- in a YAML ------------------------------------------------------------------------------------------


def _with_folder(written: str, key: str = "dir") -> pathlib.Path:
    lines = (config_file.SHIPPED / "smoke_2d.yaml").read_text().splitlines()
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
    assert config_file.load(_with_folder(name)).run.dir == name
    assert config_file.load(_with_folder(f"{name}  # where it goes")).run.dir == name
    assert config_file.load(_with_folder(f"'{name}'")).run.dir == name
    assert config_file.load(_with_folder(name, "records")).data.records == name


@pytest.mark.parametrize("written", ["~", "null", "", "[v1]", "{a}", "Null"])
def test_what_yaml_makes_no_text_of_asks_for_quotes(written, home):
    with pytest.raises(InputError, match=r"run\.dir = .*between quotes"):
        config_file.load(_with_folder(written))
    if written:
        assert os.path.normpath(config_file.load(_with_folder(f"'{written}'")).run.dir) == written


def test_a_name_that_yaml_would_cut_at_a_comment_is_refused(home):
    with pytest.raises(InputError, match=r"exp #2: what stands behind # is a comment .*between quotes"):
        config_file.load(_with_folder("exp #2"))
    assert config_file.load(_with_folder("'exp #2'  #2")).run.dir == "exp #2"
    assert config_file.load(_with_folder("exp#2 # the second")).run.dir == "exp#2"


@pytest.mark.parametrize(
    "written",
    [
        "!x y",
        "&x y",
        "!x",
        "&x",
        "*x",
        "! x",
        "!!binary aGk=",
        "!!int 7",
        "%x",
        "@x",
        "a: b",
        "`id`",
        "[a",
        "{a",
    ],
)
def test_what_yaml_takes_letters_of_asks_for_quotes(written, home):
    with pytest.raises(InputError, match=r"(?s)config\.yaml: .*between quotes"):
        config_file.load(_with_folder(written))
    assert config_file.load(_with_folder(f"'{written}'")).run.dir == written
    assert config_file.load(_with_folder("!!str 007")).run.dir == "007"


def test_a_name_changes_no_value_that_it_is_tied_to(home):
    path = _with_folder("*s")
    text = path.read_text()
    path.write_text(text.replace("  seed: 0", "  seed: &s 010", 1))
    with pytest.raises(InputError, match=r"(?s)config\.yaml: .*between quotes"):
        config_file.load(path)
    path.write_text(text.replace("  dir: *s", "  <<: {dir: exp #2\n  }"))
    with pytest.raises(InputError, match=r"<< puts keys of another place here\. Write each key itself"):
        config_file.load(path)


def test_a_yaml_is_utf_8(home):
    path = _with_folder("exp #2")
    text = path.read_text()
    path.write_text(text, "utf-16")
    with pytest.raises(InputError, match=r"config.yaml: no text in UTF-8 .* Save it as UTF-8\."):
        config_file.load(path)
    path.write_text(text, "utf-8-sig")
    with pytest.raises(InputError, match="what stands behind # is a comment"):
        config_file.load(path)
    path.write_text(text.replace("exp #2", "Größe"), "utf-8-sig")
    assert config_file.load(path).run.dir == "Größe"


def test_numbers_of_a_yaml_stay_numbers(home):
    loaded = config_file.load(_with_folder("007"))
    assert (loaded.train.epochs, loaded.train.learning_rate) == (6, 0.01)


@given(NAMES)
def test_what_a_run_writes_down_reads_back(name):
    settings = config_file.load("smoke_2d.yaml", [f"run.dir=./{name}/{name}", f"data.records={name}"])
    assert config_file.from_mapping(yaml.safe_load(settings.to_yaml()), "again") == settings


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
        files.write_bytes(
            files.join(folder, "config.yaml"), config_file.load("smoke_2d.yaml").to_yaml().encode()
        )
    found, _ = listing.find(files.join(place, "exp*"))
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
