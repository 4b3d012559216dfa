"""The server's metrics, for Prometheus.

Each of several workers writes files of its own. The worker that is asked for the metrics adds them up.
"""

import contextlib
import os
import struct
import time

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

# Environment variable with the folder of these files. It must be set before prometheus_client is imported.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"

# Upper bounds of the histograms' buckets, in seconds and in images.
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)

# How often the workers' files are read until all are complete, and the seconds between two attempts.
_ATTEMPTS, _SECONDS_BETWEEN = 20, 0.01


class Metrics:
    """Number of requests by status, waiting images, sizes of batches, and seconds of each stage."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = None if FOLDER in os.environ else self._registry
        if registry is None:
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        self._requests = Counter("mnist_cls_requests", "Requests by status", ["status"], registry=registry)
        self._queue = Gauge(
            "mnist_cls_waiting_images", "Waiting images", registry=registry, multiprocess_mode="livesum"
        )
        self._batches = Histogram("mnist_cls_batch_images", "Images in a batch", buckets=_IMAGES, registry=registry)
        self._seconds = Histogram(
            "mnist_cls_seconds", "Seconds of a stage", ["stage"], buckets=_SECONDS, registry=registry
        )

    def finished(self, status: int, seconds: float) -> None:
        """Count a request, and record its duration."""
        self._requests.labels(status).inc()
        self._seconds.labels("request").observe(seconds)

    def observe(self, stage: str, seconds: float, images: int) -> None:
        """Record a batch's duration at a stage, "decode" or "network"."""
        self._seconds.labels(stage).observe(seconds)
        if stage == "network":
            self._batches.observe(images)

    def waiting(self, images: int) -> None:
        """Set the number of waiting images."""
        self._queue.set(images)

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(struct.error):  # a starting worker has created a file, but not filled it yet
                return generate_latest(self._registry)
            time.sleep(_SECONDS_BETWEEN)
        return generate_latest(self._registry)
