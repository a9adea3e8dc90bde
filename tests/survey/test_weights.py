"""Foreign weight files that fit, or are refused with a reason, and the numbers of their rows."""

import hashlib
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from foreign import prefixed, saved, trained_by_timm

from momos.survey import weights
from momos.survey.candidates import LOCAL, SOURCE, Candidate, RowSettings
from momos.survey.run import measure_candidate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pybdm imports pkg_resources
    import pybdm

ARCH = "test_vit"


@pytest.fixture
def settings(tmp_path) -> RowSettings:
    return RowSettings(
        init_seeds=(0,),
        compressors=("bz2",),
        seed=0,
        keep_weights=False,
        folder=tmp_path / "downloads",
    )


def state(arch: str = ARCH, seed: int = 5, **kwargs) -> dict[str, torch.Tensor]:
    return trained_by_timm(arch, seed, **kwargs)


def row(path: Path, settings: RowSettings, arch: str = ARCH) -> dict:
    return measure_candidate(Candidate(path.stem, arch, LOCAL, str(path)), settings).row


SAME = {
    "plain.pth": lambda tensors: tensors,
    "plain.safetensors": lambda tensors: tensors,
    "parallel.safetensors": prefixed("module."),
    "parallel.pth": prefixed("module."),
    "compiled.pth": prefixed("_orig_mod.module."),
    "nested.pth": lambda tensors: {"state_dict": tensors, "epoch": 3},
    "model.pth": lambda tensors: {"model": prefixed("module.")(tensors), "optimizer": {"lr": 0.1}},
    "average.pth": lambda tensors: {
        "model_ema": tensors,
        "model": {name: tensor * 0 for name, tensor in tensors.items()},
    },
    "other_order.pth": lambda tensors: dict(sorted(tensors.items(), reverse=True)),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("plain")
    return row(saved(folder / "plain.pth", state()), RowSettings((0,), ("bz2",), 0, False, folder))


@pytest.mark.parametrize("name", SAME)
def test_a_wrapped_file_has_the_same_row_as_a_plain_one(name, plain, tmp_path, settings):
    found = row(saved(tmp_path / name, SAME[name](state())), settings)
    assert found["error"] is None and found["num_classes"] is None
    left_out = {"name", "weights", "sha256"}
    assert {key: value for key, value in found.items() if key not in left_out} == {
        k: v for k, v in plain.items() if k not in left_out
    }


def test_the_format_before_zip_files_is_read(plain, tmp_path, settings):
    path = tmp_path / "old.pth"
    torch.save(state(), path, _use_new_zipfile_serialization=False)
    assert row(path, settings)["bdm_1d"] == plain["bdm_1d"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", [".pth", ".safetensors"])
def test_other_precisions_are_measured(dtype, kind, tmp_path, settings):
    rounded = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in state().items()
    }
    back = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in rounded.items()
    }
    found, expected = (
        row(saved(tmp_path / f"a{kind}", rounded), settings),
        row(saved(tmp_path / f"b{kind}", back), settings),
    )
    assert (
        found["error"] is None
        and found["bz2"] == expected["bz2"]
        and found["bdm_2d"] == expected["bdm_2d"]
    )


@pytest.mark.parametrize(
    ("num_classes", "arch"), [(0, ARCH), (7, ARCH), (0, "test_resnet"), (7, "test_convnext")]
)
def test_a_missing_head_or_one_of_other_classes_is_compared_with_the_same(
    num_classes, arch, tmp_path, settings
):
    found = row(saved(tmp_path / "head.pth", state(arch, num_classes=num_classes)), settings, arch)
    assert found["error"] is None and found["num_classes"] == num_classes
    model = timm.create_model(arch, num_classes=num_classes)
    assert found["num_weights"] == sum(parameter.numel() for parameter in model.parameters())


def without(name: str) -> Callable[[dict], dict]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


class Foreign:
    """Of a class that weights_only=True does not construct."""


