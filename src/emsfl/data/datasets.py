"""From the `data` section of a configuration to the data as the federation sees them."""

from __future__ import annotations

from collections.abc import Sequence

from emsfl.data.config import DataConfig, MnistLabelsConfig, MnistRotatedConfig, SentimentConfig
from emsfl.data.mnist import load_labels, load_rotated
from emsfl.data.pool import Tokenise
from emsfl.data.samples import FederatedData
from emsfl.data.sentiment import load_sentiment
from emsfl.data.tables import load_table
from emsfl.errors import ConfigError


def load_data(
    config: DataConfig, clusters: Sequence[str], seed: int, tokenise: Tokenise | None = None
) -> FederatedData:
    """Load the data set of `config` and divide it over `clusters`, seeded by `seed`.

    Args:
        config: which data set, and how it is divided.
        clusters: their names.
        seed: of the division.
        tokenise: how the model reads texts; None: it reads images.

    Raises:
        DataError: the data are not there and cannot be got.
        ConfigError: the parts leave too few samples for the devices, the model does not read such
            data, or an absent cluster takes part.
    """
    absent = config.split.absent
    twice = [name for at, name in enumerate(absent) if name in (*clusters, *absent[:at])]
    if twice:
        raise ConfigError(f"data.split.absent: {twice[0]!r} is a site or named twice; leave it out")
    return _divided(config, [*clusters, *absent], seed, tokenise).without(absent)


def _divided(
    config: DataConfig, clusters: Sequence[str], seed: int, tokenise: Tokenise | None
) -> FederatedData:
    if isinstance(config, MnistRotatedConfig | MnistLabelsConfig):
        if tokenise is not None:
            raise ConfigError(
                f"data set {config.dataset!r} holds images, and model.kind reads text"
            )
        if isinstance(config, MnistLabelsConfig):
            return load_labels(config, clusters, seed)
        return load_rotated(config, clusters, seed)
    if isinstance(config, SentimentConfig):
        return load_sentiment(config, clusters, seed, tokenise)
    return load_table(config, clusters, seed, tokenise)
