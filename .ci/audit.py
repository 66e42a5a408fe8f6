"""Known holes in the versions of constraints.txt, by pip-audit: each is printed, and one with a cure an error.

    python .ci/audit.py            where pip-audit is installed

A service that does not answer is no clean bill: it is said that nothing was audited, and the work goes on (exit
code 0). pip-audit itself ends with 0 where it could look up no package at all.
"""

import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

CONSTRAINTS = pathlib.Path(__file__).resolve().parent.parent / "constraints.txt"
# Id of a hole -> why it does not reach us, e.g. "in a part that is not called". To be looked at each month.
ACCEPTED: Mapping[str, str] = {}
_LONGEST_S = 300


def main() -> int:
    of_these_alone = ("--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip")
    as_json = ("--progress-spinner", "off", "--format", "json")
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "pip_audit", *of_these_alone, *as_json],
            capture_output=True,
            text=True,
            timeout=_LONGEST_S,
        )
        report = json.loads(ended.stdout)
    except subprocess.TimeoutExpired:
        report = {"fault": f"no answer within {_LONGEST_S} s"}
    except ValueError:
        report = {"fault": (ended.stderr.strip().splitlines() or ["no answer"])[-1]}
    lines, code = judged(report)
    print("\n".join(lines))
    return code


def judged(report: Mapping[str, Any]) -> tuple[list[str], int]:
    """Lines to print and the exit code: 1 where a hole has a cure and is not accepted.

    Args:
        report: pip-audit's JSON, or "fault": why there is none.
    """
    if "fault" in report:
        return [f"pip-audit: NOTHING WAS AUDITED: {report['fault'][:300]}"], 0
    packages = report["dependencies"]
    looked_up = [one for one in packages if "skip_reason" not in one]
    if not looked_up:
        why = packages[0]["skip_reason"] if packages else "no package was named"
        return [f"pip-audit: NOTHING WAS AUDITED, of {len(packages)} packages: {why}"], 0
    lines, code = [], 0
    for package in looked_up:
        for hole in package["vulns"]:
            names = " ".join([hole["id"], *hole.get("aliases", ())])
            accepted = next((ACCEPTED[name] for name in names.split() if name in ACCEPTED), None)
            cures = ", ".join(hole["fix_versions"])
            if accepted is not None:
                end = f"accepted: {accepted}"
            elif cures:
                end, code = f"ERROR: cured in {cures}; raise it in constraints.txt and setup.py", 1
            else:
                end = "no cure yet"
            lines.append(f"pip-audit: {package['name']} {package['version']}: {names}: {end}")
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    if skipped:
        lines.append(f"pip-audit: not audited: {', '.join(skipped)}")
    holes = len(lines) - bool(skipped)
    return [*lines, f"pip-audit: {len(looked_up)} of {len(packages)} packages audited, {holes} holes"], code


if __name__ == "__main__":
    sys.exit(main())
