"""Two processes that train one model: rank 0 draws, both agree bit for bit, or both stop."""

import importlib.util
import subprocess
from pathlib import Path

import pytest
import torch
from clones import environment, fork
from source_files import ROOT

from momos import MoMos
from momos.own.ranks import digest

RANK = Path(__file__).parent / "rank.py"


def alone():
    """The module that each rank runs."""
    spec = importlib.util.spec_from_file_location("rank", RANK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, warm):
    """What each of two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    commands = [[fork(warm), RANK, str(rank), folder] for rank in range(2)]
    how = {"stderr": subprocess.PIPE, "text": True, "env": environment()}
    how["env"] |= {"PYTHONPATH": str(ROOT / "src")}
    running = [subprocess.Popen(command, **how) for command in commands]
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("kind", ["trained", "before", "quantised", "best"])
def test_ranks_have_the_same_motifs_mosaic_and_weights(ranks, kind):
    first, second = (found[kind] for found in ranks)
    assert torch.equal(first["motifs"], second["motifs"])
    assert torch.equal(first["mosaic"], second["mosaic"])
    assert torch.equal(first["state"], second["state"]), "either rank's state can be saved"
    assert all(map(torch.equal, first["weights"], second["weights"]))


def test_wrapping_before_or_after_makes_no_difference(ranks):
    for found in ranks:
        assert all(map(torch.equal, found["trained"]["weights"], found["before"]["weights"]))


@pytest.mark.parametrize(("kind", "settings"), [("trained", "SETTINGS"), ("best", "BEST")])
def test_two_ranks_equal_one_process_with_the_joined_batch(ranks, one_thread, kind, settings):
    """To rounding in float64; the draws are those of rank 0's seed."""
    module = alone()
    model = module.network()
    mosaic = MoMos(model, **getattr(module, settings), seed=0)
    last = module.train(model, mosaic)
    assert mosaic.applied.is_tied == (kind == "best")
    found = ranks[0][kind]
    assert torch.equal(last.mosaic, found["mosaic"])
    torch.testing.assert_close(last.motifs, found["motifs"], rtol=1e-10, atol=1e-12)
    for own, other in zip(module.weights(model), found["weights"], strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-12)


def test_ranks_that_do_not_agree_stop_all(ranks):
    for found in ranks:
        assert found["differing"].startswith("RuntimeError: ranks hold different weights at an")
        assert "DistributedDataParallel" in found["differing"]
    for kind in ("failing", "freezing"):
        assert ranks[0][kind].startswith("RuntimeError: another rank failed at an epoch's end")
    assert ranks[1]["freezing"].startswith("ValueError: 2.weight is not trainable any more")
    assert ranks[1]["failing"] == "NotFinite: NaN or infinity at an epoch's end, after step 1 in " \
        "2.weight"  # fmt: skip


def test_ranks_may_train_models_of_their_own(ranks):
    first, second = (found["apart"] for found in ranks)
    assert not all(map(torch.equal, first, second))


def test_sharded_weights_are_refused_by_name(ranks):
    for found in ranks:
        sharded = found["sharded"]
        assert sharded["first"].startswith("ValueError: the model is sharded by FSDP: MoMos")
        assert sharded["second"].startswith("ValueError: the model is sharded by FSDP: MoMos")
        assert sharded["late"].startswith("ValueError: 2 is sharded by FSDP")
        assert sharded["part"].startswith("ValueError: 0.weight is a DTensor, a part of a weight")
        assert all("expected DistributedDataParallel" in text for text in sharded.values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_digest_changes_with_each_bit(dtype):
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(3, 5, generator=generator).to(dtype), torch.zeros(0, dtype=dtype),
               torch.zeros(2, 2, dtype=dtype)]  # fmt: skip
    expected = int(digest(weights))
    assert int(digest(weight.clone() for weight in weights)) == expected
    for weight in weights:
        for byte in weight.view(-1).view(torch.uint8):
            for bit in range(8):
                byte ^= 1 << bit
                assert int(digest(weights)) != expected
                byte ^= 1 << bit
    assert int(digest(weights)) == expected
    assert int(digest(weights[::-1])) != expected
