"""README and docs: links lead somewhere, commands exist, code runs, generated pages are current."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import click
import pytest
import yaml

import emsfl
from emsfl.cli import build

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SMALL = [
    "orbit.hours=6",
    "data.num_test=100",
    "data.num_validation=40",
    "model.pretrain.num_steps=20",
    "simulate.evaluation_points=2",
    "simulate.max_local_steps_per_contact=5",
]


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced code blocks of a page in one language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, made as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def script(name: str) -> ModuleType:
    """Import a script from docs/."""
    specification = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.is_file(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(linked), f"{target}: no such heading"


def test_every_page_of_the_docs_is_linked_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", index)}
    pages = {page for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert pages - linked == {ROOT / "docs" / "index.md"}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_in_docs_exist_with_their_options(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in "".join(blocks(page, "bash")).splitlines():
        program, *words = shlex.split(line.partition(">")[0], comments=True) or [""]
        if program == "make":
            assert set(words) <= targets, line
        elif program == "emsfl" and words[0].startswith("--"):
            assert any(words[0] in parameter.opts for parameter in build().params), line
        elif program == "emsfl":
            check_arguments(words)
            for word in words:
                assert not word.startswith("configs/") or (ROOT / word).is_file(), line
        else:
            assert line.partition(" ")[0] in ("", "pip", "git"), f"who checks this one? {line}"


def check_arguments(words: list[str]) -> None:
    """Parse a command line as emsfl would, without running it; click raises what it refuses."""
    group = build()
    assert isinstance(group, click.Group)
    with group.make_context("emsfl", list(words)) as context:
        name, command, rest = group.resolve_command(context, words)
        assert command is not None
        command.make_context(name, rest, parent=context)


def test_make_targets_named_in_docs_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for words in re.findall(r"`make ([a-z -]+)`", page.read_text(encoding="utf-8")):
            assert set(words.split()) <= targets, f"{page.name}: make {words}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=page_name)
def test_python_in_docs_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real_load = emsfl.load

    def load_small(*arguments: object, overrides: list[str], **options: object) -> object:
        return real_load(*arguments, overrides=[*overrides, *SMALL], **options)

    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(emsfl, "load", load_small, raising=False)
    monkeypatch.chdir(tmp_path)
    if not any("emsfl.run(" in block for block in blocks(page, "python")):
        emsfl.run(real_load("configs/demo.yaml", SMALL), out="runs/demo", progress=False)
    namespace: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page_name(page), "exec"), namespace)
    assert capsys.readouterr().out or "print" not in "".join(blocks(page, "python"))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=page_name)
def test_config_sections_in_docs_are_valid(page: Path) -> None:
    demo = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text(encoding="utf-8"))
    for block in blocks(page, "yaml"):
        section = yaml.safe_load(block)
        resolved = emsfl.load({**demo, **section})
        assert resolved.model_dump().keys() >= section.keys()


def test_generated_pages_are_current() -> None:
    for name, text in script("generate_reference").pages().items():
        page = ROOT / "docs" / "reference" / name
        assert page.read_text(encoding="utf-8") == text, f"{name} is out of date: run make docs"


def test_the_printed_result_is_of_the_demo_as_it_is() -> None:
    fill_readme = script("fill_readme")
    found = fill_readme.BLOCK.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found is not None
    assert found[2].startswith(fill_readme.stamp() + "\n"), "run make readme"
    for label in ("EMS-FL", "FedAvg", "FedAsync"):
        assert label in found[2]
