"""The page that Prometheus reads: requests, images, labels, the model in service, training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.responses import Response

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """What is counted; `info` is asked at each reading of the page."""

    def __init__(self, info: Callable[[], dict[str, Any]]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ftmtl_requests",
            "Requests answered",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "ftmtl_request_seconds",
            "From the request's arrival to the end of its reply",
            ["route", "method"],
            buckets=SECONDS,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(_State(info))

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts one request."""
        self.requests.labels(route, method, str(status)).inc()
        self.seconds.labels(route, method).observe(seconds)

    def page(self) -> Response:
        """The page."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


class _State(Collector):
    """How the server stands now."""

    def __init__(self, info: Callable[[], dict[str, Any]]) -> None:
        self.info = info

    def describe(self) -> list[Metric]:
        return []  # asked at registration, when there is no app yet

    def collect(self) -> Iterator[Metric]:
        info = self.info()
        store = info["datastore"]
        yield GaugeMetricFamily("ftmtl_images", "Mammograms in the work list", store["total"])
        labels = GaugeMetricFamily("ftmtl_labels", "Images with a label", labels=["tag"])
        for tag, count in store["label_tags"].items():
            labels.add_metric([tag], count)
        yield labels
        left_out = store["left_out"]
        yield GaugeMetricFamily("ftmtl_files_left_out", "Files that are no mammograms", left_out)
        models = GaugeMetricFamily(
            "ftmtl_model_in_service", "1 for the version in service", labels=["model", "version"]
        )
        training = GaugeMetricFamily("ftmtl_training", "1 while one is running", labels=["model"])
        for name, model in info["models"].items():
            models.add_metric([name, str(model["version"])], 1)
        for name, stats in info["train_stats"].items():
            training.add_metric([name], float(stats.get("state") == "running"))
        yield models
        yield training
