"""Write docs/evidence.md, its figures and the table in README.md from the rows and the search.

python benchmarks/evidence_page.py
"""

from __future__ import annotations

import json

from suite.page import write_page
from suite.scenarios import ROOT
from suite.summary import fill_readme


def main() -> None:
    """Read both files, write all of it."""
    results = ROOT / "benchmarks/results"
    rows = json.loads((results / "evidence.json").read_text(encoding="utf-8"))["rows"]
    tuning = json.loads((results / "tuning.json").read_text(encoding="utf-8"))
    write_page(rows, tuning, ROOT / "docs/evidence.md")
    fill_readme(rows, ROOT / "README.md")


if __name__ == "__main__":
    main()
