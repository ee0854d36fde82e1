"""A node honest but for one answer: `python -m tests.faults.evil KIND join ...`."""

import json
import sys

from emsfl.deploy import worker
from emsfl.deploy.journal import Journal

honest = Journal.write_answer
sent = []


def tampered(kind, tree):
    """Return what an evil node keeps in place of its first honest answer of that kind."""
    update = tree["update"]
    if kind == "nan":
        values = {name: tensor * float("nan") for name, tensor in update.values.items()}
        return {**tree, "update": type(update)(**{**vars(update), "values": values})}
    if kind == "foreign":
        others = tuple(tuple(e + 1 for e in ids) for ids in tree["owned"])
        return {**tree, "owned": others}
    if kind == "replay":
        return sent[-1] if sent else tree
    if kind == "old_base":
        changed = type(update)(**{**vars(update), "version": update.version - 1})
        return {**tree, "update": changed}
    if kind == "zeros":
        return tree
    raise ValueError(kind)


def announce(path, num_bytes):
    """Let the manifest at `path` say that the answer has `num_bytes`."""
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_bytes": num_bytes}))


def main(kind, arguments):
    """Join with a journal that tampers with the third answer."""

    def write_answer(self, work, tree):
        count = len(sent)
        honest(self, work, tampered(kind, tree) if count == 2 else tree)
        if kind == "zeros" and count == 2:
            announce(self._outbox(work).with_suffix(".json"), 10 * 1024**3)
        sent.append(tree)

    worker.Journal.write_answer = write_answer
    sys.argv = ["emsfl", *arguments]
    from emsfl.cli import main as call

    call()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
