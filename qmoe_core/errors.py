"""Errors that speak to the user: one sentence, no traceback."""

from __future__ import annotations

import re

_SECRET = re.compile(r"(?<=://)\S*@")


def safe(text: str) -> str:
    """A text for a terminal or a page: escapes that move the cursor are shown, credentials are not.

    >>> safe("s3://KEY:SECRET@lab is no store")
    's3://…@lab is no store'
    >>> safe("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    hidden = _SECRET.sub("…@", text)
    return "".join(c if c.isprintable() or c in " \n\t" else repr(c)[1:-1] for c in hidden)


class UserError(Exception):
    """Something the user gave is wrong, and the message says what, where, and what is accepted.

    The command line prints the message as one line and exits with 2; pages show it in a box.
    """


class AudioError(UserError):
    """A recording that cannot be read, or is not one."""


class DatasetError(UserError):
    """A dataset whose files, metadata or folds do not fit."""


class ConfigError(UserError):
    """A setting that does not exist, or has a value it may not have."""


class BundleError(UserError):
    """A bundle that is missing, damaged, or of another kind than asked for."""


class StoreError(UserError):
    """A store that cannot be read or written."""


class Cancelled(Exception):
    """Long work was stopped at the user's wish; what was finished is kept."""
