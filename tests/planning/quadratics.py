"""Random quadratic problems and plans, and EMS-FL's exact expectations on them.

Every parameter vector is an affine function of all gradient noises of the run (column 0 the mean,
one column per noise variable of unit variance), so second moments are exact up to rounding.
"""

from dataclasses import dataclass

import numpy as np

from emsfl.planning.deviation import Constants, rates
from emsfl.planning.schedule import asynchronous, exchanges_in_contacts, link_time
from tests.planning.replay import replay


@dataclass(kw_only=True)
class Quadratics:
    """f_ck(x) = (x - m)' A (x - m) / 2 for x = (s, theta_c), with additive gradient noise."""

    weights: np.ndarray  # [C]
    shares: list  # per cluster [K_c]
    hessians: list  # per cluster [K_c, d, d]
    minima: list  # per cluster [K_c, d]
    num_shared: int
    noise_shared: float  # variance of the shared block of one stochastic gradient
    noise_expert: float
    start: list  # start_shared, then one array of experts per cluster

    def gradient(self, c, k, x):
        moved = x.copy()
        moved[:, 0] -= self.minima[c][k]
        return self.hessians[c][k] @ moved

    def mean_gradient(self, c, x):
        return sum(p * self.gradient(c, k, x) for k, p in enumerate(self.shares[c]))

    def loss(self, c, x):
        """E f_c at the random vector x."""
        total = 0.0
        for k, p in enumerate(self.shares[c]):
            moved = x.copy()
            moved[:, 0] -= self.minima[c][k]
            total += p * 0.5 * np.sum(moved * (self.hessians[c][k] @ moved))
        return total

    @property
    def smoothness(self):
        return max(np.linalg.eigvalsh(a)[-1] for h in self.hessians for a in h)

    def minimum(self, objective_weights):
        """Return the minimiser of sum_c q_c f_c per cluster, and eigenvalues in the W metric."""
        ds = self.num_shared
        total = ds + sum(len(e) for e in self.start[1:])
        hessian, linear, metric = np.zeros((total, total)), np.zeros(total), np.ones(total)
        at, indices = ds, []
        for c, experts in enumerate(self.start[1:]):
            index = np.r_[0:ds, at : at + len(experts)]
            metric[index[ds:]] = self.weights[c]
            indices.append(index)
            at += len(experts)
            for p, a, m in zip(self.shares[c], self.hessians[c], self.minima[c], strict=True):
                hessian[np.ix_(index, index)] += objective_weights[c] * p * a
                linear[index] += objective_weights[c] * p * (a @ m)
        x = np.linalg.solve(hessian, linear)
        eigenvalues = np.linalg.eigvalsh(hessian / np.sqrt(np.outer(metric, metric)))
        return [x[index] for index in indices], eigenvalues


@dataclass(kw_only=True)
class Trace:
    """Exact expectations at the ticks 0..T."""

    gradient_sq: np.ndarray  # [T + 1]
    virtual_gap: np.ndarray  # [T + 1]
    server_gap: np.ndarray  # [T + 1]
    device_gap_sq: np.ndarray  # [T + 1, C]
    cluster_gap_sq: np.ndarray  # [T + 1, C]
    deviation_sq: np.ndarray  # [T + 1, C]


def exact_trace(problem, exchanges, schedule, step_size):
    w, ds = problem.weights, problem.num_shared
    clusters = range(len(w))
    objective = rates(w, schedule.active)
    q = w * objective.rate
    sizes = [h.shape[1] for h in problem.hessians]
    offsets, at = {}, 1
    for c in clusters:
        for k in range(len(problem.shares[c])):
            offsets[c, k] = at
            at += sizes[c]
    noisy = problem.noise_shared > 0 or problem.noise_expert > 0
    columns = 1 + (at - 1) * schedule.num_ticks if noisy else 1

    def affine(vector):
        out = np.zeros((len(vector), columns))
        out[:, 0] = vector
        return out

    def gradient(t, c, k, x):
        g = problem.gradient(c, k, x)
        if not noisy:
            return g
        rows = np.arange(sizes[c])
        spread = np.where(
            rows < ds, problem.noise_shared / ds, problem.noise_expert / max(sizes[c] - ds, 1)
        )
        g[rows, offsets[c, k] + (at - 1) * t + rows] += np.sqrt(spread)
        return g

    best, _ = problem.minimum(q)
    floor = sum(q[c] * problem.loss(c, best[c][:, None]) for c in clusters)
    rows = []

    def observe(_, z, server, local):
        grads = [problem.mean_gradient(c, z[c]) for c in clusters]
        shared = sum(q[c] * grads[c][:ds] for c in clusters)
        own = sum(q[c] * objective.rate[c] * np.sum(grads[c][ds:] ** 2) for c in clusters)
        rows.append(
            (
                np.sum(shared**2) + own,
                sum(q[c] * problem.loss(c, z[c]) for c in clusters) - floor,
                sum(q[c] * problem.loss(c, server[c]) for c in clusters) - floor,
                [
                    sum(
                        p * np.sum((problem.gradient(c, k, z[c]) - grads[c]) ** 2)
                        for k, p in enumerate(problem.shares[c])
                    )
                    for c in clusters
                ],
                [np.sum((grads[c][:ds] - shared / objective.total) ** 2) for c in clusters],
                [
                    sum(
                        p * np.sum((x - z[c]) ** 2)
                        for p, x in zip(problem.shares[c], local[c], strict=True)
                    )
                    for c in clusters
                ],
            )
        )

    replay(
        weights=w,
        shares=problem.shares,
        start_shared=affine(problem.start[0]),
        start_experts=[affine(e) for e in problem.start[1:]],
        exchanges=exchanges,
        schedule=schedule,
        step_size=step_size,
        gradient=gradient,
        observe=observe,
    )
    return Trace(
        **{
            name: np.array([row[index] for row in rows])
            for index, name in enumerate(Trace.__dataclass_fields__)
        }
    )


