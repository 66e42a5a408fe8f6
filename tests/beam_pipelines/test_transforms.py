"""What the Beam job counts and times as metrics, on the engine of this machine."""

import apache_beam as beam
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipelines import transforms
from tfbrats import config_file
from tfbrats.datasets import layouts
from tfbrats.phantoms import data_sets
from tfbrats.records import manifest, shards


def test_a_job_counts_cases_and_times_their_stages(tmp_path):
    ids = data_sets.write_dataset(tmp_path / "in", 3, "2020", seed=3, shape=(32, 32, 20))
    victim = tmp_path / "in" / ids[1] / f"{ids[1]}_t2.nii.gz"
    victim.write_bytes(b"")
    settings = config_file.load(
        "smoke_2d.yaml", ["records.slice_shape=[32, 32]", "preprocess.n4_modalities=[t1]"]
    )
    tasks = shards.plan(layouts.find(tmp_path / "in"), {"train": ids}, settings, str(tmp_path / "out"), 1e4)
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    listed = str(tmp_path / "tasks.jsonl.gz")
    transforms.write_shards(pipeline, listed, settings.model_dump(mode="json"))
    transforms.list_shards(listed, tasks)  # the pipeline holds its path alone
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query(MetricsFilter().with_namespace("tfbrats"))
    counted = {metric.key.metric.name: metric.committed for metric in found["counters"]}
    written = [manifest.check_shard(tmp_path / "out", row) for row in _rows(tmp_path / "out")]
    assert written == [None] * len(tasks)
    assert (counted["cases"], counted["rejected"]) == (2, 1)
    assert counted["examples"] == sum(row.examples for row in _rows(tmp_path / "out"))
    assert counted["bytes"] == sum(row.bytes for row in _rows(tmp_path / "out"))
    timed = {metric.key.metric.name: metric.committed for metric in found["distributions"]}
    assert set(timed) == {f"{stage}_ms" for stage in manifest.STAGES} | {"case_ms"}
    assert all(of_stage.count == 2 for of_stage in timed.values())
    assert timed["n4_ms"].sum > 0
    assert timed["case_ms"].max >= timed["n4_ms"].max


def _rows(output) -> list[manifest.Shard]:
    return [
        manifest.Shard.model_validate_json(path.read_text())
        for path in (output / "parts").glob("*.tfrecord.json")
    ]
