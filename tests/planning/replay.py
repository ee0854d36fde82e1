"""EMS-FL by messages alone, for parameter arrays of any trailing shape; no symbol of the theorems.

Devices step, freeze snapshots, upload, receive and go on; a server adds weighted shared deltas and
replaces experts. The first axis of every array is the parameter (shared ones first); further axes
may hold seeds, or coefficients of noise variables.
"""

import numpy as np

SNAPSHOT, ARRIVAL, READ, RECEPTION = range(4)


def replay(
    *,
    weights,
    shares,
    start_shared,
    start_experts,
    exchanges,
    schedule,
    step_size,
    gradient,
    observe,
):
    """Run the schedule's ticks over the exchanges.

    Args:
        gradient: (tick, cluster, device, x) -> stochastic gradient at x.
        observe: (tick, z, server, local), called at the beginning of every tick and at the end;
            z and server are lists over clusters, local a list of lists.
    """
    num_clusters, num_ticks = schedule.active.shape
    ds = len(start_shared)
    server_shared, server_experts = start_shared, list(start_experts)
    virtual = start_shared
    local = [
        [np.concatenate([start_shared, start_experts[c]]) for _ in shares[c]]
        for c in range(num_clusters)
    ]
    base = [start_shared for _ in range(num_clusters)]
    events = []
    for c, own in enumerate(exchanges):
        for number, exchange in enumerate(own):
            events += [
                (exchange.snapshot_s, SNAPSHOT, c, number),
                (exchange.arrival_s, ARRIVAL, c, number),
                (exchange.read_s, READ, c, number),
                (exchange.reception_s, RECEPTION, c, number),
            ]
    events.sort(reverse=True)
    snapshots, uploads, downloads = {}, {}, {}

    def average(c, arrays):
        return sum(p * x for p, x in zip(shares[c], arrays, strict=True))

    def handle(until_s):
        nonlocal server_shared
        while events and events[-1][0] <= until_s:
            _, kind, c, number = events.pop()
            key = (c, number)
            if kind == SNAPSHOT:
                snapshots[key] = list(local[c])
                mean = average(c, local[c])
                uploads[key] = (mean[:ds] - base[c], mean[ds:])
            elif kind == ARRIVAL:
                server_shared = server_shared + weights[c] * uploads[key][0]
                server_experts[c] = uploads[key][1]
            elif kind == READ:
                downloads[key] = server_shared
            else:
                base[c] = downloads[key]
                received = np.concatenate([downloads[key], uploads[key][1]])
                for k in range(len(local[c])):
                    local[c][k] = received + (local[c][k] - snapshots[key][k])

    step_s = schedule.time_s[1] - schedule.time_s[0]
    for t in range(num_ticks + 1):
        handle(t * step_s)
        z = [np.concatenate([virtual, average(c, local[c])[ds:]]) for c in range(num_clusters)]
        server = [np.concatenate([server_shared, e]) for e in server_experts]
        observe(t, z, server, local)
        if t == num_ticks:
            return
        steps = []
        for c in range(num_clusters):
            if not schedule.active[c, t]:
                continue
            for k, p in enumerate(shares[c]):
                step = step_size * gradient(t, c, k, local[c][k])
                steps.append((c, k, step))
                virtual = virtual - weights[c] * p * step[:ds]
        # What arrives during a step acts on parameters at once, on gradients from the next tick.
        handle((t + 1) * step_s * (1 - 1e-9))
        for c, k, step in steps:
            local[c][k] = local[c][k] - step
