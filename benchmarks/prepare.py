"""What preparing data costs: reading, the Beam job, its workers, and what lies on the disk, in one run.

    python benchmarks/prepare.py --real BraTS2021             # a folder in any layout; its first 6 cases
    python benchmarks/prepare.py                              # the same on simulated cases
    python benchmarks/prepare.py --real BraTS2021 --only reading --only job --json figures.json

Parts: `reading` (our reader beside SimpleITK's and nibabel's), `stages` (seconds a case by stage), `job` (the
Beam job against a plain loop of the same functions), `workers` (two worker processes against one, with N4 and
without), `bytes` (a record against raw float32) and `compression` (what it saves and costs, by kind of record).
N4 alone: benchmarks/n4.py.

Rounds alternate between all that is compared, so that a busy moment of the machine meets every one; a figure
is the median over the rounds. A job's start-up (Python, Beam, its workers, the look at the first case) is timed
on a single case and taken off, since it does not grow with the cases; both are printed. Only ratios of one run
count, and only on a quiet machine: load before and after is printed; where others run, CPU seconds tell more.

What `compression` says, and why records are not compressed: GZIP and ZLIB leave about a third of the bytes of
each kind, level 1 as good as level 6, and tf.data then reads a sixth to two fifths of the records a second.
Slices are still read faster than these networks train; stored patches and volumes, 4 and 32 MiB each, then cost
a core more than the step's own cutting does. It pays where a disk gives less than 200 to 400 MiB/s. What
decides is the bytes: those of compressed shards differ with the build of zlib, which would end "the same bytes
on every engine". Whoever stores or sends a finished set packs its files whole.
"""

import argparse
import dataclasses
import itertools
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import nibabel
import numpy as np
import SimpleITK as sitk
from metrics import measure  # benchmarks/metrics.py

from tfbrats import config_file
from tfbrats.cases import case, nifti, patches, preprocess, slices
from tfbrats.datasets import layouts
from tfbrats.datasets.layouts import CaseFiles
from tfbrats.phantoms import data_sets
from tfbrats.records import schema, shards, tfrecord
from tfbrats.records.manifest import STAGES, read_manifest

SHRINK = 4  # of the shipped configs
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is measured on, and how often.

    Attributes:
        work: a folder of our own, which goes at the end.
        copies: how often each case is given to the jobs, under other names.
    """

    cases: tuple[CaseFiles, ...]
    edition: str
    work: pathlib.Path
    copies: int
    repeats: int


def _table(*rows: Sequence[object]) -> None:
    """Prints rows under a first one of headings, the first column to the left, the others to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for first, *others in texts:
        cells = (text.rjust(width) for text, width in zip(others, widths[1:], strict=True))
        print("  ".join([first.ljust(widths[0]), *cells]))


# --- reading ---------------------------------------------------------------------------------------------


def reading(setting: Setting) -> dict:
    """All files of a case, held together, as who stacks them must; `case.load` also checks and stacks."""
    folders = [one.paths() for one in setting.cases]
    for path in itertools.chain(*folders):
        if not np.array_equal(nifti.read(path).array.T, sitk.GetArrayFromImage(sitk.ReadImage(path))):
            raise ValueError(f"{path}: the readers do not agree")

    def each(read: Callable[[str], object]) -> Callable[[], None]:
        def run() -> None:
            for paths in folders:
                held = [read(path) for path in paths]
                del held

        return run

    jobs = {
        "tfbrats nifti.read": each(nifti.read),
        "SimpleITK ReadImage": each(sitk.ReadImage),
        "SimpleITK, as array": each(lambda path: sitk.GetArrayFromImage(sitk.ReadImage(path))),
        "nibabel load, as array": each(lambda path: np.asanyarray(nibabel.load(path).dataobj)),
        "tfbrats case.load": lambda: [case.load(one) and None for one in setting.cases],
    }
    taken = measure(jobs, setting.repeats)
    ours, count = taken["tfbrats nifti.read"][0], len(setting.cases)
    _table(
        (f"{count} cases, {sum(map(len, folders))} files", "s a case", "CPU s", "/ ours"),
        *(
            (name, f"{wall_s / count:.3f}", f"{cpu_s / count:.3f}", f"{wall_s / ours:.1f}x")
            for name, (wall_s, cpu_s, _) in taken.items()
        ),
    )
    return {name: wall_s / count for name, (wall_s, _, _) in taken.items()}


# --- the Beam job ----------------------------------------------------------------------------------------


