"""Seeds: each purpose has a stream of its own, and no stream ever changes."""

import hashlib

import pytest
import torch

from momos.compute.seeds import generator_for, seed_for

# First draws of some streams, recorded once
ORDER = [4, 7, 0, 3, 5, 1, 2, 6]
TEXT = [85, 1, 72, 58]
CHAIN = 25703376632698317
HEADS = [4, 5, 6, 2, 7, 3, 1, 0]

# Purpose, numbers, and the text whose hash has given that stream since the first results. Other
# texts would make every earlier result incomparable.
STREAMS = [
    ("order", (0,), "order:0"),
    ("augment", (3,), "augment:3"),
    ("motifs", (12,), "motifs:12"),
    ("layers", (1,), "layers:1"),
    ("refit order", (2,), "refit order:2"),
    ("refit augment", (2,), "refit augment:2"),
    ("complexity", (0,), "complexity:0"),
    ("language:order", (7,), "language:order:7"),
    ("language:held out", (0,), "language:held out:0"),
    ("language:evaluation", (0,), "language:evaluation:0"),
    ("language:retraining", (4,), "language:retraining:4"),
    ("language:llc", (0,), "language:llc:0"),
    ("llc:chain 3", (1,), "llc:chain 3:1"),
    ("llc:hessian", (5,), "llc:hessian:5"),
    ("noise", (6, 2), "noise:6:2"),
    ("heads", (6, 0), "heads:6:0"),
    ("layers", (6, 0), "layers:6:0"),
]


@pytest.mark.parametrize(("purpose", "numbers", "text"), STREAMS)
def test_a_stream_never_changes(purpose, numbers, text):
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
    expected = torch.Generator().manual_seed(seed)
    assert seed_for(purpose, *numbers) == generator_for(purpose, *numbers).initial_seed() == seed
    drawn = torch.randn(5, generator=generator_for(purpose, *numbers))
    assert torch.equal(drawn, torch.randn(5, generator=expected))


def test_the_first_draws_are_those_that_were_recorded():
    assert torch.randperm(8, generator=generator_for("order", 0)).tolist() == ORDER
    assert torch.randint(100, (4,), generator=generator_for("language:order", 0)).tolist() == TEXT
    assert seed_for("llc:chain 0", 0) == CHAIN
    assert torch.randperm(8, generator=generator_for("heads", 0, 0)).tolist() == HEADS


def test_streams_of_other_purposes_and_numbers_differ():
    keys = {(purpose, numbers) for purpose, numbers, _ in STREAMS}
    assert len({seed_for(purpose, *numbers) for purpose, numbers in keys}) == len(keys)


def test_the_global_state_stays():
    before = torch.get_rng_state()
    generator_for("order", 0)
    assert torch.equal(before, torch.get_rng_state())
