"""Draws of the LLC's sampler: momos, the gradients alone, and devinterp where it is installed.

devinterp's `llc()` needs more than its optimiser does: `pip install devinterp==2.0.1` with its
dependencies, in an environment of its own.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import inputs
from momos import models
from momos.language import neox
from momos.slt.llc.estimator import estimate_llc
from momos.slt.llc.spectrum import hessian_spectrum

SETTINGS = {"lr": 1e-5, "nbeta": 100.0, "localization": 100.0}
VOCABULARY, CONTEXT = 256, 32


def _mlp() -> nn.Module:
    """1,050,634 weights."""
    return models.build("mlp", 10, kwargs={"hidden_layers": 5, "width": 256})


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def draws(*, num_draws: int, batch_size: int) -> Callable[[], None]:
    """One chain of pSGLD on the MLP, its baseline included."""
    model, batches = _mlp(), inputs.batches(8 * batch_size, 32, batch_size)
    return lambda: estimate_llc(
        model, _loss, batches, num_chains=1, num_draws=num_draws, **SETTINGS
    )


def gradients(*, num_draws: int, batch_size: int) -> Callable[[], None]:
    """As many forward and backward passes on the same batches, and nothing else."""
    model, batches = _mlp().eval(), inputs.batches(8 * batch_size, 32, batch_size)

    def run() -> None:
        for draw in range(num_draws):
            model.zero_grad()
            _loss(model, batches[draw % len(batches)]).backward()

    return run


def devinterp_draws(*, num_draws: int, batch_size: int) -> Callable[[], None]:
    """A plain loop around devinterp's optimiser."""
    from devinterp.optim import SGMCMC

    model, batches = _mlp().eval(), inputs.batches(8 * batch_size, 32, batch_size)

    def run() -> None:
        optimizer = SGMCMC.rmsprop_sgld(model.parameters(), **SETTINGS)
        for draw in range(num_draws):
            optimizer.zero_grad()
            _loss(model, batches[draw % len(batches)]).backward()
            optimizer.step()

    return run


def _neox() -> tuple[nn.Module, list[Tensor]]:
    """A GPT-NeoX of 1.9 M weights, and four batches of 8 sequences of 128 bytes."""
    shape = {
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "intermediate_size": 768,
    }
    draws = torch.Generator().manual_seed(0)
    batches = [torch.randint(VOCABULARY, (8, 129), generator=draws) for _ in range(4)]
    return neox.build(shape, vocabulary=VOCABULARY, context=128, seed=0).eval(), batches


def neox_draws(*, num_draws: int) -> Callable[[], None]:
    """One chain of pSGLD on the language model, its baseline included."""
    model, batches = _neox()
    return lambda: estimate_llc(
        model, neox.loss, batches, num_chains=1, num_draws=num_draws, **SETTINGS
    )


def neox_gradients(*, num_draws: int) -> Callable[[], None]:
    """As many forward and backward passes on the same batches, and nothing else."""
    model, batches = _neox()

    def run() -> None:
        for draw in range(num_draws):
            model.zero_grad()
            neox.loss(model, batches[draw % len(batches)]).backward()

    return run


def neox_spectrum(*, num_draws: int) -> Callable[[], None]:
    """As many products with the Hessian of one batch, in two Lanczos runs, set-up included."""
    model, batches = _neox()
    return lambda: hessian_spectrum(
        model,
        neox.loss,
        batches,
        num_probes=1,
        num_probe_batches=1,
        num_lanczos_probes=1,
        num_lanczos_steps=num_draws // 2,
        num_gradient_batches=1,
    )


class Bigram(nn.Module):
    """The next token from the last one, as devinterp's `llc()` takes models: 1.05 M weights."""

    def __init__(self, width: int = 512):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, context) -> (n, context, VOCABULARY)"""
        x = self.embedding(tokens)
        for layer in self.hidden:
            x = x + F.gelu(layer(x))
        return self.out(x)


def _tokens(num: int) -> Tensor:
    return torch.randint(VOCABULARY, (num, CONTEXT), generator=torch.Generator().manual_seed(0))


def _next_token(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def llc(*, num_draws: int, batch_size: int) -> Callable[[], None]:
    """A whole estimate: two chains on the bigram model."""
    model, batches = Bigram(), _tokens(32 * batch_size).split(batch_size)
    how = {
        "num_chains": 2,
        "num_draws": num_draws,
        "baseline": "first_batches",
        "num_init_batches": 8,
    }
    return lambda: estimate_llc(model, _next_token, batches, **how, **SETTINGS)


def devinterp_llc(*, num_draws: int, batch_size: int) -> Callable[[], None]:
    """The same by devinterp."""
    from datasets import Dataset
    from devinterp.slt.llc import llc as theirs

    model, dataset = (
        Bigram(),
        Dataset.from_dict({"input_ids": _tokens(32 * batch_size).tolist()}).with_format("torch"),
    )
    settings = {
        "lr": SETTINGS["lr"],
        "n_beta": SETTINGS["nbeta"],
        "localization": SETTINGS["localization"],
    }
    how = {
        "num_chains": 2,
        "num_draws": num_draws,
        "num_init_loss_batches": 8,
        "sampling_method": "rmsprop_sgld",
    }

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            theirs(
                model,
                dataset,
                {},
                batch_size=batch_size,
                output_path=Path(folder) / "samples",
                **settings,
                **how,
            )

    return run
