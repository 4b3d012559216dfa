"""What an entry point does to be quick on its feet."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError


def import_lightning() -> None:
    """Import Lightning without what torchmetrics brings along for metrics of images and for plots: more than a second.

    For a process of our own only: in it torchmetrics then takes torchvision, matplotlib and scipy for not installed.
    """
    if "torchmetrics" not in sys.modules:
        with _as_if_not_installed("torchvision", "matplotlib", "scipy"):
            import lightning.pytorch  # noqa: F401


@contextmanager
def _as_if_not_installed(*names: str) -> Iterator[None]:
    # torchmetrics asks this module for all that it uses only where it is there.
    from lightning_utilities.core import imports

    version = getattr(imports, "_version", None)
    hidden = [name for name in names if name not in sys.modules]
    if version is None or len(hidden) < len(names):  # another version of it, or they cost no time any more
        yield
        return

    def version_of(name: str) -> str:
        if name in hidden:
            raise PackageNotFoundError(name)
        return str(version(name))

    setattr(imports, "_version", version_of)  # noqa: B010 (mypy knows no such name there)
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not to be found
    try:
        yield
    finally:
        setattr(imports, "_version", version)  # noqa: B010
        for name in hidden:
            del sys.modules[name]
        imports.package_available.cache_clear()
        imports.module_available.cache_clear()
