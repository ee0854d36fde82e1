"""The deployment section of the README works as typed, on loopback alone."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.deployment import environment, finals

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]


def test_deployment_as_typed(tmp_path):
    section = (ROOT / "README.md").read_text().split("## Deployment")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```bash\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    call = [sys.executable, "-c", "from emsfl.cli import main; main()"]
    lines = [shlex.split(line)[1:] for line in block.splitlines()]
    processes = []
    try:
        for number, line in enumerate(lines):
            log = (tmp_path / f"{number}.log").open("wb")
            processes.append(
                subprocess.Popen(
                    [*call, *line], cwd=tmp_path, stdout=log, stderr=log, env=environment()
                )
            )
        assert [process.wait(1500) for process in processes] == [0] * len(lines)
    finally:
        for process in processes:
            process.kill()
    simulated = [*call, "run", "configs/two-sites.yaml", "--out", "simulated"]
    subprocess.run(simulated, cwd=tmp_path, env=environment(), check=True, capture_output=True)
    assert finals(tmp_path / "runs" / "rehearsal") == finals(tmp_path / "simulated")
