"""Compressibility against brute force, closed forms, and attention by hand (method B1)."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import compressibility as oracle
from torch import Tensor, nn
from torch.nn import functional as F

from momos.models import build
from momos.slt import compressibility as c
from momos.slt.compressibility.quantization import _descend, _minimise

EPS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


class NeoXAttention(nn.Module):
    """As in transformers: rows of query_key_value by head, in each query, key, value; biases
    everywhere.
    """

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_attention_heads = num_heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.dense = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) -> the same"""
        batch, tokens, width = x.shape
        q, k, v = (
            self.query_key_value(x)
            .view(batch, tokens, self.num_attention_heads, -1)
            .transpose(1, 2)
            .chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.dense(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    def __init__(self, width: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = NeoXAttention(width, num_heads)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm(x)))))


class Language(nn.Module):
    """A GPT-NeoX in miniature: embedding, blocks, unembedding, which may be tied."""

    def __init__(self, num_layers: int = 2, *, tied: bool = False, dropout: float = 0.0):
        super().__init__()
        vocabulary, width, num_heads = 12, 16, 4
        self.embed_in = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Block(width, num_heads, dropout) for _ in range(num_layers))
        self.embed_out = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.embed_out.weight = self.embed_in.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, tokens) int64 -> (n, tokens, vocabulary)"""
        x = self.embed_in(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.embed_out(x)


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn, self.conv2, self.linear = (
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 6, 3),
            nn.Linear(6, 3),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(F.relu(self.conv2(F.relu(self.bn(self.conv1(images))))).mean((2, 3)))


def seeded(make):
    """A model from seed 0, the global generator left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return make()


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def counting_text(vocabulary: int = 12) -> Tensor:
    """(32, 10) int64: each row counts up from a start by a step, modulo the vocabulary."""
    starts = torch.randint(vocabulary, (32, 1), generator=torch.Generator().manual_seed(1))
    steps = torch.randint(1, 4, (32, 1), generator=torch.Generator().manual_seed(2))
    return (starts + steps * torch.arange(10)) % vocabulary


def language_loss(model: nn.Module, tokens: Tensor | None = None) -> Tensor:
    tokens = counting_text() if tokens is None else tokens
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def _classifier_loss(shape: tuple[int, ...], num_classes: int):
    inputs = randn(128, *shape, seed=3)
    labels = (
        inputs.flatten(1) @ randn(math.prod(shape), num_classes, seed=4)
        + randn(128, num_classes, seed=5)
    ).argmax(1)
    return lambda model: F.cross_entropy(model(inputs), labels)


def trained(make, loss, num_steps: int = 60) -> tuple[nn.Module, object]:
    """(model in eval mode, loss_fn): a few steps of Adam on one batch."""
    model = seeded(make)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    return model.eval(), lambda model: loss(model).item()


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 16),
        nn.Tanh(),
        nn.Linear(16, 16),
        nn.Tanh(),
        nn.Linear(16, 16),
        nn.Tanh(),
        nn.Linear(16, 3),
    )


MODELS = {
    "mlp": lambda: trained(mlp, _classifier_loss((6,), 3)),
    "convolutional": lambda: trained(Convolutional, _classifier_loss((1, 6, 6), 3)),
    "language": lambda: trained(lambda: Language(tied=True), language_loss),
}


@pytest.fixture(scope="module")
def models() -> dict[str, tuple[nn.Module, object]]:
    return {name: make() for name, make in MODELS.items()}


def training(
    train_loss_fn=language_loss,
    batches=None,
    *,
    train_lr: float = 0.1,
    num_steps: int = 2,
    **settings,
) -> c.Retraining:
    batches = [counting_text()] if batches is None else batches
    return c.Retraining(
        train_loss_fn=train_loss_fn,
        batches=batches,
        train_lr=train_lr,
        num_steps=num_steps,
        **settings,
    )


class Counting:
    """loss_fn that counts its calls and remembers what it returned."""

    def __init__(self, loss_fn):
        self.loss_fn, self.losses = loss_fn, []

    def __call__(self, model: nn.Module) -> float:
        self.losses.append(self.loss_fn(model))
        return self.losses[-1]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(model: nn.Module, before: dict[str, Tensor]) -> None:
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def assert_definition(found: c.CriticalPoint) -> None:
    """The strongest point of the curve such that it and every weaker one are within init_loss +
    eps.
    """
    strongest = oracle.critical(
        {p.strength: p.loss for p in found.curve}, found.init_loss + found.eps
    )
    assert found.strength == strongest
    assert (found.status == "none") == (strongest is None)
    assert (found.status == "all") == (strongest == found.curve[-1].strength)


# The scan


def table_scan(
    losses: list[float], coarse: tuple[int, ...], eps: list[float], num_beyond: int | None = None
) -> tuple[list[c.CriticalPoint], list[float]]:
    """Scan a table of losses at strengths 1, 2 ..; and the strengths in order of evaluation."""
    asked = []

    def evaluate(strength: float) -> c.Point:
        asked.append(strength)
        return c.Point(strength, strength, losses[strength - 1])

    grid = c.StrengthGrid(tuple(range(1, len(losses) + 1)), coarse)
    return c.scan(evaluate, grid, 0.0, eps, num_beyond=num_beyond), asked


loss_tables = st.lists(
    st.one_of(st.floats(0, 4), st.just(math.nan), st.just(math.inf)), min_size=2, max_size=40
)
tolerances = st.lists(st.floats(0.1, 3), min_size=1, max_size=4)


@given(loss_tables, st.integers(1, 10), tolerances)
def test_scan_keeps_to_the_definition_on_any_table(losses, stride, eps):
    coarse = c.every(len(losses), stride)
    found, asked = table_scan(losses, coarse, eps)
    assert len(asked) == len(set(asked)), "no point is evaluated twice"
    assert set(asked) == {p.strength for p in c.merged_curve(found)}, (
        "every evaluated point is kept"
    )
    every = {strength: loss for strength, loss in enumerate(losses, 1)}
    for one in found:
        assert_definition(one)
        assert (one.value, one.loss) == (
            (one.strength, losses[one.strength - 1]) if one.status != "none" else (None, None)
        )
        if one.status == "found":
            assert not losses[one.strength] <= one.eps, (
                "the next strength of the fine grid was tried and is outside"
            )
        truth = oracle.critical(every, one.eps)
        assert (truth or 0) <= (one.value or 0), (
            "a scan that passes over points can only end further on"
        )
        if oracle.crosses_once(every, one.eps):
            assert one.value == truth and one.crosses_once


