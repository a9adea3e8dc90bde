"""Codebook dynamics against plain references: autograd through a gather, scikit-learn, float64."""

import warnings

import numpy as np
import pytest
import torch
from recipes import method_of
from sklearn.cluster import KMeans
from torch import nn
from torch.func import functional_call

from momos import config
from momos.methods import codebook, mosaic, schedule, tied_blocks
from momos.methods.codebook import Codebook
from momos.methods.method import NotFinite, parse
from momos.methods.momos import RECIPES
from momos.methods.tied import Buffer, Latent, Tied
from momos.models import build
from momos.weights.blocks import from_blocks, real_weights, to_blocks, trainable

MOMOS = {"bits": 32, "block_size": 4, "capacity": 0.1}
PHASES = [["redrawn", 0.3], ["kmeans", 0.5], ["trained", 1.0]]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(seed=0, dtype=torch.float32):
    """Tensors whose last blocks are ragged at four weights a block: 3 x 5 and 3 and 2 x 3."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2)).to(dtype)


def loss_of(output):
    return (output - torch.tensor([0.3, -0.8], dtype=output.dtype)).square().sum()


def inputs(seed, dtype=torch.float64):
    return torch.randn(6, 5, generator=generator(seed), dtype=torch.float64).to(dtype)


# --- motifs that are trained


def tied_network(slicing, force_zero, dtype=torch.float64, block_size=4):
    model = network(dtype=dtype)
    found = mosaic.project_(
        model, block_size, num_motifs=3, force_zero=force_zero, generator=generator(),
        slicing=slicing,
    )  # fmt: skip
    weights = list(trainable(model).values())
    book, zeros = Codebook(found.motifs, found.usage), [0] if force_zero else []
    return model, found, Tied(weights, book, found.mosaic, slicing=slicing, zeros=zeros)


@pytest.mark.parametrize("force_zero", [True, False])
@pytest.mark.parametrize("slicing", ["tensor", "model"])
def test_a_motifs_gradient_is_the_sum_over_its_blocks_by_autograd(slicing, force_zero):
    model, found, tied = tied_network(slicing, force_zero)
    weights = trainable(model)
    motifs = found.motifs.clone().requires_grad_()
    keep = real_weights([w.numel() for w in weights.values()], 4, slicing)
    flat = motifs[found.mosaic].reshape(-1)[keep]
    parts = dict(zip(weights, flat.split([w.numel() for w in weights.values()]), strict=True))
    parts = {name: part.view(weights[name].shape) for name, part in parts.items()}
    loss_of(functional_call(model, parts, (inputs(0),))).backward()
    real = keep.view(-1, 4).double()
    counts = torch.zeros_like(motifs).index_add(0, found.mosaic, real).clamp(min=1)
    expected = motifs.grad / counts
    if force_zero:
        expected[0] = 0
    loss_of(model(inputs(0))).backward()
    gradients = [weight.grad for weight in weights.values()]
    tied.average_(gradients)
    wanted = from_blocks(expected[found.mosaic], gradients, slicing)
    for gradient, other in zip(gradients, wanted, strict=True):
        assert torch.allclose(gradient, other, rtol=1e-12, atol=1e-15)
    tied.average_(gradients)  # a projection: nothing is left to do
    assert all(map(torch.allclose, gradients, wanted))


@pytest.mark.parametrize("force_zero", [True, False])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_optimiser_acts_on_motifs(kind, force_zero):
    """Beside an optimiser whose only parameters are the motifs, in float64, for ten steps."""
    make = {
        "sgd": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.05),
        "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.05, weight_decay=0.2),
    }[kind]
    model, found, tied = tied_network("tensor", force_zero)
    weights = trainable(model)
    like = [weight.detach().clone() for weight in weights.values()]
    motifs = found.motifs.clone().requires_grad_()
    mine, theirs = make(weights.values()), make([motifs])
    real = real_weights([w.numel() for w in like], 4).view(-1, 4).double()
    counts = torch.zeros_like(motifs).index_add(0, found.mosaic, real).clamp(min=1)
    for step in range(10):
        theirs.zero_grad()
        parts = (motifs[found.mosaic].reshape(-1)[real.bool().view(-1)]).split(
            [weight.numel() for weight in like]
        )
        named = zip(weights, parts, like, strict=True)
        current = {name: part.view(weight.shape) for name, part, weight in named}
        loss_of(functional_call(model, current, (inputs(step),))).backward()
        motifs.grad /= counts
        if force_zero:
            motifs.grad[0] = 0
        theirs.step()
        mine.zero_grad()
        loss_of(model(inputs(step))).backward()
        tied.average_([weight.grad for weight in weights.values()])
        mine.step()
        tied.gather_()
        expected = from_blocks(motifs.detach()[found.mosaic], like)
        for weight, other in zip(weights.values(), expected, strict=True):
            assert torch.allclose(weight, other, rtol=1e-9, atol=1e-12)
    assert not force_zero or not tied.codebook.motifs[0].any()
    assert not torch.equal(found.motifs[1], tied.codebook.motifs[1])


@pytest.mark.parametrize("block_size", [2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_of_a_motif_stay_equal_to_the_bit(block_size, dtype):
    """Copies that an optimiser has moved apart, as parameter groups or kernels' tails do."""
    model, found, tied = tied_network("tensor", True, dtype, block_size)
    weights = list(trainable(model).values())
    with torch.no_grad():
        for weight in weights:
            weight += torch.randn(weight.shape, generator=generator(1)).to(dtype)
    moved = to_blocks(weights, block_size)
    tied.gather_()
    blocks = to_blocks(weights, block_size)
    mask = real_weights([w.numel() for w in weights], block_size).view(-1, block_size)
    for index in range(1, len(found.motifs)):
        own = found.mosaic == index
        whole = own & mask.all(1)
        if whole.any():
            first = moved[whole][0]
            expected = torch.where(mask[own], first.expand(int(own.sum()), -1), 0)
            assert torch.equal(blocks[own], expected.to(dtype))
    assert len(torch.unique(blocks[mask.all(1)], dim=0)) <= len(found.motifs)


