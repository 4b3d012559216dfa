"""Imports of the commands, which take seconds, for the process from which tests fork theirs.

No command itself: each is run as `python -m` would run it.
"""

import lightning.pytorch  # noqa: F401
import matplotlib.figure  # noqa: F401
import torch._dynamo  # noqa: F401

import mnist_cls.evaluation.evaluate
import mnist_cls.inference.pipeline
import mnist_cls.training.datamodule
import mnist_cls.training.fit  # noqa: F401
