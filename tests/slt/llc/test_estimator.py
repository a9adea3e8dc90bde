"""The estimate against exact values (closed forms, quadrature, Aoyagi 2024), one step against its
formula and devinterp, and its promises.

Many replicas of one problem in one model, their losses summed, are independent chains: the
coefficient is the sum of theirs.
"""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import nn
from torch.nn import functional as F

from momos.slt.llc import estimator as llc
from momos.slt.llc import hessian, hessian_spectrum, langevin, predict
from momos.slt.llc.estimator import estimate_llc
from momos.slt.llc.spectrum import Spectrum

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Weights(nn.Module):
    """Bare tensors as parameters w[0], w[1] .."""

    def __init__(self, *tensors):
        super().__init__()
        self.w = nn.ParameterList(nn.Parameter(tensor.clone()) for tensor in tensors)


def quadratic(model, curvature):
    return 0.5 * (curvature * model.w[0].square()).sum()


ONE_OF_EACH = {
    "num_probes": 1,
    "num_probe_batches": 1,
    "num_lanczos_probes": 1,
    "num_lanczos_steps": 10,
    "num_gradient_batches": 1,
}
SETTINGS = {"lr": 1e-3, "nbeta": 50.0, "localization": 10.0, "num_chains": 2, "num_draws": 6}


def estimate(model=None, loss_fn=quadratic, batches=(1.0,), **changes):
    return estimate_llc(
        Weights(torch.zeros(4)) if model is None else model,
        loss_fn,
        batches,
        **(SETTINGS | changes),
    )


# --- exact values


def recorded(each_of):
    """A loss, the sum over replicas of each_of(model, batch), and the list of what it was."""
    seen = []

    def loss(model, batch):
        each = each_of(model, batch)
        seen.append(each.detach())
        return each.sum()

    return loss, seen


def variance_of_each(seen, result, nbeta):
    """nbeta^2 Var[L] of one replica: the sum's variance has too few independent draws."""
    each = torch.stack(seen[-result.loss_trace.size :]).double().numpy()
    assert result.variance == pytest.approx(nbeta**2 * each.sum(1).var(ddof=1), rel=1e-3)
    return nbeta**2 * each.var()


def sgld_mean(curvature, lr, nbeta, localization):
    """E[estimate] of SGLD on the loss curvature * w^2 / 2 at any lr: the chain is an autoregression
    of known variance.
    """
    a = nbeta * curvature + localization
    return 0.5 * nbeta * curvature / (a * (1 - lr * a / 4))


@pytest.mark.parametrize(("curvature", "lr"), [(0.5, 0.002), (1.0, 0.01), (2.0, 0.01)])
def test_sgld_on_a_quadratic_is_biased_by_the_step_as_the_closed_form_says(curvature, lr):
    result = estimate(
        Weights(torch.zeros(2000)),
        batches=[curvature],
        lr=lr,
        nbeta=100.0,
        localization=20.0,
        num_draws=300,
        num_burnin_steps=200,
        sampler="sgld",
    )
    assert result.mean / 2000 == pytest.approx(sgld_mean(curvature, lr, 100, 20), rel=0.02)
    spectrum = Spectrum([0.0], [[curvature]], [[2000.0]], [], [])
    predicted = predict(spectrum, nbeta=100, localization=20, step=lr * result.diagnostics.scale)
    assert result.mean / predicted.step_bias == pytest.approx(predicted.mean, rel=0.02)


def test_psgld_with_frozen_scale_is_sgld_at_the_scaled_step():
    """G = 1 / (eps + rms gradient), and the rms gradient of a quadratic follows from the variance
    of w: solved by iteration.
    """
    nbeta, localization, lr = 1e4, 1e3, 3e-6
    a, scale = nbeta + localization, 10.0
    for _ in range(50):
        scale = 1 / (langevin.EPS + math.sqrt(1 / (a * (1 - lr * scale * a / 4))))
    result = estimate(
        Weights(torch.zeros(2000)),
        batches=[1.0],
        lr=lr,
        nbeta=nbeta,
        localization=localization,
        num_draws=300,
        num_burnin_steps=600,
        freeze_after_burnin=True,
    )
    assert result.mean / 2000 == pytest.approx(
        sgld_mean(1.0, lr * scale, nbeta, localization), rel=0.03
    )
    assert result.diagnostics.scale == pytest.approx(scale, rel=0.02)