# --- motifs by loops in the tensors' own memory

SHAPES = ((3, 5), (7,), (), (2, 3, 1, 7), (16,), (40, 9))
NUM_MOTIFS = 9  # 0 stays zero, 8 is never used


def scattered(seed, dtype=torch.float32, transposed=False):
    """Tensors whose sums in another order would differ in their last bits."""
    random, found = generator(seed), []
    for shape in SHAPES:
        scale = torch.randn(shape, generator=random).mul(4).exp()
        tensor = (torch.randn(shape, generator=random) * scale).to(dtype)
        found.append(tensor.mT.contiguous().mT if transposed and tensor.ndim > 1 else tensor)
    return found


def sized(tensors, block_size, slicing="tensor"):
    """Which values of each block are no padding: (num_blocks, block_size)."""
    return real_weights([t.numel() for t in tensors], block_size, slicing).view(-1, block_size)


def held(weights, found, block_size, slicing="tensor"):
    usage = torch.bincount(found, minlength=NUM_MOTIFS)
    book = Codebook(torch.zeros(NUM_MOTIFS, block_size), usage)
    return Tied(weights, book, found, slicing=slicing, zeros=[0])


def buffered(weights, found, block_size):
    """The same, by operations on a buffer."""

    def in_buffer(weights, motifs, found, first):
        usage = torch.bincount(found, minlength=NUM_MOTIFS)
        return Buffer(weights, Codebook(motifs, usage), found, first, "tensor")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tied_blocks, "InPlace", in_buffer)
        return held(weights, found, block_size)


def averaged(gradients, found, block_size, slicing):
    """The means of each motif's blocks, motif by motif in float64."""
    gradients = [gradient.double() for gradient in gradients]
    blocks = to_blocks(gradients, block_size, slicing)
    real = sized(gradients, block_size, slicing)
    means = torch.zeros(NUM_MOTIFS, block_size, dtype=torch.float64)
    for index in range(1, NUM_MOTIFS):
        own = found == index
        means[index] = blocks[own].sum(0) / real[own].sum(0).clamp(min=1)
    return from_blocks(means[found], gradients, slicing)


def gathered(weights, found, block_size, slicing):
    """Blocks like the first one of their motif, without padding where there is such a one."""
    blocks = to_blocks(weights, block_size, slicing)
    real = sized(weights, block_size, slicing)
    firsts = torch.zeros(NUM_MOTIFS, block_size, dtype=blocks.dtype)
    for index in found.unique():
        own = (found == index).nonzero()[:, 0]
        firsts[index] = blocks[next((row for row in own if real[row].all()), own[0])]
    return firsts, from_blocks(firsts[found], weights, slicing)


