"""The one kind of error that a user can cause."""


class UserError(Exception):
    """Something the user gave or lacks. The message names the thing, what was expected, what came, what to do.

    The command line prints it as one line and exits with 2.
    """