@pytest.fixture(scope="module")
def regression():
    """A linear regression with 10 weights on 1000 points, its least-squares solution, and 8 batches
    of 125 points.
    """
    inputs = torch.randn(1000, 10, generator=generator())
    targets = inputs @ torch.arange(10.0) + torch.randn(1000, generator=generator(1))
    solution = torch.linalg.lstsq(inputs.double(), targets.double()[:, None]).solution.float()[:, 0]
    curvature = torch.linalg.eigvalsh(inputs.T.double() @ inputs.double() / 1000)
    exact = (145 * curvature / (2 * (145 * curvature + 1))).sum().item()
    return (
        Weights(solution),
        (inputs, targets),
        list(zip(inputs.split(125), targets.split(125), strict=True)),
        exact,
    )


def half_mse(model, batch):
    """Of one regression, weights (10,), or summed over several, (10, replicas)."""
    inputs, targets = batch
    left = inputs @ model.w[0] - (targets if model.w[0].ndim == 1 else targets[:, None])
    return 0.5 * left.square().mean(0).sum()


def test_regression_equals_the_exact_sum(regression):
    model, data, _, exact = regression
    assert exact == pytest.approx(4.97, abs=0.01)
    replicas = 100
    result = estimate(
        Weights(model.w[0].detach()[:, None].expand(-1, replicas)),
        half_mse,
        [data],
        lr=5e-4,
        nbeta=145.0,
        localization=1.0,
        num_chains=1,
        num_draws=300,
        num_burnin_steps=200,
        sampler="sgld",
    )
    assert result.mean / replicas == pytest.approx(exact, abs=0.3)
    assert result.flags == ()
    spectrum = hessian_spectrum(model, half_mse, [data], **(ONE_OF_EACH | {"num_probes": 20}))
    predicted = predict(spectrum, nbeta=145.0, localization=1.0)
    assert predicted.mean == pytest.approx(exact, rel=0.001) and not predicted.no_minimum


def test_pairing_keeps_the_noise_of_the_initial_loss_out(regression):
    """L(w*) on two batches puts the estimate off by nbeta times its noise, L(w*) on the draws' own
    batches does not.
    """
    model, _, batches, exact = regression
    settings = {
        "lr": 5e-4,
        "nbeta": 145.0,
        "localization": 1.0,
        "num_burnin_steps": 200,
        "sampler": "sgld",
        "num_init_batches": 2,
    }
    result = estimate(model, half_mse, batches, num_draws=2400, **settings)
    losses = [half_mse(model, batch).item() for batch in batches]
    off = 145 * (np.mean(losses) - np.mean(losses[:2]))
    assert result.mean == pytest.approx(exact, abs=0.8) and result.mean_paired == pytest.approx(
        result.mean
    )
    assert result.mean_first_batches - result.mean == pytest.approx(off, rel=1e-3) and abs(off) > 1
    assert result.init_loss == pytest.approx(np.mean(losses))


def test_the_papers_baseline_changes_the_estimate_and_not_the_chains(regression):
    model, _, batches, _ = regression
    paired = estimate(model, half_mse, batches, num_init_batches=2)
    first = estimate(model, half_mse, batches, num_init_batches=2, baseline="first_batches")
    np.testing.assert_array_equal(paired.loss_trace, first.loss_trace)
    assert first.mean == pytest.approx(first.mean_first_batches) and first.mean == pytest.approx(
        paired.mean_first_batches
    )
    assert first.mean != pytest.approx(paired.mean)
    assert first.init_loss == pytest.approx(
        np.mean([half_mse(model, batch).item() for batch in batches[:2]])
    )
    assert math.isnan(first.mean_paired)


def crossing_exact(nbeta):
    """nbeta E[x^2 y^2] under exp(-nbeta x^2 y^2 - (x^2 + y^2) / 2): over y in closed form, over x
    by quadrature.
    """

    def density(x):
        return math.exp(-(x**2) / 2) / math.sqrt(2 * nbeta * x**2 + 1)

    points = {"points": [0.01, 0.1, 1.0], "limit": 500}
    upper = integrate.quad(
        lambda x: density(x) * nbeta * x**2 / (2 * nbeta * x**2 + 1), 0, 12, **points
    )[0]
    return upper / integrate.quad(density, 0, 12, **points)[0]


