"""Split, tune and merge on disk: restarts, damaged files, updates that do not fit."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from emsfl.errors import DataError, UpdateRefusedError
from emsfl.files import sha256_of
from emsfl.moe import split_checkpoint, tensor_files
from emsfl.moe import updates as updates_module
from emsfl.moe.checkpoint import open_checkpoint
from emsfl.moe.gate_wrapper import has_gate
from emsfl.moe.inspection import inspect_checkpoint
from emsfl.moe.manifests import Manifest, read_document
from emsfl.moe.merge_checkpoint import merge_checkpoint
from emsfl.moe.split_checkpoint import split_checkpoint as split
from emsfl.moe.tensor_files import blake3_of_file
from emsfl.training import tune as tune_module
from emsfl.training.tune import TuneSettings, tune
from tests.reference.tiny_models import make_assignment, make_table, save_dense, save_model

SETTINGS = TuneSettings(num_steps=4, batch_size=4, learning_rate=1e-2, save_every=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("mixtral") / "base"
    save_model("mixtral", folder)
    return folder


@pytest.fixture(scope="module")
def parts(base: Path) -> Path:
    split(base, make_assignment(base, a=(0, 2, 4, 6), b=(1, 3, 5)), base.parent / "p", name="x")
    return base.parent / "p"


@pytest.fixture(scope="module")
def updates(parts: Path) -> list[Path]:
    folders = []
    for seed, cluster in enumerate("ab"):
        folders.append(parts.parent / f"update_{cluster}")
        tune(parts / cluster, make_table(seed), folders[-1], SETTINGS)
    return folders


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): blake3_of_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Stop(BaseException):
    """Stands for kill -9: nothing that the program does may react to it."""


def stop_after(monkeypatch: Any, module: Any, name: str, count: int) -> None:
    """Let a function fail from its `count`-th call on, leaving what lies on disk as it is."""
    real, calls = getattr(module, name), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) >= count:
            raise Stop
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, counted)


@pytest.mark.parametrize("count", [1, 4, 9, 12])
def test_a_stopped_split_goes_on_to_the_same_result(
    base: Path, parts: Path, tmp_path: Path, monkeypatch: Any, count: int
) -> None:
    wanted = make_assignment(base, a=(0, 2, 4, 6), b=(1, 3, 5))
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(patch, split_checkpoint, "write_file", count)
        split(base, wanted, tmp_path, name="x")
    whole = [p for p in tmp_path.iterdir() if not p.name.startswith(".")]
    assert all(tree(p) == tree(parts / p.name) for p in whole)
    again = split(base, wanted, tmp_path, name="x")
    assert [part.was_there for part in again] == [part.folder in whole for part in again]
    assert tree(tmp_path) == tree(parts)


def test_a_stopped_merge_goes_on_to_the_same_result(
    base: Path, updates: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    merge_checkpoint(base, updates, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(patch, split_checkpoint, "write_file", 3)
        merge_checkpoint(base, updates, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not merge_checkpoint(base, updates, tmp_path / "out").was_there
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert merge_checkpoint(base, updates, tmp_path / "out").was_there
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "whole"]


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_stopped_tuning_goes_on_to_the_same_bits(
    parts: Path, tmp_path: Path, monkeypatch: Any, mode: str
) -> None:
    settings = SETTINGS.model_copy(update={"mode": mode, "num_steps": 5})
    tune(parts / "a", make_table(0), tmp_path / "whole", settings)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(patch, tune_module, "logits_of", 4)
        tune(parts / "a", make_table(0), tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()
    assert tune(parts / "a", make_table(0), tmp_path / "out", settings).resumed_at_step == 2
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_shared_parameters_move_by_the_weighted_mean(
    base: Path, updates: list[Path], tmp_path: Path
) -> None:
    """Against a formula written out on whole tensors; weights are the tables' sizes, 1/2 each."""
    merged = merge_checkpoint(base, updates, tmp_path / "merged")
    assert not merged.has_gate and not has_gate(merged.folder)
    tensors = load_all(merged.folder)
    old = load_all(base)
    new = [load_file(folder / "model.safetensors") for folder in updates]
    for name, before in old.items():
        if "experts" in name:
            continue
        after = [u[name] for u in new if name in u]
        assert len(after) == (0 if "gate" in name else 2), name
        expected = before.double() + sum(0.5 * (t.double() - before.double()) for t in after)
        assert torch.equal(tensors[name], expected.to(before.dtype)), name
    assert torch.equal(
        tensors["model.layers.1.block_sparse_moe.experts.3.w2.weight"],
        new[1]["model.layers.1.block_sparse_moe.experts.1.w2.weight"],
    )
    nobody = "model.layers.1.block_sparse_moe.experts.7.w2.weight"
    assert torch.equal(tensors[nobody], old[nobody])


