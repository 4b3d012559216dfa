"""The one exception for input that a user can put right, and how it quotes that input."""


class InputError(ValueError):
    """Bad input: its message is one line that says what was found, what was expected and what to do.

    The entry points print the message without a traceback and leave with exit status 2.
    """


def shortened(value: object, length: int = 100) -> str:
    """A stranger's words for a message: on one line, printable, and no longer than they need be."""
    text = str(value)
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:length])
    return shown if len(text) <= length else f"{shown}..."
