"""Gather what all arms found into the result of the run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from emsfl.files import sha256_of
from emsfl.moe import Metric
from emsfl.orbit import ContactPlan
from emsfl.results import (
    Assignment,
    ClusterTimeline,
    ContactStatistics,
    RunFolder,
    RunResult,
    SeedRecord,
    build_result,
    collect_provenance,
)
from emsfl.simulate.arm import ArmResult
from emsfl.simulate.simulate import Scenario
from emsfl.training import EvaluateTask, Executor, evaluate


class Outcome:
    """Collects seeds and arms in the order in which they are run."""

    def __init__(self, name: str, seeds: Sequence[int], plan: ContactPlan) -> None:
        """Start the clock of the run."""
        self.name = name
        self.seeds = list(seeds)
        self.plan = plan
        self.started = time.monotonic()
        self.records: dict[str, list[SeedRecord]] = {}
        self.assignment: dict[str, Assignment] = {}
        self.metric: Metric = "accuracy"
        self.initial_accuracy: list[float] = []
        self.data_hashes: list[str] = []
        self.model_hash: dict[int, str] = {}

    def add_seed(self, scenario: Scenario, executor: Executor) -> None:
        """Judge the pre-trained model and note what the seed's data and model are."""
        test = scenario.data.test
        self.metric = scenario.model.metric
        task = EvaluateTask(
            model=scenario.model,
            num_experts=scenario.model.config.num_experts,
            state=scenario.federation.pretrained,
            samples=test,
            device=scenario.training.device,
        )
        found = executor.submit(evaluate, task).result().values()
        self.initial_accuracy.append(sum(n for n, _ in found) / sum(d for _, d in found))
        self.data_hashes.append(scenario.data.hash())
        state = scenario.federation.pretrained
        self.model_hash[scenario.federation.seed] = sha256_of(
            *[part for name in sorted(state) for part in (name, state[name].numpy())]
        )

    def add_arm(self, trained: str, arm: ArmResult) -> None:
        """Keep the records of one arm; of assignments, the first seed's."""
        for name, record in arm.records.items():
            self.records.setdefault(name, []).append(record)
        if arm.assignment is not None:
            self.assignment.setdefault(trained, arm.assignment)

    def result(self, config: Mapping[str, Any], folder: RunFolder) -> RunResult:
        """Return the result of the run; `config` is the resolved one."""
        return build_result(
            name=self.name,
            seeds=self.seeds,
            records={name: self.records[name] for name in config["methods"]},
            initial_accuracy=self.initial_accuracy,
            assignment=self.assignment,
            timeline=self._timeline(folder),
            contact_statistics=[
                ContactStatistics(**asdict(site)) for site in self.plan.statistics()
            ],
            config=config,
            provenance=collect_provenance(
                wall_time_s=time.monotonic() - self.started,
                config_hash=sha256_of(config),
                plan_hash=self.plan.hash,
                data_hash=sha256_of(self.data_hashes),
                model_hash=self.model_hash,
            ),
            metric=self.metric,
        )

    def _timeline(self, folder: RunFolder) -> dict[str, ClusterTimeline]:
        """Read the first seed's uploads from the events."""
        uploads: dict[str, dict[str, list[tuple[float, float]]]] = {
            site: {} for site in self.plan.sites
        }
        with folder.events_path.open(encoding="utf-8") as lines:
            for line in lines:
                event = json.loads(line)
                if event["event"] == "upload_arrived" and event["seed"] == self.seeds[0]:
                    spans = uploads[event["cluster"]].setdefault(event["method"], [])
                    spans.append((event["started_s"], event["time_s"]))
        return {
            site: ClusterTimeline(
                contacts=[(c.start_s, c.end_s) for c in self.plan.contacts(site)],
                uploads=uploads[site],
            )
            for site in self.plan.sites
        }
