"""Train locally, evaluate, aggregate: tensors in, tensors out."""

from emsfl.training.aggregate import (
    add_scaled,
    coordinate_median,
    difference,
    mix,
    num_bytes,
    trimmed_mean,
    weighted_mean,
)
from emsfl.training.config import LocalSettings, TrainingConfig
from emsfl.training.constants import ConstantsTask, LocalConstants, local_constants
from emsfl.training.device import Processor, one_thread
from emsfl.training.executor import Executor, InlineExecutor, Pending
from emsfl.training.gate_cost import GateCost, GateTask, gate_cost
from emsfl.training.local import TrainResult, TrainTask, is_trained, train_locally
from emsfl.training.measure import (
    EvaluateTask,
    MeasureTask,
    evaluate,
    first_samples,
    measure_domain,
    score_experts,
)
from emsfl.training.memory import activation_bytes
from emsfl.training.plain_sgd import PlainTask, train_plainly
from emsfl.training.pretrain import pretrain

__all__ = [
    "ConstantsTask",
    "EvaluateTask",
    "Executor",
    "GateCost",
    "GateTask",
    "InlineExecutor",
    "LocalConstants",
    "LocalSettings",
    "MeasureTask",
    "Pending",
    "PlainTask",
    "Processor",
    "TrainResult",
    "TrainTask",
    "TrainingConfig",
    "activation_bytes",
    "add_scaled",
    "coordinate_median",
    "difference",
    "evaluate",
    "first_samples",
    "gate_cost",
    "is_trained",
    "local_constants",
    "measure_domain",
    "mix",
    "num_bytes",
    "one_thread",
    "pretrain",
    "score_experts",
    "train_locally",
    "train_plainly",
    "trimmed_mean",
    "weighted_mean",
]