@pytest.mark.parametrize(
    ("nbeta", "rounded", "step"), [(30, 0.325, 0.025), (145, 0.361, 0.025), (1000, 0.390, 0.1)]
)
def test_two_crossing_valleys_equal_quadrature(nbeta, rounded, step):
    """w1^2 w2^2 at 0: the value at this nbeta, not 1/2, which is reached only logarithmically."""
    replicas, exact = 2000, crossing_exact(nbeta)
    assert exact == pytest.approx(rounded, abs=0.001)
    loss, seen = recorded(lambda model, _: (model.w[0] * model.w[1]).square())
    result = estimate(
        Weights(torch.zeros(replicas), torch.zeros(replicas)),
        loss,
        [None],
        lr=step / nbeta,
        nbeta=float(nbeta),
        localization=1.0,
        num_chains=1,
        num_draws=1500,
        num_burnin_steps=4000,
        sampler="sgld",
    )
    assert result.mean / replicas == pytest.approx(exact, abs=0.02)
    by_variance = exact - nbeta * (crossing_exact(nbeta * 1.01) - crossing_exact(nbeta * 0.99)) / (
        0.02 * nbeta
    )
    assert variance_of_each(seen, result, nbeta) == pytest.approx(by_variance, abs=0.05)
    flat = hessian_spectrum(
        Weights(torch.zeros(1), torch.zeros(1)),
        lambda model, _: (model.w[0] * model.w[1]).square().sum(),
        [None],
        **ONE_OF_EACH,
    )
    assert predict(flat, nbeta=nbeta, localization=1.0).mean == 0 < exact


def deep_linear(widths, rank, replicas):
    """The balanced minimum: every matrix the identity on `rank` directions and zero elsewhere."""
    matrices = []
    for ins, outs in zip(widths, widths[1:], strict=False):
        matrix = torch.zeros(outs, ins)
        matrix[range(rank), range(rank)] = 1.0
        matrices.append(matrix.expand(replicas, -1, -1))
    return Weights(*matrices)


def population_loss(model, target):
    """Half the expected squared error on standard normal inputs, (replicas,)."""
    product = model.w[0]
    for matrix in model.w[1:]:
        product = torch.bmm(matrix, product)
    return 0.5 * (product - target).square().sum((1, 2))


def quadratic_of_deep_linear(widths, rank, target):
    """Half the rank of the Hessian, nearly, from its dense matrix in float64."""
    weights = [w.detach()[0].double() for w in deep_linear(widths, rank, 1).w]

    def loss(flat):
        pieces = zip(flat.split([w.numel() for w in weights]), weights, strict=True)
        model = SimpleNamespace(w=[piece.view(1, *w.shape) for piece, w in pieces])
        return population_loss(model, target.double()).sum()

    at = torch.cat([w.flatten() for w in weights])
    spectrum = np.linalg.eigvalsh(torch.autograd.functional.hessian(loss, at).numpy()).tolist()
    exact = Spectrum([sum(spectrum)], [spectrum], [[1.0] * len(spectrum)], [], [])
    return predict(exact, nbeta=1000.0, localization=1.0).mean


@pytest.mark.parametrize(
    ("widths", "rank", "exact", "predicted", "stated_error", "replicas", "steps"),
    [
        ((5, 3, 5), 3, 10.5, 10.5, 0.17, 256, 2000),  # regular but for its symmetries
        pytest.param((5, 3, 5), 1, 8.0, 4.5, 0.31, 32, 8000, marks=pytest.mark.stress),
        pytest.param((6, 4, 4, 6), 2, 12.0, 10.0, 0.46, 32, 5000, marks=pytest.mark.stress),
    ],
)
def test_deep_linear_networks_equal_aoyagi(
    widths, rank, exact, predicted, stated_error, replicas, steps
):
    target = torch.zeros(widths[-1], widths[0])
    target[range(rank), range(rank)] = 1.0
    loss, seen = recorded(population_loss)
    result = estimate(
        deep_linear(widths, rank, replicas),
        loss,
        [target],
        lr=0.025 / 1000,
        nbeta=1000.0,
        localization=1.0,
        num_chains=1,
        num_draws=steps,
        num_burnin_steps=steps,
        sampler="sgld",
    )
    assert result.mean / replicas == pytest.approx(exact, abs=stated_error)
    by_variance = variance_of_each(seen, result, 1000)
    assert by_variance == pytest.approx(exact, abs=2 * stated_error)
    assert quadratic_of_deep_linear(widths, rank, target) == pytest.approx(predicted, abs=0.02)
    assert abs(result.mean / replicas - predicted) > 3 * stated_error or predicted == exact


