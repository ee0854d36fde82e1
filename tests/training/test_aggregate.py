"""Sums over models."""

import torch

from emsfl.training import add_scaled, difference, mix, num_bytes, weighted_mean

A = {"x": torch.tensor([1.0, 2.0]), "y": torch.tensor([[4.0]])}
B = {"x": torch.tensor([3.0, 6.0]), "y": torch.tensor([[8.0]])}


def test_weighted_mean():
    mean = weighted_mean([A, B], [0.25, 0.75])
    assert mean["x"].tolist() == [2.5, 5.0]
    assert mean["y"].tolist() == [[7.0]]
    assert A["x"].tolist() == [1.0, 2.0]


def test_mean_of_one_is_an_exact_copy():
    odd = {"x": torch.tensor([0.1, -0.0, 1e-40])}
    mean = weighted_mean([odd], [1.0])
    assert mean["x"].numpy().tobytes() == odd["x"].numpy().tobytes()
    assert mean["x"] is not odd["x"]


def test_mix_difference_and_sum():
    assert mix(A, B, 0.5)["x"].tolist() == [2.0, 4.0]
    assert difference(B, A)["x"].tolist() == [2.0, 4.0]
    moved = add_scaled(A, {"x": torch.tensor([1.0, 1.0])}, 0.5)
    assert moved["x"].tolist() == [1.5, 2.5]
    assert moved["y"] is A["y"]
    assert num_bytes(A) == 12