def _linked(setting: Setting, copies: int) -> pathlib.Path:
    """A data set of links to the cases, `copies` times each, in the layout of 2021."""
    folder = setting.work / f"linked-{copies}-{len(setting.cases)}"
    for number, (_, one) in enumerate(itertools.product(range(copies), setting.cases)):
        sources = {modality: path for modality, path, _ in one.images} | {"seg": one.label}
        name = f"BraTS2021_{number:05d}"
        (folder / name).mkdir(parents=True, exist_ok=True)
        for kind, path in sources.items():
            ending = ".nii.gz" if path.endswith(".gz") else ".nii"
            link = folder / name / f"{name}_{kind}{ending}"
            if not link.exists():
                link.symlink_to(os.path.abspath(path))
    return folder


@dataclasses.dataclass(frozen=True)
class _Job:
    """The same records by the command, or by a plain loop; each into a folder that goes afterwards."""

    setting: Setting
    folder: pathlib.Path
    n4: tuple[str, ...]

    @property
    def overrides(self) -> list[str]:
        # A shard a case, so that workers can share them evenly.
        n4 = f"preprocess.n4_modalities=[{','.join(self.n4)}]"
        return [n4, "records.min_shards=999", "records.split=[1,0,0]"]

    def loop(self) -> tuple[float, float]:
        """Wall and CPU seconds of the plain loop."""
        settings = config_file.load("cun.yaml", self.overrides)
        dataset = layouts.find(self.folder, self.setting.edition)
        output = tempfile.mkdtemp(dir=self.setting.work)
        ids = {"train": [one.case_id for one in dataset.cases], "validation": [], "test": []}
        tasks = shards.plan(dataset, ids, settings, output, 2**20)
        wall, cpu = time.perf_counter(), time.process_time()
        for task in tasks:
            shards.write_shard(task)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        shutil.rmtree(output)
        return wall, cpu

    def command(self, *beam_options: str) -> tuple[float, float, float]:
        """Wall and CPU seconds of the command and its workers, and seconds of work by dataset.json."""
        output = tempfile.mkdtemp(dir=self.setting.work)
        command = [sys.executable, "-m", "beam_pipelines.nifti_to_tfrecord", "--config", "cun.yaml"]
        command += ["--input", str(self.folder), "--output", output, "--edition", self.setting.edition]
        wall, cpu = time.perf_counter(), _cpu_of_children_s()
        ended = subprocess.run(
            [*command, *self.overrides, *beam_options], check=False, capture_output=True, text=True
        )
        wall, cpu = time.perf_counter() - wall, _cpu_of_children_s() - cpu
        if ended.returncode:
            raise ChildProcessError(f"the job failed:\n{ended.stderr}")
        manifest = read_manifest(output)
        shutil.rmtree(output)
        return wall, cpu, sum(manifest.seconds_per_case.values()) * len(manifest.cases["train"])


def _cpu_of_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


_IN_PROCESS = ("--direct_running_mode=in_memory",)
_ONE, _TWO = (("--direct_running_mode=multi_processing", f"--direct_num_workers={n}") for n in (1, 2))


def _start_up(setting: Setting, options: Sequence[str]) -> np.ndarray:
    """The command's wall and CPU seconds on one case, less the work on it."""
    single = dataclasses.replace(setting, cases=setting.cases[:1])
    wall, cpu, work = _Job(single, _linked(single, 1), ()).command(*options)
    return np.array([wall - work, cpu - work])


def job(setting: Setting) -> dict:
    """Cases without N4, so that there is the least work to hide an overhead behind."""
    run = _Job(setting, _linked(setting, setting.copies), ())
    rounds = {"loop": [], "job": [], "start": []}
    for _ in range(setting.repeats):
        rounds["loop"].append(run.loop())
        rounds["job"].append(run.command(*_IN_PROCESS)[:2])
        rounds["start"].append(_start_up(setting, _IN_PROCESS))
    loop, whole, start = (np.median(rounds[name], axis=0) for name in ("loop", "job", "start"))
    overhead, with_start = 100 * ((whole - start) / loop - 1), 100 * (whole / loop - 1)
    rows = [
        (
            name,
            *(f"{each[n]:.1f}" for each in (loop, whole, start)),
            f"{overhead[n]:.1f}%",
            f"{with_start[n]:.1f}%",
        )
        for n, name in enumerate(("wall", "CPU"))
    ]
    count = setting.copies * len(setting.cases)
    _table((f"{count} cases", "plain loop s", "job s", "start-up s", "overhead", "with start-up"), *rows)
    return {"loop_s": loop[0], "job_s": whole[0], "start_s": start[0], "overhead_percent": list(overhead)}


