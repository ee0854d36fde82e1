"""A node whose clock is off: `python -m tests.faults.skewed SECONDS join ...`.

Every reading of the wall clock in emsfl's node and in Flower is off, those that pass a class of
pydantic's are not: it knows no subclass of datetime.
"""

import datetime
import sys
import time
from types import SimpleNamespace


def main(skew_s, arguments):
    """Join with the clock `skew_s` seconds ahead."""
    from flwr.supercore import date

    from emsfl.cli import main as call
    from emsfl.deploy import flower_node

    class Skewed(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.now(tz) + datetime.timedelta(seconds=skew_s)

    wall = time.time
    time.time = lambda: wall() + skew_s
    flower_node.datetime = Skewed
    date.datetime = SimpleNamespace(datetime=Skewed, UTC=datetime.UTC)
    sys.argv = ["emsfl", *arguments]
    call()


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
