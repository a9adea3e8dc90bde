"""The spectrum against dense matrices, the prediction against integrals, and what surrounds an
estimate: sweep, diagnostics, flags.
"""

import math

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import nn

from momos import config
from momos.slt.llc import estimate_llc, hessian_spectrum, hessian_trace, predict
from momos.slt.llc.diagnostics import mixing, standard_error
from momos.slt.llc.rows import Target, llc_rows, spectrum_of
from momos.slt.llc.spectrum import Spectrum, lanczos
from momos.slt.llc.sweep import plateau

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def exact(eigenvalues, gradient=()):
    """The spectrum of a quadratic, its gradient in coordinates of the eigenvectors."""
    eigenvalues = np.asarray(eigenvalues, dtype=float)
    square = np.square(gradient if len(gradient) else np.zeros(len(eigenvalues)))
    return Spectrum(
        probes=[float(eigenvalues.sum())],
        nodes=[eigenvalues.tolist()],
        weights=[[1.0] * len(eigenvalues)],
        gradient_nodes=eigenvalues.tolist(),
        gradient_weights=square.tolist(),
    )


# --- Lanczos


def symmetric(eigenvalues):
    basis = torch.linalg.qr(
        torch.randn(len(eigenvalues), len(eigenvalues), generator=generator())
    ).Q
    return (basis * torch.tensor(eigenvalues)) @ basis.T, basis


@pytest.mark.parametrize("num_steps", [1, 3, 8])
def test_a_quadrature_is_exact_up_to_its_degree(num_steps):
    matrix, _ = symmetric([-1.0, 0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 0.3, 0.7])
    start = torch.randn(10, generator=generator(1))
    nodes, weights = lanczos(lambda v: matrix @ v, start, num_steps)
    assert len(nodes) == num_steps
    for degree in range(2 * num_steps):
        power = torch.linalg.matrix_power(matrix.double(), degree)
        expected = (start.double() @ power @ start.double()).item()
        assert weights @ nodes**degree == pytest.approx(expected, rel=1e-4)


def test_lanczos_ends_where_its_vectors_are_exhausted():
    matrix, basis = symmetric([2.0, 2.0, 2.0, 7.0, 7.0])
    nodes, weights = lanczos(lambda v: matrix @ v, basis @ torch.ones(5), 4)
    np.testing.assert_allclose(nodes, [2, 7], rtol=1e-5)
    np.testing.assert_allclose(weights, [3, 2], rtol=1e-5)
    for function in (torch.zeros_like, lambda v: 3 * v):
        nodes, weights = lanczos(function, torch.ones(4), 5)
        assert len(nodes) == 1 and weights.sum() == pytest.approx(4)
    assert lanczos(lambda v: matrix @ v, torch.zeros(5), 3)[1].sum() == 0


# --- the spectrum of a network


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


def squares(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()


def regressions(num_batches):
    draws = generator(4)
    return [
        (torch.randn(6, 4, generator=draws), torch.randn(6, 2, generator=draws))
        for _ in range(num_batches)
    ]


@pytest.fixture(scope="module")
def dense():
    """The Hessian (37, 37) and gradient (37,) of the mean loss over three batches, in float64."""
    model, batches = network().double(), regressions(3)
    sizes = [p.numel() for p in model.parameters()]

    def loss(flat):
        inwards, before, outwards, after = flat.split(sizes)
        total = 0.0
        for x, y in batches:
            hidden = torch.tanh(x.double() @ inwards.view(5, 4).T + before)
            total = total + (hidden @ outwards.view(2, 5).T + after - y).square().mean()
        return total / 3

    at = torch.cat([p.detach().flatten() for p in model.parameters()]).requires_grad_()
    gradient = torch.autograd.grad(loss(at), at)[0]
    return torch.autograd.functional.hessian(loss, at.detach()), gradient


def test_the_spectrum_equals_that_of_the_dense_hessian(dense):
    matrix, gradient = dense
    eigenvalues, vectors = np.linalg.eigh(matrix.numpy())
    found = hessian_spectrum(
        network(),
        squares,
        regressions(3),
        num_probes=30,
        num_probe_batches=3,
        num_lanczos_probes=20,
        num_lanczos_steps=12,
        num_gradient_batches=1,
        seed=5,
    )
    trace = hessian_trace(network(), squares, regressions(3), num_probes=30, seed=5)
    assert found.trace.mean == trace.mean and found.trace.std == trace.std
    assert found.largest == pytest.approx(eigenvalues[-1], rel=1e-3)
    assert found.smallest == pytest.approx(eigenvalues[0], rel=1e-3)
    assert len(found.nodes) == 20 and all(len(nodes) == 12 for nodes in found.nodes)
    for function in (np.square, lambda h: h / (h + 3.0)):
        values = found.traces(function)
        error = values.std(ddof=1) / math.sqrt(len(values))
        assert abs(values.mean() - function(eigenvalues).sum()) < 4 * error
        assert error < 0.3 * abs(function(eigenvalues).sum())


def test_the_gradients_quadrature_equals_the_dense_one(dense):
    matrix, gradient = dense
    eigenvalues, vectors = np.linalg.eigh(matrix.numpy())
    along = np.square(vectors.T @ gradient.numpy())
    found = hessian_spectrum(
        network(),
        squares,
        [tuple(torch.cat(parts) for parts in zip(*regressions(3), strict=True))],
        num_probes=1,
        num_probe_batches=1,
        num_lanczos_probes=1,
        num_lanczos_steps=12,
        num_gradient_batches=1,
    )
    assert found.gradient_norm == pytest.approx(gradient.norm().item(), rel=1e-4)
    for function in (np.square, lambda h: h / (h + 3.0)):
        expected = (along * function(eigenvalues)).sum()
        assert found.along_gradient(function) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("slopes", "square"), [([1.0, -1.0], 0.0), ([3.0, 1.0, 2.0], 11 / 3)])
