"""MoMos and QAT in a loop of one's own: what is projected, seen, saved, resumed, and refused."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from momos import QAT, MoMos, project_, unpack
from momos.complexity import code_length
from momos.compute.seeds import generator_for
from momos.methods import nearest
from momos.methods.method import NotFinite, parse
from momos.methods.quantize import fake_quantize, quantize, quantized_names
from momos.weights.blocks import from_blocks, num_blocks, num_motifs, real_weights, trainable

pytestmark = pytest.mark.usefixtures("one_thread")
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    ),
]


# the second of four epochs trains motifs, so that a stop after it comes in the middle of that
PHASES = {"block_size": 2, "num_motifs": 4, "motifs": [["kmeans", 0.3], ["trained", 1.0]]}


def network(seed=0, dtype=torch.float32, device="cpu"):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(5, 7), nn.LayerNorm(7), nn.ReLU(), nn.Linear(7, 3)]
        return nn.Sequential(*layers).to(device, dtype)


def batch(seed=0, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(16, 5, generator=generator).to(device, dtype)
    return inputs, torch.randint(3, (16,), generator=generator).to(device)


def optimizer_of(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train(model, mosaic, optimizer, epochs, forward=None, steps=3):
    for epoch in epochs:
        for number in range(steps):
            inputs, labels = batch(steps * epoch + number, *dtype_and_device(model))
            loss = F.cross_entropy((forward or model)(inputs).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mosaic.step()
        mosaic.epoch()


def dtype_and_device(model):
    weight = next(model.parameters())
    return weight.dtype, weight.device


def same(first, second):
    """Whether two state dicts are the same, bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name].reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
        for name, other in second.items()
    )


