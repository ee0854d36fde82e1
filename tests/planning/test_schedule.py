"""Contacts to ticks: by hand, by a second account of the algorithm, and what is refused."""

import numpy as np
import pytest

from emsfl.errors import DataError
from emsfl.planning.deviation import rates
from emsfl.planning.schedule import (
    Exchange,
    Rounds,
    Schedule,
    asynchronous,
    exchanges_in_contacts,
    fedavg_rounds,
    link_time,
    synchronous,
)
from tests.planning.quadratics import exact_trace, random_plan, random_problem


def exchange(snapshot_s, arrival_s, reception_s, read_s=None):
    return Exchange(
        snapshot_s=snapshot_s,
        arrival_s=arrival_s,
        read_s=arrival_s if read_s is None else read_s,
        reception_s=reception_s,
    )


def test_exchanges_resume_in_the_next_contact():
    contacts = [(10.0, 12.0), (20.0, 23.0), (30.0, 40.0), (50.0, 51.0)]
    found = exchanges_in_contacts(
        contacts,
        upload=link_time(contacts, 3.0),
        download=link_time(contacts, 4.0),
        server_delay_s=0.5,
    )
    # 2 s of the upload in the first contact, 1 s in the second, half a second to the server and as
    # much back: 1 s of the download in the second contact, 3 s in the third; the fourth begins an
    # exchange that does not end.
    assert [vars(e) for e in found] == [vars(exchange(10.0, 21.5, 33.0))]


def test_an_upload_that_arrives_after_the_contact_is_answered_in_the_next():
    contacts = [(10.0, 12.0), (20.0, 23.0)]
    found = exchanges_in_contacts(
        contacts,
        upload=link_time(contacts, 2.0),
        download=link_time(contacts, 1.0),
        server_delay_s=0.5,
    )
    assert [vars(e) for e in found] == [vars(exchange(10.0, 12.5, 21.5, read_s=20.0))]


def test_an_upload_that_arrives_counts_even_if_nothing_comes_back():
    contacts = [(10.0, 12.0)]
    found = exchanges_in_contacts(
        contacts, upload=link_time(contacts, 1.0), download=link_time(contacts, 5.0)
    )
    assert [vars(e) for e in found] == [vars(exchange(10.0, 11.0, np.inf))]


