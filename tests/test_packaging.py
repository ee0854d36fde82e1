"""What is shipped and pinned: dependencies, package data, citation, changelog, hooks."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import emsfl

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DECLARED = [
    Requirement(line)
    for lines in [
        PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"].values(),
    ]
    for line in lines
]
PINNED = {
    match[1].lower().replace("_", "-"): match[2]
    for match in re.finditer(
        r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
}


def test_import_is_light_and_names_what_it_offers() -> None:
    program = """
import sys, emsfl
assert "torch" not in sys.modules and "numpy" not in sys.modules
assert {"run", "resume", "load", "Result"} <= set(dir(emsfl))
assert emsfl.run.__module__ == "emsfl.experiment"
assert "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="no attribute 'rnu'"):
        _ = emsfl.rnu


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["project"]["version"] == emsfl.__version__
    assert citation["version"] == emsfl.__version__
    assert importlib.metadata.version("emsfl") == emsfl.__version__


def test_constraints_hold_exact_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) == len(PINNED)
    assert pins == sorted(pins, key=str.lower)
    assert not [version for version in PINNED.values() if "+" in version]


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_everything_declared_is_pinned_within_its_range(requirement: Requirement) -> None:
    name = requirement.name.lower().replace("_", "-")
    assert name in PINNED
    assert requirement.specifier.contains(PINNED[name])


@pytest.mark.parametrize(
    ("name", "limit"), [("typer", "0.21"), ("rich", "15"), ("packaging", "26"), ("protobuf", "7")]
)
def test_pins_leave_room_for_flower(name: str, limit: str) -> None:
    assert name not in PINNED or Version(PINNED[name]) < Version(limit)


def test_every_data_file_of_the_package_is_shipped() -> None:
    package = ROOT / "src" / "emsfl"
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["emsfl"]
    for path in package.rglob("*"):
        if path.is_file() and path.suffix != ".py" and path.parent.name != "__pycache__":
            name = str(path.relative_to(package))
            assert any(fnmatch(name, pattern) for pattern in patterns), f"{name} is not shipped"


def test_the_typed_marker_and_the_licence_are_there() -> None:
    assert (ROOT / "src" / "emsfl" / "py.typed").is_file()
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


def test_hooks_use_tools_of_the_environment() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    for repository in hooks["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            tool = hook["entry"].split()[0]
            assert tool.startswith(".venv/bin/")
            assert Path(sys.executable).with_name(Path(tool).name).is_file()
