"""Read digits: `python -m mnist_cls.predict input=IMAGES [output=rows.csv] [checkpoint=RUN] [resume=true] ...`

A row for each image, also for one that cannot be read. Exit status: 0, or 1 if there are rows with an error.
"""

import sys
from pathlib import Path

from .cli.entry_point import entry_point
from .cli.messages import program
from .cli.settings import PredictSettings
from .errors import InputError


def predict(settings: PredictSettings, folder: Path) -> None:
    """Predict what `settings.input` holds; leave with status 1 if some of it could not be read."""
    if not settings.input:
        raise InputError(
            "no input: name an image, a folder, an array or an archive with input=PATH;"
            f" to see it work with MNIST's own test images: {program('mnist_cls.predict')} input=mnist:test"
        )
    # Imported here, because `--help` must not wait for torch.
    from .checkpoints.build import load_user_models
    from .inference.pipeline import predict_files

    load_user_models(settings.model_file)
    summary = predict_files(
        settings.input,
        settings.output,
        settings.checkpoint,
        settings.device,
        settings.batch_size,
        settings.early_exit,
        settings.is_digit,
        settings.engine,
        settings.shifts,
        settings.min_confidence,
        settings.preprocess,
        settings.split,
        settings.save_preprocessed,
        settings.resume,
    )
    standard_output = settings.output is not None and settings.output.startswith("-")
    place = f" -> {settings.output}" if settings.output and not standard_output else ""
    print(f"{summary}{place}", file=sys.stderr if standard_output else sys.stdout)
    if summary.errors:
        sys.exit(1)


main = entry_point("predict", predict)

if __name__ == "__main__":
    main()
