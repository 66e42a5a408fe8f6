"""What CI makes of pip-audit's report (.ci/audit.py): no answer is no clean bill, and a hole is seen."""

import importlib.util
import pathlib

import pytest

_SPEC = importlib.util.spec_from_file_location(
    "audit", pathlib.Path(__file__).parent.parent / ".ci" / "audit.py"
)
audit = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(audit)

SOUND = {"name": "numpy", "version": "2.4.0", "vulns": []}
UNKNOWN = {"name": "ours", "skip_reason": "Dependency not found on PyPI"}


def holed(fix_versions, name="PYSEC-1"):
    return {
        **{"name": "starlette", "version": "0.1"},
        "vulns": [{"id": name, "aliases": ["CVE-1"], "fix_versions": fix_versions, "description": "long"}],
    }


@pytest.mark.parametrize(
    ("report", "code", "said"),
    [
        ({"dependencies": [SOUND]}, 0, "1 of 1 packages audited, 0 holes"),
        ({"dependencies": [SOUND, holed(["0.2"])]}, 1, "starlette 0.1: PYSEC-1 CVE-1: ERROR: cured in 0.2"),
        ({"dependencies": [SOUND, holed([])]}, 0, "PYSEC-1 CVE-1: no cure yet"),
        ({"dependencies": [SOUND, UNKNOWN]}, 0, "not audited: ours"),
        ({"dependencies": [UNKNOWN, UNKNOWN]}, 0, "NOTHING WAS AUDITED, of 2 packages: Dependency not found"),
        ({"fault": "Failed to resolve 'api.example'"}, 0, "NOTHING WAS AUDITED: Failed to resolve"),
    ],
)
def test_a_report_is_judged(report, code, said):
    lines, found = audit.judged(report)
    assert found == code and said in "\n".join(lines)


def test_a_hole_that_was_accepted_is_told_with_its_reason(monkeypatch):
    monkeypatch.setattr(audit, "ACCEPTED", {"CVE-1": "not called here"})
    lines, code = audit.judged({"dependencies": [holed(["0.2"])]})
    assert code == 0 and "accepted: not called here" in lines[0]


@pytest.mark.parametrize("printed", ["", "Traceback ..."])
def test_no_report_is_no_clean_bill(printed, monkeypatch, capsys):
    monkeypatch.setattr(
        audit.subprocess,
        "run",
        lambda *_, **__: type("Ended", (), {"stdout": printed, "stderr": "a\nno network\n"}),
    )
    assert audit.main() == 0 and "NOTHING WAS AUDITED: no network" in capsys.readouterr().out
