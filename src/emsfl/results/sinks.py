"""Copies of the curves for experiment trackers; the run folder stays the record.

A sink gets a curve when its method and seed are done. One that fails says so, is left out from
then on, and never stops a run.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from emsfl.errors import ConfigError
from emsfl.results.summary import SeedRecord

Series = list[tuple[int, dict[str, float]]]
"""(virtual time in whole seconds, values by name), ascending."""


class Sink(Protocol):
    """One tracker."""

    def add(self, title: str, series: Series) -> None:
        """Store one curve under `title`."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class Sinks:
    """All trackers of a run, each kept from harming it."""

    def __init__(
        self, names: Sequence[str], folder: Path, name: str, config: Mapping[str, Any]
    ) -> None:
        """Open the sinks called `names` for the run `name` in `folder`.

        Raises:
            ConfigError: a name that is none of `SINKS`.
        """
        unknown = [name for name in names if name not in SINKS]
        if unknown:
            raise ConfigError(f"{unknown[0]!r} is no sink; choose from {', '.join(SINKS)}")
        self._open: dict[str, Sink] = {}
        for chosen in names:
            sink = self._guard(chosen, SINKS[chosen], folder, name, config)
            if sink is not None:
                self._open[chosen] = sink

    def add(self, method: str, seed: int, record: SeedRecord) -> None:
        """Give every sink the curve of one method on one seed."""
        series: Series = [
            (round(p.time_s), {"value": p.accuracy, "uploaded_bytes": float(p.uploaded_bytes)})
            for p in record.curve
        ]
        for name, sink in list(self._open.items()):
            self._guard(name, sink.add, f"{method}-seed{seed}", series)

    def close(self) -> None:
        """Close every sink."""
        for name, sink in list(self._open.items()):
            self._guard(name, sink.close)

    def _guard(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a tracker does
            self._open.pop(name, None)
            reason = (
                f"it is not installed; run: pip install 'emsfl[{name}]'"
                if isinstance(error, ImportError)
                else f"{type(error).__name__}: {error}"
            )
            warnings.warn(f"sink {name} is off: {reason}", stacklevel=2)
            return None


class _TensorBoard:
    """Event files in RUN/tensorboard, one folder per method and seed."""

    def __init__(self, folder: Path, _name: str, _config: Mapping[str, Any]) -> None:
        from tensorboard.summary import Writer

        self._writer, self._folder = Writer, folder / "tensorboard"

    def add(self, title: str, series: Series) -> None:
        writer = self._writer(str(self._folder / title))
        for time_s, values in series:
            for name, value in values.items():
                writer.add_scalar(name, value, time_s)
        writer.close()

    def close(self) -> None:
        """Nothing is left: every curve has files of its own."""


class _MLflow:
    """One MLflow run per method and seed; where to: MLFLOW_TRACKING_URI, else RUN/mlflow.db."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve()}/mlflow.db"
        self._client, self._name, self._config = MlflowClient(uri), name, config
        known = self._client.get_experiment_by_name(name)
        self._experiment = known.experiment_id if known else self._client.create_experiment(name)

    def add(self, title: str, series: Series) -> None:
        run = self._client.create_run(self._experiment, run_name=title).info.run_id
        self._client.log_dict(run, dict(self._config), "config.json")
        for time_s, values in series:
            for name, value in values.items():
                self._client.log_metric(run, name, value, step=time_s)
        self._client.set_terminated(run)

    def close(self) -> None:
        """Nothing is left: every curve is a run that has ended."""


class _Calls:
    """A tracker that follows W&B's calls: init, log, finish; one run per method and seed."""

    def __init__(self, tracker: Any, settings: dict[str, Any]) -> None:
        self._tracker, self._settings = tracker, settings

    def add(self, title: str, series: Series) -> None:
        self._tracker.init(name=title, **self._settings)
        for time_s, values in series:
            self._tracker.log(values, step=time_s)
        self._tracker.finish()

    def close(self) -> None:
        """Nothing is left: every curve is a run that has ended."""


def _wandb(folder: Path, name: str, config: Mapping[str, Any]) -> Sink:
    """Return W&B, offline unless WANDB_MODE says otherwise; its files go to RUN/wandb."""
    import wandb

    mode = os.environ.get("WANDB_MODE", "offline")
    settings = {"project": name, "dir": str(folder), "mode": mode, "config": dict(config)}
    return _Calls(wandb, {**settings, "reinit": "finish_previous"})


def _trackio(_folder: Path, name: str, config: Mapping[str, Any]) -> Sink:
    """Return trackio, which keeps its files where TRACKIO_DIR says, else in the user's cache."""
    import trackio

    return _Calls(trackio, {"project": name, "config": dict(config)})


SINKS: dict[str, Callable[[Path, str, Mapping[str, Any]], Sink]] = {
    "tensorboard": _TensorBoard,
    "mlflow": _MLflow,
    "wandb": _wandb,
    "trackio": _trackio,
}
"""Name, which is also the extra to install -> how it is opened (folder, run's name, config)."""
