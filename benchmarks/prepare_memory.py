"""Memory and seconds of the Beam job by the number of cases: a worker's peak must not grow with it.

    python benchmarks/prepare_memory.py --input BraTS2020 --counts 10,200 preprocess.n4_modalities=[]

Runs the job on the first cases of a data set, once for each count, into a folder that is deleted afterwards
(`--keep FOLDER` keeps the last set), and looks every tenth of a second at the resident memory of the command
and of each of its workers. Options that are not listed go on to the job: --workers=2, section.key=value.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import psutil

from tfbrats.datasets import layouts
from tfbrats.records.manifest import read_manifest


def _peaks(command: list[str]) -> tuple[int, int, float]:
    """Peak resident bytes of the command itself and of its largest worker, and the seconds it ran."""
    started = time.monotonic()
    own, of_workers = 0, {}
    # A file, not a pipe: nobody reads what Beam's workers say until the end, and a full pipe would stop them.
    with tempfile.TemporaryFile() as said:
        process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None:
            try:
                own = max(own, process.memory_info().rss)
                for child in process.children(recursive=True):
                    of_workers[child.pid] = max(of_workers.get(child.pid, 0), child.memory_info().rss)
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.1)
        if process.returncode:
            said.seek(0)
            sys.exit(said.read().decode())
    return own, max(of_workers.values(), default=own), time.monotonic() - started


def main() -> None:
    """Prints a line for each count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help="data set with at least as many cases")
    parser.add_argument("--config", default="cun.yaml")
    parser.add_argument("--counts", default="10,200", help="cases of each run")
    parser.add_argument("--keep", metavar="FOLDER", help="where the last run's records stay")
    options, rest = parser.parse_known_args()
    cases = layouts.find(options.input).cases
    counts = [int(text) for text in options.counts.split(",")]
    if len(cases) < max(counts):
        sys.exit(f"{options.input}: {len(cases)} cases; {max(counts)} are needed.")
    print(
        f"{'cases':>6}{'seconds':>9}{'s/case':>8}{'command MiB':>13}{'worker MiB':>12}{'records MiB':>13}"
        "  seconds a case by stage"
    )
    for count in counts:
        with tempfile.TemporaryDirectory() as scratch:
            chosen = pathlib.Path(scratch, "cases")
            chosen.mkdir()
            for one in cases[:count]:
                folder = pathlib.Path(one.paths()[0]).resolve().parent
                (chosen / folder.name).symlink_to(folder)
            output = os.path.join(scratch, "records")
            if options.keep and count == counts[-1]:
                output = options.keep
            command = [sys.executable, "-m", "beam_pipelines.nifti_to_tfrecord", "--config", options.config]
            own, worker, seconds = _peaks([*command, "--input", str(chosen), "--output", output, *rest])
            manifest = read_manifest(output)
        stages = ", ".join(f"{stage} {s:.2f}" for stage, s in manifest.seconds_per_case.items())
        print(
            f"{count:>6}{seconds:>9.0f}{seconds / count:>8.2f}{own / 2**20:>13.0f}{worker / 2**20:>12.0f}"
            f"{manifest.bytes / 2**20:>13.0f}  {stages}",
            flush=True,
        )


if __name__ == "__main__":
    main()
