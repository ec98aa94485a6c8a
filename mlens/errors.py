"""The one exception that stands for a mistake of the user's, not of the program's."""


class UserError(ValueError):
    """Something the user gave can't be used: a setting, a file, a folder.

    The message is one readable line: what was wrong, where, and what to do. The entry points print it without a
    traceback and exit with code 2.
    """