# --- one step


def convolutional():
    """Tensors of many sizes: smaller than the noise generator's blocks of 16, odd ones, and large
    ones.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layers = (
            nn.Conv2d(1, 5, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(180, 301),
            nn.Tanh(),
            nn.Linear(301, 7),
            nn.Linear(7, 3),
        )
        return nn.Sequential(*layers)


def losses_of(model, step, num_steps):
    """num_steps of forward, backward and `step`, on four batches in turn."""
    inputs, labels = (
        torch.randn(64, 1, 8, 8, generator=generator(2)),
        torch.randint(0, 3, (64,), generator=generator(3)),
    )
    for t in range(num_steps):
        batch = slice(t % 4 * 16, t % 4 * 16 + 16)
        F.cross_entropy(model(inputs[batch]), labels[batch]).backward()
        step()


STEP = {"lr": 1e-4, "nbeta": 30.0, "localization": 50.0}


def after_our_steps(sampler, num_steps):
    model, noise = convolutional(), generator(4)
    chain = langevin.Langevin(list(model.parameters()), sampler=sampler, **STEP)
    losses_of(model, lambda: chain.step(noise), num_steps)
    return model


def assert_bitwise_equal(model, other):
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert not torch.equal(next(model.parameters()), next(convolutional().parameters()))


@pytest.mark.parametrize("sampler", ["psgld", "sgld"])
@pytest.mark.parametrize("chunk", [2**17, 1024])
def test_steps_equal_the_formula_bit_for_bit(sampler, chunk, monkeypatch):
    monkeypatch.setitem(langevin.CHUNK, "cpu", chunk)
    model, noise = convolutional(), generator(4)
    center, square = (
        [p.detach().clone() for p in model.parameters()],
        [torch.zeros_like(p) for p in model.parameters()],
    )

    @torch.no_grad()
    def step():
        for i, p in enumerate(model.parameters()):
            square[i] = torch.addcmul(0.99 * square[i], p.grad, p.grad, value=1 - 0.99)
            scale = 1 / (0.1 + square[i].sqrt()) if sampler == "psgld" else torch.ones(())
            drift = scale * (30.0 * p.grad) + scale * (50.0 * (p - center[i]))
            moved = torch.add(p, drift, alpha=-1e-4 / 2)
            p.copy_(
                torch.add(
                    moved, scale.sqrt() * torch.randn(p.shape, generator=noise), alpha=1e-4**0.5
                )
            )
            p.grad = None

    losses_of(model, step, 60)
    assert_bitwise_equal(after_our_steps(sampler, 60), model)


@pytest.mark.parametrize(("sampler", "theirs"), [("psgld", "rmsprop_sgld"), ("sgld", "sgld")])
def test_300_steps_equal_devinterp_bit_for_bit(sampler, theirs):
    optim = pytest.importorskip(
        "devinterp.optim",
        reason="devinterp is not installed (pip install --no-deps devinterp is enough)",
    )
    model, noise = convolutional(), generator(4)
    optimizer = getattr(optim.SGMCMC, theirs)(model.parameters(), **STEP)

    def step():
        optimizer.step(noise_generator=noise)
        optimizer.zero_grad()

    losses_of(model, step, 300)
    assert_bitwise_equal(after_our_steps(sampler, 300), model)


# --- promises


def classifier():
    """Dropout, batch norm with running statistics, a tied and a frozen weight, channels last; in
    training mode with gradients left over.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(64, 64),
            nn.Linear(64, 64),
        )
        model = model.to(memory_format=torch.channels_last)
        model[5].weight = model[4].weight
        model[4].bias.requires_grad_(False)
        model(torch.randn(8, 3, 6, 6)).sum().backward()
    return model.train()


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def image_batches(num_batches=3):
    draws = generator(6)
    return [
        (torch.randn(8, 3, 6, 6, generator=draws), torch.randint(0, 64, (8,), generator=draws))
        for _ in range(num_batches)
    ]


