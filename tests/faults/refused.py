"""A simulation that refuses one update: `python -m tests.faults.refused CLUSTER WHEN run ...`.

WHEN is `whole`, once the cluster's third update has arrived, or `announced`, when it says its size.
"""

import sys

from emsfl.errors import UpdateRefusedError
from emsfl.simulate.gateway import LocalGateway

honest_answer, honest_update = LocalGateway.answer, LocalGateway.update
answers = []


def main(victim, when, arguments):
    """Simulate."""

    def answer(self):
        size = honest_answer(self)
        if self.cluster.name == victim:
            answers.append(size)
            return 0 if when == "announced" and len(answers) == 3 else size
        return size

    def update(self):
        found = honest_update(self)
        if self.cluster.name == victim and len(answers) == 3:
            raise UpdateRefusedError("the third")
        return found

    LocalGateway.answer, LocalGateway.update = answer, update
    sys.argv = ["emsfl", *arguments]
    from emsfl.cli import main as call

    call()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