@pytest.mark.parametrize("slicing", ["tensor", "model"])
@pytest.mark.parametrize("block_size", [1, 2, 3, 4, 6, 8, 16])
def test_tied_tensors_are_those_of_a_plain_reference(block_size, slicing):
    weights, gradients = scattered(0), scattered(1)
    size = len(sized(weights, block_size, slicing))
    found = torch.randint(NUM_MOTIFS - 1, (size,), generator=generator())
    means = averaged(gradients, found, block_size, slicing)
    firsts, blocks = gathered(weights, found, block_size, slicing)
    tied = held(weights, found, block_size, slicing)
    tied.average_(gradients)
    for gradient, mean in zip(gradients, means, strict=True):
        assert torch.allclose(gradient.double(), mean, rtol=1e-4, atol=1e-4)
    tied.gather_()
    assert all(map(torch.equal, weights, blocks)) and torch.equal(tied.codebook.motifs, firsts)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("block_size", [1, 2, 3, 4, 8, 16])
def test_loops_give_the_bits_of_the_buffer(block_size, dtype, transposed):
    """Wherever values lie: in memory that is used as it is, or in a copy."""
    size = len(sized(scattered(0), block_size))
    for seed in range(5):
        found = torch.randint(NUM_MOTIFS - 1, (size,), generator=generator(seed))
        results = []
        for make in (held, buffered):
            weights, gradients = scattered(seed, dtype, transposed), scattered(9, dtype, transposed)
            tied = make(weights, found, block_size)
            tied.average_(gradients)
            tied.gather_()
            results.append([*weights, *gradients, tied.codebook.motifs])
        assert all(map(torch.equal, *results))


@pytest.mark.parametrize("block_size", [2, 3, 4, 5, 8])
def test_loops_add_many_blocks_in_the_same_order(block_size):
    weights = [torch.randn(300, 700, generator=generator()), torch.randn(99, generator=generator())]
    found = torch.randint(3, (len(sized(weights, block_size)),), generator=generator())
    results = [[weight.clone() for weight in weights] for _ in range(2)]
    held(weights, found, block_size).average_(results[0])
    buffered(weights, found, block_size).average_(results[1])
    assert all(map(torch.equal, *results))


def test_autograd_notices_that_loops_have_written():
    weight = torch.randn(4, 4, requires_grad=True)
    tied = held([weight], torch.tensor([0, 1, 2, 1]), 4)
    loss = weight.square().sum()
    tied.gather_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_loops_stay_in_their_memory():
    weights = [torch.zeros(4, 4), torch.zeros(3)]
    for motif in (-1, NUM_MOTIFS):
        usage = torch.tensor([1, 2, 2, 0, 0, 0, 0, 0, 0])
        book, found = Codebook(torch.zeros(NUM_MOTIFS, 4), usage), torch.tensor([0, 1, 2, 1, motif])
        with pytest.raises(IndexError, match=r"mosaic must be in 0\.\.8, got"):
            Tied(weights, book, found, slicing="tensor")
    usage, short = torch.tensor([1, 0, 0, 0, 0, 0, 0, 0, 0]), torch.tensor([0])
    with pytest.raises(IndexError, match="mosaic must have 5 blocks, got 1"):
        Tied(weights, Codebook(torch.zeros(NUM_MOTIFS, 4), usage), short, slicing="tensor")
    tied = held(weights, torch.tensor([0, 1, 2, 1, 1]), 4)
    with pytest.raises(RuntimeError, match="invalid"):
        tied.average_([torch.zeros(4, 5), torch.zeros(3)])


# --- latent weights


