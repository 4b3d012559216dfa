"""What a server counts, for Prometheus.

With several workers each counts in files of its own, and whichever is asked adds them up.
"""

import contextlib
import os
import struct
import time

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

# The variable of the environment that names the folder of these files before prometheus_client is imported.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"

# Bounds of the histograms: seconds, and images.
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)

# Files of several workers that cannot be read yet are read again, after so many seconds.
_ATTEMPTS, _SECONDS_BETWEEN = 20, 0.01


class Metrics:
    """Requests by their status, the images that wait, the sizes of batches, and the seconds of each stage."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = None if FOLDER in os.environ else self._registry
        if registry is None:
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        self._requests = Counter("mnist_cls_requests", "Requests by status", ["status"], registry=registry)
        self._queue = Gauge(
            "mnist_cls_waiting_images", "Images that wait", registry=registry, multiprocess_mode="livesum"
        )
        self._batches = Histogram("mnist_cls_batch_images", "Images of a batch", buckets=_IMAGES, registry=registry)
        self._seconds = Histogram(
            "mnist_cls_seconds", "Seconds of a stage", ["stage"], buckets=_SECONDS, registry=registry
        )

    def finished(self, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(status).inc()
        self._seconds.labels("request").observe(seconds)

    def observe(self, stage: str, seconds: float, images: int) -> None:
        """Count a batch at a stage, "decode" or "network"."""
        self._seconds.labels(stage).observe(seconds)
        if stage == "network":
            self._batches.observe(images)

    def waiting(self, images: int) -> None:
        """Set the number of images that wait."""
        self._queue.set(images)

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(struct.error):  # a worker that starts has created a file, and not yet filled it
                return generate_latest(self._registry)
            time.sleep(_SECONDS_BETWEEN)
        return generate_latest(self._registry)
