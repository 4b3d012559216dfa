"""Serve predictions from many processes or machines with Ray Serve: pip install mnist-cls 'ray[serve]'

    python scripts/serve_with_ray.py --replicas 2                                     # on this machine
    python scripts/serve_with_ray.py --replicas 64 --address auto --host 0.0.0.0      # on a cluster

`POST /predict` takes an image file as the body and answers `{"predictions": [row]}`. Ctrl-C or SIGTERM ends it.
"""

import argparse
import asyncio
import os
import signal
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from mnist_cls.cli.status import run_command
from mnist_cls.inference.decoding.batches import Batch
from mnist_cls.inference.decoding.pool import Decoders
from mnist_cls.inference.options import PredictOptions
from mnist_cls.inference.pipeline import predict_batch, stopped_by_sigterm
from mnist_cls.inference.predictor import load_predictor


class Digits:
    """A network and a decoding process, so that an image that crashes the decoder does not end the replica."""

    def __init__(self, options: PredictOptions) -> None:
        self.options, self.predictor = options, load_predictor(options)
        self.decoders = Decoders(options.preprocess, options.split, most=1)
        self.decoders.start(None)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def predict(self, images: list[bytes]) -> list[dict[str, Any]]:
        """Return a row for each image file."""
        decoded = await asyncio.wrap_future(self.decoders.submit([*images]))
        batch = Batch(["0"] * len(images), decoded, [], "")
        columns = predict_batch(batch, self.predictor, self.options).columns
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    async def __call__(self, request: Request) -> JSONResponse:
        """Answer a request."""
        if request.method != "POST":
            return JSONResponse({"error": "expected POST"}, 405)
        return JSONResponse({"predictions": [await self.predict(await request.body())]})


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=1, help="number of replicas, each with one CPU (%(default)s)")
    parser.add_argument("--checkpoint", help="weights to use instead of the packaged ones")
    parser.add_argument("--address", help="of a running cluster (auto: on this machine); default: start one")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="the port, on every machine (%(default)s)")
    arguments = parser.parse_args()
    options = PredictOptions(checkpoint=arguments.checkpoint, device="cpu")
    digits = serve.deployment(
        num_replicas=arguments.replicas,
        # Switches off gRPC's handling of forks, which sometimes kills the decoding processes.
        ray_actor_options={"num_cpus": 1, "runtime_env": {"env_vars": {"GRPC_ENABLE_FORK_SUPPORT": "0"}}},
        max_ongoing_requests=128,
        max_queued_requests=1024,  # with more, Ray Serve answers 503
    )(Digits)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(arguments.address or "local", include_dashboard=False if arguments.address is None else None)
    with stopped_by_sigterm():  # from here on, because Ray sets a handler of its own
        try:
            serve.start("EveryNode", {"host": arguments.host, "port": arguments.port})
            serve.run(digits.bind(options), name="digits", route_prefix="/predict")
            print(f"serving on http://{arguments.host}:{arguments.port}/predict; Ctrl-C ends it", flush=True)
            signal.pause()
        finally:
            if arguments.address is not None:  # the cluster keeps running
                serve.delete("digits")
            ray.shutdown()


if __name__ == "__main__":
    run_command(main)