REFUSED = {
    "missing.pth": (
        without("blocks.0.attn.qkv.weight"),
        "does not fit test_vit: it lacks blocks.0.attn.qkv.weight",
    ),
    "more.pth": (lambda t: t | {"extra.weight": torch.zeros(3)}, "it has unexpected extra.weight"),
    "shape.pth": (
        lambda t: t | {"norm.weight": torch.zeros(3)},
        "it has other shapes of norm.weight (3,), expected (64,)",
    ),
    "other.safetensors": (lambda t: {"a": torch.zeros(3)}, "it has unexpected a"),
    "integers.pth": (
        lambda t: t | {"norm.weight": torch.zeros(64, dtype=torch.int8)},
        "tensor norm.weight is torch.int8, expected floating",
    ),
    "whole.safetensors": (
        lambda t: t | {"norm.weight": torch.zeros(64, dtype=torch.int8)},
        "tensor norm.weight is torch.int8",
    ),
    "nan.pth": (
        lambda t: t | {"norm.weight": torch.full((64,), torch.nan)},
        "tensor norm.weight (trained) holds NaN",
    ),
    "entry.pth": (lambda t: t | {"epoch": 3}, "tensors and epoch (int)"),
    "list.pth": (lambda t: [1, 2], "holds no state dict, but list"),
    "empty.pth": (lambda t: {}, "holds no state dict"),
    "pickle.pth": (
        lambda t: {"state_dict": t, "args": Foreign()},
        f"can't be read as weights: Unsupported global: GLOBAL {Foreign.__module__}.Foreign was",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_a_row_that_says_why(name, tmp_path, settings):
    change, reason = REFUSED[name]
    found = row(saved(tmp_path / name, change(state())), settings)
    assert reason in found["error"] and "bdm_1d" not in found
    assert (found["name"], found["family"]) == (Path(name).stem, "vision_transformer")


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_damaged_file_is_a_row_that_says_so(kind, tmp_path, settings):
    whole = saved(tmp_path / f"whole.{kind}", state()).read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(whole[: len(whole) // 2])
    assert (
        f"cut.{kind} can't be read as weights" in row(tmp_path / f"cut.{kind}", settings)["error"]
    )


def test_another_layout_goes_through_timms_converter(tmp_path, settings):
    """The names of the original DeiT-like positional embedding, resized: timm knows settings, this
    package does not.
    """
    larger = state(img_size=224)
    assert larger["pos_embed"].shape != state()["pos_embed"].shape
    found = row(saved(tmp_path / "larger.pth", larger), settings)
    with torch.no_grad():
        model = timm.create_model(
            ARCH, pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "larger.pth")}
        )
    bits = np.concatenate(
        [parameter.detach().numpy().ravel() > 0 for parameter in model.parameters()]
    ).astype(int)
    assert found["error"] is None and found["bdm_1d"] == pytest.approx(
        pybdm.BDM(ndim=1).bdm(bits), rel=1e-9
    )


def test_weights_that_timms_converter_leaves_random_are_found():
    model, fresh = weights.build(ARCH, 0), weights.build(ARCH, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.0 if name == "head.weight" else 1.0)
    assert weights._left_as_built(model, fresh) == ["head.weight"]


# --- the numbers


def test_a_row_holds_the_numbers_of_independent_implementations(plain, tmp_path, settings):
    def bits(tensors) -> np.ndarray:
        return np.concatenate([tensor.numpy().ravel() > 0 for tensor in tensors]).astype(int)

    parameters = [name for name, _ in timm.create_model(ARCH).named_parameters()]
    tensors, one_d = state(), pybdm.BDM(ndim=1)
    trained = [tensors[name] for name in parameters]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        initial = one_d.bdm(
            bits(parameter.detach() for parameter in timm.create_model(ARCH).parameters())
        )
    assert plain["bdm_1d"] == pytest.approx(one_d.bdm(bits(trained)), rel=1e-9)
    assert plain["bdm_1d_ratio"] == pytest.approx(plain["bdm_1d"] / initial, rel=1e-9)
    assert plain["num_weights"] == len(bits(trained))
    path = saved(tmp_path / "same.pth", tensors)
    assert row(path, settings)["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_initial_bdm_is_the_mean_over_seeds(tmp_path, settings):
    path = saved(tmp_path / "a.pth", state())
    both, first, second = (
        row(path, settings._replace(init_seeds=seeds)) for seeds in ((3, 8), (3,), (8,))
    )
    for column in ("bdm_1d_initial", "bdm_2d_initial"):
        assert (
            both[column] == pytest.approx((first[column] + second[column]) / 2, rel=1e-12)
            and first[column] != second[column]
        )


def test_the_initialisation_depends_on_the_seed_alone():
    before = torch.random.get_rng_state()
    first, same, other = (weights.build(ARCH, seed).head.weight for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


PEAK = """
import os, resource, sys, torch
torch.set_num_threads(1)
from momos.survey.candidates import Candidate, RowSettings, untrained
from momos.survey.run import measure_candidate
settings = RowSettings((0,), ("gzip",), 0, False, None)
measure_candidate(untrained(["test_vit"])[0], settings)  # libraries and tables are loaded
for path in sys.argv[1:]:
    if pid := os.fork():  # whose peak is its own
        assert os.waitpid(pid, 0)[1] == 0
        continue
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    large = Candidate("large", "resnet26", "local file", path)
    row = measure_candidate(large, settings).row
    assert row["error"] is None, row
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(peak * 1024 / (4 * row["num_weights"]), flush=True)
    break
"""


@pytest.fixture(scope="module")
def peaks(tmp_path_factory) -> dict[str, float]:
    """Peak memory by kind of file, in models. resnet26: 16 M weights, 64 MB."""
    kinds, folder = ("pth", "safetensors"), tmp_path_factory.mktemp("large")
    tensors = weights.build("resnet26", 1).state_dict()
    paths = [str(saved(folder / f"large.{kind}", tensors)) for kind in kinds]
    command = [sys.executable, "-c", PEAK, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(zip(kinds, map(float, done.stdout.split()), strict=True))


@pytest.mark.stress
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_memory_stays_below_two_and_a_half_models(peaks, kind):
    """With models of 64 MB. The suite counts tensors that are held: tests/cli/test_memory.py."""
    assert 0.5 < peaks[kind] < 2.5, "and it holds at least part of one"


# --- downloads


HUB = Candidate("test_vit.r160_in1k", "test_vit.r160_in1k", SOURCE)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with one file, laid out as huggingface_hub lays its cache out, and its ordinary cache
    elsewhere on the disk.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    content = saved(tmp_path / "model.bin", state()).read_bytes()

    def download(repository: str, name: str, *, cache_dir=None) -> str:
        if name == "model.safetensors":
            raise EntryNotFoundError("no such file")
        root = Path(cache_dir or tmp_path / "ordinary") / f"models--{repository.replace('/', '--')}"
        blob, link = root / "blobs" / "abc", root / "snapshots" / "main" / name
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.symlink_to(blob)
        return str(link)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    return tmp_path


def test_downloads_are_removed_after_use(hub, settings, plain):
    found = measure_candidate(HUB, settings).row
    assert (
        found["error"] is None
        and found["bdm_1d"] == plain["bdm_1d"]
        and found["weights"] == "test_vit.r160_in1k (hub)"
    )
    assert (
        not any(path.is_file() for path in settings.folder.rglob("*"))
        and not (hub / "ordinary").exists()
    )


def test_downloads_stay_in_the_ordinary_cache_on_request(hub, settings):
    assert measure_candidate(HUB, settings._replace(keep_weights=True)).row["error"] is None
    assert [path.name for path in (hub / "ordinary").rglob("*.bin")] == ["pytorch_model.bin"]


def test_what_the_cache_has_is_used_and_stays(hub, settings, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda _, name: str(hub / "model.bin") if name.endswith("bin") else None,
    )
    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda *_, **__: pytest.fail("downloaded although it is there"),
    )
    assert measure_candidate(HUB, settings).row["error"] is None and (hub / "model.bin").is_file()


def test_without_the_hub_a_row_says_so(settings, monkeypatch):
    """huggingface_hub itself, told to stay offline, with an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(settings.folder))
    assert "LocalEntryNotFoundError" in measure_candidate(HUB, settings).row["error"]


def test_weights_by_address_are_fetched_and_removed(tmp_path, settings, monkeypatch):
    address = saved(tmp_path / "legacy.pth", state("legacy_seresnet18")).as_uri()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    about = timm.models.get_pretrained_cfg("legacy_seresnet18.in1k")
    monkeypatch.setattr(
        timm.models,
        "get_pretrained_cfg",
        lambda name: about.__class__(**{**about.__dict__, "url": address}),
    )
    found = measure_candidate(
        Candidate("legacy", "legacy_seresnet18.in1k", SOURCE), settings._replace(compressors=())
    ).row
    assert (
        found["error"] is None
        and found["num_weights"] == 11_778_592
        and not any(settings.folder.rglob("*.pth"))
    )


def test_an_architecture_without_pretrained_weights_says_so(settings):
    found = measure_candidate(Candidate("a", "darknet17", SOURCE), settings).row
    assert found["error"] == "ValueError: timm has no pretrained weights of darknet17"