def workers(setting: Setting) -> dict:
    """Beam's own worker processes on this machine."""
    starts = {_ONE: [], _TWO: []}
    rows, figures = [], {}
    for name, n4 in (("without N4", ()), ("N4 on all modalities", ("flair", "t1", "t1ce", "t2"))):
        run = _Job(setting, _linked(setting, setting.copies), n4)
        rounds = {_ONE: [], _TWO: []}
        for options in (_ONE, _TWO) * setting.repeats:
            rounds[options].append(run.command(*options)[0])
            if not n4:
                starts[options].append(_start_up(setting, options)[0])
        one_s, two_s = (statistics.median(rounds[options]) for options in (_ONE, _TWO))
        start_one, start_two = (statistics.median(starts[options]) for options in (_ONE, _TWO))
        steady = (one_s - start_one) / (two_s - start_two)
        seconds = (f"{each:.1f}" for each in (one_s, two_s, start_one, start_two))
        rows.append(
            (name, setting.copies * len(setting.cases), *seconds, f"{steady:.2f}x", f"{one_s / two_s:.2f}x")
        )
        figures[name] = {"one_s": one_s, "two_s": two_s, "steady": steady}
    _table(("", "cases", "one s", "two s", "start-up of one", "of two", "steady", "with start-up"), *rows)
    return figures


# --- on the disk -----------------------------------------------------------------------------------------

_RAW_FLOATS = {  # as the papers' programs hold them
    "slices": (240, 240, 4),
    "patches": (64, 64, 64, 12),
    "volumes": (240, 240, 155, 4),
}


def _encoded(one: CaseFiles, kind: str) -> Iterator[bytes]:
    """The records of a case without N4; of patches the first 20 of WT's."""
    settings = config_file.load("msm.yaml")
    prepared = preprocess.prepare(case.load(one, need_label=True), (), SHRINK)
    if kind == "slices":
        of_case = slices.slices(prepared, (240, 240), 10, 0.3, 0)
    elif kind == "patches":
        of_case = itertools.islice(patches.patches(prepared, "WT", settings.sampling, settings.cascade, 0), 20)
    else:
        of_case = iter([patches.volume(prepared)])
    return (schema.encode(schema.SCHEMAS[kind], example) for example in of_case)


def bytes_(setting: Setting) -> dict:
    """Float16, cropped to the brain, with label and regions or brain, against float32 of the whole image."""
    rows, figures = [], {}
    for kind, shape in _RAW_FLOATS.items():
        sizes = [
            len(content) + tfrecord.FRAME_BYTES for one in setting.cases for content in _encoded(one, kind)
        ]
        mean, raw = statistics.mean(sizes), 4 * np.prod(shape)
        rows.append((kind, f"{mean / MIB:.3f}", f"{raw / MIB:.3f}", f"{100 * mean / raw:.1f}%"))
        figures[kind] = {"bytes": mean, "raw_bytes": int(raw)}
    _table(("", "a record MiB", "raw float32 MiB", "of it"), *rows)
    return figures


def compression(setting: Setting) -> dict:
    """All that tf.data reads. Compressed records pay where the disk gives less than the last column."""
    import tensorflow as tf

    ways = {
        "none": tf.io.TFRecordOptions(),
        "GZIP": tf.io.TFRecordOptions(compression_type="GZIP"),
        "GZIP, level 1": tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1),
        "ZLIB": tf.io.TFRecordOptions(compression_type="ZLIB"),
    }
    lines, figures = [], {}
    for kind, count in (("slices", 2), ("patches", 1), ("volumes", 4)):
        contents = [content for one in setting.cases[:count] for content in _encoded(one, kind)]
        path = str(setting.work / "compressed.tfrecord")
        rows = {}
        for way, options in ways.items():
            started = time.perf_counter()
            with tf.io.TFRecordWriter(path, options) as writer:
                for content in contents:
                    writer.write(content)
            write_s = time.perf_counter() - started
            dataset = tf.data.TFRecordDataset(path, options.compression_type or "")

            def read(dataset=dataset) -> int:
                return int(dataset.reduce(np.int64(0), lambda n, _: n + 1))

            if read() != len(contents):  # and the file is in memory from here on
                raise ValueError(f"{way}: not all records came back")
            read_s = measure({"": read}, setting.repeats)[""][0]
            rows[way] = size, _, _ = os.path.getsize(path) / MIB, write_s, read_s
            first = rows["none"]
            saved = (first[0] - size) / (read_s - first[2]) if read_s > first[2] else 0
            lines.append(
                (
                    f"{len(contents)} {kind}, {way}",
                    f"{size:.1f}",
                    f"{100 * size / first[0]:.1f}%",
                    f"{write_s:.2f}",
                    f"{len(contents) / read_s:.1f}",
                    f"{100 * first[2] / read_s:.1f}%",
                    "" if way == "none" else f"{saved:.0f}",
                )
            )
        figures[kind] = {
            way: {"mib": size, "write_s": write_s, "read_per_s": len(contents) / read_s}
            for way, (size, write_s, read_s) in rows.items()
        }
    _table(("", "MiB", "of none", "write s", "read /s", "of none", "pays below MiB/s"), *lines)
    return figures


