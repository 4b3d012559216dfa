"""Read digits: `python -m mnist_cls.predict input=IMAGE_OR_FOLDER [output=rows.csv] [checkpoint=RUN] ...`

A row for each image, also for one that cannot be read. Exit status: 0, or 1 if there are rows with an error.
"""

import sys
from pathlib import Path

from .config import entry_point
from .errors import InputError
from .settings import PredictSettings


def predict(settings: PredictSettings, folder: Path) -> None:
    """Predict what `settings.input` holds; leave with status 1 if some of it could not be read."""
    if not settings.input:
        raise InputError("no input: name an image, a folder of images, a .npy, a .npz or an IDX file with input=PATH")
    # Imported here, because `--help` must not wait for torch.
    from .checkpoint import own_models
    from .inference import predict_files

    own_models(settings.model_file)
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
    )
    print(f"{summary}{f' -> {settings.output}' if settings.output else ''}")
    if summary.errors:
        sys.exit(1)


main = entry_point("predict", predict)

if __name__ == "__main__":
    main()
