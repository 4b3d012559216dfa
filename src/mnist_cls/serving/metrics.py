"""What a server counts, for Prometheus."""

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# Bounds of the histograms: seconds, and images.
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Requests by their status, the images that wait, the sizes of batches, and the seconds of each stage."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("mnist_cls_requests", "Requests by status", ["status"], registry=self._registry)
        self.queue = Gauge("mnist_cls_waiting_images", "Images that wait", registry=self._registry)
        self._batches = Histogram(
            "mnist_cls_batch_images", "Images of a batch", buckets=_IMAGES, registry=self._registry
        )
        self._seconds = Histogram(
            "mnist_cls_seconds", "Seconds of a stage", ["stage"], buckets=_SECONDS, registry=self._registry
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

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self._registry)