def whole_blocks(weights, block_size=2):
    """(n, s): a ragged last block holds the beginning of a motif, and is left out."""
    flat = [weight.detach().flatten() for weight in weights]
    return torch.cat([one[: len(one) // block_size * block_size] for one in flat]).view(
        -1, block_size
    )


def distinct_blocks(model, block_size=2):
    return len(whole_blocks(trainable(model).values(), block_size).unique(dim=0))


# --- what is done, and when


@pytest.mark.parametrize("device", DEVICES)
def test_an_epoch_ends_with_algorithm_1(device):
    model = network(device=device)
    other, generator = copy.deepcopy(model), generator_for("motifs", 3)
    mosaic = MoMos(model, block_size=2, capacity=0.1, seed=3)
    for _ in range(2):
        mosaic.step()
        found = mosaic.epoch()
        expected = project_(other, 2, capacity=0.1, generator=generator)
        assert same(model.state_dict(), other.state_dict())
        assert torch.equal(found.mosaic, expected.mosaic)
        assert found.distortion == expected.distortion
    assert mosaic.epoch() is None, "no step has been taken since"


def test_an_epoch_without_any_step_is_an_error():
    """It would project nothing, and say nothing."""
    with pytest.raises(ValueError, match="epoch.. came before any step"):
        MoMos(network(), block_size=2, capacity=0.1).epoch()


@pytest.mark.parametrize(
    ("every", "projected"), [("epoch", [5, 10]), ("step", [*range(1, 11)]), (3, [3, 5, 6, 9, 10])]
)
def test_projections_come_when_they_were_asked_for(every, projected):
    mosaic = MoMos(network(), 2, num_motifs=4, projection_every=every)
    found = []
    for number in range(1, 11):
        after_step = mosaic.step()
        after_epoch = mosaic.epoch() if number % 5 == 0 else None
        assert after_step is None or after_epoch is None
        found += [number] if after_step or after_epoch else []
    assert found == projected


def test_the_report_is_of_the_last_projection_and_the_papers_formula():
    model = network(dtype=torch.float64)
    mosaic = MoMos(model, 2, capacity=0.2)
    before = mosaic.report()
    assert before.distortion is None and before.usage is None
    weights = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    mosaic.step()
    projection, report = mosaic.epoch(), mosaic.report()
    after = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    sizes = [weight.numel() for weight in model.parameters()]
    blocks = num_blocks(sizes, 2)
    assert report.num_weights == sum(sizes) and report.num_blocks == blocks
    assert report.num_motifs == num_motifs(blocks, 0.2) == len(report.usage)
    assert report.usage.sum() == blocks and report.motifs_used == (report.usage > 0).sum()
    assert report.distortion == pytest.approx(float(((weights - after) ** 2).sum()), rel=1e-12)
    assert report.rac == code_length.rac(sum(sizes), blocks, 2, report.num_motifs) == before.rac
    assert report.method == "MoMos s=2, C=20 %" and report.num_steps == 1
    assert projection.motifs_used == report.motifs_used
    assert all(isinstance(value, int | float) for value in report.numbers.values())
    assert {"distortion", "rac", "motifs_used"} < set(report.numbers)
    qat = QAT(network(), 8).report()
    assert (qat.rac, qat.usage, qat.num_motifs) == (4, None, None)


@pytest.mark.parametrize(
    "recipe",
    [
        {"block_size": 2, "capacity": 0.3},
        {"bits": 32, "block_size": 2, "capacity": 0.3, "num_motifs": None},
        parse(
            {"bits": 32, "block_size": 2, "capacity": 0.3},
            "x",
            {"mosaic": {"projection_every": "epoch", "force_zero": True, "slicing": "tensor"}},
        ),
    ],
)
def test_a_recipe_says_the_same_in_other_words(recipe):
    class Holder:
        method = recipe

    given = Holder() if not isinstance(recipe, dict) else recipe
    models = [network(), network()]
    for mosaic in (MoMos(models[0], recipe=given), MoMos(models[1], 2, capacity=0.3)):
        mosaic.step()
        mosaic.epoch()
    assert same(models[0].state_dict(), models[1].state_dict())


# --- QAT: what the forward pass sees


class Attends(nn.Module):
    """Uses a layer's weight without calling the layer, and one weight in two places."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        hidden = self.embed(tokens)
        hidden = self.norm(hidden + self.attention(hidden, hidden, hidden)[0])
        return self.head(hidden)


def test_the_forward_pass_sees_quantised_weights_and_gradients_pass_straight_through():
    """Against torch's functional call with the same weights quantised."""
    torch.manual_seed(1)
    model, tokens = Attends(), torch.arange(22).reshape(2, 11) % 11
    names = quantized_names(model, "type", "")
    assert "attention.out_proj.weight" in names and "norm.weight" not in names
    weights = dict(model.named_parameters())
    seen = {name: fake_quantize(weights[name], 4) for name in names}
    expected = functional_call(model, seen, (tokens,))
    gradients = torch.autograd.grad(expected.square().sum(), list(weights.values()))
    before = model.state_dict()
    QAT(model, 4)
    output = model(tokens)
    output.square().sum().backward()
    assert torch.equal(output, expected)
    for (name, weight), gradient in zip(model.named_parameters(), gradients, strict=True):
        assert weight is weights[name]
        torch.testing.assert_close(weight.grad, gradient)
    assert same(model.state_dict(), before), "state dicts hold the latent weights, by their names"
    assert torch.equal(model.head.weight, quantize(weights["embed.weight"], 4))


def test_a_copy_a_pickle_and_a_part_do_as_the_model():
    model, (inputs, _) = network(), batch()
    qat = QAT(model, 3)
    expected = model(inputs)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(inputs), expected) and repr(twin) == repr(model)
        with torch.no_grad():
            _latent(twin[0]).zero_()
        assert not torch.equal(twin(inputs), expected) and torch.equal(model(inputs), expected)
    assert torch.equal(model[0](inputs), F.linear(inputs, quantize(_latent(model[0]), 3),
                                                  model[0].bias))  # fmt: skip
    qat.remove()
    assert type(model[0]) is nn.Linear and torch.equal(model(inputs), network()(inputs))


def _latent(layer):
    return dict(layer.named_parameters())["weight"]


def test_momos_with_qat_projects_the_latent_weights():
    models = [network(), network()]
    for bits, model in zip((32, 4), models, strict=True):
        mosaic = MoMos(model, 2, capacity=0.1, bits=bits)
        mosaic.step()
        mosaic.epoch()
    inputs, _ = batch()
    assert same(models[0].state_dict(), models[1].state_dict())
    assert not torch.equal(models[0](inputs), models[1](inputs))


# --- mixed precision and compilation


def test_a_projection_inside_autocast_is_in_full_precision(monkeypatch):
    models, seen, search = [network(), network()], [], nearest.nearest

    def noted(*arguments):
        seen.append(torch.is_autocast_enabled("cpu"))
        return search(*arguments)

    monkeypatch.setattr(nearest, "nearest", noted)
    for model, enabled in zip(models, (True, False), strict=True):
        mosaic = MoMos(model, 2, capacity=0.1, projection_every="step")
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            mosaic.step()
    assert seen == [False, False]
    assert same(models[0].state_dict(), models[1].state_dict())


def test_a_training_with_autocast_and_a_scaler():
    model = network()
    mosaic, optimizer = MoMos(model, 2, capacity=0.1, bits=8), optimizer_of(model)
    scaler, (inputs, labels) = torch.amp.GradScaler("cpu"), batch()
    losses = []
    for _ in range(20):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        mosaic.step()
        losses.append(loss.item())
    mosaic.epoch()
    assert losses[-1] < 0.5 * losses[0]
    assert distinct_blocks(model) <= mosaic.report().num_motifs


@pytest.mark.parametrize("bits", [32, 4])
def test_a_compiled_model_sees_the_projected_weights(bits):
    """Compiled before and after: the same numbers as without, and whole graphs."""
    plain = network()
    train(plain, MoMos(plain, 2, capacity=0.1, bits=bits), optimizer_of(plain), range(2))
    for wrap_first in (True, False):
        torch.compiler.reset()
        model = network()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        mosaic = MoMos(compiled if wrap_first else model, 2, capacity=0.1, bits=bits)
        train(model, mosaic, optimizer_of(model), range(2), forward=compiled)
        assert same(model.state_dict(), plain.state_dict())
    torch.compiler.reset()


# --- stopping and going on


@pytest.mark.parametrize(
    "settings",
    [{"block_size": 2, "capacity": 0.1}, {"block_size": 2, "num_motifs": 5, "bits": 8,
                                          "projection_every": 2},
     {"recipe": "best", "block_size": 2, "num_motifs": 5, "epochs": 4}, {"recipe": PHASES}],
)  # fmt: skip
def test_a_resumed_training_ends_with_the_same_bytes(settings):
    settings = {"epochs": 4} | settings
    whole = network()
    optimizer = optimizer_of(whole)
    mosaic = MoMos(whole, **settings, seed=5, optimizer=optimizer)
    train(whole, mosaic, optimizer, range(4))

    first = network()
    optimizer = optimizer_of(first)
    begun = MoMos(first, **settings, seed=5, optimizer=optimizer)
    train(first, begun, optimizer, range(2))
    file = io.BytesIO()
    torch.save([first.state_dict(), optimizer.state_dict(), begun.state_dict()], file)
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)

    model = network(seed=9)
    optimizer = optimizer_of(model)
    again = MoMos(model, **settings, seed=6, optimizer=optimizer)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    again.load_state_dict(saved[2])
    assert again.report().numbers == begun.report().numbers
    assert torch.equal(again.report().usage, begun.report().usage)
    assert again.epoch() is None, "the epoch before the save was ended"
    train(model, again, optimizer, range(2, 4))
    assert same(model.state_dict(), whole.state_dict())
    assert again.report().numbers == mosaic.report().numbers


