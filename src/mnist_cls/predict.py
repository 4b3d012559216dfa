"""Read digits: `python -m mnist_cls.predict input=IMAGES [output=rows.csv] [checkpoint=RUN] [resume=true] ...`

Writes a row for each image, also for one that cannot be read. Exit status: 0, or 1 if there are rows with an error.
"""

import dataclasses
import sys
from pathlib import Path

from .cli.entry_point import entry_point
from .cli.messages import program
from .cli.settings import PredictSettings
from .errors import InputError
from .memory import importing


def predict(settings: PredictSettings, folder: Path | None) -> None:
    """Predict everything in `settings.input`; exit with status 1 if some of it could not be read."""
    if not settings.input:
        raise InputError(
            "no input: input=PATH names an image, a folder, an archive, an array or a table;"
            f" to see it work with MNIST's own test images: {program('mnist_cls.predict')} input=mnist:test"
        )
    # Imported here, because --help must not wait for it.
    with importing():
        from .inference.options import PredictOptions
        from .inference.pipeline import predict_files

    names = [field.name for field in dataclasses.fields(PredictOptions)]
    options = PredictOptions(**{name: getattr(settings, name) for name in names})
    summary = predict_files(
        settings.input,
        settings.output,
        options,
        save_preprocessed=settings.save_preprocessed,
        resume=settings.resume,
        format=settings.format,
    )
    summary.print(settings.output)
    if summary.errors:
        sys.exit(1)


main = entry_point("predict", predict)

if __name__ == "__main__":
    main()
