"""Federated tuning of mixture-of-experts models over satellite links.

    import emsfl
    result = emsfl.run("configs/demo.yaml")

The names below come from `emsfl.experiment`, which is imported when the first of them is used:
`import emsfl` alone imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emsfl.experiment import ExperimentConfig, Result, load, resume, run

__version__ = "0.1.0"

__all__ = ["ExperimentConfig", "Result", "__version__", "load", "resume", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'emsfl' has no attribute {name!r}")
    return getattr(import_module("emsfl.experiment"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
