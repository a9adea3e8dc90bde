"""The survey of files without an architecture: their weights, manifests, folders, series, z."""

import csv
import json
import math
import os
import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from foreign import prefixed, saved
from safetensors.torch import save_file
from scipy import stats
from torch import nn

from momos.complexity import bdm, planes
from momos.survey import candidates, controls, run, streaming
from momos.survey.candidates import LOCAL, RowSettings
from momos.survey.network import find_network
from momos.survey.weights import build
from momos.weights import blocks
from momos.weights.files import open_weights
from momos.weights.initial import fresh

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pybdm imports pkg_resources
    import pybdm

ROOT = Path(__file__).parents[2]
ZOO = Path(os.environ.get("MOMOS_ZOO", ROOT.parent / "shared" / "zoo"))
SETTINGS = RowSettings((0, 1, 2), ("gzip",), 0, False, Path("nowhere"))


def trained(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(40, 30))
    tensors = model.state_dict()
    return {name: one + 0.02 if one.is_floating_point() else one for name, one in tensors.items()}


def rows_of(found, settings=SETTINGS):
    rows = [run.measure_candidate(candidate, settings).row for candidate in found]
    return {row["name"]: row for row in rows}


# --- what of a file is a weight


def test_weights_are_told_from_all_else(tmp_path):
    tensors = trained() | {"head.weight": trained()["2.weight"].clone(), "steps": torch.tensor(3.0)}
    content = {"state_dict": tensors, "optimizer": {"state": {0: {"m": torch.ones(2)}}}}
    stored = open_weights(saved(tmp_path / "a.pt", content))
    network = find_network(stored, kinds=[("steps", "buffer")])
    assert network.names == ("0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias")
    assert network.left_out() == {"num_buffers": 4, "num_tied": 1, "num_beside": 1}
    assert [name for name, _ in network.weights()] == list(network.names)
    expected = fresh(tensors, 7, kinds=[("steps", "buffer")])
    found = dict(network.fresh(7))
    assert list(found) == list(network.names)
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_equal_constants_and_biases_of_branches_are_no_copies(tmp_path):
    same = torch.randn(30)
    tensors = {
        "a.weight": torch.ones(4, 9), "b.weight": torch.ones(4, 9),
        "one.weight": torch.randn(30, 4), "one.bias": same,
        "two.weight": torch.randn(30, 4), "two.bias": same.clone(),
    }  # fmt: skip
    network = find_network(open_weights(saved(tmp_path / "a.pt", tensors)))
    assert network.names == tuple(tensors) and network.num_tied == 0


def test_a_backbone_inside_the_architecture_is_one_layout(tmp_path):
    tensors = prefixed("backbone.")(trained()) | {"head.weight": torch.randn(5, 30)}
    network = find_network(open_weights(saved(tmp_path / "a.pt", tensors)))
    assert len(network.names) == 7
    twice = tensors | {"head.bias": torch.randn(5)} | trained(1)
    with pytest.raises(ValueError, match=r"a\.pt: tensor backbone\.0\.weight is there without"):
        find_network(open_weights(saved(tmp_path / "a.pt", twice)))


# --- numbers