@pytest.mark.parametrize("sampler", ["psgld", "sgld"])
def test_the_model_and_the_global_generator_stay_as_they_are(sampler):
    model = classifier()
    before, gradients = (
        copy.deepcopy(model.state_dict()),
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
    )
    rng = torch.get_rng_state()
    result = estimate(model, cross_entropy, image_batches(), sampler=sampler)
    assert torch.equal(torch.get_rng_state(), rng)
    assert model.training and model[4].weight is model[5].weight
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(
        p.grad is g is None or torch.equal(p.grad, g)
        for p, g in zip(model.parameters(), gradients, strict=True)
    )
    assert result.num_weights == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert result.loss_trace.std() > 0


def test_a_loss_that_draws_is_seeded_and_leaves_no_trace():
    def noisy(model, batch):
        return cross_entropy(model, (batch[0] + 0.1 * torch.randn(batch[0].shape), batch[1]))

    rng = torch.get_rng_state()
    first, second = (estimate(classifier(), noisy, image_batches(), seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), rng)
    np.testing.assert_array_equal(first.loss_trace, second.loss_trace)


def test_chains_have_their_own_noise_and_the_seed_decides_it():
    first, again, other = (estimate(seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.loss_trace, again.loss_trace)
    assert not np.isin(first.loss_trace[0, 1:], first.loss_trace[1]).any()
    assert not np.isin(first.loss_trace[:, 1:], other.loss_trace).any()
    np.testing.assert_array_equal(estimate(num_chains=3).loss_trace[:2], first.loss_trace)


def test_batches_are_cycled_from_a_place_of_each_chain_and_burn_in_comes_on_top():
    def offset(model, batch):
        return batch + (model.w[0] ** 2).sum()

    result = estimate(
        loss_fn=offset, batches=[0.0, 1.0, 2.0, 3.0], lr=1e-12, num_draws=6, num_burnin_steps=3
    )
    np.testing.assert_allclose(result.burnin_trace, [[0, 1, 2], [2, 3, 0]], atol=1e-6)
    np.testing.assert_allclose(
        result.loss_trace, [[3, 0, 1, 2, 3, 0], [1, 2, 3, 0, 1, 2]], atol=1e-6
    )
    assert result.mean == pytest.approx(0, abs=1e-6)
    assert result.init_loss == pytest.approx(1.5)


def test_the_estimate_is_what_its_traces_say():
    result = estimate(num_draws=8, num_burnin_steps=5, num_chains=3)
    np.testing.assert_allclose(
        result.per_chain, 50 * result.loss_trace.mean(1)
    )  # the loss at w* is zero
    np.testing.assert_allclose(result.quarters, 50 * result.loss_trace.reshape(3, 4, 2).mean(2))
    assert result.loss_trace.shape == (3, 8) and result.burnin_trace.shape == (3, 5)
    assert result.mean == pytest.approx(result.per_chain.mean()) and result.std == pytest.approx(
        result.per_chain.std(ddof=1)
    )
    assert result.loss_rise == pytest.approx(result.mean / 50)
    assert result.settings["lr"] == 1e-3 and result.settings["localization"] == 10.0


def test_few_draws_and_one_chain_leave_what_is_unknown_as_nan():
    result = estimate(num_draws=1, num_chains=1)
    assert result.mean == 0.0 and math.isnan(result.std)  # the first draw stands at w*
    assert np.isnan(result.quarters[0, 1:]).all()


def test_weights_that_are_no_minimum_are_flagged_not_clipped():
    result = estimate(Weights(torch.full((4,), 3.0)), num_draws=200, localization=1.0)
    assert result.mean < -10
    assert result.flags == (
        "negative",
        "negative_chain",
        "falling_below_start",
        "rhat_above_limit",
    )


def test_more_than_half_the_weights_is_flagged():
    result = estimate(
        Weights(torch.zeros(50)),
        batches=[1.0],
        lr=0.05,
        num_draws=200,
        num_burnin_steps=20,
        sampler="sgld",
    )
    assert result.mean == pytest.approx(50 * sgld_mean(1, 0.05, 50, 10), rel=0.1)
    assert result.flags == ("above_half_the_weights",)


def test_half_precision_is_sampled_in_float32():
    model = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 11)).bfloat16()
    tokens = torch.randint(0, 11, (4, 9), generator=generator())
    seen = set()

    def next_token(model, batch):
        logits = model(batch[:, :-1])
        seen.add(logits.dtype)
        return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    estimate(model, next_token, [tokens])
    assert seen == {torch.float32} and model[0].weight.dtype == torch.bfloat16


