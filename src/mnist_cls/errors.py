"""The one exception for input that a user can put right."""


class InputError(ValueError):
    """Bad input: its message is one line that says what was found, what was expected and what to do.

    The entry points print the message without a traceback and leave with exit status 2.
    """