def test_a_row_equals_pybdm_and_numpy_on_the_same_weights(tmp_path):
    path = saved(tmp_path / "net.pt", trained())
    (row,) = rows_of(candidates.in_folder(tmp_path), SETTINGS._replace(init_seeds=tuple(range(6))))
    row = rows_of(candidates.in_folder(tmp_path), SETTINGS._replace(init_seeds=tuple(range(6))))[
        row
    ]
    names = [name for name in trained() if "running" not in name and "num_" not in name]

    def value(tensors, ndim):
        if ndim == 1:
            bits = np.concatenate([tensors[name].numpy().ravel() > 0 for name in names])
            return pybdm.BDM(ndim=1).bdm(bits.astype(int))
        counts = bdm.BlockCounts(tensors[name].numpy() > 0 for name in names)
        return bdm.complexity(counts.squares)

    weights = open_weights(path)
    for n in (1, 2):
        initial = [value(fresh(weights, seed), n) for seed in range(6)]
        end, mean, std = value(weights, n), np.mean(initial), np.std(initial, ddof=1)
        assert row[f"bdm_{n}d_ratio"] == pytest.approx(end / mean, rel=1e-9)
        assert row[f"bdm_{n}d_initial_std"] == pytest.approx(std, rel=1e-9)
        assert row[f"bdm_{n}d_z"] == pytest.approx((end - mean) / std, rel=1e-9)
        chance = stats.t(5).cdf((end - mean) / (std * math.sqrt(1 + 1 / 6)))
        assert row[f"bdm_{n}d_p"] == pytest.approx(chance, rel=1e-6)
    own = {name: weights[name] for name in names}
    starts = [planes.complexity(fresh(weights, seed), 8, 99.9) for seed in range(6)]
    trained_planes = planes.complexity(own, 8, 99.9)
    assert row["planes"] == pytest.approx(trained_planes.sum(), rel=1e-12)
    chance = stats.t(5).cdf(row["planes_z"] / math.sqrt(1 + 1 / 6))
    assert row["planes_p"] == pytest.approx(chance, rel=1e-9)
    ratios = trained_planes / np.mean(starts, axis=0)
    assert [row[f"plane_{i}_ratio"] for i in range(8)] == pytest.approx(list(ratios), rel=1e-9)
    assert (row["num_initial"], row["init"], row["num_buffers"]) == (6, "default", 3)


def test_one_initialisation_tells_no_deviation(tmp_path):
    saved(tmp_path / "net.pt", trained())
    (row,) = rows_of(candidates.in_folder(tmp_path), SETTINGS._replace(init_seeds=(0,))).values()
    assert row["bdm_1d_z"] is None and row["bdm_2d_p"] is None and row["planes_z"] is None
    assert row["planes_p"] is None
    assert row["bdm_1d_ratio"] > 0 and row["error"] is None


def test_networks_that_nobody_trained_are_no_exception():
    """The null: 60 networks as torch builds them, against 20 initialisations each."""
    scores = []
    for seed in range(60):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 + seed)
            model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Linear(50, 60))
        state = model.state_dict()
        starts = [fresh(state, number).items for number in range(20)]
        row = streaming.measure_against(
            dict(model.named_parameters()).items, starts, compressors=(), seed=0
        )
        scores += [row["bdm_1d_z"], row["bdm_2d_z"], row["planes_z"]]
    assert sum(abs(z) < 3 for z in scores) >= 0.97 * len(scores)
    assert abs(np.mean(scores)) < 4 / math.sqrt(60) and 0.7 < np.std(scores) < 1.5


UNTRAINED = (
    "test_resnet", "test_convnext", "test_efficientnet", "test_vit", "test_byobnet", "test_nfnet",
    "mobilenetv3_small_050", "lcnet_050", "tinynet_e", "mobilevit_xxs", "mobilevitv2_050",
    "edgenext_xx_small", "efficientvit_b0", "torchvision squeezenet1_1",
    "torchvision mobilenet_v3_small", "torchvision shufflenet_v2_x0_5",
)  # fmt: skip


def untrained(name: str, seed: int) -> dict[str, torch.Tensor]:
    """Trainable weights as timm or torchvision builds them."""
    library, _, arch = name.rpartition(" ")
    if not library:
        return blocks.trainable(build(arch, seed))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return blocks.trainable(torchvision.models.get_model(arch, weights=None))