def test_gradients_survive_a_loss_that_resets_them_and_weights_without_influence():
    def resetting(model, batch):
        model.zero_grad()
        return quadratic(model, batch)

    model = Weights(torch.zeros(4), torch.zeros(3))
    np.testing.assert_array_equal(estimate(model, resetting).loss_trace, estimate(model).loss_trace)


def test_it_runs_where_gradients_are_off():
    with torch.no_grad():
        off = estimate()
    np.testing.assert_array_equal(off.loss_trace, estimate().loss_trace)


# --- mistakes


def test_a_loss_that_becomes_nan_names_chain_draw_and_lr():
    calls = []

    def failing(model, batch):
        calls.append(None)
        return quadratic(model, batch) * (
            math.nan if len(calls) > 2 + 6 + 4 else 1.0
        )  # a check, a baseline, chain 0, four of chain 1

    with pytest.raises(
        llc.LlcDiverged, match=r"nan at chain 1, draw 2 \(lr 0.001, .*psgld\)"
    ) as error:
        estimate(loss_fn=failing, num_draws=4, num_burnin_steps=2)
    assert len(error.value.loss_trace) == 5 and math.isnan(error.value.loss_trace[-1])


@pytest.mark.parametrize(
    "changes", [{"lr": 10.0, "sampler": "sgld"}, {"lr": 1e30}, {"lr": 1e4}, {"max_loss_rise": 1e-9}]
)
def test_a_diverging_lr_fails(changes):
    with pytest.raises(llc.LlcDiverged, match="chain 0, burn-in step 1 .*lower lr"):
        estimate(num_burnin_steps=20, **changes)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_at_the_start(value):
    with pytest.raises(ArithmeticError, match="loss at the given weights is (nan|inf) on batch 1"):
        estimate(loss_fn=lambda model, batch: quadratic(model, 1.0) + batch, batches=[0.0, value])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "lr must be a finite number > 0, got 0.0"),
        ({"lr": math.nan}, "lr must be a finite number > 0, got nan"),
        ({"lr": "1e-3"}, "lr must be a finite number > 0, got '1e-3'"),
        ({"nbeta": -1}, "nbeta must be a finite number > 0, got -1"),
        ({"nbeta": 0.0}, "nbeta must be a finite number > 0, got 0.0"),
        ({"localization": -0.5}, "localization must be a finite number > 0, got -0.5"),
        ({"localization": 0}, "localization must be a finite number > 0, got 0"),
        ({"max_rhat": 0.0}, "max_rhat must be a finite number > 0, got 0.0"),
        ({"num_chains": 0}, "num_chains must be an integer >= 1, got 0"),
        ({"num_draws": 2.5}, "num_draws must be an integer >= 1, got 2.5"),
        ({"num_draws": 0}, "num_draws must be an integer >= 1, got 0"),
        ({"num_burnin_steps": -1}, "num_burnin_steps must be an integer >= 0, got -1"),
        ({"num_init_batches": 0}, "num_init_batches must be an integer >= 1, got 0"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
        ({"sampler": "sgnht"}, "sampler must be one of psgld, sgld, got 'sgnht'"),
        ({"baseline": "none"}, "baseline must be one of paired, first_batches, got 'none'"),
        ({"alpha": 1.0}, r"alpha must be in \[0, 1\), got 1.0"),
        ({"eps": 0.0}, "eps must be a finite number > 0, got 0.0"),
        ({"max_loss_rise": 0.0}, "max_loss_rise must be a finite number > 0, got 0.0"),
        (
            {"freeze_after_burnin": True},
            "freeze_after_burnin needs sampler='psgld' and num_burnin_steps >= 1",
        ),
        ({"batches": []}, "batches must hold at least one batch, got 0"),
        ({"batches": iter([1])}, "batches must be a sequence .* got list_iterator"),
        (
            {"loss_fn": lambda model, batch: 1.0},
            "must return a scalar floating-point Tensor, got float",
        ),
        (
            {"loss_fn": lambda model, batch: model.w[0]},
            r"must return a scalar floating-point Tensor, got shape \(4,\), torch.float32",
        ),
        (
            {"loss_fn": lambda model, batch: model.w[0].detach().sum()},
            "must depend on the parameters of the model that it is given",
        ),
        ({"model": nn.ReLU()}, "no parameter that requires a gradient"),
        (
            {"model": Weights(torch.zeros(4), torch.zeros(4).double())},
            "must be real, on one device and of one precision",
        ),
    ],
)
def test_arguments_out_of_range_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        estimate(**changes)