@given(loss_tables, st.integers(1, 10), tolerances)
def test_several_eps_in_one_scan_equal_separate_scans(losses, stride, eps):
    coarse = c.every(len(losses), stride)
    together, _ = table_scan([-1.0 if math.isnan(loss) else loss for loss in losses], coarse, eps)
    separate = [
        table_scan([-1.0 if math.isnan(loss) else loss for loss in losses], coarse, [one])[0][0]
        for one in eps
    ]
    assert together == separate


def test_a_scan_that_misses_a_bump_says_so_where_it_saw_the_return():
    losses = [0, 0, 9, 0, 0, 0, 9, 9, 0]
    (found,), _ = table_scan(losses, (0, 4, 8), [1.0])
    assert found.status == "all" and found.crosses_once, "nothing of either bump was seen"
    (found,), _ = table_scan(losses, (0, 6, 8), [1.0])
    assert found.value == 6 and not found.crosses_once


@given(loss_tables, st.integers(1, 10), tolerances, st.integers(0, 3))
def test_a_scan_that_stops_beyond_the_crossing_finds_the_same(losses, stride, eps, num_beyond):
    """The same critical points as the whole scan and as brute force; a curve that ends earlier."""
    coarse = c.every(len(losses), stride)
    whole, all_asked = table_scan(losses, coarse, eps)
    found, asked = table_scan(losses, coarse, eps, num_beyond)
    assert len(asked) == len(set(asked)) and set(asked) <= set(all_asked)
    every = {strength: loss for strength, loss in enumerate(losses, 1)}
    for one, full in zip(found, whole, strict=True):
        same = [getattr(one, name) == getattr(full, name) for name in ("value", "status", "cost")]
        assert all(same) and set(one.curve) <= set(full.curve)
        if oracle.crosses_once(every, one.eps):
            assert one.value == oracle.critical(every, one.eps)
        outside = [index for index in coarse if not losses[index] <= one.eps]
        ends = coarse[-1] if not outside else max(p.strength for p in one.curve) - 1
        place = coarse.index(ends)
        assert place == min(
            len(coarse) - 1,
            coarse.index(outside[0]) + num_beyond if outside else len(coarse) - 1,
        )


def test_a_scan_stops_so_many_coarse_points_beyond_the_crossing():
    losses = [0, 0, 0, 9, 9, 9, 0, 9]
    (found,), asked = table_scan(losses, tuple(range(8)), [1.0], 0)
    assert asked == [1, 2, 3, 4] and found.value == 3 and found.crosses_once
    (found,), asked = table_scan(losses, tuple(range(8)), [1.0], 3)
    assert asked == [1, 2, 3, 4, 5, 6, 7] and found.value == 3 and not found.crosses_once


# Quantisation


@pytest.mark.parametrize("theta", c.THETAS)
@pytest.mark.parametrize("name", MODELS)
def test_critical_n_q_against_every_n_q_up_to_257(models, name, theta, record_property):
    model, loss_fn = models[name]
    fractions = [2 ** (-k / 5) for k in range(6)] if theta == "loss" else [1.0]
    found = c.critical_n_q(model, loss_fn, EPS, theta=theta, max_n_q=257, fractions=fractions)
    every = oracle.losses_by_n_q(model, loss_fn, 257, fractions)
    differences, monotone = [], 0
    for one in found:
        assert one.init_loss == loss_fn(model)
        assert_definition(one)
        assert all(
            p.loss == every[p.strength] and p.cost == math.log2(p.strength) for p in one.curve
        ), "the curve, to the bit"
        limit = one.init_loss + one.eps
        truth = oracle.critical(every, limit)
        if oracle.crosses_once(every, limit):
            monotone += 1
            assert one.value == truth
        elif one.value != truth:
            passed_over = [n_q for n_q in range(truth, one.value, -2) if every[n_q] > limit]
            assert (
                one.value < truth
                and passed_over
                and not {p.strength for p in one.curve} & set(passed_over)
            )
            differences.append(
                f"eps {one.eps}: scan {one.value}, brute force {truth}, "
                f"outside in between {passed_over}"
            )
    shown = "; ".join(differences)
    record_property(f"critical n_q, {name}, theta {theta}", shown or "equal everywhere")
    print(
        f"{name}, theta {theta}: {monotone} of {len(EPS)} eps monotone; {shown or 'no difference'}"
    )
    assert monotone >= len(EPS) // 2, "too few monotone cases for the comparison to mean anything"
    assert len({one.value for one in found}) > 1, "and they should differ"


def test_a_finer_theta_against_every_n_q(models):
    """Thetas half-way to the neighbours of each n_q's best one, by brute force."""
    model, loss_fn = models["mlp"]
    fractions = [1.0, 0.7, 0.5, 0.35]
    found = c.critical_n_q(model, loss_fn, EPS, max_n_q=65, fractions=fractions, refine=True)
    plain = c.critical_n_q(model, loss_fn, EPS, max_n_q=65, fractions=fractions)
    assert [one._replace(refined=None) for one in found] == plain

    def finest(n_q: int) -> float:
        losses = [loss_fn(c.quantized(model, n_q, theta).model) for theta in fractions]
        best = min(range(len(fractions)), key=losses.__getitem__)
        around = fractions[max(best - 1, 0)], fractions[min(best + 1, len(fractions) - 1)]
        halfway = [math.sqrt(fractions[best] * theta) for theta in around]
        return min(losses[best], *(loss_fn(c.quantized(model, n_q, t).model) for t in halfway))

    for one in found:
        if one.found:
            n_q = int(one.value)
            while n_q > 3 and finest(n_q - 2) <= one.init_loss + one.eps:
                n_q -= 2
            assert one.refined == n_q
    assert any(one.refined < one.value for one in found if one.found)


