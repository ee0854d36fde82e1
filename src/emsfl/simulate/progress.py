"""A progress bar for long runs: virtual time, wall time, contacts, latest accuracy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from emsfl.simulate.alone import AloneSimulation
from emsfl.simulate.arm import Progress as Callback
from emsfl.simulate.simulate import Simulation


@contextmanager
def show_progress(enabled: bool, num_arms: int) -> Iterator[Callback]:
    """Yield what an arm tells its progress to; bars are drawn on stderr while it is a terminal."""
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[virtual]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[contacts]} contacts"),
        TextColumn("{task.fields[accuracy]}"),
        console=Console(file=sys.stderr),
        disable=not enabled,
    )
    tasks: dict[str, object] = {}

    def tell(title: str, simulation: Simulation | AloneSimulation) -> None:
        if title not in tasks:
            name = f"[{len(tasks) + 1}/{num_arms}] {title}"
            tasks[title] = bars.add_task(
                name, total=simulation.duration_s, virtual="", contacts=0, accuracy=""
            )
        accuracy = simulation.judge.latest_accuracy()
        metric = simulation.scenario.model.metric.replace("_", " ")
        bars.update(
            tasks[title],  # type: ignore[arg-type]
            completed=simulation.now_s,
            virtual=f"{simulation.now_s / 3600:5.1f} of {simulation.duration_s / 3600:.0f} h",
            contacts=simulation.num_contacts,
            accuracy="" if accuracy is None else f"{metric} {accuracy:.3f}",
        )

    with bars:
        yield tell