def test_trained_motifs_are_what_the_optimiser_trains():
    """In the second epoch of two; beside a loop that trains motifs alone, in float64."""
    model = network(dtype=torch.float64)
    optimizer = optimizer_of(model)
    mosaic = MoMos(model, recipe=PHASES, epochs=3, optimizer=optimizer)
    train(model, mosaic, optimizer, range(1))
    projection = mosaic.applied.parts[0].projection
    motifs, like = projection.motifs.clone().requires_grad_(), list(trainable(model).values())
    keep = real_weights([weight.numel() for weight in like], 2)
    counts = torch.zeros_like(motifs).index_add(0, projection.mosaic, keep.view(-1, 2).double())
    theirs = torch.optim.SGD([motifs], lr=0.1, momentum=0.9)
    for number in range(3, 6):
        inputs, labels = batch(number, torch.float64)
        flat = motifs[projection.mosaic].reshape(-1)[keep]
        parts = zip(trainable(model), flat.split([w.numel() for w in like]), like, strict=True)
        current = {name: part.view(weight.shape) for name, part, weight in parts}
        theirs.zero_grad()
        F.cross_entropy(functional_call(model, current, (inputs,)).float(), labels).backward()
        motifs.grad /= counts.clamp(min=1)
        motifs.grad[0] = 0  # the zero block
        theirs.step()
    train(model, mosaic, optimizer, range(1, 2))
    expected = from_blocks(motifs.detach()[projection.mosaic], like)
    for weight, other in zip(like, expected, strict=True):
        assert torch.allclose(weight, other, rtol=1e-9, atol=1e-12)
    report = mosaic.report()
    assert report.distortion == report.num_changed == 0 and report.motifs_used > 1


