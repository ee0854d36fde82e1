"""Train locally, evaluate, aggregate: tensors in, tensors out."""

from emsfl.training.aggregate import add_scaled, difference, mix, num_bytes, weighted_mean
from emsfl.training.config import LocalSettings, TrainingConfig
from emsfl.training.device import Processor, one_thread
from emsfl.training.executor import Executor, InlineExecutor, Pending
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
from emsfl.training.pretrain import pretrain

__all__ = [
    "EvaluateTask",
    "Executor",
    "InlineExecutor",
    "LocalSettings",
    "MeasureTask",
    "Pending",
    "Processor",
    "TrainResult",
    "TrainTask",
    "TrainingConfig",
    "activation_bytes",
    "add_scaled",
    "difference",
    "evaluate",
    "first_samples",
    "is_trained",
    "measure_domain",
    "mix",
    "num_bytes",
    "one_thread",
    "pretrain",
    "score_experts",
    "train_locally",
    "weighted_mean",
]