@pytest.mark.parametrize(("bits", "expected"), [(2, 3), (4, 15), (8, 255), (9, None)])
def test_a_quantised_models_own_grid_is_found(bits, expected):
    draws = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 40), nn.Linear(40, 5))
    num_levels = 2 ** (bits - 1) - 1
    for layer, scale in zip(model, (0.013, 2.7), strict=True):
        codes = torch.randint(-num_levels, num_levels + 1, layer.weight.shape, generator=draws)
        codes[0, :2] = torch.tensor([num_levels, -num_levels])
        layer.weight.data = scale * codes
    assert c.own_n_q(model) == expected
    if expected:
        same = c.quantized(model, expected, 1.0).model
        torch.testing.assert_close(same[0].weight, model[0].weight)
        assert c.own_n_q(model, max_n_q=expected - 2) is None
    assert c.own_n_q(nn.Linear(20, 20)) is None


def test_the_theta_of_lowest_loss(models):
    model, loss_fn = models["mlp"]
    by_loss, by_max = (c.critical_n_q(model, loss_fn, 0.1, theta=theta) for theta in c.THETAS)
    worst = {p.strength: p.loss for p in by_max.curve}
    for point in by_loss.curve:
        assert (
            point.loss
            == min(trial.loss for trial in point.trials)
            == loss_fn(c.quantized(model, point.strength, point.theta).model)
        )
        assert point.trials[0].setting == 1.0 and point.loss <= worst.get(point.strength, math.inf)
        assert len(point.trials) == len({trial.setting for trial in point.trials}) <= 17
    assert by_loss.value < by_max.value and {p.theta for p in by_max.curve} == {1.0}


@given(st.floats(-6, 1), st.integers(1, 120))
def test_the_search_finds_the_bottom_of_one_valley(bottom, num_settings):
    fractions = [2 ** (-k / 16) for k in range(num_settings)]

    def loss(fraction):
        return abs(math.log2(fraction) - bottom)

    trials, best = _minimise(loss, fractions)
    assert best.loss == min(map(loss, fractions)) and best in trials


@given(st.floats(-6, 1), st.integers(1, 120), st.integers(0, 119))
def test_the_descent_finds_the_bottom_of_one_valley(bottom, num_settings, start):
    fractions = [2 ** (-k / 16) for k in range(num_settings)]
    start = min(start, num_settings - 1)

    def loss(fraction):
        return abs(math.log2(fraction) - bottom)

    trials, best = _descend(loss, fractions, start)
    assert best.loss == min(map(loss, fractions)) and best in trials
    away = abs(fractions.index(best.setting) - start)
    assert len(trials) == len({trial.setting for trial in trials}) <= away + 3
    assert [trial.setting for trial in trials] == sorted(
        (trial.setting for trial in trials), reverse=True
    )


@given(st.lists(st.floats(0, 9) | st.just(math.nan), min_size=1, max_size=30), st.integers(0, 29))
def test_the_descent_ends_where_no_neighbour_is_lower(losses, start):
    start = min(start, len(losses) - 1)
    trials, best = _descend(lambda index: losses[index], range(len(losses)), start)
    finite = [loss if math.isfinite(loss) else math.inf for loss in losses]
    neighbours = finite[max(best.setting - 1, 0) : best.setting + 2]
    assert finite[best.setting] == min(neighbours) <= finite[start]
    assert {trial.setting for trial in trials} >= {best.setting, start}


@pytest.mark.parametrize("name", MODELS)
def test_following_theta_against_every_fraction(models, name):
    """The critical n_q of the whole search where the loss over theta has one valley, else weaker.

    Whatever it ends at, a point's loss is that of its theta, and no neighbour of it is lower.
    """
    model, loss_fn = models[name]
    fractions = [2 ** (-k / 4) for k in range(9)]
    search = {"max_n_q": 257, "fractions": fractions}
    whole = c.critical_n_q(model, loss_fn, EPS, **search)
    followed = c.critical_n_q(model, loss_fn, EPS, follow=True, **search)
    num_trials = [
        sum(len(p.trials) for p in c.merged_curve(points)) for points in (followed, whole)
    ]
    assert num_trials[0] < 0.6 * num_trials[1]
    full = {p.strength: p for p in c.merged_curve(whole)}
    for one in followed:
        assert_definition(one)
    equal = [one.value == other.value for one, other in zip(followed, whole, strict=True)]
    for point in c.merged_curve(followed):
        assert point.loss == min(trial.loss for trial in point.trials)
        assert point.loss == loss_fn(c.quantized(model, point.strength, point.theta).model)
        if point.strength in full:
            assert point.loss >= full[point.strength].loss
    print(f"{name}: {sum(equal)} of {len(equal)} eps equal, trials {num_trials}")
    assert sum(equal) >= len(EPS) - 1


def test_the_search_passes_over_losses_that_are_not_finite():
    _, best = _minimise(
        lambda fraction: math.nan if fraction > 0.4 else fraction, [1.0, 0.5, 0.4, 0.3]
    )
    assert best.setting == 0.3
    _, best = _minimise(lambda fraction: math.nan, [1.0, 0.5])
    assert math.isnan(best.loss)


weights = st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=1, max_size=30)
odd = st.integers(1, 512).map(lambda m: 2 * m + 1)


@given(weights, odd, st.floats(0, 2.0**60, width=32))
def test_quantiser_properties(values, n_q, theta):
    weight = torch.tensor(values)
    got = c.to_levels(weight, n_q, theta)
    assert got.dtype == weight.dtype and got.shape == weight.shape
    assert torch.equal(c.to_levels(got, n_q, theta), got), "idempotent"
    assert torch.equal(c.to_levels(-weight, n_q, theta), -got), "symmetric"
    assert got.abs().max() <= theta
    assert torch.equal(c.to_levels(torch.zeros(2), n_q, theta), torch.zeros(2)), "zero is a level"
    expected = oracle.nearest_level(weight.numpy(), n_q, theta)
    rounding = theta * 2.0**-23 + 2.0**-149
    clamped = weight.double().clamp(-theta, theta).numpy()
    assert (
        np.abs(got.double().numpy() - clamped) <= np.abs(expected - clamped) + rounding
    ).all(), "the nearest level"


