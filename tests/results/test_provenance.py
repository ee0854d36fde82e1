import subprocess
import sys
from importlib import metadata

import numpy as np

import emsfl
from emsfl.results import collect_provenance
from emsfl.results.provenance import git_hash, package_versions


def git(folder, *words):
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    done = subprocess.run(
        ("git", *identity, *words), cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_git_hash_is_the_commit_of_a_tracked_file_and_tells_of_changes(tmp_path):
    source = tmp_path / "module.py"
    source.write_text("a = 1\n")
    git(tmp_path, "init", "-q")
    assert git_hash(source) is None  # in a checkout, but not tracked: an installed package
    git(tmp_path, "add", "module.py")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_hash(source) == commit
    source.write_text("a = 2\n")
    assert git_hash(source) == f"{commit}-dirty"


def test_package_versions_are_those_installed():
    versions = package_versions()
    assert versions["numpy"] == np.__version__
    assert all(metadata.version(name) == version for name, version in versions.items())


def test_provenance_holds_what_it_is_given():
    made = collect_provenance(
        wall_time_s=1.5,
        config_hash="c",
        plan_hash="p",
        data_hash="d",
        model_hash={0: "m0", 3: "m3"},
    )
    assert (made.config_hash, made.plan_hash, made.data_hash) == ("c", "p", "d")
    assert made.model_hash == {"0": "m0", "3": "m3"}
    assert made.emsfl_version == emsfl.__version__
    assert made.wall_time_s == 1.5


def test_the_room_imports_no_torch():
    code = "import sys, emsfl.results; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