def test_the_noise_of_batches_is_no_gradient(slopes, square):
    """Mean squared minus variance / n: (1 - 1) and 4 - 1 / 3."""

    def line(model, slope):
        return slope * model[0].weight.sum() + 0.0 * model[0].weight.square().sum()

    found = hessian_spectrum(
        nn.Sequential(nn.Linear(1, 1, bias=False)),
        line,
        slopes,
        num_probes=1,
        num_probe_batches=2,
        num_lanczos_probes=1,
        num_lanczos_steps=2,
        num_gradient_batches=9,
    )
    assert found.gradient_norm**2 == pytest.approx(square)


# --- the prediction


@pytest.mark.parametrize(
    ("h", "g", "nbeta", "localization"),
    [
        (2.0, 0.0, 30.0, 100.0),
        (0.0, 0.3, 30.0, 10.0),
        (-0.5, 0.2, 10.0, 20.0),
        (5.0, -1.0, 3.0, 1.0),
    ],
)
def test_the_prediction_equals_the_integral(h, g, nbeta, localization):
    """Of the density in one dimension."""

    def loss(w):
        return g * w + h * w**2 / 2

    def mean(function):
        def weight(w):
            return math.exp(-nbeta * loss(w) - localization / 2 * w**2)

        center = -nbeta * g / (nbeta * h + localization)
        limits = (center - 12, center + 12)
        how = {"points": [center], "limit": 400}
        upper = integrate.quad(lambda w: function(w) * weight(w), *limits, **how)[0]
        return upper / integrate.quad(weight, *limits, **how)[0]

    found = predict(exact([h], [g]), nbeta=nbeta, localization=localization)
    first = mean(loss)
    assert found.mean + found.gradient_term == pytest.approx(nbeta * first, abs=1e-8)
    assert found.variance == pytest.approx(
        nbeta**2 * (mean(lambda w: loss(w) ** 2) - first**2), abs=1e-8
    )
    assert found.gradient_term <= 0


def test_weak_curvature_is_the_trace():
    found = predict(exact([0.01, 0.02, -0.005]), nbeta=300.0, localization=3000.0)
    assert found.mean == pytest.approx(300 / (2 * 3000) * 0.025, rel=0.01)


@pytest.mark.parametrize("smallest", [-10.0, -11.0])
def test_without_a_density_there_is_no_prediction(smallest):
    found = predict(exact([1.0, smallest]), nbeta=300.0, localization=3000.0)
    assert found.indefinite and all(map(math.isnan, found))
    assert not predict(exact([1.0, -9.9]), nbeta=300.0, localization=3000.0).indefinite


def test_a_step_that_diverges_has_no_bias():
    assert math.isnan(predict(exact([1.0]), nbeta=1.0, localization=1.0, step=2.0).step_bias)
    half = predict(exact([1.0]), nbeta=1.0, localization=1.0, step=1.0)
    assert half.step_bias == pytest.approx(2.0)