@pytest.mark.stress
def test_networks_of_timm_and_torchvision_that_nobody_trained_are_no_exception():
    """The null in large, as it is built: each of 50 initialisations against 30 drawn of the others.

    Student's t gives 99.4 % for values of a normal distribution.
    """
    generator, inside = np.random.default_rng(0), []
    for name in UNTRAINED:
        values = np.array([_complexities(untrained(name, seed)) for seed in range(50)])
        for one in np.tile(np.arange(50), 10):
            others = values[generator.choice(np.delete(np.arange(50), one), 30, replace=False)]
            z = (values[one] - others.mean(axis=0)) / others.std(axis=0, ddof=1)
            inside.append(np.abs(z) < 3)
    shares = dict(zip(("1-D", "2-D", "planes"), np.mean(inside, axis=0), strict=True))
    assert min(shares.values()) >= 0.99, shares


def _complexities(weights: dict[str, torch.Tensor]) -> tuple[float, float, float]:
    counts = bdm.BlockCounts((tensor.detach() > 0).numpy() for tensor in weights.values())
    all_planes = float(planes.model_planes(weights).sum())
    return bdm.complexity(counts.words), bdm.complexity(counts.squares), all_planes


# --- controls


def chain(rates, length, seed=0):
    generator, bits = np.random.default_rng(seed), [True]
    for draw in generator.random(length - 1):
        bits.append(bits[-1] ^ (draw < rates[int(bits[-1])]))
    return np.array(bits)


@pytest.mark.parametrize("rates", [(0.1, 0.3), (0.5, 0.5), (0.02, 0.9)])
def test_a_markov_control_changes_as_often_and_keeps_nothing_else(rates):
    bits = chain(rates, 40_000).reshape(200, 200)
    (found,) = controls.markov([bits], 0)
    assert found.shape == bits.shape and (found != bits).any()
    for value in (False, True):
        own = [
            (flat[1:] != flat[:-1])[flat[:-1] == value].mean()
            for flat in (bits.ravel(), found.ravel())
        ]
        assert own[0] == pytest.approx(own[1], abs=0.03)
    assert found.mean() == pytest.approx(bits.mean(), abs=0.04)
    (again,) = controls.markov([bits], 0)
    assert (again == found).all()


@pytest.mark.parametrize("bits", [np.zeros(0, bool), np.ones(1, bool), np.ones(7, bool)])
def test_a_markov_control_of_what_never_changes_is_the_same(bits):
    (found,) = controls.markov([bits], 0)
    assert (found == bits).all() and found.shape == bits.shape


def test_permuted_neurons_keep_every_row():
    bits = np.random.default_rng(0).random((50, 3, 4)) < 0.5
    (found,) = controls.permuted([bits], 0)
    assert sorted(map(bytes, found)) == sorted(map(bytes, bits)) and (found != bits).any()


def test_the_controls_tell_order_within_rows_from_order_among_rows(tmp_path):
    generator = torch.Generator().manual_seed(0)
    striped = torch.rand(1, 120, generator=generator).sub(0.5).expand(96, 120).clone()
    runs = torch.rand(96, 120, generator=generator).sub(0.5).sort(dim=1).values
    for tensor, within in ((striped, False), (runs, True)):
        weights = {"a.weight": tensor}
        row = streaming.measure_against(
            weights.items, [fresh(weights, seed).items for seed in range(3)], compressors=(), seed=0
        )
        shuffled, markov = row["bdm_2d_shuffled"], row["bdm_2d_markov"]
        assert row["bdm_2d"] < 0.7 * shuffled and row["bdm_2d_permuted"] < 0.7 * shuffled
        assert (markov < 0.7 * shuffled) == within, "only runs along a row outlast the chain"


# --- lists


