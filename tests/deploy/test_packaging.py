"""Dockerfile, compose file and systemd units say what the commands understand."""

import configparser
import re
import shlex
from pathlib import Path

import pytest
import yaml

from emsfl.cli import COMMANDS, build
from emsfl.experiment_config import load

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
COMPOSE = yaml.safe_load((PACKAGING / "compose.yaml").read_text())
UNITS = sorted((PACKAGING / "systemd").glob("*.service"))


def parsed(arguments):
    """Return the options of an emsfl command line; raises where it would be refused."""
    group = build()
    with group.make_context("emsfl", list(arguments), resilient_parsing=False) as context:
        name, command, rest = group.resolve_command(context, list(arguments))
        return name, command.make_context(name, rest, parent=context).params


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_service_calls_a_command_that_is_understood(name, tmp_path):
    service = COMPOSE["services"][name]
    command, options = parsed(service["command"])
    assert command in ("serve", "join")
    assert service["image"] == "emsfl"
    assert service["cap_drop"] == ["ALL"]
    mounts = {m.split(":")[1]: m.split(":")[0] for m in service["volumes"]}
    config = load(PACKAGING / mounts[str(options["config"])])
    sites = [site.name for site in config.orbit.sites]
    journal = Path(options["out"] if command == "serve" else options["journal"])
    assert mounts[str(journal.parent)] in COMPOSE["volumes"], "work survives the container"
    assert options["rehearse"] is True
    if command == "serve":
        assert options["host"] == "0.0.0.0"
        nodes = [s for s in COMPOSE["services"] if s != name]
        assert sorted(nodes) == sorted(site.lower() for site in sites)
        assert "ports" not in service, "nodes reach it inside the network; nothing is published"
    else:
        assert options["cluster"] in sites
        assert options["server"] == f"server:{parsed(['serve', 'x', '--insecure'])[1]['port']}"
        secrets = [target for target in mounts if target.endswith(".key")]
        assert secrets == [f"/keys/{options['cluster']}.key"], "a node holds its own key only"


def test_the_image_installs_the_extra_as_nobody_in_particular():
    lines = (PACKAGING / "Dockerfile").read_text()
    instructions = re.findall(r"^([A-Z]+) ((?:.*\\\n)*.*)", lines, re.M)
    by_name = {}
    for name, text in instructions:
        by_name.setdefault(name, []).append(text)
    assert by_name["ENTRYPOINT"] == ['["emsfl"]']
    assert ".[data,deploy]" in " ".join(by_name["RUN"])
    assert by_name["USER"] == ["emsfl"]
    order = [name for name, _ in instructions]
    assert order.index("USER") > order.index("RUN")
    for text in by_name["COPY"]:
        for source in text.split()[:-1]:
            assert (ROOT / source).exists(), source
    port = parsed(["serve", "x", "--insecure"])[1]["port"]
    assert by_name["EXPOSE"] == [str(port)]


@pytest.mark.parametrize("path", UNITS, ids=[path.stem for path in UNITS])
def test_units_call_commands_that_are_understood_and_start_again(path):
    unit = configparser.RawConfigParser(strict=True)
    unit.optionxform = str
    unit.read(path)
    call = unit["Service"]["ExecStart"].replace("${EMSFL_SERVER}", "a:1").replace("%i", "Svalbard")
    program, *arguments = shlex.split(call)
    assert program.endswith("/emsfl")
    command, options = parsed(arguments)
    assert command in path.name
    assert command in COMMANDS
    assert options["keys"] is not None
    assert options["insecure"] is False
    assert unit["Service"]["Restart"] == "on-failure"
    assert str(options["config"]).startswith("/etc/emsfl/")