def constants_of(problem, schedule, trace):
    """The theorems' constants, exactly: heterogeneity as the largest over the visited points."""
    objective = rates(problem.weights, schedule.active)
    _, eigenvalues = problem.minimum(problem.weights * objective.rate)
    return Constants(
        smoothness=problem.smoothness,
        weights=problem.weights,
        concentration=np.array([np.sum(p**2) for p in problem.shares]),
        shared_noise=np.array(problem.noise_shared),
        expert_noise=np.array(problem.noise_expert),
        device_gap=np.sqrt(trace.device_gap_sq[:-1].max(axis=0)),
        cluster_gap=np.sqrt(trace.cluster_gap_sq[:-1].max(axis=0)),
        initial_gap=trace.virtual_gap[0],
        pl=eigenvalues[0],
    )


def positive_definite(rng, size, low, high):
    basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
    eigenvalues = rng.uniform(low, high, size=size)
    return basis @ np.diag(eigenvalues) @ basis.T


def random_problem(rng, *, num_clusters=None, noise=None, spread=None, start=3.0):
    num_clusters = num_clusters or int(rng.integers(1, 4))
    num_shared, num_expert = (int(n) for n in rng.integers(1, 3, size=2))
    size = num_shared + num_expert
    low = rng.uniform(0.1, 0.8)
    spread = 10 ** rng.uniform(-2, 0) if spread is None else spread
    noise = 10 ** rng.uniform(-3, 1) if noise is None else noise
    counts = [int(n) for n in rng.integers(1, 4, size=num_clusters)]
    common = positive_definite(rng, size, low, 1.0)
    alike = rng.random() < 0.5
    return Quadratics(
        weights=rng.dirichlet(np.full(num_clusters, 3.0)),
        shares=[rng.dirichlet(np.full(n, 3.0)) for n in counts],
        hessians=[
            np.stack(
                [common if alike else positive_definite(rng, size, low, 1.0) for _ in range(n)]
            )
            for n in counts
        ],
        minima=[spread * rng.normal(size=(n, size)) for n in counts],
        num_shared=num_shared,
        noise_shared=noise * num_shared / size,
        noise_expert=noise * num_expert / size,
        start=[start * rng.normal(size=num_shared)]
        + [start * rng.normal(size=num_expert) for _ in range(num_clusters)],
    )


def random_plan(rng, num_clusters, *, num_ticks=None, cap=None, mean_gap=6.0):
    """Random contacts and the schedule they give, one tick a second."""
    num_ticks = num_ticks or int(rng.integers(20, 50))
    exchanges = []
    for _ in range(num_clusters):
        upload_s, download_s = rng.uniform(0, 1.5, size=2)
        own = []
        while not own:
            contacts, now_s = [], 0.0
            while now_s < num_ticks:
                start_s = now_s + 0.2 + rng.exponential(mean_gap)
                now_s = start_s + rng.uniform(0.2, 4)
                contacts.append((start_s, now_s))
            own = exchanges_in_contacts(
                contacts,
                upload=link_time(contacts, upload_s),
                download=link_time(contacts, download_s),
                server_delay_s=rng.choice([0.0, 0.3]),
            )
        exchanges.append(own)
    schedule = asynchronous(exchanges, step_s=1.0, horizon_s=num_ticks, max_steps_per_contact=cap)
    return exchanges, schedule
