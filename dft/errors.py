"""The error that tells a user what to do, raised wherever an input can be wrong."""


class UserError(Exception):
    """A mistake of input or circumstance; its text is one line that says what to do about it."""
