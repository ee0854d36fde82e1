"""Tables as a model takes them in: batches of tokens or pixels, and the loss of the model's task.

Shapes: B samples, S tokens, V vocabulary, N classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from emsfl.data.files import Table
from emsfl.errors import DataError
from emsfl.moe.domain_statistics import Pooling
from emsfl.moe.pretrained import load_image_processor, load_tokenizer

IGNORED = -100
"""Label of a position that does not count, as torch's cross-entropy has it."""


class TaskKind(StrEnum):
    """What a model predicts."""

    CAUSAL_LANGUAGE = "causal_language"
    SEQUENCE_TO_SEQUENCE = "sequence_to_sequence"
    CLASSIFICATION = "classification"


SUFFIXES = {
    "ForCausalLM": TaskKind.CAUSAL_LANGUAGE,
    "ForConditionalGeneration": TaskKind.SEQUENCE_TO_SEQUENCE,
    "ForSequenceClassification": TaskKind.CLASSIFICATION,
    "ForImageClassification": TaskKind.CLASSIFICATION,
}
"""End of a model class's name -> its task."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Model inputs and what they are judged by."""

    inputs: dict[str, Tensor]
    targets: Tensor
    """[B, S] or [B], `IGNORED` where there is none; aligned with the logits."""

    def loss_sum(self, logits: Tensor) -> Tensor:
        """Return the sum of cross-entropies (nats) over all targets."""
        flat = logits.float().reshape(-1, logits.shape[-1])
        return functional.cross_entropy(
            flat, self.targets.reshape(-1), ignore_index=IGNORED, reduction="sum"
        )

    @property
    def num_targets(self) -> int:
        """Tokens, or samples, that are predicted."""
        return int((self.targets != IGNORED).sum())


class TableTask:
    """Turns rows of a table into batches for one model."""

    def __init__(self, model: nn.Module, folder: Path, table: Table, max_length: int) -> None:
        """Prepare the tokenizer or image processor of the model in `folder`.

        Raises:
            DataError: a model whose task is not known, or a table that does not fit the task.
        """
        name = type(model).__name__
        kinds = [kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)]
        if not kinds:
            raise DataError(
                f"{name} has no task that is known here; its name must end in {', '.join(SUFFIXES)}"
            )
        self.kind, self.table, self.max_length = kinds[0], table, max_length
        if self.kind is not TaskKind.CAUSAL_LANGUAGE and table.labels is None:
            raise DataError(f"{name} needs a column of labels")
        self.config: Any = model.config
        self.has_images = not isinstance(table.inputs[0], str)
        self.encode = load_image_processor(folder) if self.has_images else load_tokenizer(folder)
        self.class_ids = self._class_ids() if self.kind is TaskKind.CLASSIFICATION else {}

    @property
    def pooling(self) -> Pooling:
        """What the domain gate of such a model looks at."""
        causal = self.kind is TaskKind.CAUSAL_LANGUAGE
        return Pooling.PREFIX if causal else Pooling.SEQUENCE

    def restricted(self, rows: Sequence[int]) -> TableTask:
        """Return the task on some rows of its table."""
        other = copy(self)
        other.table = self.table.take(rows)
        return other

    def _class_ids(self) -> dict[str, int]:
        known = {str(label): int(i) for label, i in (self.config.label2id or {}).items()}
        known.update({str(i): i for i in range(self.config.num_labels)})
        for label in self.table.labels or ():
            if label not in known:
                raise DataError(
                    f"label {label!r} is none of the model's: {', '.join(sorted(known))}"
                )
        return known

    def batch(self, rows: Sequence[int]) -> Batch:
        """Return the samples `rows`, padded on the right to the longest.

        Raises:
            DataError: texts without a token.
        """
        samples = [self.table.inputs[row] for row in rows]
        labels = self.table.labels
        inputs = self._encoded(samples)
        if self.kind is TaskKind.CLASSIFICATION:
            assert labels is not None
            return Batch(
                inputs=inputs,
                targets=torch.tensor([self.class_ids[labels[row]] for row in rows]),
            )
        if self.kind is TaskKind.CAUSAL_LANGUAGE:
            targets = _without_padding(inputs)
            targets = functional.pad(targets[:, 1:], (0, 1), value=IGNORED)
            return Batch(inputs=inputs, targets=targets)
        assert labels is not None
        answers = self._encoded([labels[row] for row in rows])
        targets = _without_padding(answers)
        start = int(self.config.decoder_start_token_id)
        inputs["decoder_input_ids"] = functional.pad(
            answers["input_ids"][:, :-1], (1, 0), value=start
        )
        inputs["decoder_attention_mask"] = answers["attention_mask"]
        return Batch(inputs=inputs, targets=targets)

    def _encoded(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        if self.has_images:
            images = [image.convert("RGB") for image in samples]
            return {"pixel_values": self.encode(images, return_tensors="pt")["pixel_values"]}
        encoded = self.encode(
            list(samples),
            padding=True,
            truncation=True,
            max_length=self.max_length,
            padding_side="right",
            return_tensors="pt",
            return_token_type_ids=False,
        )
        if not encoded["input_ids"].shape[1]:
            raise DataError(f"the text {samples[0]!r} has no tokens; leave such rows out")
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


def _without_padding(encoded: dict[str, Tensor]) -> Tensor:
    return encoded["input_ids"].masked_fill(encoded["attention_mask"] == 0, IGNORED)


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """Return the model's logits for a batch."""
    logits: Tensor = model(**batch.inputs).logits
    return logits