def manifest(folder, rows, columns=("file", "name", "family", "init", "kinds", "source")):
    path = folder / "list.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_manifest_says_what_names_can_not(tmp_path):
    saved(tmp_path / "a.pt", trained() | {"log_std": torch.full((40,), -0.5)})
    (tmp_path / "weights" / "b").mkdir(parents=True)
    for step in (1, 20):
        saved(tmp_path / "weights" / "b" / f"epoch_{step:02}.pth", trained(step))
    kinds = json.dumps([["log_std", "parameter_zero"]])
    path = manifest(
        tmp_path,
        [
            {"file": "a.pt", "name": "a", "family": "agents", "kinds": kinds, "init": "keras"},
            {"file": "b/epoch_01.pth", "name": "b", "source": "github:me/b"},
            {"file": "b/epoch_20.pth", "name": "b", "source": "github:me/b"},
            {"file": "gone.pt", "name": "gone"},
        ],
    )
    rows = rows_of(candidates.in_manifest(path))
    assert list(rows) == ["a", "b/epoch_01", "b/epoch_20", "gone"]
    assert rows["a"]["family"] == "agents" and rows["a"]["init"] == "keras"
    assert [rows[f"b/epoch_{step}"]["step"] for step in ("01", "20")] == [1, 20]
    assert {row.get("series") for row in rows.values()} == {None, "b"}
    assert rows["gone"]["error"] == "ValueError: no such file: gone.pt"
    assert all(row["error"] is None for name, row in rows.items() if name != "gone")


def test_what_a_manifest_notes_of_a_network_stands_in_its_row(tmp_path):
    saved(tmp_path / "a.pt", trained())
    (tmp_path / "b").mkdir()
    for step in (1, 2):
        saved(tmp_path / "b" / f"{step}.pt", trained(step))
    notes = {"trained_on": "faces", "licence": "MIT", "notes": " batch norm\nfolded "}
    files = [{"file": f"b/{step}.pt", "name": "b"} for step in (1, 2)]
    rows = [{"file": "a.pt", "name": "a", "task": "agents", **notes}, *files]
    columns = ("file", "name", "task", "trained_on", "licence", "notes", "sha256_source")
    found = candidates.in_manifest(manifest(tmp_path, rows, columns))
    found = candidates.with_tasks(found, {"sorting": ["b", "a"]})
    rows = rows_of(found)
    expected = {"task": "agents", **notes, "notes": "batch norm folded"}
    assert {name: rows["a"][name] for name in expected} == expected, "the manifest comes first"
    assert rows["b/1"]["task"] == rows["b/2"]["task"] == "sorting" and "notes" not in rows["b/1"]
    assert {*expected} <= {*run.table_columns(["gzip"])}
    with pytest.raises(ValueError, match=r"survey\.tasks must name networks .*, got nobody"):
        candidates.with_tasks(found, {"sorting": ["b", "nobody"]})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_manifests_as_spreadsheets_save_them(tmp_path, encoding, newline):
    saved(tmp_path / "w.pth", trained())
    text = newline.join(["file,name,source", "w.pth,Käfer,meins", ""])
    empty = newline.join(["file,name,source,,", ",,,,", "w.pth,Käfer,meins,,", ",,,,", ""])
    for content in (text, empty):
        (tmp_path / "list.csv").write_bytes(content.encode(encoding))
        (found,) = candidates.in_manifest(tmp_path / "list.csv")
        assert (found.name, found.source, found.problem) == ("Käfer", "meins", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,name\nw.pth\n", r"list\.csv, line 2: expected 2 columns, got no value for name"),
        (b"file,name\nw.pth,a,b\n", r"line 2: expected 2 columns, got more values"),
        ("file,name\nw.pth,a\nw.pth,K\u00e4fer\n".encode("latin-1"), r"line 3: .*UTF-8.* 0xe4"),
        (b'file,kinds\nw.pth,"[[1]]"\n', r"line 2, column kinds: expected JSON"),
        (b"file,kinds\nw.pth,{\n", r"line 2, column kinds: expected JSON"),
        (b"file,parameters\nw.pth,many\n", r"line 2, column parameters: .*, got 'many'"),
        (b'file,name\nw.pth,"a\n', r"list\.csv, line \d: expected CSV"),
        (b"file,,\nw.pth,a,\n", r"line 2: expected 1 columns, got more values"),
        (b"file;name\nw.pth;a\n", r"separated by commas, got file;name"),
        ("file,name\nw.pth,a\n".encode("utf-16"), r"line 1: .*UTF-8.* 0xff"),
        (b"file,colour\nw.pth,red\n", r"must have the columns arch or file .* got file, colour"),
    ],
)  # fmt: skip
def test_a_bad_manifest_is_named_with_line_and_column(tmp_path, content, message):
    saved(tmp_path / "w.pth", trained())
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        candidates.in_manifest(tmp_path / "list.csv")
    assert "list.csv" in str(refused.value)


