"""The one exception for mistakes a user can mend."""


class UserError(Exception):
    """What is wrong, where it is and how to mend it, in one line.

    Raised anywhere, caught in `trimtab.cli` alone, which prints the line and exits with status 2.

    >>> str(UserError("task.jsonl line 17: 'response' is empty. Remove the row."))
    "task.jsonl line 17: 'response' is empty. Remove the row."
    """
