"""The command line as a whole: what it lists, how fast it answers, and how it ends."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

import emsfl
from emsfl.cli import COMMANDS, build, call
from emsfl.errors import ConfigError, EmsflError, UpdateRefusedError, UserError

CONFIGS = Path(__file__).parents[2] / "configs"
EMSFL = [sys.executable, "-c", "from emsfl.cli import main; main()"]

Raising = Callable[[BaseException], None]


@pytest.fixture
def fake_command(monkeypatch: pytest.MonkeyPatch) -> Raising:
    """Put a command `fake` into the table that raises what it is told to."""

    def put(error: BaseException) -> None:
        def fake() -> None:
            raise error

        monkeypatch.setitem(COMMANDS, "fake", "Raise.")
        monkeypatch.setitem(sys.modules, "emsfl.cli.fake", SimpleNamespace(fake=fake))

    monkeypatch.delenv("EMSFL_DEBUG", raising=False)
    return put


def test_help_answers_in_half_a_second_without_heavy_imports() -> None:
    program = """
import sys
from emsfl.cli import call
assert call(["--help"]) == 0
heavy = {"torch", "numpy", "scipy", "pydantic", "yaml", "plotly", "rich.console"} & set(sys.modules)
assert not heavy, heavy
"""
    # Processor time: on a busy machine the clock on the wall measures the others.
    used_s = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(used_s) < 0.5


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert call([]) == 0
    without = capsys.readouterr().out
    assert call(["--help"]) == 0
    shown = capsys.readouterr().out
    assert shown == without
    for name, text in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", shown, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_explains_itself(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: emsfl {name}")
    assert "\\" not in shown
    with build().make_context("emsfl", [name], resilient_parsing=True) as context:
        _, command, _ = context.command.resolve_command(context, [name])
    assert all(parameter.help for parameter in command.params)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--version"]) == 0
    assert capsys.readouterr().out == f"emsfl {emsfl.__version__}\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such thing"), 2, "error: no such thing"),
        (ConfigError("two\n  lines"), 2, "error: two lines"),
        (UpdateRefusedError("not finite"), 2, "error: not finite"),
        (EmsflError("ours"), 1, "error: ours"),
        (PermissionError(13, "Permission denied", "/x"), 2, "error: /x: Permission denied"),
        (OSError(28, "No space left"), 1, "error: the system says: [Errno 28] No space left"),
        (
            ZeroDivisionError("division by zero"),
            1,
            "error: unexpected ZeroDivisionError: division by zero"
            " (set EMSFL_DEBUG=1 to see the traceback)",
        ),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (click.Abort(), 130, "error: interrupted"),
        (click.FileError("x", "gone"), 1, "error: Could not open file 'x': gone"),
    ],
)
def test_errors_are_one_line_and_a_code(
    error: BaseException,
    code: int,
    line: str,
    fake_command: Raising,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake_command(error)
    assert call(["fake"]) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", line + "\n")


def test_debug_shows_the_traceback(
    fake_command: Raising, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_command(ConfigError("wrong"))
    monkeypatch.setenv("EMSFL_DEBUG", "1")
    assert call(["fake"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):\n")
    assert shown.endswith("\nerror: wrong\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "No such command 'rnu'. Did you mean 'run'?;"),
        (["--fast"], "No such option"),
        (["run"], "Missing argument 'CONFIG'"),
        (["run", "x.yaml", "--workers", "0"], "Invalid value for '--workers'"),
        (["run", "x.yaml", "--seeds", "0,b"], "'0,b' must be whole numbers between commas"),
        (["run", "x.yaml", "--methods", "a,,b"], "'a,,b' must be names between commas"),
        (["validate", "x.yaml", "--sedes", "0"], "No such option"),
    ],
)
def test_misuse_is_the_users_error(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert re.search(r"; see 'emsfl( \w+)? --help'\n$", captured.err)


def test_completion_offers_the_commands() -> None:
    environment = {
        **os.environ,
        "_EMSFL_COMPLETE": "complete_bash",
        "COMP_WORDS": "emsfl r",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(EMSFL, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [name for name in COMMANDS if name.startswith("r")]


def test_an_option_can_be_completed_on_an_imported_command() -> None:
    command = build()
    with command.make_context("emsfl", ["run", "x.yaml"], resilient_parsing=True) as context:
        _, run, _ = command.resolve_command(context, ["run"])
    assert "--seeds" in [option for parameter in run.params for option in parameter.opts]


DEMO = str(CONFIGS / "demo.yaml")
BAD_INPUT = {
    "missing file": (["run", "nowhere.yaml"], "nowhere.yaml does not exist; check the path"),
    "empty config": (["run", "empty.yaml"], "empty.yaml is empty; start from configs/demo.yaml"),
    "unknown key": (
        ["run", DEMO, "orbit.hour=3"],
        "unknown key 'orbit.hour'; did you mean 'orbit.hours'?",
    ),
    "value out of range": (
        ["validate", DEMO, "orbit.sites.0.latitude_deg=95"],
        "orbit.sites.0.latitude_deg = 95: must be from -90 to 90",
    ),
    "override syntax": (
        ["run", DEMO, "orbit.hours"],
        "override 'orbit.hours' must read key=value",
    ),
    "no run folder": (["resume", "."], "is not a run folder"),
}


@pytest.fixture(scope="module")
def bad_input(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """Code, stdout and stderr of real commands that are given bad input, all started at once."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty.yaml").touch()
    running = {
        name: subprocess.Popen(
            EMSFL + arguments,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(emsfl.__file__).parents[1])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, (arguments, _) in BAD_INPUT.items()
    }
    ended = {name: (process.communicate(), process) for name, process in running.items()}
    assert sorted(path.name for path in folder.iterdir()) == ["empty.yaml"]
    return {name: (process.returncode, *printed) for name, (printed, process) in ended.items()}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_ends_with_one_line_and_code_2(
    name: str, bad_input: dict[str, tuple[int, str, str]]
) -> None:
    code, printed, error = bad_input[name]
    assert (code, printed) == (2, "")
    assert error.startswith("error: ")
    assert BAD_INPUT[name][1] in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["orbit.link.uplink_bps=-1"], "orbit.link.uplink_bps = -1: must be greater than 0"),
        (["model.num_experts=7"], "model.num_experts is 7"),
        (["--methods", "ems_fl,sgd"], "'sgd' is no method; choose from ems_fl"),
        (["--seeds", "0,0"], "each may occur once"),
        (["seeds=[1]", "--seeds=-1"], "seeds = [-1]: seeds must be 0 or more"),
    ],
)
def test_a_config_that_cannot_run_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["validate", DEMO, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def open_for_its_reader(fifo: Path, reader: subprocess.Popen[str]) -> int:
    """Open a FIFO for writing as soon as `reader` reads from it; then `reader` is at work."""
    while reader.poll() is None:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            assert error.errno == errno.ENXIO  # no reader yet
            time.sleep(0.02)
    raise AssertionError(f"the command ended without reading: {reader.communicate()}")


def test_an_interrupted_command_ends_with_130(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    os.mkfifo(config)
    with subprocess.Popen(
        [*EMSFL, "validate", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background inherits an ignored SIGINT, which Python would leave so.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as command:
        writing = open_for_its_reader(config, command)
        command.send_signal(signal.SIGINT)
        printed, error = command.communicate(timeout=60)
        os.close(writing)
    assert (command.returncode, printed, error) == (130, "", "error: interrupted\n")


def test_a_reader_that_goes_away_ends_the_command_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*EMSFL, "--help"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
