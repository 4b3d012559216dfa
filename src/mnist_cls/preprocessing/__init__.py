"""From any image of one digit, or of a row of them, to MNIST's form."""

from .digit import Digits
from .prepare import prepare, prepare_all, to_mnist_form

__all__ = ["Digits", "prepare", "prepare_all", "to_mnist_form"]
