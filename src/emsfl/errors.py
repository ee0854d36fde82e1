"""The project's own exceptions: what the user can mend, against what is our bug."""

from __future__ import annotations


class EmsflError(Exception):
    """Base of every error that emsfl raises on purpose; the message is one line."""

    exit_code = 1


class UserError(EmsflError):
    """The input is wrong: the message says what, which value, and what to do. Exit code 2."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration that cannot be used: the message names field, value and range."""


class DataError(UserError):
    """Data, element sets or files that are missing, malformed or inconsistent."""


class InfeasibleError(UserError):
    """A problem without solution: the message names the constraint and what to change."""


class RunFolderError(UserError):
    """A folder that is not a run or is in use, or a result written by a newer schema."""


class UpdateRefusedError(UserError):
    """An update that must not be merged: not finite, wrong shape, or not this cluster's experts."""
