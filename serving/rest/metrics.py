"""What a server has done, counted: names, kinds, labels and buckets of TensorFlow Serving's own metrics.

So a dashboard or an alert made for the one shows the other. The format is Prometheus' text, as TensorFlow
Serving's util/prometheus_exporter.cc writes it; times are in microseconds. `prometheus_client` is not used, for
it adds `_total` to a counter's name.
"""

import bisect
import itertools
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass

# Exponential(10, 1.8, 33): 10 us to some 25 min. Declared in servables/tensorflow/util.cc.
_BOUNDS = tuple(10 * 1.8**power for power in range(33))
_US = 1_000_000
OTHER_MODELS = (
    "not_served"  # a caller's own words are no label: there is no end to them, and a case's id may be one
)


@dataclass(frozen=True)
class _Metric:
    name: str
    is_histogram: bool
    labels: tuple[str, ...] = ()


_RUNS = _Metric(":tensorflow:core:graph_runs", False)
_RUN_TIME = _Metric(":tensorflow:core:graph_run_time_usecs", False)
_LOADS = _Metric(":tensorflow:cc:saved_model:load_attempt_count", False, ("model_path", "status"))
_LOAD_TIME = _Metric(":tensorflow:cc:saved_model:load_latency", False, ("model_path",))
_WARM_UPS = _Metric(":tensorflow:serving:model_warmup_latency", True, ("model_path", "status"))
_REQUESTS = _Metric(":tensorflow:serving:request_count", False, ("model_name", "status"))
_REQUEST_TIME = _Metric(":tensorflow:serving:request_latency", True, ("model_name", "API", "entrypoint"))
_RUNTIME = _Metric(":tensorflow:serving:runtime_latency", True, ("model_name", "API", "runtime"))
METRICS = (_LOAD_TIME, _LOADS, _RUN_TIME, _RUNS, _WARM_UPS, _REQUESTS, _REQUEST_TIME, _RUNTIME)


class _Histogram:
    """How many values lie in each bucket, and their sum."""

    def __init__(self):
        self.counts = [0] * (len(_BOUNDS) + 1)
        self.total = 0

    def add(self, value: int) -> None:
        self.counts[bisect.bisect_right(_BOUNDS, value)] += 1
        self.total += value


class Metrics:
    """All that is counted. Threads may share it.

    Args:
        models: names that are labels; what is asked of any other name is counted together.
    """

    def __init__(self, models: Collection[str]):
        self._models = frozenset(models)
        self._lock = threading.Lock()
        self._counters: dict[_Metric, dict[tuple[str, ...], int]] = {metric: {} for metric in METRICS}
        self._histograms: dict[_Metric, dict[tuple[str, ...], _Histogram]] = {metric: {} for metric in METRICS}
        self._count(_RUNS, by=0)
        self._count(_RUN_TIME, by=0)

    def answered(self, model: str, api: str, entrypoint: str, status: str, seconds: float) -> None:
        """A request has ended.

        Args:
            model: "" where the request names none.
            api: "Predict"; "" for what is no prediction.
            entrypoint: "GRPC" or "REST".
            status: gRPC's name of it, e.g. "OK". The real server takes the time of those alone.
        """
        model = model if model in self._models or not model else OTHER_MODELS
        self._count(_REQUESTS, model, status)
        if status == "OK":
            self._observe(_REQUEST_TIME, seconds, model, api, entrypoint)

    def ran(self, model: str, seconds: float) -> None:
        """A graph has run. "TF1" is the real server's word for a Session."""
        self._observe(_RUNTIME, seconds, model, "Predict", "TF1")
        self._count(_RUNS)
        self._count(_RUN_TIME, by=round(seconds * _US))

    def loaded(self, path: str, is_success: bool, seconds: float) -> None:
        """A version was tried."""
        self._count(_LOADS, path, "success" if is_success else "fail")
        if is_success:
            self._count(_LOAD_TIME, path, by=round(seconds * _US))

    def warmed_up(self, path: str, seconds: float) -> None:
        """A version has answered its warm-up records."""
        self._observe(_WARM_UPS, seconds, path, "OK")

    def _count(self, metric: _Metric, *labels: str, by: int = 1) -> None:
        with self._lock:
            self._counters[metric][labels] = self._counters[metric].get(labels, 0) + by

    def _observe(self, metric: _Metric, seconds: float, *labels: str) -> None:
        with self._lock:
            self._histograms[metric].setdefault(labels, _Histogram()).add(round(seconds * _US))

    def page(self) -> str:
        """All of it as Prometheus reads it."""
        with self._lock:
            return "".join(f"{line}\n" for metric in METRICS for line in self._lines(metric))

    def _lines(self, metric: _Metric) -> Iterator[str]:
        yield f"# TYPE {metric.name} {'histogram' if metric.is_histogram else 'counter'}"
        for labels, value in sorted(self._counters[metric].items()):
            yield f"{metric.name}{{{_pairs(metric, labels)}}} {value}"
        for labels, histogram in sorted(self._histograms[metric].items()):
            pairs = _pairs(metric, labels)
            bounds = (*(f"{bound:g}" for bound in _BOUNDS), "+Inf")
            for bound, count in zip(bounds, itertools.accumulate(histogram.counts), strict=True):
                yield f'{metric.name}_bucket{{{pairs},le="{bound}"}} {count}'
            yield f"{metric.name}_sum{{{pairs}}} {histogram.total}"
            yield f"{metric.name}_count{{{pairs}}} {sum(histogram.counts)}"


def _pairs(metric: _Metric, labels: tuple[str, ...]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(metric.labels, labels, strict=True))


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