@pytest.mark.parametrize(("step", "bias"), [(0.6, 1.05), (2.0, 1.3)])
def test_the_step_is_corrected_on_an_uneven_quadratic(step, bias):
    """Below 3 %, where the sampler's own bias is more."""
    curvature = torch.logspace(-3, 1, 2000)
    lr = step / (30 * curvature.max().item() + 100)
    model = nn.Module()
    model.w = nn.Parameter(torch.zeros(2000))
    result = estimate_llc(
        model,
        lambda model, _: 0.5 * (curvature * model.w.square()).sum(),
        [None],
        lr=lr,
        nbeta=30.0,
        localization=100.0,
        num_chains=2,
        num_draws=200,
        num_burnin_steps=100,
        sampler="sgld",
    )
    found = predict(exact(curvature.tolist()), nbeta=30.0, localization=100.0, step=lr)
    assert result.mean / found.step_bias == pytest.approx(found.mean, rel=0.03)
    assert result.mean / found.mean > bias


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_lanczos_steps": 0}, "num_lanczos_steps must be an integer >= 1, got 0"),
        ({"num_lanczos_probes": 3}, "num_lanczos_probes must be at most num_probes 2, got 3"),
        ({"num_gradient_batches": 0}, "num_gradient_batches must be an integer >= 1, got 0"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
        ({"batches": []}, "batches must hold at least one batch, got 0"),
    ],
)
def test_counts_out_of_range_are_named(changes, message):
    counts = {
        "batches": regressions(1),
        "num_probes": 2,
        "num_probe_batches": 1,
        "num_lanczos_probes": 1,
        "num_lanczos_steps": 2,
        "num_gradient_batches": 1,
    } | changes
    with pytest.raises(ValueError, match=message):
        hessian_spectrum(network(), squares, counts.pop("batches"), **counts)


@pytest.mark.parametrize("name", ["nbeta", "localization"])
def test_a_prediction_needs_positive_settings(name):
    settings = {"nbeta": 1.0, "localization": 1.0} | {name: 0.0}
    with pytest.raises(ValueError, match=f"{name} must be a finite number > 0, got 0.0"):
        predict(exact([1.0]), **settings)


def test_products_that_are_not_finite_fail():
    with pytest.raises(ArithmeticError, match="not finite"):
        lanczos(lambda v: v * math.nan, torch.ones(3), 3)


# --- chains


def test_rhat_flags_chains_that_disagree_with_its_number():
    draws = np.random.default_rng(0).normal(size=(2, 200))
    agreeing, apart = mixing(draws), mixing(draws + [[0.0], [3.0]])
    assert agreeing[0] == pytest.approx(1.0, abs=0.02) and apart[0] > 1.5
    assert agreeing[1] == pytest.approx(400, rel=0.3) and apart[1] < 10


def test_the_effective_sample_size_of_an_autoregression():
    """(1 - r) / (1 + r) of the draws, for correlation r."""
    noise, draws = np.random.default_rng(1).normal(size=(4, 3000)), np.zeros((4, 3000))
    for t in range(1, 3000):
        draws[:, t] = 0.8 * draws[:, t - 1] + noise[:, t]
    assert mixing(draws)[1] == pytest.approx(4 * 3000 * 0.2 / 1.8, rel=0.2)


@pytest.mark.parametrize("draws", [np.zeros((2, 9)), np.array([[1.0], [2.0]]), np.eye(3)])
def test_too_few_or_equal_draws_have_no_diagnostics(draws):
    assert all(map(math.isnan, mixing(draws)))


def test_the_standard_error_leaves_unknown_losses_out():
    assert standard_error(np.array([1.0, math.nan, 3.0])) == pytest.approx(1.0)
    assert math.isnan(standard_error(np.array([1.0, math.nan])))


class Weight(nn.Module):
    def __init__(self, num_weights):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(num_weights))


SAMPLING = {
    "lr": 0.002, "nbeta": 50.0, "localization": 50.0, "num_draws": 1000, "num_burnin_steps": 50,
    "num_chains": 2, "sampler": "sgld",
}  # fmt: skip


def test_the_variance_is_free_of_the_batches_noise():
    """Batches add +1 or -1 times what moves no weight; neighbours are uncorrelated. The rest is a
    quadratic of 40 weights.
    """

    def noisy(model, batch):
        return 0.5 * model.w.square().sum() + batch * (1 + model.w[0].detach())

    batches = [1.0, 1.0, -1.0, -1.0]
    expected = predict(exact([1.0] * 40), nbeta=50.0, localization=50.0)
    model = Weight(40)
    result = estimate_llc(model, noisy, batches, second_batch=True, **SAMPLING)
    plain = 50**2 * (result.loss_trace - np.array(batches).mean()).var()
    assert result.variance == pytest.approx(expected.variance, abs=0.35 * expected.variance)
    order = (50 + np.arange(1000) + np.array([[0], [2]])) % 4
    paired = 50**2 * (result.loss_trace - np.array(batches)[order]).var()
    assert plain > 20 * expected.variance and paired > 3 * expected.variance
    without = estimate_llc(model, noisy, batches, **SAMPLING)
    assert math.isnan(without.variance) and without.mean == result.mean
    first = estimate_llc(
        model, noisy, batches, second_batch=True, baseline="first_batches", **SAMPLING
    )
    assert first.variance != result.variance and np.isfinite(first.variance)


