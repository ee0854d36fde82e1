"""`emsfl doctor`: it finds what is there, and says what is not."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest
import torch

from emsfl.cli import call, doctor
from emsfl.cli.doctor import EXTRAS
from emsfl.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMSFL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_complete_environment_is_ready(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["doctor"]) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith("\nready: the demo can run\n")
    assert captured.err == ""
    assert list(cache.iterdir()) == []

    assert call(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ready"]
    named = {finding["name"]: finding["found"] for finding in report["findings"]}
    assert named["torch"] == importlib.metadata.version("torch")
    assert named["device cpu"] == f"{torch.get_num_threads()} threads"
    assert named["data"] == "3600 images for tuning"


def test_every_extra_of_the_package_is_explained() -> None:
    assert set(importlib.metadata.metadata("emsfl").get_all("Provides-Extra")) == set(EXTRAS)


def test_a_missing_package_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "sgp4":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "plotly" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert call(["doctor"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "error: the demo cannot run: plotly, sgp4\n"
    assert "missing  <- pip install 'sgp4>=" in captured.out
    assert "0.1  <- needs >=" in captured.out
    assert captured.out.endswith("\nnot ready\n")


def test_an_extra_that_is_missing_does_not_stop_the_demo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "ruff":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    (extra,) = [finding for finding in doctor._packages() if finding.name == "extra dev"]
    assert extra.found == f"{EXTRAS['dev']}: lacks ruff"
    assert (extra.problem, extra.needed) == ("pip install 'emsfl[dev]'", False)


def test_a_cache_that_cannot_be_written(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    problem = doctor._cache().problem
    assert problem is not None
    assert "set EMSFL_CACHE_DIR" in problem


def test_missing_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise DataError("needs a package; run: pip install it")

    monkeypatch.setattr("emsfl.data.load_data", refuse)
    found = doctor._data()
    assert (found.found, found.problem) == ("missing", "needs a package; run: pip install it")
    assert found.needed


def test_torch_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (device,) = doctor._devices()
    assert device.needed
    assert device.problem is not None
    assert device.problem.startswith("torch does not load: ")
