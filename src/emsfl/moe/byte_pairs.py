"""Sentences as language-modelling samples: a tokenizer, token ids, and the bytes they stand for.

The tokenizer is byte-level BPE (Sennrich et al., arXiv 1508.07909, over bytes), so that every text
has token ids and every token stands for a fixed number of bytes: bits per byte compare models
whatever their vocabulary. It is trained on public text alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsfl.errors import DataError

PAD = 0
"""Fills a row after its last token; never predicted."""
END = 1
"""Begins and ends every sentence; at the end it stands for one byte, the line break."""
NUM_SPECIAL = 2
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Tokenizer:
    """Byte-level BPE over UTF-8."""

    model: Any
    """A `tokenizers.Tokenizer` without special tokens; its ids are shifted by `NUM_SPECIAL`."""

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, `PAD` and `END` included."""
        return int(self.model.get_vocab_size()) + NUM_SPECIAL

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Integers, Integers]:
        """Return token ids [N, max_tokens], and the bytes [N] that the predicted ones stand for.

        A row is `END`, the text, `END`, then `PAD` up to `max_tokens`; longer texts are cut and do
        not end with `END`. Every token after the first is predicted.

        Args:
            texts: without line breaks.
            max_tokens: length of a row, at least 2.
        """
        widths = self._widths()
        inputs = np.full((len(texts), max_tokens), PAD, dtype=np.int64)
        num_bytes = np.zeros(len(texts), dtype=np.int64)
        for row, encoding in enumerate(self.model.encode_batch(list(texts))):
            ids = [END, *(i + NUM_SPECIAL for i in encoding.ids), END][:max_tokens]
            inputs[row, : len(ids)] = ids
            num_bytes[row] = widths[ids[1:]].sum()
        return inputs, num_bytes

    def _widths(self) -> Integers:
        """Return the number of bytes per token id (a byte-level token has one character each)."""
        widths = np.zeros(self.vocabulary_size, dtype=np.int64)
        widths[END] = 1
        for token, number in self.model.get_vocab().items():
            widths[number + NUM_SPECIAL] = len(token)
        return widths


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Train byte-level BPE; the same texts in the same order give the same tokenizer.

    Args:
        texts: public text.
        vocabulary_size: token ids in all, at least 256 bytes and the two special ones. Little text
            may give fewer.

    Raises:
        DataError: the package tokenizers is not installed.
    """
    try:
        from tokenizers import Tokenizer as Model
        from tokenizers.decoders import ByteLevel as ByteLevelDecoder
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import ByteLevel
        from tokenizers.trainers import BpeTrainer
    except ImportError:
        raise DataError(
            "language modelling needs the package tokenizers; run: pip install 'emsfl[hf]'"
        ) from None
    model = Model(BPE())
    model.pre_tokenizer = ByteLevel(add_prefix_space=False)
    model.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocabulary_size - NUM_SPECIAL,
        min_frequency=2,
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    return Tokenizer(model)