def test_a_folder_is_read_whatever_its_files_are_called(tmp_path, capsys):
    saved(tmp_path / "One.PTH", trained())
    saved(tmp_path / "two.pth.tar", {"state_dict": prefixed("module.")(trained())})
    saved(tmp_path / "three.ckpt", {"state_dict": prefixed("model.")(trained()), "epoch": 1})
    for commit in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"):
        snapshot = tmp_path / "models--me--net" / "snapshots" / commit
        snapshot.mkdir(parents=True)
        save_file({"fc.weight": torch.randn(20, 30)}, snapshot / "model.safetensors")
        (snapshot / "config.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "old.h5").write_text("x")
    (tmp_path / ".DS_Store").write_text("x")
    found = candidates.in_folder(tmp_path)
    said = capsys.readouterr().err
    assert "2 files are no weight files: notes.txt, old.h5" in said
    names = ["One", "net@aaaaaaaa", "net@bbbbbbbb", "three", "two"]
    assert sorted(candidate.name for candidate in found) == names
    rows = rows_of(found)
    assert all(row["error"] is None and row["source"] == LOCAL for row in rows.values())
    assert len({row["num_weights"] for row in rows.values()}) == 2


def test_all_networks_of_the_zoo_are_candidates():
    if not (ZOO / "manifest.csv").is_file():
        pytest.skip("no zoo: set MOMOS_ZOO to a folder with manifest.csv and weights")
    found = candidates.in_manifest(ZOO / "manifest.csv")
    assert len(found) == 73 and not any(candidate.problem for candidate in found)
    series = [candidate.series for candidate in found if candidate.series]
    assert len(series) == 16 and len(set(series)) == 5
    assert len({candidate.series or candidate.name for candidate in found}) == 62
    small = [one for one in found if (one.num_parameters or 0) < 12_000]
    rows = rows_of(small)
    assert len(rows) == 4 and all(row["error"] is None for row in rows.values())
    assert all(
        row["num_weights"] == one.num_parameters
        for one, row in zip(small, rows.values(), strict=True)
    )


BY_HAND = (
    "mtcnn_rnet", "honk_res8_narrow", "muzero_cartpole", "mlperf_tiny_wakeword", "affnet",
)  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_ratios_of_the_zoo_by_hand(name):
    """pybdm on the file and on the weights of fresh.py, a reference that is not this project's."""
    if not ZOO.is_dir():
        pytest.skip(f"{ZOO} is not there")
    build_reference = runpy.run_path(str(ZOO / "fresh.py"))["build"]
    listed = {row["file"]: row for row in csv.DictReader((ZOO / "manifest.csv").open())}
    row = listed[f"{name}.pth"]
    stored = torch.load(ZOO / "weights" / row["file"], weights_only=True)
    layout = {key: tuple(tensor.shape) for key, tensor in stored.items()}
    kinds = json.loads(row["kinds"])
    starts = [build_reference(layout, kinds, row["init"], seed) for seed in range(3)]
    trained = {key: stored[key] for key in starts[0]}

    def by_hand(tensors) -> float:
        signs = [(tensor > 0).numpy().reshape(-1) for tensor in tensors.values()]
        return pybdm.BDM(ndim=1).bdm(np.concatenate(signs).astype(int))

    found = streaming.measure_against(
        trained.items, [start.items for start in starts], compressors=(), seed=0
    )
    expected = by_hand(trained) / np.mean([by_hand(start) for start in starts])
    assert found["bdm_1d_ratio"] == pytest.approx(expected, rel=1e-9)
