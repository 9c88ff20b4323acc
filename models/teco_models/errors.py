"""The one error type of this package."""


class ModelError(Exception):
    """Something about a network, its name, its size or its weights is not as it must be.

    Args:
        message: what was received and what was expected, one sentence.
        hint: what to do or type next.
        exit_code: 1 it failed, 2 wrong usage.
    """

    def __init__(self, message: str, *, hint: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code
