"""Micro-batches without a timer: a batch holds the images that arrived while the previous one was computed."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ..inference.decoding.batches import Batch
from ..inference.decoding.decode import Decoded
from ..inference.decoding.pool import Decoders
from ..inference.options import PredictOptions
from ..inference.pipeline import predict_batch
from ..inference.predictor import Predictor
from .metrics import Metrics

# Maximum number of waiting images in all requests, and of their bytes. A request that would exceed them is refused.
MOST_WAITING, MOST_WAITING_BYTES = 1024, 256_000_000

# Maximum number of images in a batch. Larger batches raise the latency, but not the throughput.
_MOST_IN_BATCH = 64

# A file with more bytes is decoded in a batch of its own, so that others do not wait for it.
_LARGE = 100_000

Row = dict[str, Any]


class OverloadedError(Exception):
    """Too many images or requests are waiting."""


class ClientLeftError(Exception):
    """The client has disconnected."""


@dataclass(eq=False)
class _Waiting:
    """An image file that waits for its row; `left()` returns whether its client has disconnected."""

    content: bytes
    name: str
    options: PredictOptions
    left: Callable[[], Awaitable[bool]]
    row: asyncio.Future[Row] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """Decodes images in processes, and classifies them in one thread; an asynchronous context manager.

    As many batches are in progress as there are processes, so that decoding overlaps with the network.

    Args:
        predictor: the network.
        preprocess: see `PredictOptions`.
        metrics: records the batches and the number of waiting images.
        most: maximum number of processes; None for one per core.
    """

    def __init__(self, predictor: Predictor, preprocess: str, metrics: Metrics, most: int | None = None) -> None:
        self.predictor, self.metrics = predictor, metrics
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._more = asyncio.Condition()
        self._network = ThreadPoolExecutor(1, "network")
        self._decoders = {split: Decoders(preprocess, split, most) for split in (False, True)}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Batcher":
        self._decoders[False].start(None)
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._decoders[False].size)]
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for decoders in self._decoders.values():
            decoders.__exit__(*error)
        self._network.shutdown()

    async def predict(
        self,
        contents: Sequence[bytes],
        names: Sequence[str],
        options: PredictOptions,
        left: Callable[[], Awaitable[bool]],
    ) -> list[Row]:
        """Return a row for each image.

        Args:
            contents: bytes of image files.
            names: for the column `path`.
            options: `split`, `min_confidence` and `is_digit` of these predictions; other options are ignored.
            left: returns whether the client has disconnected; its images are then skipped.

        Raises:
            OverloadedError: If too many images are waiting.
            ClientLeftError: If the client has disconnected.
        """
        size = sum(map(len, contents))
        if self._waiting and (
            len(self._waiting) + len(contents) > MOST_WAITING or self._bytes + size > MOST_WAITING_BYTES
        ):
            raise OverloadedError
        images = [_Waiting(content, name, options, left) for content, name in zip(contents, names, strict=True)]
        self._waiting.extend(images)
        self.metrics.waiting(len(self._waiting))
        self._bytes += size
        async with self._more:
            self._more.notify(len(images))
        return list(await asyncio.gather(*(image.row for image in images)))

    async def prepare(self, content: bytes) -> Decoded:
        """Decode one image file and convert it to MNIST form, without classifying it."""
        return await asyncio.wrap_future(self._decoders[False].submit([content]))

    async def _work(self) -> None:
        """Predict one batch after the other."""
        while True:
            async with self._more:
                await self._more.wait_for(lambda: bool(self._waiting))
            batch = []
            for image in self._take():
                if await image.left() and not image.row.done():
                    image.row.set_exception(ClientLeftError())
                if not image.row.done():
                    batch.append(image)
            if not batch:
                continue
            try:
                rows = await self._predict(batch)
            except Exception as error:  # a defect: these clients get status 500, and the server goes on
                for image in batch:
                    if not image.row.done():
                        image.row.set_exception(error)
                continue
            for image, row in zip(batch, rows, strict=True):
                if not image.row.done():
                    image.row.set_result(row)

    def _take(self) -> list[_Waiting]:
        """Take the next images that fit into one batch."""
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < _MOST_IN_BATCH:
            image = self._waiting[0]
            large = len(image.content) > _LARGE
            if batch and (large or image.options != batch[0].options):
                break
            batch.append(self._waiting.popleft())
            self._bytes -= len(image.content)
            if large:
                break
        self.metrics.waiting(len(self._waiting))
        return batch

    async def _predict(self, batch: list[_Waiting]) -> list[Row]:
        options = batch[0].options
        decoders = self._decoders[options.split]
        if not decoders.size:
            decoders.start(None)
        start = time.perf_counter()
        decoded = await asyncio.wrap_future(decoders.submit([image.content for image in batch]))
        self.metrics.observe("decode", time.perf_counter() - start, len(batch))
        inputs = Batch([image.name for image in batch], decoded, [], "")
        start = time.perf_counter()
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(self._network, predict_batch, inputs, self.predictor, options)
        self.metrics.observe("network", time.perf_counter() - start, len(batch))
        names = list(rows.columns)
        return [dict(zip(names, values, strict=True)) for values in zip(*rows.columns.values(), strict=True)]
