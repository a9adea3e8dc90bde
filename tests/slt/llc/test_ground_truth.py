"""The estimate against NUTS (Pyro), which has no step-size bias, on a network of 1,000 weights."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from momos.slt.llc import estimate_llc, hessian_spectrum, predict
from momos.slt.llc.diagnostics import mixing

pytestmark = pytest.mark.usefixtures("one_thread")
NBETA, LOCALIZATION = 1000.0, 100.0


class Student(nn.Module):
    """Tanh network 8-100-2 at a teacher's weights: 3 of its 100 hidden units are used."""

    def __init__(self):
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        inwards, outwards = torch.zeros(8, 100), torch.zeros(100, 2)
        inwards[:, :3] = torch.randn(8, 3, generator=draws) / 8**0.5
        outwards[:3] = 0.3 * torch.randn(3, 2, generator=draws)
        self.inwards, self.outwards = nn.Parameter(inwards), nn.Parameter(outwards)


def outputs(inwards, outwards):
    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    return torch.tanh(inputs @ inwards) @ outwards


STUDENT = Student()
TARGETS = outputs(STUDENT.inwards, STUDENT.outwards).detach()


def loss(inwards, outwards):
    return 0.5 * (outputs(inwards, outwards) - TARGETS).square().sum(1).mean()


def by_nuts(num_draws=100):
    """nbeta E[L] and its standard error."""
    infer = pytest.importorskip("pyro.infer")
    center = {name: p.detach() for name, p in STUDENT.named_parameters()}

    def potential(weights):
        away = sum((weights[name] - center[name]).square().sum() for name in center)
        return NBETA * loss(**weights) + LOCALIZATION / 2 * away

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        chain = infer.MCMC(
            infer.NUTS(potential_fn=potential, max_tree_depth=4),
            num_samples=num_draws,
            warmup_steps=50,
            initial_params=center,
            disable_progbar=True,
        )
        chain.run()
    drawn = chain.get_samples()
    pairs = zip(drawn["inwards"], drawn["outwards"], strict=True)
    rises = NBETA * np.array([loss(*pair).item() for pair in pairs])
    return rises.mean(), rises.std() / math.sqrt(mixing(rises[None])[1])


def test_the_estimate_equals_nuts_where_the_quadratic_prediction_does_not():
    truth, error = by_nuts()
    result = estimate_llc(
        STUDENT,
        lambda model, _: loss(model.inwards, model.outwards),
        [None],
        lr=0.01 / LOCALIZATION,
        nbeta=NBETA,
        localization=LOCALIZATION,
        num_chains=2,
        num_draws=700,
        num_burnin_steps=500,
        sampler="sgld",
    )
    spectrum = hessian_spectrum(
        STUDENT,
        lambda model, _: loss(model.inwards, model.outwards),
        [None],
        num_probes=20,
        num_probe_batches=1,
        num_lanczos_probes=20,
        num_lanczos_steps=8,
        num_gradient_batches=1,
    )
    quadratic = predict(spectrum, nbeta=NBETA, localization=LOCALIZATION)
    assert error < 0.1 * truth and result.flags == ()
    both = math.hypot(error, result.std / math.sqrt(2))
    assert both < 0.1 * truth and result.mean == pytest.approx(truth, abs=3 * both)
    assert quadratic.mean + 3 * quadratic.std / math.sqrt(20) < truth - 3 * error
