"""The key algebraic steps of docs/theory.md, symbolically; equation numbers are those there."""

import numpy as np
import pytest
import sympy as sp
from sympy import Rational, simplify, symbols

eta, smooth, young = symbols("eta L b", positive=True)
KAPPA = 1 - eta * smooth / 2 - (1 - eta * smooth) * young / 2
LAMBDA = (1 - eta * smooth) / young + eta * smooth


def test_lemma_3_expansion():
    """(5): -eta<g, g+e> + eta^2 L/2 |g+e|^2, then Young leaves a complete square."""
    gg, ge, ee = symbols("gg ge ee", real=True)  # |g|^2, <g, e>, |e|^2
    exact = -eta * (gg + ge) + eta**2 * smooth / 2 * (gg + 2 * ge + ee)
    grouped = (
        -eta * (1 - eta * smooth / 2) * gg
        - eta * (1 - eta * smooth) * ge
        + eta**2 * smooth / 2 * ee
    )
    assert simplify(exact - grouped) == 0
    bound = -eta * KAPPA * gg + eta / 2 * LAMBDA * ee
    # The difference is eta (1 - eta L) / 2 times |sqrt(b) g + e / sqrt(b)|^2, at least 0.
    square = young * gg + 2 * ge + ee / young
    assert simplify(bound - grouped - eta * (1 - eta * smooth) / 2 * square) == 0


def test_lemma_3_constants():
    assert simplify(KAPPA.subs(young, 1) - Rational(1, 2)) == 0
    assert simplify(LAMBDA.subs(young, 1) - 1) == 0
    # kappa >= 1/2 on b <= 1, eta L <= 1: kappa - 1/2 = (1 - eta L)(1 - b) / 2.
    assert simplify(KAPPA - Rational(1, 2) - (1 - eta * smooth) * (1 - young) / 2) == 0


def test_best_young_parameter():
    """b = |e| / |g| minimises the bound of Lemma 3."""
    g, e = symbols("g e", positive=True)
    value = -eta * KAPPA * g**2 + eta / 2 * LAMBDA * e**2
    slope = sp.diff(value, young)
    assert simplify(slope.subs(young, e / g)) == 0
    assert simplify(sp.diff(slope, young) - eta * (1 - eta * smooth) * e**2 / young**3) == 0


def test_equality_for_isotropic_quadratics():
    """(1 - eta L)^2 is the factor 1 - eta mu (2 - eta L) at mu = L."""
    assert sp.expand((1 - eta * smooth) ** 2 - (1 - eta * smooth * (2 - eta * smooth))) == 0


@pytest.mark.parametrize("num_devices", [1, 2, 3])
def test_noise_of_a_local_model_about_the_average(num_devices):
    """(7): sum_k p_k E|xi_k - w sum_j p_j xi_j|^2 = sigma^2 (1 - 2 w P + w^2 P)."""
    w, sigma = symbols("w sigma", positive=True)
    p = list(symbols(f"p0:{num_devices}", positive=True))
    p[-1] = 1 - sum(p[:-1])
    total = 0
    for k in range(num_devices):
        # Coefficients of the uncorrelated noises xi_j in xi_k - w sum_j p_j xi_j.
        coefficients = [(1 if j == k else 0) - w * p[j] for j in range(num_devices)]
        total += p[k] * sigma**2 * sum(c**2 for c in coefficients)
    concentration = sum(q**2 for q in p)
    claimed = sigma**2 * (1 - 2 * w * concentration + w**2 * concentration)
    assert sp.expand(total - claimed) == 0
    assert sp.expand(claimed.subs(w, 1) - sigma**2 * (1 - concentration)) == 0


def test_zero_sum_heterogeneity_over_the_complement():
    """(8): sum over A of w h, using sum of w nu h = 0, as a sum over A and its complement."""
    w, nu, h = (symbols(f"{name}0:4") for name in ("w", "nu", "h"))
    top = symbols("top", positive=True)
    inside, outside = (0, 1), (2, 3)
    claimed = sum(w[j] * (1 - nu[j] / top) * h[j] for j in inside)
    claimed -= sum(w[j] * nu[j] / top * h[j] for j in outside)
    zero = sum(w[j] * nu[j] * h[j] for j in range(4)) / top
    assert sp.expand(sum(w[j] * h[j] for j in inside) - claimed - zero) == 0


