"""`emsfl doctor`: what is installed, what is missing, and whether the demo can run."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from packaging.requirements import Requirement

EXTRAS = {
    "data": "the images of the demo",
    "hf": "Hugging Face models and data files",
    "text": "weights of the sentence encoder MiniLM",
    "plot": "contact maps and timelines as images",
    "rain": "rain attenuation of links",
    "ray": "training on a Ray cluster",
    "tensorboard": "curves for TensorBoard",
    "mlflow": "curves for MLflow",
    "wandb": "curves for Weights & Biases",
    "trackio": "curves for trackio",
    "deploy": "training between real machines",
    "privacy": "an accountant for noise on updates",
    "bench": "what contact finding is measured against",
    "dev": "tests, linters, type checker",
}
"""What each optional extra of the package gives."""

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    found: str
    problem: str | None = None
    """What to do, in one line; None when all is well."""
    needed: bool = True
    """Whether the demo cannot run without it."""


def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the findings as JSON, nothing else.")
    ] = False,
) -> None:
    """Show versions, devices and what is missing; exit code 1 if the demo cannot run."""
    import json

    findings = examine()
    missing = [finding for finding in findings if finding.needed and finding.problem]
    if as_json:
        report = {"ready": not missing, "findings": [asdict(finding) for finding in findings]}
        typer.echo(json.dumps(report, indent=2))
    else:
        for finding in findings:
            note = f"  <- {finding.problem}" if finding.problem else ""
            typer.echo(f"{finding.name:<20} {finding.found}{note}")
        typer.echo("ready: the demo can run" if not missing else "not ready")
    if missing:
        names = ", ".join(finding.name for finding in missing)
        typer.echo(f"error: the demo cannot run: {names}", err=True)
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """Look at everything that the demo and the extras need."""
    import emsfl

    return [
        Finding(name="emsfl", found=emsfl.__version__),
        Finding(name="python", found=f"{platform.python_version()} ({sys.executable})"),
        Finding(name="system", found=platform.platform()),
        Finding(name="cores", found=str(_num_cores())),
        Finding(name="memory", found=_memory()),
        *_packages(),
        *_devices(),
        _cache(),
        _data(),
    ]


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> str:
    try:
        total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return "unknown"
    return f"{total_bytes / GIB:.1f} GiB"


def _packages() -> list[Finding]:
    """Compare what is installed with what the package's own metadata asks for."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    asked = [Requirement(line) for line in requires("emsfl") or []]
    core = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    findings = [_package(requirement) for requirement in core]
    for extra, gives in EXTRAS.items():
        members = [
            _package(one)
            for one in asked
            if one not in core and one.marker and one.marker.evaluate({"extra": extra})
        ]
        lacking = [member.name for member in members if member.problem]
        findings.append(
            Finding(
                name=f"extra {extra}",
                found=gives if not lacking else f"{gives}: lacks {', '.join(lacking)}",
                problem=f"pip install 'emsfl[{extra}]'" if lacking else None,
                needed=False,
            )
        )
    return findings


def _package(requirement: Requirement) -> Finding:
    from importlib.metadata import PackageNotFoundError, version

    name = requirement.name
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name=name, found="missing", problem=f"pip install {str(requirement)!r}")
    fits = requirement.specifier.contains(found, prereleases=True)
    problem = None if fits else f"needs {requirement.specifier}; pip install {str(requirement)!r}"
    return Finding(name=name, found=found, problem=problem)


def _devices() -> list[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [Finding(name="device", found="none", problem=f"torch does not load: {error}")]
    findings = [Finding(name="device cpu", found=f"{torch.get_num_threads()} threads")]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        memory = f"{card.name}, {card.total_memory / GIB:.1f} GiB"
        findings.append(Finding(name=f"device cuda:{index}", found=memory))
    return findings


def _cache() -> Finding:
    from emsfl.files import cache_dir, write_text

    folder = cache_dir()
    try:
        write_text(folder / ".doctor", "")
        (folder / ".doctor").unlink()
    except OSError as error:
        todo = f"not writable ({error.strerror}); set EMSFL_CACHE_DIR to a folder that is"
        return Finding(name="cache", found=str(folder), problem=todo)
    return Finding(name="cache", found=f"{folder}, writable")


def _data() -> Finding:
    """Load the images for real: a package can be there and its files not."""
    from emsfl.data import MnistRotatedConfig, load_data
    from emsfl.errors import DataError

    try:
        data = load_data(MnistRotatedConfig(), ["somewhere"], seed=0)
    except DataError as error:
        return Finding(name="data", found="missing", problem=str(error))
    num_images = len(data.public) + sum(len(shard) for shard in data.shards["somewhere"])
    return Finding(name="data", found=f"{num_images} images for tuning")