def test_what_phases_need_is_asked_for_before_training():
    model = network()
    with pytest.raises(ValueError, match="epochs must be given: motifs are .*, got None"):
        MoMos(model, recipe="best")
    with pytest.raises(ValueError, match="MoMos.recipe must be one of best, or an entry of meth"):
        MoMos(model, recipe="worst")
    for epochs in (0, -1, 2.5, "10", True):
        with pytest.raises(ValueError, match=f"epochs must be a whole number of 1 .*{epochs!r}$"):
            MoMos(model, recipe="best", epochs=epochs)
    with pytest.raises(ValueError, match="projection_every must be epoch where .*, got 'step'"):
        MoMos(model, recipe="best", epochs=10, projection_every="step")
    mosaic = MoMos(model, recipe="best", num_motifs=5, epochs=10)
    with pytest.raises(ValueError, match=r"optimizer must be given \(optimizer=.., or follow\)"):
        mosaic.step()
    for given, message in (
        ("adam", "optimizer is of the type str, expected one of torch.optim"),
        (optimizer_of(network()), "optimizer: SGD updates other weights, expected this model's"),
    ):
        with pytest.raises(ValueError, match=message):
            mosaic.follow(given)
    assert mosaic.about["block_size"] == 4 and mosaic.about["num_motifs"] == 5
    MoMos(model, recipe={"block_size": 2, "num_motifs": 4}).step()


def test_the_state_of_another_mosaic_is_refused():
    state = MoMos(network(), 2, capacity=0.1).state_dict()
    message = r"block_size of the saved state must be 3 as here, got 2"
    with pytest.raises(ValueError, match=message):
        MoMos(network(), 3, capacity=0.1).load_state_dict(state)
    with pytest.raises(ValueError, match="num_weights of the saved state must be 12 as here, got"):
        MoMos(nn.Linear(3, 3), 2, capacity=0.1).load_state_dict(state)


@pytest.mark.parametrize(
    ("settings", "first"), [({"block_size": 2, "capacity": 0.1}, 1), ({"recipe": "best"}, 2)]
)
def test_there_is_nothing_to_save_before_the_first_mosaic(tmp_path, settings, first):
    """Its RAC can be told before."""
    model, path = network(), tmp_path / "early.momos"
    optimizer = optimizer_of(model)
    mosaic = MoMos(model, **settings, epochs=4, optimizer=optimizer)
    for epoch in range(first):
        message = f"no mosaic yet after step {3 * epoch}, the first one comes .* epoch {first} at"
        with pytest.raises(ValueError, match=f"early.momos: there is {message}"):
            mosaic.save(path)
        assert mosaic.report().rac > 1 and mosaic.report().distortion is None
        train(model, mosaic, optimizer, [epoch])
    mosaic.save(path)
    unpack(path, twin := network(seed=9))
    assert same(twin.state_dict(), model.state_dict())


def test_a_saved_file_gives_back_the_deployed_weights(tmp_path):
    model = network()
    mosaic = MoMos(model, 2, capacity=0.1)
    train(model, mosaic, optimizer_of(model), range(1))
    mosaic.save(tmp_path / "momos.momos")
    unpack(tmp_path / "momos.momos", twin := network(seed=9))
    assert same(twin.state_dict(), model.state_dict())

    large = nn.Linear(256, 256)
    qat = QAT(large, 4)
    qat.save(tmp_path / "qat.momos")
    unpack(tmp_path / "qat.momos", twin := nn.Linear(256, 256))
    latent = dict(large.named_parameters())
    assert torch.equal(twin.weight, quantize(latent["weight"], 4))
    assert torch.equal(twin.bias, latent["bias"])
    assert (tmp_path / "qat.momos").stat().st_size < 256 * 256 * 4 / 6


# --- models of all kinds