def test_a_loss_that_uses_another_model_is_noticed():
    outer = Weights(torch.zeros(4))
    with pytest.raises(
        ValueError, match="must depend on the parameters of the model that it is given"
    ):
        estimate(loss_fn=lambda model, batch: quadratic(outer, batch))


# --- settings and controls


def test_suggested_lr_is_the_specs_rule():
    assert llc.suggested_lr(3000.0, target=0.3) == pytest.approx(1e-5)
    assert llc.suggested_lr(4.0, sampler="sgld") == pytest.approx(0.05)
    with pytest.raises(ValueError, match="localization must be a finite number > 0, got 0"):
        llc.suggested_lr(0)


def test_the_hessians_trace_is_exact_where_it_is_diagonal():
    result = hessian.hessian_trace(
        Weights(torch.ones(4)), quadratic, [torch.arange(4.0), torch.full((4,), 2.0)], num_probes=3
    )
    np.testing.assert_allclose(result.per_probe, (6 + 8) / 2)
    assert result.mean == 7.0 and result.std == 0.0


def test_the_hessians_trace_through_hard_sigmoids():
    """Whose kernel has no second derivative; a cubic loss has one even where they are linear."""
    model, x = (
        nn.Sequential(nn.Linear(5, 4), nn.Hardsigmoid(inplace=True)),
        torch.randn(7, 5, generator=torch.Generator().manual_seed(0)),
    )

    def loss(outputs_of, batch):
        return (outputs_of(batch) ** 3).mean()

    def by_hand(weight):
        return (((x @ weight.T + model[0].bias).add(3).clamp(0, 6) / 6) ** 3).mean()

    model[0].bias.requires_grad_(False)
    exact = (
        torch.autograd.functional.hessian(by_hand, model[0].weight.detach())
        .reshape(20, 20)
        .trace()
        .item()
    )
    assert hessian.hessian_trace(model, loss, [x], num_probes=2000).mean == pytest.approx(
        exact, rel=0.05
    )


def test_the_hessians_trace_of_attention_equals_the_full_hessian():
    tokens = torch.randn(1, 2, 5, 3, generator=generator(7))

    def attention(model, batch):
        query, key = (batch @ w for w in model.w)
        return (
            F.scaled_dot_product_attention(query, key, batch, is_causal=True).square().mean() * 100
        )

    model = Weights(torch.randn(3, 3, generator=generator(8)), torch.eye(3))
    exact = 0.0
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        for i, w in enumerate(model.w):
            others = [other.detach() for other in model.w]

            def loss(x, i=i, others=others):
                return attention(SimpleNamespace(w=[*others[:i], x, *others[i + 1 :]]), tokens)

            exact += (
                torch.autograd.functional.hessian(loss, w.detach()).reshape(9, 9).trace().item()
            )
    result = hessian.hessian_trace(model, attention, [tokens], num_probes=400)
    assert abs(result.mean - exact) < 4 * result.std / 20
    assert result.std / 20 < 0.2 * abs(exact)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_finds_the_same_coefficient():
    rng = torch.cuda.get_rng_state()
    result = estimate(
        Weights(torch.zeros(2000)).cuda(),
        batches=[1.0],
        lr=0.002,
        nbeta=100.0,
        localization=20.0,
        num_draws=300,
        num_burnin_steps=200,
        sampler="sgld",
    )
    assert result.mean / 2000 == pytest.approx(sgld_mean(1.0, 0.002, 100, 20), rel=0.02)
    assert torch.equal(torch.cuda.get_rng_state(), rng)
