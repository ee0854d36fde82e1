"""What a run leaves behind: its folder, its result, tables, comparison and page; knows no torch."""

from emsfl.results.bound_page import write_bound_page
from emsfl.results.checkpoint import read_checkpoint, write_checkpoint
from emsfl.results.compare import Comparison, compare_runs, print_comparison, read_runs
from emsfl.results.labels import method_label
from emsfl.results.provenance import collect_provenance
from emsfl.results.report import render_report, write_report
from emsfl.results.run_folder import EventLog, RunFolder
from emsfl.results.schema import (
    SCHEMA_VERSION,
    Assignment,
    ClusterTimeline,
    ContactStatistics,
    CurvePoint,
    MethodResult,
    Provenance,
    RunResult,
    Spread,
    TimeToTarget,
)
from emsfl.results.sinks import Sinks
from emsfl.results.summary import SeedRecord, build_result
from emsfl.results.tables import print_result, print_tables, sweep_table, table_console

__all__ = [
    "SCHEMA_VERSION",
    "Assignment",
    "ClusterTimeline",
    "Comparison",
    "ContactStatistics",
    "CurvePoint",
    "EventLog",
    "MethodResult",
    "Provenance",
    "RunFolder",
    "RunResult",
    "SeedRecord",
    "Sinks",
    "Spread",
    "TimeToTarget",
    "build_result",
    "collect_provenance",
    "compare_runs",
    "method_label",
    "print_comparison",
    "print_result",
    "print_tables",
    "read_checkpoint",
    "read_runs",
    "render_report",
    "sweep_table",
    "table_console",
    "write_bound_page",
    "write_checkpoint",
    "write_report",
]
