"""What runs pure functions for a driver: in this process, or wherever the driver has others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class Pending(Protocol):
    """A result that may still be in the making."""

    def result(self) -> Any:
        """Wait for the work and return what it gave."""
        ...

    def done(self) -> bool:
        """Tell whether `result` would return at once."""
        ...


class Executor(Protocol):
    """Runs pure functions of one argument."""

    def submit(self, function: Callable[[Any], Any], argument: Any, /) -> Pending:
        """Start `function(argument)`."""
        ...


@dataclass(frozen=True)
class _Done:
    value: Any

    def result(self) -> Any:
        return self.value

    def done(self) -> bool:
        return True


class InlineExecutor:
    """Runs everything in this process, at once."""

    def submit(self, function: Callable[[Any], Any], argument: Any, /) -> Pending:
        """Do the work."""
        return _Done(function(argument))