@pytest.mark.parametrize("force_zero", [True, False])
@pytest.mark.parametrize("slicing", ["tensor", "model"])
def test_latent_weights_get_a_straight_through_gradient(slicing, force_zero):
    """Beside an optimiser of the latent vector itself: means by matrix, gradients by autograd."""
    model = network(dtype=torch.float64)
    weights = trainable(model)
    start = [weight.detach().clone() for weight in weights.values()]
    _, found, _ = tied_network(slicing, force_zero)
    latent = torch.cat([weight.reshape(-1) for weight in start]).requires_grad_()
    keep = real_weights([w.numel() for w in start], 4, slicing)
    # motif and place in the block that a weight belongs to
    cell = (4 * found.mosaic[:, None] + torch.arange(4)).view(-1)[keep]
    member = (cell[:, None] == torch.arange(4 * len(found.motifs))).double()
    means = member / member.sum(0).clamp(min=1)
    if force_zero:
        means[:, :4] = 0
    theirs = torch.optim.SGD([latent], lr=0.1, momentum=0.9)
    mosaic._write(found.motifs[found.mosaic], [w.data for w in weights.values()], slicing)
    held = Latent(
        list(weights.values()), start, Codebook(found.motifs, found.usage), found.mosaic,
        slicing=slicing, zeros=[0] if force_zero else [],
    )  # fmt: skip
    mine = torch.optim.SGD(weights.values(), lr=0.1, momentum=0.9)
    shown = found.motifs.reshape(-1)[cell]
    for step in range(10):
        theirs.zero_grad(), mine.zero_grad()
        flat = latent + (shown - latent).detach()
        parts = zip(weights, flat.split([w.numel() for w in start]), start, strict=True)
        current = {name: part.view(like.shape) for name, part, like in parts}
        loss_of(functional_call(model, current, (inputs(step),))).backward()
        loss_of(model(inputs(step))).backward()
        theirs.step(), mine.step()
        held.follow_()
        shown = (latent.detach() @ means)[cell]
        assert torch.allclose(held.flat(), latent, rtol=1e-9, atol=1e-12)
        now = torch.cat([weight.reshape(-1) for weight in weights.values()])
        assert torch.allclose(now, shown, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(shown, found.motifs.reshape(-1)[cell])
    held.recall_()
    now = torch.cat([weight.reshape(-1) for weight in weights.values()])
    assert torch.equal(now, held.flat())


def test_latent_weights_move_blocks_to_other_motifs():
    """A mosaic of means, found anew each epoch from latent weights that outlive a resumption."""
    runs = []
    for resumed in (False, True):
        model = small()
        entry = MOMOS | {"motifs": [["redrawn", 0.25], ["latent", 0.75], ["trained", 1.0]]}
        applied = method_of(entry).apply(model, arch="mlp", seed=0)
        applied.begin(8)
        (part,), weights, mosaics = applied.parts, list(trainable(model).values()), []
        for epoch in range(1, 9):
            for step in (2 * epoch - 1, 2 * epoch):
                with torch.no_grad():
                    for weight in weights:
                        weight += 0.1 * torch.randn(weight.shape, generator=generator(step))
                applied.after_step(step)
                if resumed and part.latent is not None and epoch == 4:  # amid an epoch
                    values, tensors = applied.values(), applied.tensors()
                    state = part.generator.get_state()
                    applied = method_of(entry).apply(model, arch="mlp", seed=0)
                    applied.begin(8)
                    applied.restore(values, tensors)
                    (part,) = applied.parts
                    part.generator.set_state(state)
            is_latent = part.latent is not None
            assert is_latent == (2 < epoch <= 6) and not (is_latent and applied.is_tied)
            applied.after_epoch(2 * epoch)
            placed = from_blocks(part.codebook.motifs[part.mosaic], weights)
            assert all(map(torch.equal, placed, weights))
            assert (applied.history()["distortion"] > 0) == (epoch <= 6)
            mosaics.append(part.mosaic)
        assert not torch.equal(mosaics[3], mosaics[4]) and torch.equal(mosaics[5], mosaics[7])
        runs.append([weight.clone() for weight in weights])
    assert all(map(torch.equal, *runs))


# --- k-means


def test_means_are_those_of_scikit_learn():
    blocks = torch.randn(300, 3, generator=generator(), dtype=torch.float64)
    start = blocks[:7].clone()
    for steps in (1, 3, 30):
        own = codebook.lloyd(blocks, start, force_zero=False, generator=generator(), steps=steps)
        peer = KMeans(7, init=start.numpy(), n_init=1, max_iter=steps, tol=0, algorithm="lloyd")
        with warnings.catch_warnings(action="ignore"):  # that it has not converged
            peer.fit(blocks.numpy())
        assert np.allclose(own.numpy(), peer.cluster_centers_, rtol=1e-12, atol=1e-12)


def test_the_zero_block_stays_and_the_others_move_by_brute_force():
    blocks = torch.randn(50, 2, generator=generator())
    motifs = torch.cat([torch.zeros(1, 2), blocks[:4]])
    points, centres = blocks.double().numpy(), motifs.double().numpy()
    for _ in range(3):
        nearest = ((points[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
        moved = [points[nearest == j].mean(0) for j in range(1, 5)]
        centres = np.concatenate([np.zeros((1, 2)), moved])
    own = codebook.lloyd(blocks, motifs, force_zero=True, generator=generator(), steps=3)
    assert np.allclose(own.numpy(), centres, atol=1e-6) and not own[0].any()


def test_motifs_that_no_block_uses_become_blocks_that_lie_far_from_theirs():
    near = 0.01 * torch.randn(20, 2, generator=generator())
    blocks = torch.cat([near, near[:2] + 50])
    motifs = torch.cat([torch.zeros(1, 2), near[:1], torch.full((1, 2), -1000.0)])
    moved = codebook.lloyd(blocks, motifs, force_zero=True, generator=generator(), steps=1)
    assert any(torch.equal(moved[2], block) for block in blocks[20:])
    again = codebook.lloyd(blocks, motifs, force_zero=True, generator=generator(), steps=1)
    assert torch.equal(moved, again), "seeded"
    same = torch.ones(5, 2)
    unused = torch.tensor([[0.0, 0.0], [1.0, 1.0], [9.0, 9.0]])
    stays = codebook.lloyd(same, unused, force_zero=True, generator=generator())
    assert torch.equal(stays, unused), "all blocks are motifs: none is left to be drawn"


# --- which blocks


def test_motifs_that_are_spread_lie_in_every_cluster():
    centres = 100 * torch.randn(12, 4, generator=generator(3))
    blocks = (centres[:, None] + 0.01 * torch.randn(12, 30, 4, generator=generator(4))).flatten(
        0, 1
    )
    missed = {"kmeans++": 0, "uniform": 0}
    for how in missed:
        for seed in range(5):
            draws = {"force_zero": True, "generator": generator(seed)}
            motifs = codebook.choose(blocks, 26, how, None, **draws)
            assert motifs.shape == (26, 4) and not motifs[0].any()
            assert all((blocks == motif).all(1).any() for motif in motifs[1:])
            cluster = torch.cdist(motifs[1:], centres).argmin(1)
            missed[how] += 12 - len(cluster.unique())
    assert missed["kmeans++"] == 0 < missed["uniform"]


def test_a_spread_draw_follows_squared_distances():
    """With zero as first motif the second is a block of squared norm 1 or 9: one in ten, nine."""
    blocks, first, drawing = torch.tensor([[1.0], [3.0], [0.0]]), [], generator()
    for _ in range(500):
        motifs = codebook.spread(blocks, 2, force_zero=True, generator=drawing)
        first.append(motifs[1].item())
    assert set(first) == {1.0, 3.0}
    # by distance alone it were one in four
    assert np.mean(np.array(first) == 1.0) == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / 500))
    alike = codebook.spread(torch.ones(9, 2), 5, force_zero=True, generator=generator())
    assert alike.shape == (5, 2)


@pytest.mark.parametrize("force_zero", [True, False])
def test_the_half_that_is_used_most_stays(force_zero):
    blocks = torch.randn(40, 2, generator=generator())
    last = Codebook(torch.arange(12.0).reshape(6, 2), torch.tensor([0, 9, 1, 9, 3, 5]))
    draws = {"force_zero": force_zero, "generator": generator(2)}
    motifs = codebook.choose(blocks, 6, "usage", last, **draws)
    kept = [1, 3] if force_zero else [1, 3, 5]
    first = int(force_zero)
    assert torch.equal(motifs[first : first + len(kept)], last.motifs[kept])
    assert not force_zero or not motifs[0].any()
    for motif in motifs[first + len(kept) :]:
        assert (blocks == motif).all(1).any()


# --- phases


def small(seed=0):
    return build("mlp", 5, seed=seed, image_size=4, kwargs={"hidden_layers": 1, "width": 8})


def test_one_phase_of_drawn_motifs_is_the_paper():
    plain, named = small(), small()
    entries = (MOMOS, MOMOS | {"motifs": [["redrawn", 1.0]], "choice": "uniform"})
    for model, entry in zip((plain, named), entries, strict=True):
        applied = method_of(entry).apply(model, arch="mlp", seed=2)
        applied.begin(2)
        applied.after_epoch(1), applied.after_epoch(2)
    assert all(map(torch.equal, plain.parameters(), named.parameters()))


@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_motifs_go_through_their_phases(scope):
    """Ten epochs of noise: new motifs, means of blocks, then a mosaic that stays."""
    model = small()
    entry = MOMOS | {"motifs": [["redrawn", 0.2], ["frozen", 0.4], *PHASES[1:]]}
    applied = method_of(entry | {"codebook": scope}).apply(model, arch="mlp", seed=0)
    applied.begin(10)
    (part,) = applied.parts
    weights, kinds, last = list(trainable(model).values()), [], None
    for epoch in range(1, 11):
        kinds.append(part.kind)
        assert applied.is_tied == (part.kind == "trained")
        with torch.no_grad():
            for weight in weights:
                weight += 0.1 * torch.randn(weight.shape, generator=generator(epoch))
        applied.after_step(epoch)
        applied.after_epoch(epoch)
        motifs = part.codebook.motifs.clone()
        if part.kind == "frozen" == kinds[-1]:
            assert torch.equal(motifs, last)
        placed = from_blocks(motifs[part.mosaic], weights)
        assert all(map(torch.equal, placed, weights))
        history = applied.history()
        assert (history["distortion"] == 0) == (kinds[-1] == "trained")
        assert history["motifs_used"] == (applied.usage > 0).sum()
        last = motifs
    assert kinds == ["redrawn"] * 2 + ["frozen"] * 2 + ["kmeans"] + ["trained"] * 5


@pytest.mark.parametrize(
    ("kind", "every"), [("kmeans", "epoch"), ("kmeans", 2), ("trained", "epoch"), ("redrawn", 2)]
)
def test_dense_weights_are_left_alone_until_their_motifs_are_found(kind, every):
    """Then at most as far from k-means of scikit-learn as one more of its starts would be."""
    model = small()
    entry = MOMOS | {"motifs": [["dense", 0.5], [kind, 1.0]], "projection_every": every}
    applied = method_of(entry, force_zero=False).apply(model, arch="mlp", seed=0)
    applied.begin(6)
    (part,), weights = applied.parts, list(trainable(model).values())
    before = [weight.clone() for weight in weights]
    for epoch in (1, 2, 3):
        assert not applied.has_begun and applied.usage is None
        assert set(applied.history().values()) == {None}
        assert all(map(torch.equal, weights, before))
        applied.after_step(epoch), applied.after_epoch(epoch)
    assert applied.has_begun and applied.is_tied == (kind == "trained")
    placed = from_blocks(part.codebook.motifs[part.mosaic], weights)
    assert all(map(torch.equal, placed, weights))
    blocks = to_blocks(before, 4).double()
    theirs = [
        KMeans(len(part.codebook.motifs), init="random", n_init=1, random_state=seed).fit(blocks)
        for seed in range(5)
    ]
    found = (blocks - part.codebook.motifs.double()[part.mosaic]).square().sum()
    assert found <= 1.05 * max(one.inertia_ for one in theirs)


def test_k_means_leaves_less_distortion_than_a_draw():
    found = {}
    for kind in ("redrawn", "kmeans"):
        model = small()
        applied = method_of(MOMOS | {"motifs": [[kind, 1.0]]}).apply(model, arch="mlp", seed=0)
        applied.begin(1)
        applied.after_epoch(1)
        found[kind] = applied.history()["distortion"]
    assert 0 < found["kmeans"] < 0.8 * found["redrawn"]


def test_trained_motifs_that_are_no_numbers_are_noticed():
    model = small()
    applied = method_of(MOMOS | {"motifs": PHASES[:1] + PHASES[2:]}).apply(model, arch="", seed=0)
    applied.begin(2)
    applied.after_epoch(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(float("nan"))
    applied.after_step(2)
    with pytest.raises(NotFinite, match="motifs hold values that are not finite"):
        applied.after_epoch(2)


def test_labels_say_what_becomes_of_motifs():
    method = parse(MOMOS | {"motifs": PHASES, "choice": "kmeans++"}, "x")
    remark = ", motifs redrawn, k-means, trained, drawn by k-means++"
    assert method.label == f"MoMos s=4, C=10 %{remark}"
    assert method.family == f"momos{remark}" and method.kind == "momos"
    assert hash(method) == hash(parse(MOMOS | {"motifs": PHASES, "choice": "kmeans++"}, "y"))
    about = method_of(MOMOS | {"motifs": PHASES}).describe(small())
    assert about["motifs"] == (("redrawn", 0.3), ("kmeans", 0.5), ("trained", 1.0))


def test_the_recipe_of_the_library_is_the_study_s():
    studied = dict(config.load_method("momos_best").entry)
    assert studied.pop("choice") == "uniform"
    assert tuple(studied.items()) == parse({"bits": 32, **RECIPES["best"]}, "best").entry


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"motifs": [["redrawn", 0.5]]},
         r"m.motifs must be phases whose shares rise to 1, got \[\['redrawn', 0.5\]\]"),
        ({"motifs": [["redrawn", 0.5], ["kmeans", 0.5], ["trained", 1.0]]}, "shares rise to 1"),
        ({"motifs": [["redrawn", 1.5]]}, r"m.motifs\[0\]\[1\] must be a share of the training in"),
        ({"motifs": [["redrawn", "1"]]}, r"m.motifs\[0\]\[1\] must be a share .*, got '1'"),
        ({"motifs": [["learned", 1.0]]},
         r"m.motifs\[0\]\[0\] must be one of dense, redrawn, frozen, kmeans, latent, trained, got "
         "'learned'"),
        ({"motifs": [["redrawn", 0.5], ["dense", 1.0]]},
         r"m.motifs must be ended by another kind than dense, which has no mosaic, got .*1.0"),
        ({"motifs": [["trained", 1.0]]}, "m.motifs must be begun by another kind than trained"),
        ({"motifs": []}, r"m.motifs must be a list of \[kind, share\] with at least one entry"),
        ({"motifs": ["redrawn"]}, r"m.motifs\[0\] must be a list of"),
        ({"motifs": PHASES, "projection_every": "step"},
         "m.projection_every must be epoch where motifs are trained, got 'step'"),
        ({"motifs": PHASES, "projection_every": 3}, "must be epoch where motifs are trained"),
        ({"choice": "random"}, "m.choice must be one of 'uniform', 'kmeans.*', 'usage', got"),
    ],
)  # fmt: skip
def test_bad_schedules_name_key_value_and_what_was_expected(more, message):
    with pytest.raises(ValueError, match=message):
        parse(MOMOS | more, "m")