def stages(setting: Setting) -> dict:
    """Seconds a case by stage, of one process: slices and volumes, without N4 and with it on all modalities."""
    folder = _linked(setting, 1)
    dataset = layouts.find(folder, setting.edition)
    ids = {"train": [one.case_id for one in dataset.cases], "validation": [], "test": []}
    rows: list[Sequence[object]] = [("s a case", *STAGES, "all", "CPU s")]
    figures = {}
    for name, kind in (("cun.yaml", "slices"), ("msm.yaml", "volumes")):
        for n4 in ("", ",".join(config_file.load(name, []).data.modalities)):
            own = [f"preprocess.n4_modalities=[{n4}]", "records.min_shards=999", "records.split=[1,0,0]"]
            settings = config_file.load(name, [*own, f"records.kind={kind}"])
            output = tempfile.mkdtemp(dir=setting.work)
            rounds = []
            for _ in range(1 + setting.repeats):  # the first warms up
                cpu = time.process_time()
                written = [shards.write_shard(t) for t in shards.plan(dataset, ids, settings, output, 2**20)]
                cpu = (time.process_time() - cpu) / len(dataset.cases)
                seconds = [row.seconds for [shard] in written for row in shard.cases]
                rounds.append([*(statistics.mean(each.get(k, 0) for each in seconds) for k in STAGES), cpu])
            shutil.rmtree(output)
            *of_stage, cpu = np.median(rounds[1:], axis=0).tolist()
            label = f"{kind}, N4" if n4 else f"{kind}, no N4"
            rows.append((label, *(f"{each:.2f}" for each in (*of_stage, sum(of_stage), cpu))))
            figures[label] = {**dict(zip(STAGES, of_stage, strict=True)), "cpu": cpu}
    _table(*rows)
    return figures


# --- the run ---------------------------------------------------------------------------------------------

PARTS = {
    "reading": reading,
    "stages": stages,
    "job": job,
    "workers": workers,
    "bytes": bytes_,
    "compression": compression,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--real", type=pathlib.Path, metavar="FOLDER", help="of cases, in any layout")
    parser.add_argument("--cases", type=int, default=6, help="how many of --real, or simulated ones")
    parser.add_argument("--copies", type=int, default=3, help="of each case for the jobs")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--only", action="append", choices=tuple(PARTS), help="a part; may be given again")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="the figures, for programs")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as work:
        folder = args.real
        if folder is None:
            folder = pathlib.Path(work, "phantoms")
            data_sets.write_dataset(folder, args.cases, "2021", seed=1)
        dataset = layouts.find(folder)
        cases = dataset.cases[: args.cases]
        if any(one.label is None or any(channel is not None for *_, channel in one.images) for one in cases):
            parser.error(f"{folder}: cases with a segmentation and one file for each modality are needed")
        setting = Setting(
            cases=tuple(cases),
            edition=cases[0].schema.edition,
            work=pathlib.Path(work),
            copies=args.copies,
            repeats=args.repeats,
        )
        figures = {}
        for name in args.only or PARTS:
            before = os.getloadavg()[0]
            print(f"--- {name}: {(PARTS[name].__doc__ or '').partition(chr(10))[0]}", flush=True)
            started = time.perf_counter()
            figures[name] = PARTS[name](setting)
            print(
                f"load {before:.1f} before, {os.getloadavg()[0]:.1f} after, {os.cpu_count()} cores, "
                f"{time.perf_counter() - started:.0f} s\n",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
