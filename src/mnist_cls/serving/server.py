"""Run the server, from its options to a listening socket, until a signal ends it."""

import gc
import importlib.util
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.find import DEFAULT_WEIGHTS, each
from ..errors import InputError
from ..inference.options import PredictOptions
from ..inference.predictor import load_predictor

if TYPE_CHECKING:
    from starlette.applications import Starlette

# Modules that the extra `serve` installs.
_NEEDED = ("starlette", "uvicorn", "httptools", "multipart", "prometheus_client")

# Maximum number of connections that wait to be accepted.
_BACKLOG = 1024

# Time limit after a signal for answering the accepted requests.
_SECONDS_TO_END = 30

_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})


def run(options: PredictOptions, host: str, port: int, hosts: Sequence[str] = (), workers: int = 1) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        options: defaults of the predictions.
        host: the address to listen on.
        port: the port; 0 for any that is free.
        hosts: names that are accepted in the Host header, besides those of this machine and `host`.
        workers: number of processes that answer.

    Raises:
        InputError: If the extra `serve` is not installed, the network cannot be loaded, or the port is taken.
        SystemExit: With status 2 if workers cannot load the network, which they have reported; with 128 plus its number
            if the signal that ended the server is otherwise ignored.
    """
    if not all(importlib.util.find_spec(name) for name in _NEEDED):
        raise InputError("the server is not installed; pip install 'mnist-cls[serve]'")
    import uvicorn

    from .connections import SECONDS_IDLE, Connection
    from .ending import run_server

    listening = _listen(host, port)
    name = "_".join(Path(one or DEFAULT_WEIGHTS).stem for one in each(options.checkpoint))
    build = partial(_application, options, name, _THIS_MACHINE | {host, *hosts})
    config = partial(
        uvicorn.Config,
        http=Connection,
        server_header=False,
        timeout_keep_alive=SECONDS_IDLE,
        timeout_graceful_shutdown=_SECONDS_TO_END,
        log_config=_LOG,
        lifespan="on",
    )
    serve: Callable[[list[socket.socket]], signal.Signals]
    if workers > 1:
        from .workers import check, run_workers

        check(options)
        serve = partial(run_workers, workers, build, config)
    else:
        serve = partial(run_server, config(build()))
    address = f"http://{_name(host, hosts)}:{listening.getsockname()[1]}"
    print(f"{name}: open {address}/ in a browser, or send images to {address}/predict; Ctrl-C ends it", flush=True)
    ended_by = serve([listening])
    # Reached only if the raised signal is ignored, as SIGINT is in the background, and any in a container's first
    # process.
    sys.exit(128 + ended_by)


def _name(host: str, hosts: Sequence[str]) -> str:
    """Return a name under which a browser finds the server."""
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 (all addresses of this machine: none to type)
        return hosts[0] if hosts else "localhost"
    return f"[{host}]" if ":" in host else host


def _application(options: PredictOptions, name: str, hosts: frozenset[str], decoders: int | None = None) -> "Starlette":
    """Load the network, and create the application."""
    from .application import application

    app = application(load_predictor(options), options, name, hosts, decoders)
    # The objects loaded so far live as long as the process. A full collection over them would delay requests by 74 ms.
    gc.collect()
    gc.freeze()
    return app


# One line for each request, and warnings and errors, on standard error.
_LOG = {
    "version": 1,
    "formatters": {
        "access": {
            "()": "uvicorn.logging.AccessFormatter",
            "fmt": '%(asctime)s %(client_addr)s "%(request_line)s" %(status_code)s',
            "use_colors": False,
        },
        "plain": {"format": "%(asctime)s %(message)s"},
    },
    "handlers": {
        "access": {"class": "logging.StreamHandler", "formatter": "access"},
        "plain": {"class": "logging.StreamHandler", "formatter": "plain"},
    },
    "loggers": {
        "uvicorn.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
        "uvicorn.error": {"handlers": ["plain"], "level": "WARNING", "propagate": False},
    },
}


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio switches off Nagle's algorithm, which costs 40 ms a request, only if the socket names its protocol.
        listening = socket.socket(family, kind, protocol or socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"host={host} port={port}: {reason}; choose another port, or 0 for a free one") from error
    return listening