@pytest.mark.parametrize("n_q", [3, 5, 17, 257])
def test_levels_are_symmetric_contain_zero_and_number_n_q(n_q):
    levels = c.to_levels(torch.linspace(-1, 1, 20001), n_q, 0.7).unique()
    assert len(levels) == n_q and 0 in levels and torch.equal(levels, -levels.flip(0))
    torch.testing.assert_close(levels, torch.linspace(-0.7, 0.7, n_q))
    two = c.quantized(nn.Linear(64, 64), n_q)
    assert two.cost == math.log2(n_q) and len(two.model.weight.unique()) <= n_q


def test_which_weights_are_quantised():
    model = seeded(lambda: Language(tied=True)).train()
    model.frozen = nn.Parameter(randn(4, 4), requires_grad=False)
    model.attention_bias_table = nn.Parameter(randn(4, 4))
    before = state(model)
    copied, bits = c.quantized(model, 5, 0.5)
    assert_same(model, before)
    assert model.training and not copied.training and bits == math.log2(5)
    assert copied.embed_out.weight is copied.embed_in.weight
    for name, weight in copied.named_parameters():
        is_weight = weight.ndim >= 2 and "bias" not in name
        assert len(weight.unique()) <= 5 if is_weight else torch.equal(weight, before[name]), name
        if is_weight:
            assert weight.abs().max() == before[name].abs().max() * 0.5


# Factorisation


def test_full_rank_changes_nothing(models):
    for name in ("mlp", "language"):
        model, loss_fn = models[name]
        names = (
            c.layers_of(model)
            if name == "mlp"
            else [["embed_out.weight"], *c.layers_of(model), ["embed_out.weight"]]
        )
        copied, cost = c.factorized(model, 1.0, c.decompose(model, names))
        assert abs(loss_fn(copied) - loss_fn(model)) < 1e-5 and cost > 1


def test_ranks_and_costs(models):
    model, _ = models["mlp"]
    total = sum(p.numel() for p in model.parameters())
    for keep, rank in ((1.0, 16), (0.5, 8), (0.1, 2), (0.01, 1)):
        copied, cost = c.factorized(model, keep)
        assert cost == pytest.approx((total - 16 * 16 + rank * 32) / total)
        assert torch.linalg.matrix_rank(copied[2].weight) == rank
        truth = np.linalg.svd(model[2].weight.detach().double().numpy(), compute_uv=False)
        error = (copied[2].weight - model[2].weight).double().norm().item()
        assert error == pytest.approx(np.sqrt((truth[rank:] ** 2).sum()), abs=1e-5), "Eckart-Young"
        untouched = set(dict(model.named_parameters())) - {"2.weight"}
        assert all(
            torch.equal(copied.get_parameter(other), model.get_parameter(other))
            for other in untouched
        )


def test_the_layer_rule():
    names = ["norm", "attention.query_key_value", "attention.dense", "up", "down"]
    language = seeded(lambda: Language(num_layers=6))
    assert c.layers_of(language) == [
        [f"layers.{i}.{name}.weight" for name in names[1:]] for i in range(6)
    ]
    assert {name.split(".")[1] for name in c.chosen(c.layers_of(language))} == {"1", "3"}
    assert list(c.decompose(language)) == c.chosen(c.layers_of(language))
    assert c.chosen(c.layers_of(build("mlp", 10, image_size=4))) == [
        "hidden.1.weight",
        "hidden.3.weight",
    ]
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16), 3, enable_nested_tensor=False
    )
    expected = [
        "self_attn.in_proj_weight",
        "self_attn.out_proj.weight",
        "linear1.weight",
        "linear2.weight",
    ]
    assert c.chosen(c.layers_of(encoder)) == [f"layers.1.{name}" for name in expected]
    vit = build(
        "vit_tiny_patch16_224",
        10,
        image_size=32,
        kwargs={"depth": 5, "embed_dim": 12, "num_heads": 3},
    )
    assert {name.split(".")[1] for name in c.chosen(c.layers_of(vit))} == {"1", "3"}
    stages = build(
        "tiny_vit",
        10,
        kwargs={
            "embed_dims": [32, 64],
            "depths": [1, 4],
            "num_heads": [2, 4],
            "window_sizes": [2, 2],
        },
    )
    assert {".".join(name.split(".")[:4]) for name in c.chosen(c.layers_of(stages))} == {
        "stages.1.blocks.1"
    }


def test_tied_weights_are_factorised_once_or_not_at_all():
    model = nn.ModuleDict(
        {name: nn.Linear(6, 6) for name in "abcdefg"} | {"table": nn.Embedding(6, 6)}
    )
    model["d"].weight = model["b"].weight
    assert list(c.decompose(model)) == ["b.weight", "f.weight"]
    model["f"].weight = model["table"].weight
    assert list(c.decompose(model)) == ["b.weight"]
    model["b"].weight = model["a"].weight
    assert list(c.decompose(model)) == ["d.weight"]
    model["d"].weight = model["a"].weight
    with pytest.raises(
        ValueError, match="layers must hold a weight that is not shared .* got none"
    ):
        c.decompose(model)


def test_critical_fraction_tries_every_rank_once(models):
    model, loss_fn = models["mlp"]
    found = c.critical_fraction(model, loss_fn, list(EPS), num_steps=100)
    by_rank = {rank: loss_fn(c.factorized(model, rank / 16).model) for rank in range(16, 0, -1)}
    total = sum(p.numel() for p in model.parameters())
    for one in found:
        assert_definition(one)
        limit = one.init_loss + one.eps
        assert {round(p.strength * 16) for p in one.curve} <= set(by_rank)
        if oracle.crosses_once(by_rank, limit):
            rank = oracle.critical(by_rank, limit)
            assert one.value == one.cost == pytest.approx((total - 256 + 32 * rank) / total)
    assert len({round(p.strength * 16) for p in c.merged_curve(found)}) == len(
        c.merged_curve(found)
    )


# Noise


