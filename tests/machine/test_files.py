import concurrent.futures
import errno
import os
import threading
import time

import fsspec.implementations.memory
import pytest

from tfbrats.errors import InputError
from tfbrats.machine import files


def test_what_is_written_is_read_back(place):
    path = files.join(place, "a", "b.bin")
    files.write_bytes(path, b"\x00\x01")
    assert files.read_bytes(path) == b"\x00\x01"
    assert files.size(path) == 2


def test_a_file_appears_only_when_the_block_has_ended(place):
    path = files.join(place, "late.bin")
    with files.writing(path) as file:
        file.write(b"half")
        assert not files.exists(path)
    assert files.read_bytes(path) == b"half"


def test_nothing_is_left_behind_when_the_block_raises(place):
    files.write_bytes(files.join(place, "other.bin"), b"stays")
    with pytest.raises(RuntimeError, match="on purpose"), files.writing(files.join(place, "x.bin")) as file:
        file.write(b"half")
        raise RuntimeError("on purpose")
    assert [files.name(path) for path in files.walk(place)] == ["other.bin"]


def test_a_failed_rewrite_keeps_the_old_file(place):
    path = files.join(place, "x.bin")
    files.write_bytes(path, b"old")
    with pytest.raises(KeyboardInterrupt), files.writing(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert files.read_bytes(path) == b"old"


def test_a_failed_check_keeps_the_file_from_appearing(place):
    path = files.join(place, "x.bin")

    def refuse(temporary):
        assert files.read_bytes(temporary) == b"written"
        raise OSError("not as it should be")

    with pytest.raises(OSError, match="not as it should be"):
        files.write_bytes(path, b"written", check=refuse)
    assert not files.exists(path)
    assert not files.exists(place) or files.walk(place) == {}


def test_a_file_is_replaced_whole(place):
    path = files.join(place, "x.bin")
    files.write_bytes(path, b"a longer text")
    files.write_bytes(path, b"short")
    assert files.read_bytes(path) == b"short"


def test_walk_lists_every_file_below_with_its_size(place):
    for name, content in {"b/c.txt": b"123", "a.txt": b"1", "b/d/e.txt": b""}.items():
        files.write_bytes(files.join(place, *name.split("/")), content)
    found = files.walk(place)
    assert list(found) == sorted(found)
    assert {path.split("/")[-1]: size for path, size in found.items()} == {"a.txt": 1, "c.txt": 3, "e.txt": 0}
    assert all(files.exists(path) for path in found)


def test_a_missing_file_or_folder_is_named(place):
    with pytest.raises(InputError, match=r"gone\.bin: no such file"):
        files.read_bytes(files.join(place, "gone.bin"))
    with pytest.raises(InputError, match="nowhere: no such folder"):
        files.walk(files.join(place, "nowhere"))


def test_a_store_that_does_not_answer_is_named_and_not_a_traceback(monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "isdir", refuse)
    with pytest.raises(InputError, match=r"memory://bucket/cases: cannot be listed \(ConnectionError: Name"):
        files.walk("memory://bucket/cases")


def test_a_file_in_the_place_of_a_folder_is_called_one(tmp_path):
    (tmp_path / "case.nii").write_bytes(b"1")
    with pytest.raises(InputError, match=r"case\.nii: a file; expected a folder"):
        files.walk(tmp_path / "case.nii")


def test_what_cannot_be_written_is_the_persons_to_mend_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    for place in ("file/x.bin", "file/deep/er/x.bin", "folder", "folder/" + 300 * "x"):
        with pytest.raises(InputError, match=r"cannot be written .*Choose another place"):
            files.write_bytes(tmp_path / place, b"2")
    assert list(files.walk(tmp_path)) == [str(tmp_path / "file")]


def test_a_full_disk_is_not_said_to_be_a_mistake(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_bytes(tmp_path / "x.bin", b"2")
    assert not files.walk(tmp_path)


def test_a_folder_that_can_hold_nothing_is_known_before_anything_is_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"1")
    files.check_can_hold(tmp_path / "not" / "yet")
    files.check_can_hold("memory://anywhere")
    for place in ("file", "file/below"):
        with pytest.raises(InputError, match=r"Not a directory: .*/file\)"):
            files.check_can_hold(tmp_path / place)
    # Root may write everywhere: the refusal is simulated.
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    with pytest.raises(InputError, match="Permission denied"):
        files.check_can_hold(tmp_path / "not" / "yet")
    assert os.listdir(tmp_path) == ["file"]


def test_one_file_has_one_canonical_name(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    names = ("a/x", "./a/../a//x", "link/x", tmp_path / "a" / "x", f"file://{tmp_path}/a/x")
    assert len({files.canonical(name) for name in names}) == 1
    assert files.canonical("memory://a/x") == files.canonical("memory:///a/x") != files.canonical("a/x")


def test_json_survives_and_bad_json_is_named(place):
    path = files.join(place, "x.json")
    files.write_json(path, {"b": [1, 2.5, None], "a": "ü"})
    assert files.read_json(path) == {"b": [1, 2.5, None], "a": "ü"}
    assert files.read_bytes(path).index(b'"b"') < files.read_bytes(path).index(b'"a"')
    files.write_bytes(path, b"{'single': quotes}")
    with pytest.raises(InputError, match=r"x\.json: not valid JSON"):
        files.read_json(path)
    with pytest.raises(InputError, match=r"y\.json: no such file\.$"):
        files.read_json(files.join(place, "y.json"))


def test_removing_takes_a_folder_with_all_it_holds_and_is_calm_about_nothing(place):
    files.write_bytes(files.join(place, "a", "b", "c.bin"), b"1")
    files.remove(files.join(place, "a"))
    files.remove(files.join(place, "a"))
    assert not files.exists(files.join(place, "a", "b", "c.bin"))


def test_an_unknown_kind_of_path_says_so():
    with pytest.raises(InputError, match="nosuch://x/y"):
        files.read_bytes("nosuch://x/y")


def test_free_space_is_known_for_folders_that_do_not_exist_yet_and_not_for_memory(tmp_path):
    assert files.free_bytes(tmp_path / "not" / "yet") > 0
    assert files.free_bytes("memory://x") is None


def test_temporary_names_are_hidden_and_beside_the_file(tmp_path):
    temporary = files.temporary_name(tmp_path / "x.nii.gz")
    assert os.path.dirname(temporary) == str(tmp_path)
    assert files.name(temporary).startswith(".") and files.PARTIAL in temporary
    assert temporary != files.temporary_name(tmp_path / "x.nii.gz")


def test_links_to_folders_are_followed_and_one_that_leads_back_ends(tmp_path):
    (tmp_path / "all" / "case").mkdir(parents=True)
    (tmp_path / "all" / "case" / "scan.nii").write_bytes(b"12345")
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "case").symlink_to(tmp_path / "all" / "case")
    (tmp_path / "some" / "back").symlink_to(tmp_path / "some")
    (tmp_path / "some" / "dead").symlink_to(tmp_path / "nowhere")
    assert files.walk(tmp_path / "some") == {str(tmp_path / "some" / "case" / "scan.nii"): 5}


def test_a_folder_is_on_the_disk_as_it_is_in_its_store_while_it_is_needed(place):
    files.write_bytes(files.join(place, "1", "a.bin"), b"a")
    files.write_bytes(files.join(place, "1", "deeper", "b.bin"), bytes(3_000_000))
    with files.on_disk(files.join(place, "1")) as folder:
        found = {os.path.relpath(path, folder): size for path, size in files.walk(folder).items()}
        assert found == {"a.bin": 1, os.path.join("deeper", "b.bin"): 3_000_000}
        assert files.is_local(folder)
    assert files.read_bytes(files.join(place, "1", "a.bin")) == b"a"
    assert os.path.exists(folder) == files.is_local(place)


def test_a_folder_that_a_store_does_not_have_is_named():
    with pytest.raises(InputError, match="memory://nowhere/1: "), files.on_disk("memory://nowhere/1"):
        pass


# --- of several commands --------------------------------------------------------------------------------


def no_links(*_):
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_made_only_where_there_is_none(place, monkeypatch, links):
    if not links:
        monkeypatch.setattr(files.os, "link", no_links)
    path = files.join(place, "a", "x.bin")
    assert files.create(path, b"first")
    assert not files.create(path, b"second")
    assert [files.read_bytes(one) for one in files.walk(place)] == [b"first"]


def test_of_many_that_make_a_file_at_one_time_one_does(tmp_path):
    start = threading.Barrier(8)

    def make(number):
        start.wait()
        return files.create(tmp_path / "x.bin", bytes([number]) * 100_000)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, range(8)))
    assert sum(made) == 1
    assert (tmp_path / "x.bin").read_bytes() == bytes([made.index(True)]) * 100_000
    assert os.listdir(tmp_path) == ["x.bin"]


