"""The manual path from a checkpoint to a merged one, as typed on the command line."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tests.reference.tiny_models import WORDS, make_assignment, save_dense, save_model
from transformers.utils import logging

from emsfl.cli import call
from emsfl.moe.manifests import write_document
from emsfl.moe.tensor_files import blake3_of_file

Run = Callable[..., Any]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Call emsfl with --json; return what it printed, which is JSON and nothing else."""

    def command(*words: str | Path) -> Any:
        assert call([*map(str, words), "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return command


def write_rows(path: Path, seed: int) -> Path:
    draw = random.Random(seed)
    lines = []
    for domain, words in (("north", WORDS[:16]), ("south", WORDS[16:32])):
        for _ in range(24):
            text = " ".join(draw.choices(words, k=8))
            lines.append(json.dumps({"text": text, "domain": domain}))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_from_inspect_to_fold_gate(tmp_path: Path, run: Run, capsys: Any) -> None:
    base, data = tmp_path / "base", write_rows(tmp_path / "train.jsonl", 0)
    held_out = write_rows(tmp_path / "test.jsonl", 1)
    save_model("mixtral", base)
    found = run("inspect", base)
    assert found["max_clusters"] == 4 and found["shared_bytes"] > 0
    assert [(x["name"], x["num_experts"], x["top_k"]) for x in found["layers"]] == [
        ("model.layers.0.mlp", 8, 2),
        ("model.layers.1.mlp", 8, 2),
    ]
    assert found["layers"][0]["bytes_per_expert"] == 3 * 16 * 24 * 4
    clusters = ("north", "south")
    scores = [tmp_path / f"{name}.json" for name in clusters]
    for name, path in zip(clusters, scores, strict=True):
        printed = run(
            "score", base, "--data", data, "--cluster", name, "--domain", name, "--out", path,
            "--kind", "gate_times_output_norm",
        )  # fmt: skip
        assert printed["num_samples"] == 24 and printed["num_tokens"] == 24 * 8
        assert json.loads(path.read_text()) == printed
    assignment = tmp_path / "assignment.json"
    budget = 3 * 2 * found["layers"][0]["bytes_per_expert"]
    plan = run("assign", *scores, "--model", base, "--budget-bytes", budget, "--out", assignment)
    assert plan["owned_bytes"] == {"north": budget, "south": budget}
    parts = run("split", base, "--assignment", assignment, "--out", tmp_path / "parts")["parts"]
    assert [part["cluster"] for part in parts] == list(clusters)
    assert all(set(x) == {"cluster", "folder", "num_bytes", "was_there"} for x in parts)
    before = run("evaluate", base, "--data", held_out)["domains"]
    updates = []
    for name in clusters:
        updates += ["--scores", tmp_path / f"{name}.json", "--updates", tmp_path / f"update-{name}"]
        tuned = run(
            "tune", tmp_path / "parts" / name, "--data", data, "--domain", name, "--steps", 25,
            "--learning-rate", 1e-2, "--out", updates[-1],
        )  # fmt: skip
        assert set(tuned) == {
            "folder", "cluster", "num_steps", "resumed_at_step", "mean_loss", "update_bytes",
            "was_there",
        }  # fmt: skip
        assert tuned["num_steps"] == 25 and tuned["mean_loss"] < before[name]["loss"]
    merged = run("merge", base, *updates, "--out", tmp_path / "merged")
    fields = {"folder", "num_bytes", "files", "clusters", "has_gate", "was_there"}
    assert set(merged) == fields and not merged["was_there"]
    assert merged["has_gate"] and merged["clusters"] == list(clusters)
    gated = run("evaluate", tmp_path / "merged", "--data", held_out)
    plain = run("evaluate", tmp_path / "merged", "--data", held_out, "--no-gate")
    assert gated["gated"] and not plain["gated"]
    for name in clusters:
        assert gated["domains"][name]["loss"] < before[name]["loss"] - 0.5
        assert gated["domains"][name]["mass_kept"] > 0.9 > plain["domains"][name]["mass_kept"]
    assert gated["domains"]["all"]["num_samples"] == 48
    report = run(
        "fold-gate", tmp_path / "merged", "--data", data, "--held-out", held_out,
        "--out", tmp_path / "folded",
    )  # fmt: skip
    assert report["exact"] == gated["domains"] and report["plain"] == plain["domains"]
    improved = report["folded"]["all"]["loss"] < plain["domains"]["all"]["loss"]
    assert report["improved"] == improved == (tmp_path / "folded").exists()
    if improved:
        folded = run("evaluate", tmp_path / "folded", "--data", held_out)
        assert folded["domains"] == report["folded"] and not folded["gated"]
    for words in (["inspect", base], ["assign", *scores, "--model", base, "--out", assignment]):
        assert call([str(word) for word in words]) == 0
        assert capsys.readouterr().out


def test_upcycling_from_the_command_line(tmp_path: Path, run: Run) -> None:
    save_dense("BertModel", tmp_path / "dense")
    found = run(
        "upcycle", tmp_path / "dense", "--experts", 4, "--layers", "1", "--labels", "bad,good",
        "--out", tmp_path / "moe",
    )  # fmt: skip
    assert found["model_class"] == "UpcycledForSequenceClassification"
    assert [layer["num_experts"] for layer in found["layers"]] == [4]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect", "{tmp}/none"], "is no folder, and the hub did not give it"),
        (
            ["assign", "{tmp}/s.json", "--model", "{tmp}", "--out", "{tmp}/a"],
            "s.json does not exist",
        ),
        (
            ["split", "{tmp}", "--assignment", "{tmp}/a.json", "--out", "{tmp}/p"],
            "a.json does not exist",
        ),
        (["merge", "{tmp}", "--updates", "{tmp}", "--out", "{tmp}/m"], "holds neither"),
        (["tune", "{tmp}", "--data", "{tmp}/d.csv", "--out", "{tmp}/u"], "is no file"),
        (
            ["tune", "{tmp}", "--data", "{tmp}/d.csv", "--out", "{tmp}/u", "--learning-rate", "-1"],
            "learning_rate = -1",
        ),
        (["upcycle", "{tmp}", "--layers", "x", "--out", "{tmp}/m"], "must be whole numbers"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: list[str], message: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert call([word.format(tmp=tmp_path) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("error: ")
    assert sorted(tmp_path.iterdir()) == []


@pytest.fixture
def base_and_parts(tmp_path: Path, run: Run) -> Path:
    """A checkpoint `base`, a fine-tuned copy `other`, and sub-models `parts/a` and `parts/b`."""
    model: Any = save_model("mixtral", tmp_path / "base")
    shutil.copytree(tmp_path / "base", tmp_path / "other")
    model.lm_head.weight.data[0, 0] += 1
    model.save_pretrained(tmp_path / "other", max_shard_size="20KB")
    wanted = make_assignment(tmp_path / "base", a=(0, 1, 2, 3), b=(4, 5, 6, 7))
    write_document(tmp_path / "assignment.json", wanted)
    run("split", tmp_path / "base", "--assignment", tmp_path / "assignment.json",
        "--out", tmp_path / "parts")  # fmt: skip
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("score base --data empty.jsonl --cluster a --out s.json", "empty.jsonl cannot be read"),
        ("score base --data blank.jsonl --cluster a --out s.json", "'' has no tokens"),
        ("score base --data numbers.jsonl --cluster a --out s.json", "no texts or images but int"),
        ("score base --data rows.jsonl --cluster a/b --out s.json", "cluster name 'a/b' may hold"),
        ("score base --data rows.jsonl --cluster a --out base", "'--out': File"),
        ("score base --data rows.jsonl --cluster a --out s.json --domain-column x", "no column"),
        ("score grown --data rows.jsonl --cluster a --out s.json", "mismatched keys"),
        ("split base --assignment assignment.json --out rows.jsonl", "Not a directory"),
        ("split base --assignment rows.jsonl --out p", "rows.jsonl cannot be read"),
        ("split grown --assignment assignment.json --out rows.jsonl/p", "Not a directory"),
        ("tune parts/a --data numbers.jsonl --out u", "no texts or images but int"),
        ("tune parts/a --data rows.jsonl --out rows.jsonl/u", "Not a directory"),
        ("tune parts/a --data rows.jsonl --out u --steps 9 --learning-rate 1e30", "the loss is"),
        ("tune few --data rows.jsonl --out u", "its experts are not those of the sub-model"),
        ("merge base --updates parts/a --out rows.jsonl/m", "Not a directory"),
        ("evaluate cut --data rows.jsonl", "it is damaged or cut off"),
        ("evaluate pickled --data rows.jsonl", "holds pickle files"),
        ("evaluate grown --data rows.jsonl", "mismatched keys"),
        ("evaluate whole --data rows.jsonl", "is I64 where the model has floating-point numbers"),
        ("score whole --data rows.jsonl --cluster a --out s.json", "is I64 where the model has"),
        ("inspect ill_typed", "expected int, got str"),
        ("upcycle base --out m --labels a,a", "two or more different names"),
    ],
)
def test_bad_input_beside_good_is_one_line_and_leaves_nothing(
    base_and_parts: Path, monkeypatch: Any, capsys: Any, words: str, message: str
) -> None:
    monkeypatch.chdir(base_and_parts)
    # As the command line has it, which imports transformers later than these tests do.
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    for name, config in (("grown", {"hidden_size": 24}), ("ill_typed", {"hidden_size": "x"})):
        tree = json.loads(Path("base/config.json").read_text())
        shutil.copytree("base", name)
        Path(name, "config.json").write_text(json.dumps(tree | config))
    for name, damage in (("cut", cut_off), ("pickled", pickle_it), ("whole", make_whole)):
        shutil.copytree("base", name)
        damage(Path(name))
    shutil.copytree("parts/a", "few")
    tree = json.loads(Path("few/emsfl.json").read_text())
    tree["layers"][0]["owned"].pop()
    Path("few/emsfl.json").write_text(json.dumps(tree))
    write_rows(Path("rows.jsonl"), 0)
    Path("empty.jsonl").touch()
    Path("blank.jsonl").write_text('{"text": ""}\n')
    Path("numbers.jsonl").write_text('{"text": 5}\n')
    before = sorted(Path().rglob("*"))
    assert call(words.split()) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("error: ")
    assert sorted(Path().rglob("*")) == before


def cut_off(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:-3])


def make_whole(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(path)
    name = min(tensors)
    save_file({**tensors, name: tensors[name].long()}, path, {"format": "pt"})


def flip_a_bit(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[0]
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def lose_a_value(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[3] = math.nan
    save_file(tensors, path)
    tree = json.loads((folder / "emsfl.json").read_text())
    tree["files"][path.name] = blake3_of_file(path)
    (folder / "emsfl.json").write_text(json.dumps(tree))


def lie_in_the_manifest(folder: Path) -> None:
    tree = json.loads((folder / "emsfl.json").read_text())
    tree["layers"][0]["owned"] = [0, 1, 2, 9]
    (folder / "emsfl.json").write_text(json.dumps(tree))


def claim_anothers_expert(folder: Path) -> None:
    tree = json.loads((folder / "emsfl.json").read_text())
    tree["layers"][0]["owned"][0] = 3
    (folder / "emsfl.json").write_text(json.dumps(tree))


def pickle_it(folder: Path) -> None:
    for path in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


@pytest.mark.parametrize(
    ("where", "damage", "message"),
    [
        ("parts/b", cut_off, "it is damaged or cut off; fetch it again"),
        ("base", cut_off, "it is damaged or cut off; fetch it again"),
        ("parts/b", flip_a_bit, "is not the file that emsfl.json lists"),
        ("base", flip_a_bit, "the updates are for base model"),
        ("parts/b", lose_a_value, "holds a value that is not finite"),
        ("parts/b", lie_in_the_manifest, "expert ids must ascend within 0..7"),
        ("parts/b", claim_anothers_expert, "claimed by the updates of both a and b"),
        ("parts/b", pickle_it, "holds pickle files (pytorch_model.bin), which can run code"),
        ("base", pickle_it, "holds pickle files (pytorch_model.bin), which can run code"),
    ],
)
def test_a_merge_of_damaged_input_leaves_nothing(
    base_and_parts: Path, capsys: Any, where: str, damage: Callable[[Path], None], message: str
) -> None:
    work = base_and_parts
    damage(work / where)
    refused_merge(work, "base", capsys, message)


def test_a_merge_into_another_base_leaves_nothing(base_and_parts: Path, capsys: Any) -> None:
    refused_merge(base_and_parts, "other", capsys, "the updates are for base model")


def refused_merge(work: Path, base: str, capsys: Any, message: str) -> None:
    before = sorted(work.rglob("*"))
    words = ["merge", work / base, "--updates", work / "parts" / "a", "--updates",
             work / "parts" / "b", "--out", work / "merged"]  # fmt: skip
    assert call([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("error: ")
    assert sorted(work.rglob("*")) == before
