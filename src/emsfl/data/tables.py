"""Any table of texts or images as a data set of the federation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emsfl.data.config import TableConfig
from emsfl.data.files import Columns, Table, read_table
from emsfl.data.pool import Pool, Sizes, Tokenise, divide
from emsfl.data.samples import FederatedData
from emsfl.errors import DataError


def load_table(
    config: TableConfig, clusters: Sequence[str], seed: int, tokenise: Tokenise | None
) -> FederatedData:
    """Read and divide a table.

    Raises:
        DataError: it cannot be read.
        ConfigError: the parts ask for more than there is, or the model reads no such inputs.
    """
    columns = Columns(
        input=config.input_column, label=config.label_column, domain=config.domain_column
    )
    table = read_table(config.source, columns, split=config.source_split)
    sizes = Sizes(
        public=config.num_public,
        validation=config.num_validation,
        test=config.num_test,
        tuning=config.num_tuning,
    )
    return divide(
        pool_of(config.source, table, config.image_px),
        sizes,
        config.split,
        clusters,
        config.devices_per_cluster,
        config.dirichlet_alpha,
        tokenise,
        np.random.default_rng([seed, 1]),
    )


def pool_of(name: str, table: Table, image_px: int) -> Pool:
    """Return a table's samples: classes and domains numbered in the order of their names.

    Images become grey, square, `image_px` wide and high, in 0..1.

    Raises:
        DataError: the inputs are neither texts nor images.
    """
    labels = table.labels if table.labels is not None else ("",) * len(table)
    classes, numbers = np.unique(np.asarray(labels), return_inverse=True)
    domains, domain = np.unique(np.asarray(table.domains), return_inverse=True)
    first = table.inputs[0]
    inputs: NDArray[np.float32] | tuple[str, ...]
    if isinstance(first, str):
        inputs = table.inputs
    elif hasattr(first, "convert"):
        inputs = np.stack(
            [
                np.asarray(image.convert("L").resize((image_px, image_px)), dtype=np.float32)
                for image in table.inputs
            ]
        ) / np.float32(255)
    else:
        raise DataError(f"{name}: the inputs are neither texts nor images")
    return Pool(
        name=name,
        inputs=inputs,
        labels=numbers.astype(np.int64).reshape(-1),
        classes=tuple(classes.tolist()),
        domain=domain.astype(np.int64).reshape(-1),
        domains=tuple(domains.tolist()),
    )
