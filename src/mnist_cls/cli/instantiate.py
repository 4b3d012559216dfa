"""Objects from configs, by Hydra, which nothing outside `cli` imports."""

from hydra.utils import instantiate

__all__ = ["instantiate"]