def test_a_file_that_cannot_be_made_is_told_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(InputError, match=r"cannot be written .*Choose another place"):
        files.create(tmp_path / "file" / "x.bin", b"2")
    assert list(files.walk(tmp_path)) == [str(tmp_path / "file")]


def test_half_files_are_swept_of_the_files_named_and_of_no_other(place):
    kept = ["x.nii.gz", ".y.nii.gz.partial-12345678", ".x.nii.gz.swp", "deeper/.x.nii.gz.partial-12345678"]
    for name in (".x.nii.gz.partial-12345678", ".x.json.partial-0123abcd", *kept):
        files.write_bytes(files.join(place, *name.split("/")), b"half")
    files.sweep([files.join(place, "x.nii.gz"), files.join(place, "x.json")], 0)
    assert len(files.walk(place)) == len(kept)
    assert all(files.exists(files.join(place, name)) for name in kept)
    files.sweep([files.join(place, "nowhere", "x.json")], 0)


def test_a_half_file_that_may_be_a_living_command_s_stays(tmp_path):
    old, new = (tmp_path / f".x.bin.partial-{n}" for n in "12")
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 61,) * 2)
    files.sweep([tmp_path / "x.bin"], 60)
    assert not old.exists() and new.exists()


def test_a_file_that_was_replaced_by_the_same_content_has_another_stamp(place):
    path = files.join(place, "a.json")
    assert files.stamp(path) is None
    files.write_bytes(path, b"{}")
    first = files.stamp(path)
    assert first is not None and files.stamp(path) == first
    files.write_bytes(path, b"{}")
    assert files.stamp(path) not in (None, first)