def test_what_does_not_fit_the_model_or_the_training_is_told_before_it():
    method = method_of(MOMOS | {"motifs": PHASES})
    applied = method.apply(small(), arch="mlp", seed=0)
    with pytest.raises(ValueError, match="epochs must be given: motifs are .*, got None"):
        applied.begin(None)
    with pytest.raises(ValueError, match="motifs must be so that an epoch comes before trained"):
        applied.begin(1)
    for entry in ({"motifs": [["kmeans", 1.0]]}, {"choice": "kmeans++"}):
        with torch.no_grad():
            model = small()
            for weight in model.parameters():
                weight.fill_(0.5)
            model.get_parameter("hidden.0.weight")[0] = 1
        with pytest.raises(
            ValueError, match=r"in 1..\d \(the distinct blocks\) for k-means, got 1"
        ):
            method_of(MOMOS | entry).describe(model)
    with pytest.raises(ValueError, match="codebook must be model where mosaic.slicing is model"):
        method_of(MOMOS | {"motifs": PHASES, "codebook": "tensor"}, slicing="model")


@pytest.mark.parametrize(("epochs", "expected"), [(10, "rrrkkttttt"), (3, "rkt"), (2, "rt")])
def test_shares_are_of_all_epochs(epochs, expected):
    phases = tuple(map(tuple, PHASES))
    kinds = [schedule.kind_at(phases, epoch, epochs)[0] for epoch in range(1, epochs + 1)]
    assert "".join(kinds) == expected
    assert schedule.kind_at(phases, epochs + 1, epochs) == "trained"
