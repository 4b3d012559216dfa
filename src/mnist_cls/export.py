"""Export a network for other programs: `python -m mnist_cls.export output=model.onnx [checkpoint=RUN] [format=onnx]`

Writes ONNX, PyTorch's exported program (.pt2) or safetensors. The file appears only after its outputs were compared
with the network's. Without checkpoint=, the packaged weights are exported.
"""

from pathlib import Path

from .cli.entry_point import entry_point
from .cli.settings import ExportSettings
from .errors import InputError


def export(settings: ExportSettings, folder: Path | None) -> None:
    """Export the network of `settings.checkpoint`; print what was written and how to run it."""
    if not settings.output:
        raise InputError("no output: name a .onnx, .pt2 or .safetensors file with output=FILE")
    # Imported here, because they import torch, and --help must not wait for it.
    from .checkpoints.build import load_user_models
    from .inference.export import export_model

    load_user_models(settings.model_file)
    exported = export_model(settings.output, settings.checkpoint, settings.format)
    print(f"{exported}\n\nto run it:\n")
    if settings.model_file and exported.format == "safetensors":  # weights alone do not hold the code of their network
        print(f"from mnist_cls.checkpoints.build import load_user_models; load_user_models({settings.model_file!r})")
    print(exported.example)


main = entry_point("export", export)

if __name__ == "__main__":
    main()