@pytest.mark.parametrize("kind", c.KINDS)
def test_noise(kind):
    model = seeded(lambda: Language(tied=True))
    before = state(model)
    still = c.noisy(model, 0.0, kind=kind)
    assert_same(still.model, before)
    assert still.cost == 0
    one, two = c.noisy(model, 0.1, kind=kind, seed=3), c.noisy(model, 0.2, kind=kind, seed=3)
    assert_same(model, before)
    assert_same(c.noisy(model, 0.1, kind=kind, seed=3).model, state(one.model))
    noises = {
        name: copied.get_parameter(name) - p
        for copied in (one.model,)
        for name, p in model.named_parameters()
    }
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            two.model.get_parameter(name) - parameter, 2 * noises[name], rtol=1e-3, atol=1e-6
        )
    scale = (
        1.0 if kind == "absolute" else torch.cat([p.flatten() for p in model.parameters()]).abs()
    )
    noise = torch.cat([value.flatten() for value in noises.values()])
    normal = (noise / scale / 0.1)[noise != 0]
    assert abs(normal.mean()) < 0.1 and abs(normal.std() - 1) < 0.05
    norm = torch.cat([p.flatten() for p in model.parameters()]).norm()
    assert one.cost == pytest.approx((noise.norm() / norm).item(), rel=1e-3)
    if kind == "relative":
        plain = c.noisy(model, 0.1, kind="absolute", seed=3).model
        for name, p in model.named_parameters():
            torch.testing.assert_close(
                noises[name], (plain.get_parameter(name) - p) * p.abs(), rtol=1e-3, atol=1e-6
            )
    for other in ({"seed": 4}, {"seed": 3, "draw": 1}):
        changed = c.noisy(model, 0.1, kind=kind, **other).model
        assert not torch.equal(changed.embed_in.weight, one.model.embed_in.weight)


def test_critical_sigma_has_mean_and_spread_and_the_closed_form():
    """Of loss = sum w^2 / 2 around w = 0 with absolute noise the mean is sigma^2 * mean ||xi||^2 /
    2.
    """
    model = nn.Linear(40, 40)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()

    def loss_fn(model):
        return sum(p.detach().square().sum() for p in model.parameters()).item() / 2

    found = c.critical_sigma(model, loss_fn, 0.5, kind="absolute", num_draws=6, seed=1)
    exact = math.sqrt(
        0.5
        / np.mean(
            [loss_fn(c.noisy(model, 1.0, kind="absolute", seed=1, draw=i).model) for i in range(6)]
        )
    )
    step = 10 ** (1 / 64)
    assert found.found and exact / step * 0.999 <= found.value <= exact * 1.001
    for point in found.curve:
        losses = [trial.loss for trial in point.trials]
        assert (
            len(losses) == 6
            and point.loss == pytest.approx(np.mean(losses))
            and point.spread == pytest.approx(np.std(losses, ddof=1))
        )
    assert found.curve[0].strength == 1e-4 and found.curve[-1].strength == 10.0


# Pruning


def timm_attention() -> nn.Module:
    from timm.layers.attention import Attention

    return Attention(12, num_heads=3, qkv_bias=True)


def tiny_vit_attention() -> nn.Module:
    from timm.models.tiny_vit import Attention

    return Attention(8, 4, num_heads=2, attn_ratio=2, resolution=(2, 2))


def maxvit_attention() -> nn.Module:
    from timm.models.maxxvit import AttentionCl

    return AttentionCl(12, dim_head=4, bias=True, head_first=True)


class FromConfig(NeoXAttention):
    """Newer transformers: the number of heads is in the config alone."""

    def __init__(self):
        super().__init__(12, 3)
        del self.num_attention_heads
        self.config = type("Config", (), {"num_attention_heads": 3})()

    def forward(self, x):
        self.num_attention_heads = self.config.num_attention_heads
        return super().forward(x)


ATTENTIONS = {
    "neox": (lambda: NeoXAttention(12, 3), "dense", 12),
    "neox, config": (FromConfig, "dense", 12),
    "timm": (timm_attention, "proj", 12),
    "timm, head first": (maxvit_attention, "proj", 12),
    "tiny_vit": (tiny_vit_attention, "proj", 8),
    "torch": (lambda: nn.MultiheadAttention(12, 3, batch_first=True), "out_proj", 12),
}


def mixed_heads(module: nn.Module, out: str, x: Tensor) -> Tensor:
    """What the output projection gets, (n, tokens, heads * size)."""
    module = copy.deepcopy(module)
    module.eval()
    if isinstance(module, nn.MultiheadAttention):
        nn.init.eye_(module.out_proj.weight), nn.init.zeros_(module.out_proj.bias)
        return module(x, x, x, need_weights=False)[0]
    setattr(module, out, nn.Identity())
    return module(x)


@torch.no_grad()
@pytest.mark.parametrize("name", ATTENTIONS)
def test_the_rows_and_columns_of_a_head(name):
    make, out, width = ATTENTIONS[name]
    module, x = seeded(make), randn(2, 4, width)
    for parameter in module.parameters():
        parameter.add_(
            randn(*parameter.shape, seed=7), alpha=0.3
        )  # biases start at zero in torch's own
    before = mixed_heads(module, out, x)
    heads = c.attention_heads(module)
    size = before.shape[-1] // len(heads)
    assert [head.number for head in heads] == list(range(len(heads))) and len(heads) in (2, 3)
    for head in heads:
        copied, cost = c.pruned(module, [head])
        after, own = (
            mixed_heads(copied, out, x),
            slice(head.number * size, (head.number + 1) * size),
        )
        others = [i for i in range(before.shape[-1]) if not own.start <= i < own.stop]
        torch.testing.assert_close(after[..., others], before[..., others], rtol=1e-5, atol=1e-6)
        assert (after[..., own] - after[:1, :1, own]).abs().max() < 1e-6, (
            "a head without weights gives its value bias everywhere"
        )
        columns, original = getattr(copied, out).weight, getattr(module, out).weight
        assert not columns[:, own].any() and torch.equal(columns[:, others], original[:, others])
        zeroed = sum(
            ((p == 0) & (q != 0)).sum().item()
            for p, q in zip(copied.parameters(), module.parameters(), strict=True)
        )
        assert cost == pytest.approx(1 - zeroed / sum(p.numel() for p in module.parameters()))
        assert all(
            torch.equal(copied.get_parameter(n), p)
            for n, p in module.named_parameters()
            if p.ndim == 1
        ), "biases stay"
    rows = sum(piece.length for head in heads for piece in head.slices if piece.dim == 0)
    inputs = ("in_proj_weight", "qkv.weight", "query_key_value.weight")
    assert rows == sum(len(p) for n, p in module.named_parameters() if n in inputs)


