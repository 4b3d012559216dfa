"""The one exception for bad input."""


class InputError(ValueError):
    """Bad input that the user can correct.

    Its message is one line that says what was found, what was expected and what to do. Commands print it without a
    traceback and exit with status 2.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def described(error: BaseException) -> str:
    """Describe an error in one line: the file and the reason if it is an `OSError`, else its first line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'standard output or a file'}: {error.strerror}"
    return first_line(error)


def shortened(value: object, length: int = 100) -> str:
    """Quote untrusted text in an error message: printable, on one line, and cut off after `length` characters."""
    text = str(value)
    printable = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:length])
    return printable if len(text) <= length else f"{printable}..."
