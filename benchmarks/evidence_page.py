"""Write docs/evidence.md and its figures from the rows and the search, and nothing else.

python benchmarks/evidence_page.py
"""

from __future__ import annotations

import json

from suite.page import write_page
from suite.scenarios import ROOT


def main() -> None:
    """Read both files, write the page."""
    results = ROOT / "benchmarks/results"
    rows = json.loads((results / "evidence.json").read_text(encoding="utf-8"))["rows"]
    tuning = json.loads((results / "tuning.json").read_text(encoding="utf-8"))
    write_page(rows, tuning, ROOT / "docs/evidence.md")


if __name__ == "__main__":
    main()
