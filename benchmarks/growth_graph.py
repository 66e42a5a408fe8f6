"""What a Beam job weighs by the number of cases as it goes to Dataflow, without a run. For `growth.py`."""

import gzip
import os
import pathlib
import random
import time
from collections.abc import Callable, Sequence

GRAPH_LIMIT = 10 * 2**20  # of a job's graph, at Dataflow


# --- the graph -------------------------------------------------------------------------------------------


def _made_up_cases(count: int) -> list:
    """Cases in a bucket, with paths of the usual length and ids that repeat nothing."""
    from tfbrats.datasets.layouts import CaseFiles
    from tfbrats.labels import EDITIONS, MODALITIES

    folder = "gs://my-bucket/datasets/BraTS2021/training"
    cases = []
    for number in sorted(random.Random(0).sample(range(10**8), count)):
        case_id = f"BraTS2021_{number:08d}"
        stem = f"{folder}/{case_id}/{case_id}"
        images = tuple((modality, f"{stem}_{modality}.nii.gz", None) for modality in MODALITIES)
        label = f"{stem}_seg.nii.gz"
        cases.append(CaseFiles(case_id, case_id, "BraTS", EDITIONS["2021"], images, label, label_expected=True))
    return cases


def graph(counts: Sequence[int], scratch: pathlib.Path) -> None:
    """Prints what a job weighs by the number of cases: the graph that is sent, and the list beside it."""
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_pipelines import transforms
    from tfbrats import config_file
    from tfbrats.datasets.layouts import Dataset
    from tfbrats.records import shards

    def weight(put: Callable[[apache_beam.Pipeline], object]) -> int:
        pipeline = apache_beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
        put(pipeline)
        return len(pipeline.to_runner_api().SerializeToString())

    print(f"\n{'job':12}{'cases':>8}{'tasks':>8}{'planned s':>11}{'listed s':>10}{'graph kB':>10}{'list MB':>9}"
          f"{'all in the graph MB':>21}")  # fmt: skip
    for name, megabytes in (("cun", 20), ("msm", 5000), ("segment", 0)):
        for count in counts:
            cases = _made_up_cases(count)
            listed = str(scratch / f"{name}-{count}.jsonl.gz")
            started = time.process_time()
            if name == "segment":
                tasks, planned = cases, 0.0
                transforms.list_cases(listed, tasks)
                sent = weight(
                    lambda job, at=listed: transforms.segment_cases(job, at, "gs://m/1", "gs://o", True)
                )
            else:
                config = config_file.load(name)
                sizes = dict.fromkeys((path for case in cases for path in case.paths()), 2_000_000)
                shards.files.walk = lambda _, sizes=sizes: sizes
                dataset = Dataset("gs://my-bucket", tuple(cases), ())
                splits = {"train": [case.case_id for case in cases]}
                tasks = shards.plan(dataset, splits, config, "gs://my-bucket/records", megabytes * 2.0**20)
                planned = time.process_time() - started
                transforms.list_shards(listed, tasks)
                settings = config.model_dump(mode="json")
                sent = weight(lambda job, at=listed, of=settings: transforms.write_shards(job, at, of))
            took = time.process_time() - started - planned
            size = os.path.getsize(listed)
            with gzip.open(listed) as lines:
                assert sum(1 for _ in lines) == len(tasks)
            few = tasks[:1000]
            inside = weight(lambda job, few=few: job | apache_beam.Create(few)) * len(tasks) / len(few) / 1e6
            print(f"{name:12}{count:>8}{len(tasks):>8}{planned:>11.1f}{took:>10.1f}{sent / 1e3:>10.1f}"
                  f"{size / 1e6:>9.1f}{inside:>21.1f}", flush=True)  # fmt: skip
            if sent > GRAPH_LIMIT:
                print(f"the graph is over Dataflow's limit of {GRAPH_LIMIT / 1e6:.0f} MB")
