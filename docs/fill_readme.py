"""Put what `make demo` printed into README.md: `make readme` calls this with the captured text."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

from emsfl.files import sha256_of

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"(<!-- printed result: begin -->\n)(.*?)(<!-- printed result: end -->)", re.DOTALL
)


def main(printed: Path) -> None:
    """Replace the block between the markers by the text in the file `printed`."""
    readme = ROOT / "README.md"
    lines = [line.rstrip() for line in printed.read_text(encoding="utf-8").splitlines()]
    text = "\n".join(lines).strip("\n")
    body = f"{stamp()}\n```text\n{text}\n```\n"
    old = readme.read_text(encoding="utf-8")
    readme.write_text(BLOCK.sub(lambda match: match[1] + body + match[3], old), encoding="utf-8")


def stamp() -> str:
    """Return the line that says which demo config the printed result belongs to."""
    tree = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text(encoding="utf-8"))
    return f"<!-- configs/demo.yaml {sha256_of(str(tree))[:12]} -->"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
