"""The tokenizer: deterministic, and its tokens stand for the bytes of the text."""

from __future__ import annotations

import numpy as np

from emsfl.moe.byte_pairs import END, NUM_SPECIAL, PAD, train_tokenizer

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "Straße, café, naïve: 12 €!"] * 4


def test_bytes_are_those_of_the_text_and_its_end():
    tokenizer = train_tokenizer(TEXTS, 300)
    texts = [*TEXTS[:3], "unseen: 東京 🙂", ""]
    ids, num_bytes = tokenizer.encode(texts, 64)
    assert num_bytes.tolist() == [len(t.encode()) + 1 for t in texts]
    assert ids.shape == (5, 64) and ids.dtype == np.int64
    assert (ids[:, 0] == END).all() and ids[4, :3].tolist() == [END, END, PAD]
    assert ids.max() < tokenizer.vocabulary_size <= 300


def test_a_cut_text_counts_the_bytes_that_are_left():
    tokenizer = train_tokenizer(TEXTS, 300)
    whole, _ = tokenizer.encode(TEXTS[:1], 64)
    ids, num_bytes = tokenizer.encode(TEXTS[:1], 4)
    assert ids[0].tolist() == whole[0, :4].tolist()
    kept = tokenizer.model.decode([i - NUM_SPECIAL for i in ids[0, 1:].tolist()])
    assert num_bytes[0] == len(kept.encode())


def test_the_same_texts_give_the_same_tokenizer():
    first, second = (train_tokenizer(TEXTS, 290).model.to_str() for _ in range(2))
    assert first == second