def test_corrected_iterate():
    """(4): y = z + eta sum B grad turns the direction a into nu, up to B times a change."""
    a, nu, imbalance = symbols("a nu B")
    now, then, z = symbols("g0 g1 z")  # the gradient at z_t and z_{t+1}, and z_t
    following = imbalance + a - nu
    y_now = z + eta * imbalance * now
    y_then = z - eta * a * now + eta * following * then
    claimed = -eta * nu * now + eta * following * (then - now)
    assert sp.expand(y_then - y_now - claimed) == 0


def test_gap_of_a_neighbour():
    """(10): r + sqrt(2 L r) d + L d^2 / 2 is (sqrt(r) + sqrt(L / 2) d)^2."""
    root, d = symbols("q d", positive=True)
    left = root**2 + sp.sqrt(2 * smooth) * root * d + smooth / 2 * d**2
    assert simplify(left - (root + sp.sqrt(smooth / 2) * d) ** 2) == 0


def test_means_over_a_round():
    """Theorem 1: with n_t = t mod tau the means of n and n^2 over a round."""
    n, tau = symbols("n tau", integer=True, positive=True)
    mean = sp.summation(n, (n, 0, tau - 1)) / tau
    square = sp.summation(n**2, (n, 0, tau - 1)) / tau
    assert sp.factor(mean - (tau - 1) / 2) == 0
    assert sp.simplify(square - (tau - 1) * (2 * tau - 1) / 6) == 0


def test_corollary_1_constants():
    """S/2 <= A + 2 (x c + x Q sqrt(S))^2 with x Q <= 1/4 gives S <= 4 A + 16 x^2 c^2."""
    root, a = symbols("s A", positive=True)
    x_q = Rational(1, 4)
    x_c = symbols("xc", positive=True)
    # (u + v)^2 <= 2 u^2 + 2 v^2; the slack is (u - v)^2.
    u, v = x_c, x_q * root
    assert sp.expand(2 * u**2 + 2 * v**2 - (u + v) ** 2 - (u - v) ** 2) == 0
    right = a + 2 * (2 * u**2 + 2 * v**2)
    solved = sp.solve(sp.Eq(root**2 / 2, right), root**2)
    assert simplify(solved[0] - (4 * a + 16 * x_c**2)) == 0


def test_best_step_size_of_corollary_1():
    gap, variance, ticks = symbols("Delta V T", positive=True)
    value = 4 * gap / (eta * ticks) + 2 * eta * smooth * variance
    best = sp.sqrt(2 * gap / (smooth * variance * ticks))
    assert simplify(sp.diff(value, eta).subs(eta, best)) == 0
    assert simplify(value.subs(eta, best) ** 2 - 32 * gap * smooth * variance / ticks) == 0


def test_stationary_gap_of_theorem_1():
    """The geometric series of (12) sums to eta L sigma^2 / (2 mu (2 - eta L))."""
    mu, sigma, gap = symbols("mu sigma r", positive=True)
    fixed = sp.solve(
        sp.Eq(gap, (1 - eta * mu * (2 - eta * smooth)) * gap + eta**2 * smooth * sigma**2 / 2), gap
    )
    assert simplify(fixed[0] - eta * smooth * sigma**2 / (2 * mu * (2 - eta * smooth))) == 0


def test_hybrid_layer_difference():
    """Theorem 3(c): pi m_own + (1 - pi) m_other - m_own = (1 - pi)(m_other - m_own)."""
    pi, own, other = symbols("pi m n")
    assert sp.expand(pi * own + (1 - pi) * other - own - (1 - pi) * (other - own)) == 0


def test_threshold_of_the_exact_soft_gate():
    """Theorem 3(d): 1 - pi < pi q exactly when pi > 1 / (1 + q)."""
    q = symbols("q", positive=True)
    pi = symbols("pi")
    assert simplify(sp.solve(sp.Eq(1 - pi, pi * q), pi)[0] - 1 / (1 + q)) == 0


def test_geometry_of_lemma_2():
    """|sum_c iota_c(u_c)|_W^2 <= sum_c w_c |u_c|^2 on random vectors, with equality for equal s."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        w = rng.dirichlet(np.ones(3))
        shared, own = rng.normal(size=(3, 2)), rng.normal(size=(3, 4))
        left = np.sum((w @ shared) ** 2) + w @ np.sum(own**2, axis=1)
        right = w @ (np.sum(shared**2, axis=1) + np.sum(own**2, axis=1))
        assert left <= right + 1e-12
        shared[:] = shared[0]
        left = np.sum((w @ shared) ** 2) + w @ np.sum(own**2, axis=1)
        assert left == pytest.approx(np.sum(shared[0] ** 2) + w @ np.sum(own**2, axis=1))