def test_heads_with_keys_of_another_width():
    module = nn.MultiheadAttention(12, 3, kdim=5, vdim=7)
    copied, _ = c.pruned(module, c.attention_heads(module)[1:2])
    for weight in (
        copied.q_proj_weight,
        copied.k_proj_weight,
        copied.v_proj_weight,
        copied.out_proj.weight.T,
    ):
        assert not weight[4:8].any() and weight[:4].all() and weight[8:].all()


def test_choosing_heads():
    heads = c.attention_heads(seeded(lambda: Language(num_layers=3)))
    assert len(heads) == 12 and {head.module for head in heads} == {
        f"layers.{i}.attention" for i in range(3)
    }
    choices = [c.choose_heads(heads, num, seed=5) for num in range(13)]
    assert all(set(a) < set(b) and len(b) == len(a) + 1 for a, b in itertools.pairwise(choices))
    assert c.choose_heads(heads, 6, seed=5) == choices[6] != c.choose_heads(heads, 6, seed=6)


@pytest.mark.parametrize(
    "optimizer",
    [torch.optim.Adam, torch.optim.AdamW, lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)],
)
def test_pruned_heads_stay_zero_and_others_move(optimizer):
    model = seeded(lambda: Language(num_layers=3))
    heads = c.attention_heads(model)
    removed = c.choose_heads(heads, 5, seed=1)
    copied, _ = c.pruned(model, removed)
    modes = []

    def pieces(model, which):
        return [
            model.get_parameter(piece.parameter).detach().narrow(*piece[1:])
            for head in which
            for piece in head.slices
        ]

    def loss(model, batch):
        assert not any(piece.any() for piece in pieces(model, removed)), "at every step"
        modes.append(model.training)
        return language_loss(model, batch)

    before = state(copied)
    result = c.retrained(
        copied, removed, training(loss, counting_text().split(8), num_steps=30, optimizer=optimizer)
    )
    assert_same(copied, before)
    assert all(modes) and len(modes) == len(result.losses) == 30 and not result.model.training
    assert not any(piece.any() for piece in pieces(result.model, removed))
    kept = [head for head in heads if head not in removed]
    assert all(
        (new != old).any()
        for new, old in zip(pieces(result.model, kept), pieces(copied, kept), strict=True)
    )
    biases = [name for name, p in copied.named_parameters() if name.endswith("dense.bias")]
    assert all(
        not torch.equal(result.model.get_parameter(name), copied.get_parameter(name))
        for name in biases
    )
    assert result.lowest == min(result.losses) < result.losses[0]


def test_the_learning_rate_is_a_tenth_and_batches_are_cycled():
    model, seen, rates = seeded(lambda: Language(dropout=0.5)), [], []

    def optimizer(parameters, lr):
        rates.append(lr)
        return torch.optim.SGD(parameters, lr=lr)

    def loss(model, batch):
        seen.append(batch)
        return language_loss(model)

    run = {"train_lr": 0.5, "num_steps": 5, "optimizer": optimizer}
    before = torch.get_rng_state()
    first = c.retrained(model, [], training(loss, ["a", "b"], **run))
    assert rates == [0.05] and seen == list("ababa")
    assert torch.equal(torch.get_rng_state(), before)
    assert c.retrained(model, [], training(loss, ["a"], **run)).losses == first.losses, (
        "dropout is seeded"
    )
    assert c.retrained(model, [], training(loss, ["a"], **run, seed=1)).losses != first.losses


def test_critical_heads(models):
    model, loss_fn = models["language"]
    counted = Counting(loss_fn)
    run = training(batches=counting_text().split(16), train_lr=1e-2, num_steps=4, seed=2)
    found = c.critical_heads(model, counted, [0.05, 0.3], run)
    curve = c.merged_curve(found)
    assert len(counted.losses) == 1 + len(curve) and found[0].init_loss == counted.losses[0]
    assert {p.strength for p in curve} <= {num / 8 for num in range(8)}
    for one in found:
        assert_definition(one)
        assert one == c.critical_heads(model, loss_fn, one.eps, run)
    for point in curve:
        removed = c.choose_heads(c.attention_heads(model), 8 - round(8 * point.strength), seed=2)
        copied, cost = c.pruned(model, removed)
        again = c.retrained(copied, removed, run)
        assert (point.cost, point.loss, point.eval_loss) == (
            cost,
            min(again.losses),
            loss_fn(again.model),
        )
        assert [trial.loss for trial in point.trials] == list(again.losses)


def test_retraining_that_diverges_is_outside_eps(models):
    model, loss_fn = models["language"]
    calls = itertools.count()

    def loss(model, batch):
        return language_loss(model, batch) * (math.nan if next(calls) % 3 == 2 else 1.0)

    found = c.critical_heads(model, loss_fn, 100.0, training(loss, train_lr=1e-3, num_steps=9))
    assert (
        found.status == "none"
        and found.value is None
        and all(math.isnan(p.loss) and len(p.trials) == 3 for p in found.curve)
    )


# All schemes


SCHEMES = {
    "n_q": lambda *args, **kw: c.critical_n_q(
        *args, **{"max_n_q": 17, "fractions": [1.0, 0.7, 0.5, 0.35]} | kw
    ),
    "n_q, max": lambda *args, **kw: c.critical_n_q(*args, theta="max", **{"max_n_q": 17} | kw),
    "n_q, followed, cut": lambda *args, **kw: c.critical_n_q(
        *args,
        **{"max_n_q": 17, "fractions": [1.0, 0.7, 0.5, 0.35], "follow": True, "num_beyond": 1} | kw,
    ),
    "fraction": lambda *args, **kw: c.critical_fraction(*args, **kw),
    "sigma": lambda *args, **kw: c.critical_sigma(
        *args, kind="absolute", num_draws=2, per_decade=8, **kw
    ),
    "relative sigma": lambda *args, **kw: c.critical_sigma(
        *args, kind="relative", num_draws=2, per_decade=8, **kw
    ),
    "heads": lambda *args, **kw: c.critical_heads(*args, training(train_lr=1e-3, **kw)),
}
AS_MANY = {
    "n_q",
    "n_q, max",
    "n_q, followed, cut",
    "sigma",
    "relative sigma",
}  # schemes whose trials are the calls of loss_fn


