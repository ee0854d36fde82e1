"""Provenance: which code, packages and machine made a result."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import emsfl
from emsfl.results.schema import Provenance

NUMERICAL_PACKAGES = (
    "mlxtend",
    "numba",
    "numpy",
    "safetensors",
    "scikit-learn",
    "scipy",
    "sgp4",
    "torch",
    "transformers",
)
"""Packages whose version can change a number; those that are installed are recorded."""


def collect_provenance(
    *,
    wall_time_s: float,
    config_hash: str,
    plan_hash: str,
    data_hash: str,
    model_hash: Mapping[int, str],
) -> Provenance:
    """Return what made the result, stamped with the present time.

    Args:
        wall_time_s: real seconds since the run was started, or last resumed.
        config_hash: of the resolved config.
        plan_hash: of the contact plan.
        data_hash: of the data set and its division.
        model_hash: of the pre-trained model, per seed.
    """
    return Provenance(
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        wall_time_s=wall_time_s,
        emsfl_version=emsfl.__version__,
        packages=package_versions(),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        git_hash=git_hash(),
        config_hash=config_hash,
        plan_hash=plan_hash,
        data_hash=data_hash,
        model_hash={str(seed): value for seed, value in model_hash.items()},
    )


def package_versions() -> dict[str, str]:
    """Return the versions of the installed `NUMERICAL_PACKAGES`."""
    versions: dict[str, str] = {}
    for name in NUMERICAL_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # Most of them belong to optional extras.
    return versions


def git_hash(source: Path = Path(__file__)) -> str | None:
    """Return the commit that `source` is checked out from, with `-dirty` behind it if changed.

    None without git, or when `source` is no tracked file: an installed package may well lie inside
    somebody else's checkout.
    """
    commands = (
        ("ls-files", "--error-unmatch", source.name),
        ("rev-parse", "HEAD"),
        ("status", "--porcelain", "--untracked-files=no"),
    )
    answers: list[str] = []
    for command in commands:
        try:
            done = subprocess.run(
                ("git", *command), cwd=source.parent, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        answers.append(done.stdout.strip())
    _, commit, changes = answers
    return f"{commit}-dirty" if changes else commit
