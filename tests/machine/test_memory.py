"""Free memory is what machine and control groups leave, whichever version they are of."""

import pytest

from tfbrats.machine import memory

MIB = 2**20


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Builds a machine's groups: where this process is, and files by their path."""
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OURS", tmp_path / "ours")

    def build(ours, files):
        (tmp_path / "ours").write_text(ours)
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{content}\n")

    return build


def _second(group: str, limit: object, used: int, files: int = 0) -> dict:
    stat = f"anon 1\nactive_file {MIB}\ninactive_file {files}\ninactive_anon 3"
    return {f"{group}memory.max": limit, f"{group}memory.current": used, f"{group}memory.stat": stat}


def _first(group: str, limit: int, used: int, files: int = 0) -> dict:
    stat = f"cache 1\ninactive_file 1\ntotal_inactive_file {files}"
    names = ("limit_in_bytes", "usage_in_bytes", "stat")
    return {f"memory/{group}memory.{name}": text for name, text in zip(names, (limit, used, stat), strict=True)}


def test_without_groups_it_is_what_the_machine_has(groups):
    assert memory.free_bytes() > 100 * MIB


def test_of_a_container_s_share_what_files_hold_counts_as_free(groups):
    groups("0::/\n", _second("", 8 * MIB, 6 * MIB, 5 * MIB))
    assert memory.free_bytes() == 7 * MIB
    groups("0::/\n", _second("", "max", 6 * MIB))
    assert memory.free_bytes() > 100 * MIB


def test_a_group_inside_another_has_what_both_leave(groups):
    outer, inner = _second("slurm/job/", 9 * MIB, 2 * MIB), _second("slurm/job/step/", "max", MIB)
    groups("0::/slurm/job/step\n", outer | inner)
    assert memory.free_bytes() == 7 * MIB
    groups("0::/slurm/job/step\n", _second("slurm/job/step/", 4 * MIB, MIB))
    assert memory.free_bytes() == 3 * MIB


def test_a_container_that_sees_its_group_as_the_root(groups):
    groups("0::/docker/of/the/host\n", _second("", 8 * MIB, 6 * MIB))
    assert memory.free_bytes() == 2 * MIB


def test_the_first_version_of_groups(groups):
    groups("5:cpu,cpuacct:/x\n4:memory:/docker/a\n0::/\n", _first("docker/a/", 8 * MIB, 6 * MIB, MIB))
    assert memory.free_bytes() == 3 * MIB
    groups("4:memory:/docker/a\n", _first("docker/a/", 2**63 - 4096, 6 * MIB))
    assert memory.free_bytes() > 100 * MIB


def test_a_group_that_is_over_its_limit_leaves_nothing(groups):
    groups("0::/\n", _second("", 8 * MIB, 9 * MIB))
    assert memory.free_bytes() == 0


@pytest.mark.parametrize(("free_bytes", "fitting"), [(100, 8), (99, 7), (12, 0), (0, 0)])
def test_workers_of_ten_bytes_fit_into_four_fifths_of_what_is_free(monkeypatch, free_bytes, fitting):
    monkeypatch.setattr(memory, "free_bytes", lambda: free_bytes)
    assert memory.fitting_workers(10) == fitting


def test_cores_are_those_that_this_process_may_run_on(monkeypatch):
    monkeypatch.setattr(memory.os, "sched_getaffinity", lambda _: {1, 3, 5}, raising=False)
    assert memory.cores() == 3
    monkeypatch.delattr(memory.os, "sched_getaffinity")
    monkeypatch.setattr(memory.os, "cpu_count", lambda: None)
    assert memory.cores() == 1
