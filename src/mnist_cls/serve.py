"""Serve the page for drawing, and predictions over HTTP: `python -m mnist_cls.serve [port=8000] [checkpoint=RUN]`

`POST /predict` takes an image, or several as multipart/form-data, and answers with a JSON row for each. After Ctrl-C or
SIGTERM, the server answers the requests that it has accepted, and ends.
"""

from pathlib import Path

from .cli.entry_point import entry_point
from .cli.settings import ServeSettings


def serve(settings: ServeSettings, folder: Path | None) -> None:
    """Serve until SIGINT or SIGTERM."""
    # Imported here, so that --help does not wait for it.
    from .inference.options import PredictOptions
    from .serving.server import run

    options = PredictOptions(
        checkpoint=settings.checkpoint,
        device=settings.device,
        is_digit=settings.is_digit,
        engine=settings.engine,
        min_confidence=settings.min_confidence,
        preprocess=settings.preprocess,
        model_file=settings.model_file,
    )
    run(options, settings.host, settings.port, settings.hosts, settings.workers)


main = entry_point("serve", serve)

if __name__ == "__main__":
    main()