# --- rows, sweep


def llc_settings(**changes):
    base = config.profile_settings("digits")["llc"]
    return config.Llc.from_mapping(base | changes, "llc")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("localization", 0.0, "positive"),
        ("nbeta", 0.0, "positive"),
        ("max_rhat", 0.0, "positive"),
        ("num_lanczos_probes", 7, "at most llc.num_probes 4"),
        ("sweep_chains", 0, "1 or more"),
        ("sweep", [{"nbeta": 1.0}], r"llc.sweep\[0\].* is missing"),
    ],
)
def test_settings_out_of_range_are_named(key, value, expected):
    with pytest.raises(ValueError, match=f"llc.{key}.*{expected}|{expected}"):
        llc_settings(**{key: value})


def rows_of(curvature, start=0.0, **changes):
    """The row of a quadratic whose weights stand at `start`, with little to sample."""
    curvature = torch.tensor(curvature)

    def loss(model, batch):
        return batch + 0.5 * (curvature * (model.w + start).square()).sum()

    settings = llc_settings(
        num_chains=2, num_burnin_steps=5, num_lanczos_steps=4, max_loss_rise=1e9, **changes
    )
    target = Target(Weight(len(curvature)), loss, [1.0, 2.0, 3.0, 4.0], seed=0)
    spectrum = spectrum_of(target, settings, lambda name, compute: compute())
    kept = {"lr": 1e-6, "num_draws": 8, "spectrum": spectrum}
    return llc_rows(target, settings, keep=lambda name, compute: compute(), **kept)


def test_a_row_says_what_its_estimate_is():
    row = rows_of([1.0, 2.0, 3.0])["row"]
    nbeta, localization = row["nbeta"], row["localization"]
    expected = predict(exact([1.0, 2.0, 3.0]), nbeta=nbeta, localization=localization)
    assert row["llc_quadratic"] == pytest.approx(expected.mean, rel=1e-4)
    assert row["hessian_max"] == pytest.approx(3, rel=1e-4)
    assert row["hessian_min"] == pytest.approx(1, rel=1e-4)
    assert row["hessian_trace"] == pytest.approx(6) and row["gradient_norm"] == 0
    assert row["llc_corrected"] == pytest.approx(row["llc_mean"] / row["step_bias"])
    assert row["loss_se"] == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / 2)
    assert "no_minimum" not in row["flags"] and "indefinite" not in row["flags"]


def test_a_saddle_and_a_slope_are_flagged():
    saddle, slope = rows_of([1.0, -11.0])["row"], rows_of([1.0, 2.0], start=1.0)["row"]
    assert "indefinite" in saddle["flags"].split() and saddle["llc_quadratic"] is None
    assert "no_minimum" in slope["flags"].split()
    assert slope["gradient_norm"] == pytest.approx(math.sqrt(5)) and slope["llc_gradient"] < 0


def sweep_row(localization, mean, std=0.5, **changes):
    row = {
        "nbeta": 300.0,
        "localization": localization,
        "llc_mean": mean,
        "llc_std": std,
        "num_chains": 4,
        "llc_quadratic": 2 * mean,
    }
    return row | changes


def test_the_slope_tells_a_plateau_from_a_trace():
    trace = plateau([sweep_row(g, 3e5 / g) for g in (300.0, 1000.0, 3000.0)], 300.0)
    assert trace["slope"] == pytest.approx(-1) and trace["slope_quadratic"] == pytest.approx(-1)
    assert trace["slope_low"] < -1 < trace["slope_high"]
    other = sweep_row(100.0, 7.0, nbeta=30.0)
    flat = plateau([other, sweep_row(300.0, 50.0), sweep_row(3000.0, 50.0)], 300.0)
    assert flat["slope"] == pytest.approx(0)
    # two points, each with a relative error of 0.5 / sqrt(4) / 50
    margin = 1.96 * math.sqrt(2) * 0.005 / math.log(10)
    assert flat["slope_high"] == pytest.approx(margin)


@pytest.mark.parametrize(
    "rows",
    [
        [sweep_row(300.0, 5.0)],
        [sweep_row(300.0, 5.0), sweep_row(3000.0, -1.0)],
        [sweep_row(300.0, 5.0), sweep_row(3000.0, 5.0, std=None)],
    ],
)
def test_without_spread_or_sign_there_is_no_slope(rows):
    assert plateau(rows, 300.0)["slope"] is None


def test_without_a_prediction_it_has_no_slope():
    rows = [sweep_row(300.0, 9.0, llc_quadratic=None), sweep_row(3000.0, 5.0)]
    assert plateau(rows, 300.0)["slope_quadratic"] is None
    assert plateau(rows, 300.0)["slope"] < 0
