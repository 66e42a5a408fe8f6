"""A real case from files to file, its bias field (N4) corrected in the graph or before it, in one run.

    python benchmarks/segment_n4.py --case CASE_DIR --network cun_lws --width 16
    python benchmarks/segment_n4.py --case CASE_DIR --run RUN

Sides, in turn: `graph`, as models are exported now; `itk`, as an older model wants it (SimpleITK in the
caller); `numpy`, our N4 in the caller; `none`, no N4 at all. Of each the stages of `predict` (read, segment,
write), the CPU seconds, how many labels differ from those of `graph`, and what was sent. All modalities are
corrected, at shrink 4, whatever the run wants: its weights see what they did not learn from, which changes no
time.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import tempfile
from collections.abc import Mapping

import numpy as np
import segment

from tfbrats.config_file import overridden
from tfbrats.datasets import layouts
from tfbrats.exports import next_version
from tfbrats.inference.saved_segmenter import SavedSegmenter
from tfbrats.labels import MODALITIES
from tfbrats.predictions import model_card, results
from tfbrats.runs.folder import RunFolder

SIDES = ("graph", "itk", "numpy", "none")
_SHRINK = 4


def exported(run_dir: str, work: pathlib.Path) -> dict[str, str]:
    """Folders of two versions of a run's model: "graph" corrects all modalities itself, "none" does not."""
    models = {}
    for name, modalities in (("graph", ", ".join(MODALITIES)), ("none", "")):
        copy = work / f"run_{name}"
        shutil.copytree(run_dir, copy)
        n4 = (
            f"preprocess.n4_modalities=[{modalities}]",
            f"preprocess.n4_shrink={_SHRINK}",
            "preprocess.n4=ours",
        )
        RunFolder(copy).write_config(overridden(RunFolder(run_dir).config, n4))
        models[name] = next_version.export(copy, work / name)
    return models


def loaded(models: Mapping[str, str], side: str) -> SavedSegmenter:
    """A model that gets scans which are corrected, if at all, as the side says."""
    if side in models:
        return SavedSegmenter(models[side])
    segmenter = SavedSegmenter(models["none"])
    method = "SimpleITK" if side == "itk" else "tfbrats"
    of_caller = {"modalities": MODALITIES, "shrink": _SHRINK, "by": "caller", "method": method}
    card = segmenter.card
    segmenter.card = card.model_copy(update={"n4": model_card.N4(of_records=method, **of_caller)})
    return segmenter


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(case_dir: str, run_dir: str, repeats: int, work: pathlib.Path) -> list[dict]:
    """A row a side: medians of `repeats` rounds; the first round, which prepares the graphs, is left out."""
    (entry,) = layouts.find(case_dir).cases
    models = exported(run_dir, work)
    segmenters = {side: loaded(models, side) for side in SIDES}
    taken, tissues, sent = {side: [] for side in SIDES}, {}, {}
    for number in range(repeats + 1):
        for side, segmenter in segmenters.items():
            if number == 0 and side == "itk":
                continue  # the graph is `none`'s, and it takes its time
            before = _cpu_s()
            attempt = results.attempt(
                segmenter.segment, entry, segmenter.card, results.Target(str(work / f"{side}.nii.gz"))
            )
            if attempt.fault:
                raise segment.Failed(attempt.fault.reason)
            if number:
                taken[side].append({**attempt.seconds, "cpu": _cpu_s() - before})
            tissues[side] = attempt.found.tissues
            whole = side in ("graph", "none") and attempt.case.image.dtype == np.int16
            sent[side] = "int16" if whole else "float32"
    return [
        {
            "side": side,
            **{key: statistics.median(row[key] for row in rows) for key in rows[0]},
            "all": statistics.median(sum(row[stage] for stage in results.STAGES) for row in rows),
            "labels": int(np.count_nonzero(tissues[side] != tissues["graph"])),
            "sent": sent[side],
        }
        for side, rows in taken.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", required=True, help="folder of one case")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", help="a run folder")
    which.add_argument("--network", help="a shipped config's name: trained for one step on a phantom")
    parser.add_argument("--width", type=int, default=16, help="of --network (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="write the rows here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        run = options.run or segment.one_step(options.network, options.width, work)
        rows = measure(options.case, run, options.repeats, work)
    keys = ("side", *results.STAGES, "all", "cpu", "labels", "sent")
    print("seconds of a case, from files to file; labels that differ from graph's")
    print(" ".join(f"{key:>9}" for key in keys))
    for row in rows:
        print(" ".join(f"{row[k]:9.2f}" if isinstance(row[k], float) else f"{row[k]:>9}" for k in keys))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"peak memory of the process with all sides: {peak_mb} MB; {os.cpu_count()} cores")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