@pytest.fixture(scope="module")
def language() -> tuple[nn.Module, object]:
    return trained(lambda: Language(num_layers=3, tied=True), language_loss, num_steps=30)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_is_evaluated_twice_and_one_scan_serves_several_eps(language, scheme):
    model, loss_fn = language
    search, counted = SCHEMES[scheme], Counting(loss_fn)
    before, rng = state(model.train()), torch.get_rng_state()
    try:
        together = search(model, counted, EPS[1::2])
        assert model.training and torch.equal(torch.get_rng_state(), rng)
        assert_same(model, before)
    finally:
        model.eval()
    curve = c.merged_curve(together)
    per_point = [len(p.trials) if scheme in AS_MANY else 1 for p in curve]
    assert len(counted.losses) == 1 + sum(per_point)
    assert len({p.strength for p in curve}) == len(curve) and all(
        len({t.setting for t in p.trials}) == len(p.trials) for p in curve
    )
    assert together == [search(model, loss_fn, eps) for eps in EPS[1::2]], (
        "as many separate scans; and the same on every run"
    )
    assert together == search(model, loss_fn, np.array(EPS[1::2]))
    for one, eps in zip(together, EPS[1::2], strict=True):
        assert one.eps == eps and one.init_loss == loss_fn(model)
        assert_definition(one)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_or_everything_within_eps_is_flagged(language, scheme):
    model, loss_fn = language
    everything = SCHEMES[scheme](model, loss_fn, 1e9)
    assert (
        everything.status == "all"
        and not everything.found
        and everything.strength == everything.curve[-1].strength
    )
    assert everything.loss == everything.curve[-1].loss
    calls = itertools.count()
    for bad in (math.nan, math.inf, 1e9):
        calls = itertools.count()
        nothing = SCHEMES[scheme](
            model, lambda _, calls=calls, bad=bad: 0.0 if next(calls) == 0 else bad, 1e-9
        )
        assert nothing.status == "none" and not nothing.found
        assert (nothing.value, nothing.loss, nothing.strength, nothing.cost) == (
            None,
        ) * 4 and nothing.curve


@pytest.mark.parametrize("scheme", ["sigma", "relative sigma", "heads"])
def test_seeds_decide(language, scheme):
    results = [SCHEMES[scheme](*language, 0.1, seed=seed) for seed in (1, 1, 2)]
    assert results[0] == results[1] != results[2]


def test_buffers_of_the_model_do_not_move_even_if_the_loss_trains(models):
    model, loss_fn = models["convolutional"]
    before = state(model)
    c.critical_n_q(model, lambda m: loss_fn(m.train()), 0.1, theta="max")
    assert_same(model, before)
    assert not model.training


@pytest.mark.parametrize(
    "value",
    [1, np.float32(0.5), np.int64(2), torch.tensor(0.5), torch.ones(1, dtype=torch.float64)],
)
def test_numbers_that_a_loss_may_be(value):
    found = c.critical_n_q(nn.Linear(2, 2), lambda model: value, 0.1, theta="max", max_n_q=3)
    assert found.loss == float(value) and type(found.loss) is float and found.status == "all"


LINEAR = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
zero_loss = lambda model: 0.0  # noqa: E731


@pytest.mark.parametrize(
    "eps",
    [0, -0.1, math.nan, math.inf, "0.1", True, None, [], [0.1, -1.0], [0.1, "0.2"], (math.inf,)],
)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_bad_eps_is_refused_before_any_loss(scheme, eps):
    counted = Counting(zero_loss)
    with pytest.raises(
        ValueError, match=r"eps must (be a finite number above 0|hold at least one)"
    ):
        SCHEMES[scheme](Language(num_layers=3), counted, eps)
    assert not counted.losses


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bad_losses_are_refused(scheme):
    model = Language(num_layers=3)
    for loss in (math.nan, math.inf, -math.inf, torch.tensor(math.nan)):
        with pytest.raises(
            ValueError, match="loss_fn must be finite on the original model, got (nan|-?inf)"
        ):
            SCHEMES[scheme](model, lambda m, loss=loss: loss, 0.1)
    for loss in ("low", None, True, [0.1], 1j, torch.ones(2), torch.tensor(True), {"loss": 1.0}):
        with pytest.raises(ValueError, match="loss_fn must return a number, got "):
            SCHEMES[scheme](model, lambda m, loss=loss: loss, 0.1)


def attempt(function, *args, **kwargs):
    return lambda: function(*args, **kwargs)


def neox_retraining(model=None, **changed):
    heads = {name: changed.pop(name) for name in ("heads", "num_coarse") if name in changed}
    return lambda: c.critical_heads(
        model or Language(), zero_loss, 0.1, training(**changed), **heads
    )


def broken(model: nn.Module, name: str) -> nn.Module:
    with torch.no_grad():
        model.get_parameter(name).fill_(math.nan)
    return model


