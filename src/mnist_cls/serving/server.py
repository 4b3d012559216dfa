"""The server: from options to a listening socket, until a signal ends it."""

import gc
import importlib.util
import socket
from collections.abc import Sequence
from pathlib import Path

from ..checkpoints.find import DEFAULT_WEIGHTS, each
from ..errors import InputError
from ..inference.options import PredictOptions
from ..inference.predictor import load_predictor

# Connections that may wait to be accepted.
_BACKLOG = 1024

# After a signal, accepted requests have this long to be answered, in seconds.
_SECONDS_TO_END = 30

_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})


def run(options: PredictOptions, host: str, port: int, hosts: Sequence[str] = ()) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        options: defaults of the predictions.
        host: the address to listen on.
        port: the port; 0 for any that is free.
        hosts: more names under which the server may be asked, besides those of this machine and `host`.

    Raises:
        InputError: If the extra `serve` is not installed, the network cannot be loaded, or the port is taken.
    """
    if not all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn", "multipart", "prometheus_client")):
        raise InputError("the server is not installed; pip install 'mnist-cls[serve]'")
    import uvicorn

    from .application import application

    listening = _listen(host, port)
    predictor = load_predictor(options)
    name = "_".join(Path(one or DEFAULT_WEIGHTS).stem for one in each(options.checkpoint))
    app = application(predictor, options, name, _THIS_MACHINE | {host, *hosts})
    # What has been loaded lives as long as the process: a full collection of it would hold up requests for 74 ms.
    gc.collect()
    gc.freeze()
    bound = listening.getsockname()[1]
    print(f"serving {name} on http://{host}:{bound}/predict; Ctrl-C ends it", flush=True)
    config = uvicorn.Config(
        app,
        http="httptools" if importlib.util.find_spec("httptools") else "h11",
        access_log=True,
        server_header=False,
        timeout_graceful_shutdown=_SECONDS_TO_END,
        log_config=_LOG,
        lifespan="on",
    )
    uvicorn.Server(config).run(sockets=[listening])


# One line for each request, and what goes wrong, on standard error.
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
        # With its protocol, without which asyncio does not switch off Nagle's algorithm: 40 ms for each request.
        listening = socket.socket(family, kind, protocol or socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"host={host} port={port}: {reason}; choose another port, or 0 for a free one") from error
    return listening
