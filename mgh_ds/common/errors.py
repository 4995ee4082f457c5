"""The one exception that means "the user can mend this": command lines print its text without a traceback."""


class MghError(Exception):
    """What was wrong, where, and what to do about it, in words for the person at the keyboard."""