ERRORS = [
    (
        attempt(c.critical_n_q, LINEAR, zero_loss, 0.1, theta="mean"),
        "theta must be one of loss, max, got 'mean'",
    ),
    (
        attempt(c.critical_n_q, LINEAR, zero_loss, 0.1, max_n_q=8),
        "max_n_q must be an odd integer of at least 3, got 8",
    ),
    (
        attempt(c.critical_n_q, LINEAR, zero_loss, 0.1, max_n_q=1),
        "max_n_q must be an odd integer of at least 3, got 1",
    ),
    (
        attempt(c.critical_n_q, LINEAR, zero_loss, 0.1, max_n_q=9.0),
        "max_n_q must be an odd integer of at least 3, got 9.0",
    ),
    (
        attempt(c.critical_n_q, LINEAR, zero_loss, 0.1, fractions=[0.5, 1.5]),
        r"fractions must be a number in \(0, 1\], got 1.5",
    ),
    (
        attempt(c.critical_n_q, LINEAR, zero_loss, 0.1, per_octave=0),
        "per_octave must be an integer of at least 1, got 0",
    ),
    (
        attempt(c.critical_n_q, LINEAR, zero_loss, 0.1, num_beyond=-1),
        "num_beyond must be an integer of at least 0 or None, got -1",
    ),
    (
        attempt(c.critical_n_q, LINEAR, zero_loss, 0.1, fractions=[]),
        "fractions must hold at least one value, got none",
    ),
    (
        attempt(c.critical_n_q, nn.LayerNorm(3), zero_loss, 0.1),
        "model must have weights with two or more .* got LayerNorm without any",
    ),
    (attempt(c.quantized, LINEAR, 4), "n_q must be an odd integer of at least 3, got 4"),
    (attempt(c.quantized, LINEAR, 5, 0.0), r"theta must be a number in \(0, 1\], got 0.0"),
    (
        attempt(c.quantized, broken(nn.Linear(2, 2), "weight"), 5),
        "weight weight must be finite to be quantised, got NaN or infinity",
    ),
    (
        attempt(c.to_levels, torch.ones(2), 5, -1.0),
        "theta must be a finite number of at least 0, got -1.0",
    ),
    (
        attempt(c.to_levels, torch.ones(2), 5, math.nan),
        "theta must be a finite number of at least 0, got nan",
    ),
    (attempt(c.factorized, LINEAR, 0.0), r"keep must be a number in \(0, 1\], got 0.0"),
    (
        attempt(c.factorized, nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), 0.5),
        "layers must be at least three, .* got 2",
    ),
    (
        attempt(c.critical_fraction, build("resnet20", 10), zero_loss, 0.1),
        "layers must be at least three, .* got 0",
    ),
    (
        attempt(c.critical_fraction, LINEAR, zero_loss, 0.1, num_steps=0),
        "num_steps must be an integer of at least 1, got 0",
    ),
    (
        attempt(c.decompose, broken(copy.deepcopy(LINEAR), "1.weight")),
        "weight 1.weight must be finite to be factorised, got NaN",
    ),
    (
        attempt(c.noisy, LINEAR, 0.1, kind="uniform"),
        "kind must be one of absolute, relative, got 'uniform'",
    ),
    (
        attempt(c.noisy, LINEAR, -0.1, kind="absolute"),
        "sigma must be a finite number of at least 0, got -0.1",
    ),
    (
        attempt(c.noisy, LINEAR, math.nan, kind="absolute"),
        "sigma must be a finite number of at least 0, got nan",
    ),
    (
        attempt(c.critical_sigma, LINEAR, zero_loss, 0.1, kind="uniform"),
        "kind must be one of absolute, relative, got 'uniform'",
    ),
    (
        attempt(c.critical_sigma, LINEAR, zero_loss, 0.1, kind="absolute", sigmas=(1.0, 0.1)),
        r"sigmas must be two .* got \(1.0, 0.1\)",
    ),
    (
        attempt(c.critical_sigma, LINEAR, zero_loss, 0.1, kind="absolute", sigmas=(0.0, 0.1)),
        r"sigmas must be two .* got \(0.0, 0.1\)",
    ),
    (
        attempt(c.critical_sigma, LINEAR, zero_loss, 0.1, kind="absolute", num_draws=0),
        "num_draws must be an integer of at least 1, got 0",
    ),
    (
        attempt(c.critical_sigma, LINEAR, zero_loss, 0.1, kind="absolute", per_decade=2.5),
        "per_decade must be an integer .* got 2.5",
    ),
    (
        attempt(c.attention_heads, LINEAR),
        "model must have attention heads to prune .* got Sequential without any",
    ),
    (
        neox_retraining(model=build("resnet20", 10)),
        "model must have attention heads to prune .* got ResNet20 without any",
    ),
    (
        attempt(c.attention_heads, NeoXAttention(12, 5)),
        "attention NeoXAttention must have query, key .* one size by head, got 36 rows",
    ),
    (
        attempt(c.choose_heads, [], 1),
        r"num_pruned must be an integer in 0..0 \(the number of heads\), got 1",
    ),
    (neox_retraining(batches=[]), "batches must hold at least one value, got none"),
    (neox_retraining(train_lr=0.0), "train_lr must be a finite number above 0, got 0.0"),
    (neox_retraining(train_lr=math.nan), "train_lr must be a finite number above 0, got nan"),
    (neox_retraining(num_steps=0), "num_steps must be an integer of at least 1, got 0"),
    (neox_retraining(num_coarse=0), "num_coarse must be an integer of at least 1, got 0"),
    (neox_retraining(heads=[]), "heads must hold at least one value, got none"),
    (
        neox_retraining(train_loss_fn=lambda model, batch: 0.5),
        "train_loss_fn must return a scalar tensor, got 0.5",
    ),
    (
        neox_retraining(train_loss_fn=lambda model, batch: model(batch)),
        r"train_loss_fn must return a scalar tensor, got .* \(32, 10, 12\)",
    ),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_errors_name_the_argument_the_value_and_the_expectation(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([torch.float64, torch.bfloat16, torch.float16]), odd)
def test_other_dtypes(dtype, n_q):
    weight = randn(50).to(dtype)
    got = c.to_levels(weight, n_q, 0.8)
    assert got.dtype == dtype and got.abs().max() <= torch.tensor(0.8, dtype=dtype)
    clamped = weight.clamp(-0.8, 0.8)
    assert (got - clamped).double().abs().max() <= 0.8 / (n_q - 1) + 0.8 * torch.finfo(dtype).eps
    model = nn.Linear(6, 6).to(dtype)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            c.noisy(model, 0.0, kind="relative").model.parameters(), model.parameters(), strict=True
        )
    )
    assert c.noisy(model, 0.1, kind="absolute").model.weight.dtype == dtype