def test_a_merged_model_is_the_base_of_the_next_round(
    base: Path, updates: list[Path], tmp_path: Path
) -> None:
    merged = merge_checkpoint(base, updates, tmp_path / "merged").folder
    wanted = make_assignment(merged, a=(0, 1), b=(2, 3))
    again = split(merged, wanted, tmp_path / "parts", name="round 1")
    assert not any(has_gate(part.folder) for part in again)
    second = merge_checkpoint(merged, [part.folder for part in again], tmp_path / "second")
    assert not second.has_gate and not has_gate(second.folder)
    assert second.files == {n: blake3_of_file(merged / n) for n in second.files}


def load_all(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for name in open_checkpoint(folder).headers:
        tensors.update(load_file(folder / name))
    return tensors


def rewrite(folder: Path, **changes: Any) -> None:
    """Change fields of a manifest and let it list the tensor file that is there."""
    path = folder / "emsfl.json"
    document = {**json.loads(path.read_text()), **changes}
    document["files"] = {"model.safetensors": blake3_of_file(folder / "model.safetensors")}
    path.write_text(json.dumps(document))


@pytest.fixture
def copied(updates: list[Path], tmp_path: Path) -> list[Path]:
    return [Path(shutil.copytree(u, tmp_path / u.name)) for u in updates]


def refuse(base: Path, folders: list[Path], out: Path, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        merge_checkpoint(base, folders, out)
    assert not list(out.parent.glob(f"*{out.name}*")), "nothing may be written"


def test_a_truncated_file_is_refused(base: Path, copied: list[Path], tmp_path: Path) -> None:
    path = copied[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refuse(base, copied, tmp_path / "out", DataError, "damaged or cut off")
    path.write_bytes(b"\x10")
    refuse(base, copied, tmp_path / "out", DataError, "header is cut off")


def test_a_flipped_bit_is_refused(base: Path, copied: list[Path], tmp_path: Path) -> None:
    path = copied[0] / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    refuse(base, copied, tmp_path / "out", DataError, "changed or damaged")


def test_a_changed_base_is_refused(base: Path, copied: list[Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(base, tmp_path / "other"))
    path = sorted(other.glob("*.safetensors"))[0]
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    refuse(other, copied, tmp_path / "out", DataError, "are for base model x")


def test_updates_of_two_base_models_are_refused(
    base: Path, copied: list[Path], tmp_path: Path
) -> None:
    manifest = read_document(Manifest, copied[0] / "emsfl.json")
    rewrite(copied[0], base={**manifest.base.model_dump(mode="json"), "sha256": "0" * 64})
    refuse(base, copied, tmp_path / "out", DataError, "another base model")


def test_an_expert_claimed_twice_is_refused(base: Path, tmp_path: Path) -> None:
    for name, ids in {"a": (0, 1), "b": (1, 2)}.items():
        split(base, make_assignment(base, **{name: ids}), tmp_path, name="x")
    folders = [tmp_path / "a", tmp_path / "b"]
    refuse(base, folders, tmp_path / "out", DataError, "expert 1 of .* claimed by .* a and b")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(
    base: Path, copied: list[Path], tmp_path: Path, value: float
) -> None:
    path = copied[1] / "model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[3]
    tensors[name].view(-1)[5] = value
    save_file(tensors, path)
    rewrite(copied[1])
    refuse(base, copied, tmp_path / "out", UpdateRefusedError, f"{name} holds a value that is not")


def test_tensors_without_a_place_are_refused(
    base: Path, copied: list[Path], tmp_path: Path
) -> None:
    path = copied[1] / "model.safetensors"
    tensors = load_file(path)
    first = next(name for name in sorted(tensors) if "experts" in name)
    for broken, words in (
        ({**tensors, "model.extra": torch.ones(2)}, "model.extra has no place"),
        ({**tensors, first: tensors[first][:-1].contiguous()}, "where the base model has F32"),
        ({n: t for n, t in tensors.items() if n != first}, "lacks tensor"),
    ):
        save_file(broken, path)
        rewrite(copied[1])
        refuse(base, copied, tmp_path / "out", DataError, words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "must hold a JSON object"),
        ('{"format_version": 2}', "is no Manifest: content"),
        ('{"format_version": 1}', "of an older emsfl; make it anew"),
        ('{"format_version": 3}', "format version 3; update emsfl"),
    ],
)
def test_a_wrong_manifest_is_refused(
    base: Path, copied: list[Path], tmp_path: Path, content: str, words: str
) -> None:
    (copied[0] / "emsfl.json").write_text(content)
    refuse(base, copied, tmp_path / "out", DataError, words)


def test_one_cluster_twice_is_refused(base: Path, copied: list[Path], tmp_path: Path) -> None:
    twice = [copied[0], copied[0]]
    refuse(base, twice, tmp_path / "out", DataError, "two updates are of cluster a")


def test_pickle_checkpoints_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(DataError, match=r"pickle files .* convert the checkpoint to safetensors"):
        open_checkpoint(tmp_path)


def test_a_dense_model_is_no_mixture(tmp_path: Path) -> None:
    save_dense("LlamaForCausalLM", tmp_path)
    with pytest.raises(DataError, match="looked for a module with a child 'experts'"):
        inspect_checkpoint(tmp_path)


def test_an_assignment_for_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    wanted = make_assignment(base, a=(0, 1))
    for change, words in (
        ({"structure_sha256": "0" * 64}, "made for another model"),
        ({"num_experts": 16}, "2 layers of 16 experts"),
        (
            {"clusters": {"a": wanted.clusters["a"].model_copy(update={"owned": ((0,), (1,))})}},
            "1 experts per layer, but a token uses 2",
        ),
        (
            {
                "clusters": {
                    "a": wanted.clusters["a"].model_copy(update={"owned": ((0, 1), (1, 2, 3))})
                }
            },
            "one number for all layers",
        ),
    ):
        with pytest.raises(DataError, match=words):
            split(base, wanted.model_copy(update=change), tmp_path / "out", name="x")
        assert not (tmp_path / "out").exists()


def test_routing_groups_are_respected(tmp_path: Path) -> None:
    save_model("deepseek_v3", tmp_path / "base")
    wanted = make_assignment(tmp_path / "base", a=(0, 1, 2, 4))
    with pytest.raises(DataError, match="2 groups of 4 experts"):
        split(tmp_path / "base", wanted, tmp_path / "out", name="x")


def test_a_smaller_local_top_k_is_written_into_the_sub_model(base: Path, tmp_path: Path) -> None:
    wanted = make_assignment(base, a=(5,)).model_copy(update={"local_top_k": 1})
    part = split(base, wanted, tmp_path, name="x")[0]
    config = json.loads((part.folder / "config.json").read_text())
    assert (config["num_local_experts"], config["num_experts_per_tok"]) == (1, 1)


def test_headers_that_lie_are_refused(tmp_path: Path) -> None:
    def write(header: dict[str, Any], data: bytes) -> Path:
        text = json.dumps(header).encode()
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
        return tmp_path / "x.safetensors"

    good = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    assert tensor_files.read_header(write({"a": good}, b"\0" * 8))[1]["a"].shape == (2,)
    for header, words in (
        ({"a": {**good, "shape": [3]}}, "does not fit its 8 bytes"),
        ({"a": {**good, "dtype": "X9"}}, "dtype X9, which is not supported"),
        ({"a": good, "b": good}, "overlaps another"),
        ({"a": {**good, "data_offsets": [8, 16]}}, "leaves a hole"),
        ({"a": {"dtype": "F32"}}, "not safetensors"),
    ):
        with pytest.raises(DataError, match=words):
            tensor_files.read_header(write(header, b"\0" * 8))


def test_manifest_hashes_are_those_of_the_files(parts: Path, base: Path) -> None:
    manifest = read_document(Manifest, parts / "a" / "emsfl.json")
    assert manifest.files == {n: blake3_of_file(parts / "a" / n) for n in manifest.files}
    expected = {n: blake3_of_file(base / n) for n in open_checkpoint(base).headers}
    assert manifest.base.file_blake3 == expected
    assert manifest.base.sha256 == sha256_of(expected)


def test_what_a_merge_copies_is_checked_without_reading_it_again(
    base: Path, parts: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """No more is left for the end than the last router's rows."""
    taken: dict[str, list[int]] = {}
    real = updates_module.FileCheck.finish

    def finish(check: Any) -> None:
        taken.setdefault(check._path.parent.name, []).append(check._end - check._position)
        real(check)

    monkeypatch.setattr(updates_module.FileCheck, "finish", finish)
    merge_checkpoint(base, [parts / "a", parts / "b"], tmp_path / "out")
    largest_router = 4 * 16 * 4
    assert set(taken) == {"a", "b"}
    assert all(left <= largest_router for lefts in taken.values() for left in lefts), taken
