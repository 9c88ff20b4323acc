"""The error type that the command line turns into one sentence, a hint and an exit code."""

FAILED = 1
USAGE = 2
MACHINE = 3


class TecoError(Exception):
    """It did not work, and the user can be told why.

    Args:
        message: what was received and what was expected, one sentence.
        hint: what to type or do next.
        exit_code: 1 it failed, 2 wrong usage, 3 this machine cannot (GPU, driver, extra missing).
    """

    def __init__(self, message: str, *, hint: str = "", exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


class Interrupted(TecoError):
    """The user stopped the work, and what there is of it has been kept."""