def test_a_tied_gpt2_keeps_its_tie_and_becomes_a_mosaic(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=37, n_positions=8, n_embd=8, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    tokens = torch.arange(16).reshape(2, 8)
    mosaic, optimizer = MoMos(model, 4, num_motifs=20, bits=8), optimizer_of(model)
    for _ in range(2):
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mosaic.step()
    mosaic.epoch()
    assert distinct_blocks(model, 4) <= 20
    assert mosaic.report().num_weights == sum(weight.numel() for weight in model.parameters())
    assert model.lm_head._parameters["weight"] is model.transformer.wte._parameters["weight"]
    mosaic.save(tmp_path / "gpt2.momos")
    unpack(tmp_path / "gpt2.momos", twin := transformers.GPT2LMHeadModel(config).eval())
    assert torch.equal(twin(tokens).logits, model(tokens).logits)


def test_frozen_weights_stay_and_an_empty_one_takes_part():
    model = network()
    model.nothing = nn.Parameter(torch.zeros(0, 3))
    model[0].requires_grad_(False)
    before = copy.deepcopy(model[0].state_dict())
    mosaic = MoMos(model, 2, capacity=0.2, bits=4)
    train(model, mosaic, torch.optim.SGD(model.parameters(), 0.1), range(2))
    assert same(model[0].state_dict(), before)
    assert mosaic.report().num_weights == sum(w.numel() for w in trainable(model).values())
    assert distinct_blocks(model) <= mosaic.report().num_motifs


def test_sparse_gradients_of_trained_motifs_are_named():
    model = nn.Sequential(nn.Embedding(9, 4, sparse=True))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    mosaic = MoMos(model, recipe="best", num_motifs=3, epochs=2, optimizer=optimizer)
    for trained in (False, True):
        model(torch.arange(4)).sum().backward()
        if not trained:
            optimizer.step()
            optimizer.zero_grad()
            mosaic.step()
            mosaic.epoch()
    with pytest.raises(ValueError, match="0.weight has a sparse gradient: expected dense ones"):
        optimizer.step()


@pytest.mark.parametrize("toggled", [True, False])
def test_weights_that_are_frozen_or_thawed_while_motifs_are_trained_are_named(toggled):
    """Before the optimiser acts on them."""
    model = network()
    model[3].bias.requires_grad_(not toggled)
    optimizer = optimizer_of(model)
    mosaic = MoMos(model, recipe=PHASES, epochs=3, optimizer=optimizer)
    train(model, mosaic, optimizer, range(1))
    assert mosaic.applied.is_tied
    model[3].bias.requires_grad_(toggled)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="3.bias .*: expected the same trainable weights"):
        train(model, mosaic, optimizer, range(1, 2))
    assert same(model.state_dict(), before)


@pytest.mark.parametrize("toggled", [True, False])
def test_weights_that_are_frozen_or_thawed_meanwhile_are_named(toggled):
    model = network()
    model[3].bias.requires_grad_(not toggled)
    mosaic = MoMos(model, 2, capacity=0.2)
    mosaic.step()
    model[3].bias.requires_grad_(toggled)
    words = "has become trainable" if toggled else "is not trainable any more"
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f"3.bias {words}: expected the same"):
        mosaic.epoch()
    assert same(model.state_dict(), before)
    model[3].bias.requires_grad_(not toggled)
    assert mosaic.epoch() is not None, "what is undone in time is right"
    model[3] = nn.Linear(7, 4)
    mosaic.step()
    model[3].bias.requires_grad_(not toggled)
    with pytest.raises(ValueError, match=r"3.weight has the shape \(4, 7\), not \(3, 7\)"):
        mosaic.epoch()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats(dtype):
    model = network(dtype=dtype)
    mosaic = MoMos(model, 2, capacity=0.1)
    train(model, mosaic, torch.optim.SGD(model.parameters(), 0.1), range(2))
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    assert distinct_blocks(model) <= mosaic.report().num_motifs


def test_bfloat16_beside_float32_has_as_many_distinct_blocks_as_motifs():
    model = network()
    model[0].bfloat16()
    mosaic = MoMos(model, 2, num_motifs=6)
    mosaic.step()
    mosaic.epoch()
    low = whole_blocks(model[0].parameters()).unique(dim=0)
    high = whole_blocks([*model[1].parameters(), *model[3].parameters()]).unique(dim=0)
    assert len(low) <= 6 and len(high) <= 6
    assert distinct_blocks(model) <= 12, "a motif, and the same one rounded"


def test_wrappers_are_looked_through():
    model = network()
    wrapped = nn.DataParallel(torch.compile(model, backend="eager"))
    mosaic = MoMos(wrapped, 2, capacity=0.1)
    assert mosaic.model is model


