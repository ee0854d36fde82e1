"""The documents that travel between `score`, `assign`, `split`, `tune` and `merge`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from emsfl.config import ConfigModel
from emsfl.errors import DataError
from emsfl.files import sha256_of, write_json
from emsfl.moe.adapter import Owned
from emsfl.moe.domain_statistics import Pooling
from emsfl.moe.pretrained import read_json
from emsfl.moe.scoring import ScoreKind

FORMAT_VERSION: Final = 2
MANIFEST_NAME = "emsfl.json"
SAFE_NAME = re.compile(r"[\w][\w .-]*")
"""Names of clusters: they become names of folders."""


def check_cluster_name(name: str) -> str:
    """Return `name` if it can be the name of a folder; raise ValueError else."""
    if not SAFE_NAME.fullmatch(name):
        raise ValueError(f"cluster name {name!r} may hold letters, digits, '_', '.', '-', ' ' only")
    return name


def check_ids(where: str, ids: Sequence[int], num_experts: int) -> None:
    """Raise ValueError unless expert ids ascend and are in range."""
    if list(ids) != sorted(set(ids)) or not all(0 <= expert < num_experts for expert in ids):
        raise ValueError(f"{where}: expert ids must ascend within 0..{num_experts - 1}")


class Document(ConfigModel):
    """Base of the documents."""

    format_version: Literal[2] = FORMAT_VERSION


class LayerScores(ConfigModel):
    """Scores of one MoE layer."""

    name: str
    scores: tuple[float, ...]
    """Per expert, non-negative; they sum to 1."""


class StatisticsInfo(ConfigModel):
    """What is said about the domain statistics that lie beside a scores file."""

    sha256: str
    """Of their file."""
    pooling: Pooling
    features: tuple[str, ...]
    """Stored names of the tensors that the features depend on."""
    features_sha256: str
    """Of these tensors."""


class ScoresFile(Document):
    """What one cluster's data say about the experts: the output of `emsfl score`."""

    cluster: str
    kind: ScoreKind
    structure_sha256: str
    """Of the checkpoint that was scored."""
    num_samples: int = Field(ge=1)
    num_tokens: int = Field(ge=1)
    layers: tuple[LayerScores, ...]
    statistics: StatisticsInfo | None = None
    """For the domain gate."""

    _name = field_validator("cluster")(check_cluster_name)


class ClusterAssignment(ConfigModel):
    """One cluster's experts."""

    owned: Owned
    """Per MoE layer, ascending ids."""
    mass_kept: tuple[float, ...]
    """Per MoE layer, the share of the cluster's routing weight on its own experts, 0..1."""
    num_samples: int = Field(ge=1)


class AssignmentFile(Document):
    """Which cluster owns which experts: the output of `emsfl assign`."""

    structure_sha256: str
    kind: ScoreKind
    layers: tuple[str, ...]
    num_experts: int = Field(ge=1)
    """Per layer."""
    local_top_k: int | None = Field(default=None, ge=1)
    """Experts per token in the sub-models, where that is less than in the full model."""
    clusters: Mapping[str, ClusterAssignment]

    @model_validator(mode="after")
    def _check(self) -> AssignmentFile:
        for name, part in self.clusters.items():
            check_cluster_name(name)
            if len(part.owned) != len(self.layers):
                raise ValueError(
                    f"cluster {name} lists {len(part.owned)} of {len(self.layers)} layers"
                )
            for layer, ids in zip(self.layers, part.owned, strict=True):
                check_ids(f"cluster {name}, {layer}", ids, self.num_experts)
        return self


class BaseModelInfo(ConfigModel):
    """The checkpoint that a sub-model was cut from."""

    name: str
    """Folder name or hub name, for people only."""
    sha256: str
    """Hash of the hashes of its tensor files."""
    file_blake3: Mapping[str, str]

    @classmethod
    def of(cls, name: str, file_blake3: Mapping[str, str]) -> BaseModelInfo:
        """Describe the base model whose tensor files have these hashes."""
        return cls(name=name, sha256=sha256_of(dict(file_blake3)), file_blake3=dict(file_blake3))


class LayerInfo(ConfigModel):
    """One MoE layer of the base model, and the part of it that a sub-model holds."""

    name: str
    num_experts: int = Field(ge=1)
    owned: tuple[int, ...]
    """Original ids; a sub-model's expert i is the base model's `owned[i]`."""

    @model_validator(mode="after")
    def _check(self) -> LayerInfo:
        check_ids(self.name, self.owned, self.num_experts)
        return self


class TrainingInfo(ConfigModel):
    """How an update was trained."""

    num_steps: int = Field(ge=0)
    num_samples: int = Field(ge=1)
    """Samples of the cluster's data: the update's weight in the mean of the shared parameters."""
    mode: str
    train_shared: bool
    settings: Mapping[str, str | int | float | bool | tuple[str, ...] | None]
    mean_loss: float | None
    """Over the last tenth of the steps."""


class Manifest(Document):
    """What a folder holds: a sub-model as cut, or an update after local training."""

    content: Literal["sub_model", "update"]
    cluster: str
    plan_sha256: str
    """Hash of the base model and the part of it that this is: equal plans give equal folders."""
    base: BaseModelInfo
    layers: tuple[LayerInfo, ...]
    files: Mapping[str, str]
    """Tensor file -> BLAKE3 hash."""
    num_samples: int = Field(ge=1)
    training: TrainingInfo | None = None

    _name = field_validator("cluster")(check_cluster_name)

    @property
    def owned(self) -> Owned:
        """Per MoE layer, the original ids of its experts."""
        return tuple(layer.owned for layer in self.layers)


DocumentT = TypeVar("DocumentT", bound=BaseModel)


def read_document(model: type[DocumentT], path: Path) -> DocumentT:
    """Read a document.

    Raises:
        DataError: missing, not JSON, or not of this kind; the message names the first problem.
    """
    tree = read_json(path)
    version = tree.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise DataError(f"{path} has format version {version}; update emsfl to read it")
    if isinstance(version, int) and version < FORMAT_VERSION:
        raise DataError(f"{path} has format version {version}, of an older emsfl; make it anew")
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise DataError(f"{path} is no {model.__name__}: {where}: {first['msg']}") from None


def write_document(path: Path, document: BaseModel) -> None:
    """Write a document, atomically."""
    write_json(path, document.model_dump(mode="json"))