def test_ticks_by_hand():
    # Steps take 2 s. Cluster 0: snapshot at 5 s (2 steps done), at the server at 6 s, back at 7 s.
    # Cluster 1: snapshot at 9 s (4 steps), at the server and back at 9 s.
    schedule = asynchronous(
        [[exchange(5.0, 6.0, 7.0)], [exchange(9.0, 9.0, 9.0)]], step_s=2.0, horizon_s=13.0
    )
    assert schedule.num_ticks == 6
    np.testing.assert_array_equal(schedule.held[0, 0], [0, 0, 0, 0, 2, 2])
    np.testing.assert_array_equal(schedule.held[0, 1], [0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(schedule.held[1, 0], [0, 0, 0, 0, 0, 2])
    np.testing.assert_array_equal(schedule.held[1, 1], [0, 0, 0, 0, 0, 4])
    np.testing.assert_array_equal(schedule.delivered, [[0, 0, 0, 2, 2, 2, 2], [0] * 5 + [4, 4]])
    np.testing.assert_array_equal(schedule.time_s, [0, 2, 4, 6, 8, 10, 12])
    assert schedule.active.all()


def test_a_cap_lets_devices_rest_until_the_next_snapshot():
    schedule = asynchronous(
        [[exchange(4.0, 4.0, 4.0), exchange(9.0, 9.0, 9.0)]],
        step_s=1.0,
        horizon_s=12.0,
        max_steps_per_contact=3,
    )
    np.testing.assert_array_equal(schedule.active[0], [1, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1, 1])
    alone = schedule.only(0)
    np.testing.assert_array_equal(alone.held[0, 0], [0, 0, 0, 3, 3, 3, 6, 6, 6])
    np.testing.assert_array_equal(alone.delivered[0], [0, 0, 0, 3, 3, 3, 6, 6, 6, 6])
    objective = rates([1.0], schedule.active)
    assert objective.rate[0] == 0.75
    np.testing.assert_allclose(objective.imbalance[0, [0, 3, 12]], [0, 0.75, 0], atol=1e-12)


def test_rounds_of_fedavg():
    contacts = [[(0.0, 5.0), (20.0, 25.0), (40.0, 45.0)], [(3.0, 8.0), (30.0, 31.0), (44.0, 60.0)]]
    transfers = [link_time(own, 1.0) for own in contacts]
    link = {"step_s": 2.0, "uploads": transfers, "downloads": transfers}
    rounds = fedavg_rounds(contacts, steps_per_round=4, **link)
    # Round 1: downloads until 1 and 4 s, eight seconds of steps, uploads at 20-21 and 30-31 s.
    # Round 2: downloads 40-41 and 44-45 s; cluster 0 has no contact after 49 s.
    np.testing.assert_array_equal(rounds.end_s, [31.0])
    schedule = synchronous(rounds)
    assert schedule.num_ticks == 4
    assert schedule.active.all()
    assert not schedule.held.any()
    np.testing.assert_array_equal(schedule.delivered[1], [0, 0, 0, 0, 4])
    np.testing.assert_array_equal(schedule.time_s, [0, 31, 31, 31, 31])


def test_rounds_of_fedavg_that_fill_the_gap():
    contacts = [[(0.0, 5.0), (20.0, 25.0), (40.0, 45.0)], [(3.0, 8.0), (30.0, 31.0), (44.0, 60.0)]]
    transfers = [link_time(own, 1.0) for own in contacts]
    link = {"step_s": 2.0, "uploads": transfers, "downloads": transfers}
    rounds = fedavg_rounds(contacts, steps_per_round=None, **link)
    # Cluster 0 trains from 1 s to 20 s, cluster 1 from 4 s to 30 s.
    np.testing.assert_array_equal(rounds.steps, [[9, 13]])
    schedule = synchronous(rounds)
    np.testing.assert_array_equal(schedule.active.sum(axis=1), [9, 13])
    capped = fedavg_rounds(contacts, steps_per_round=None, max_steps=5, **link)
    np.testing.assert_array_equal(capped.steps, [[5, 5]])
    np.testing.assert_array_equal(capped.end_s, rounds.end_s)


@pytest.mark.parametrize("seed", range(20))
def test_lemma_1_who_holds_what(seed):
    """The arrays account for every parameter exactly as the messages do."""
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, noise=0.0)
    cap = [None, 3][seed % 2]
    exchanges, schedule = random_plan(rng, len(problem.weights), cap=cap)
    step_size = 0.1
    trace = exact_trace(problem, exchanges, schedule, step_size)
    w, ds = problem.weights, problem.num_shared
    num_clusters, num_ticks = schedule.active.shape
    steps = [[np.zeros((num_ticks, h.shape[1])) for _ in h] for h in problem.hessians]
    mean_steps = [np.zeros((num_ticks, h.shape[1])) for h in problem.hessians]
    for t in range(num_ticks):
        z = []
        for c in range(num_clusters):
            z_shared = problem.start[0] + sum(
                w[j] * mean_steps[j][:t, :ds].sum(axis=0) for j in range(num_clusters)
            )
            z.append(np.r_[z_shared, problem.start[1 + c] + mean_steps[c][:t, ds:].sum(axis=0)])
        deviation = np.zeros(num_clusters)
        for c in range(num_clusters):
            held = schedule.held[c, :, t]
            shared = problem.start[0] + sum(
                w[j] * mean_steps[j][: held[j], :ds].sum(axis=0) for j in range(num_clusters)
            )
            own = problem.start[1 + c] + mean_steps[c][: held[c], ds:].sum(axis=0)
            for k, p in enumerate(problem.shares[c]):
                x = np.r_[shared, own] + steps[c][k][held[c] : t].sum(axis=0)
                deviation[c] += p * np.sum((x - z[c]) ** 2)
                if schedule.active[c, t]:
                    g = problem.gradient(c, k, x[:, None])[:, 0]
                    steps[c][k][t] = -step_size * g
                    mean_steps[c][t] += p * steps[c][k][t]
        np.testing.assert_allclose(deviation, trace.deviation_sq[t], rtol=1e-8, atol=1e-12)


def test_bad_plans_name_the_cluster():
    with pytest.raises(DataError, match="cluster 1 has no contact"):
        asynchronous([[exchange(1.0, 1.0, 1.0)], []], step_s=1.0, horizon_s=5.0)
    with pytest.raises(DataError, match="at least one cluster"):
        asynchronous([], step_s=1.0, horizon_s=5.0)
    with pytest.raises(DataError, match="step_s"):
        asynchronous([[exchange(1.0, 1.0, 1.0)]], step_s=0.0, horizon_s=5.0)
    with pytest.raises(DataError, match="out of order"):
        exchanges_in_contacts([(5.0, 9.0), (8.0, 12.0)], upload=float, download=float)
    with pytest.raises(DataError, match="cluster 0 has no contact"):
        fedavg_rounds([[]], step_s=1.0, steps_per_round=1, uploads=[float], downloads=[float])
    with pytest.raises(DataError, match="no round"):
        synchronous(Rounds(end_s=np.zeros(0), steps=np.zeros((0, 2), int)))
    with pytest.raises(DataError, match="future"):
        Schedule(
            active=np.ones((1, 2), bool),
            held=np.ones((1, 1, 2), int),
            delivered=np.zeros((1, 3), int),
            time_s=np.arange(3.0),
        )
    with pytest.raises(DataError, match="held must have shape"):
        Schedule(
            active=np.ones((1, 2), bool),
            held=np.zeros((1, 1, 3), int),
            delivered=np.zeros((1, 3), int),
            time_s=np.arange(3.0),
        )
    resting = Schedule(
        active=np.zeros((1, 2), bool),
        held=np.zeros((1, 1, 2), int),
        delivered=np.zeros((1, 3), int),
        time_s=np.arange(3.0),
    )
    with pytest.raises(DataError, match="cluster 0"):
        resting.only(0)
    with pytest.raises(DataError, match="never steps"):
        rates([1.0], resting.active)