# --- what is refused


def inferred():
    with torch.inference_mode():
        return network()


def half_and_float():
    model = network()
    model[0].half()
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.LazyLinear(3), "weight has no values yet: run one batch"),
        (lambda: nn.Linear(3, 3, device="meta"), "weight has no values yet"),
        (lambda: nn.Linear(3, 3, dtype=torch.complex64), r"weight is torch.complex64, expected"),
        (inferred, "0.weight was made in inference mode: expected one that can be trained"),
        (lambda: nn.ReLU(), "no trainable weights"),
        (lambda: nn.ReLU().state_dict(), "of the type OrderedDict, expected an nn.Module"),
        (lambda: nn.Linear(3, 3).requires_grad_(False), "no trainable weights"),
        (half_and_float, r"0.bias is torch.float16, 1.weight torch.float32: expected one type"),
    ],
)
def test_models_that_can_be_no_mosaic_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        MoMos(make(), 2, num_motifs=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "MoMos.block_size must be given, or a recipe, got None"),
        ({"block_size": 2}, "MoMos must be given either capacity or num_motifs"),
        ({"block_size": 2, "capacity": 1.5}, r"MoMos.capacity must be in \(0, 1\], got 1.5"),
        ({"block_size": 1000, "num_motifs": 2}, r"block_size must be in 1..80 .*, got 1000"),
        ({"block_size": 2, "num_motifs": 999}, r"num_motifs must be in 1..\d+ .*, got 999"),
        ({"block_size": 2, "capacity": 0.1, "bits": 1}, "MoMos.bits must be in 2..16"),
        ({"block_size": 2, "capacity": 0.1, "projection_every": "batch"},
         "MoMos.projection_every must be epoch, step or a number of steps, got 'batch'"),
        ({"block_size": 2, "capacity": 0.1, "projection_every": 0}, "projection_every must be"),
        ({"block_size": 2, "capacity": 0.1, "projection_every": True}, "projection_every must be"),
        ({"block_size": 2, "capacity": 0.1, "slicing": "layer"}, "MoMos.slicing must be one of"),
        ({"block_size": 2, "recipe": {"bits": 8}}, "MoMos.recipe must be given without what it"),
        ({"recipe": {"blok_size": 2}}, r"MoMos.blok_size: unknown key \(did you mean block_size"),
        ({"recipe": 8}, "MoMos must be a mapping of settings, got 8"),
        ({"recipe": parse({"bits": 8}, "x")}, "MoMos.exclude must be a value: parse QAT 8 bit"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        MoMos(network(), **settings)


def test_what_the_forward_pass_cannot_be_shown_is_refused():
    with pytest.raises(ValueError, match="the model is a LSTM, whose weights can't be quantised"):
        QAT(nn.LSTM(3, 3), 8)
    lstm = nn.LSTM(3, 3)
    mosaic = MoMos(lstm, 2, num_motifs=4)
    mosaic.step()
    mosaic.epoch()
    assert distinct_blocks(lstm) <= 4 and torch.isfinite(lstm(torch.ones(2, 3))[0]).all()
    normed = nn.Sequential(nn.Linear(3, 3), weight_norm(nn.Linear(3, 3)))
    with pytest.raises(ValueError, match="1 is a ParametrizedLinear: remove its parametrizations"):
        QAT(normed, 8)
    mosaic = MoMos(normed, 2, num_motifs=4)
    mosaic.step()
    assert mosaic.epoch().motifs_used <= 4
    with pytest.raises(ValueError, match="no weights to quantise, expected some that are no"):
        QAT(nn.BatchNorm1d(3), 8)
    with pytest.raises(ValueError, match="QAT.bits must be from 2 to 16, got 32"):
        QAT(network(), 32)
    model = network()
    QAT(model, 8)
    with pytest.raises(ValueError, match=r"0 sees quantised weights already: remove\(\) them"):
        MoMos(model, 2, capacity=0.1, bits=4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_longer_finite_are_named(value):
    model = network()
    mosaic = MoMos(model, 2, capacity=0.5)
    mosaic.step()
    with torch.no_grad():
        model[1].bias[2] = value
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NotFinite, match=r"at an epoch's end, after step 1 in 1.bias$"):
        mosaic.epoch()
    assert same(model.state_dict(), before)
