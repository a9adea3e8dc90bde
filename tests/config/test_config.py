"""Settings: what is in params.yaml passes, every kind of mistake gets an error that names the key,
the value and the expectation.
"""

import copy
from pathlib import Path

import pytest

from momos import config
from momos.config.numbers import write_yaml

ROOT = Path(__file__).parents[2]
PROFILES = [path for path in sorted((ROOT / "profiles").glob("*.yaml")) if path.stem != "base"]


@pytest.fixture
def params(tmp_path):
    """Writes the digits profile with keys replaced or removed, and returns its path."""
    values = config.profile_settings("digits", ROOT / "profiles")

    def write(changes=(), removed=()):
        changed = copy.deepcopy(values)
        for dotted, value in dict(changes).items():
            *parents, key = dotted.split(".")
            target = changed
            for parent in parents:
                target = target[parent]
            target[key] = value
        for dotted in removed:
            *parents, key = dotted.split(".")
            target = changed
            for parent in parents:
                target = target[parent]
            del target[key]
        path = tmp_path / "params.yaml"
        path.write_text(write_yaml(changed))
        return path

    return write


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_profiles_are_valid_and_named_after_their_file(profile):
    assert config.check(profile)["profile"] == profile.stem


def test_the_paper_grid_is_in_the_embedded_and_the_paper_profile():
    table = {(32, None, None), (16, None, None), (8, None, None), (4, None, None)}
    table |= {(32, size, capacity) for size in (2, 4) for capacity in (0.1, 0.05, 0.01, 0.005)}
    for path in (ROOT / "profiles" / f"{name}.yaml" for name in ("digits", "cifar10")):
        settings = [run.settings for run in config.runs(path=path) if run.grid == "main"]
        methods = {(method.bits, method.block_size, method.capacity) for method in settings}
        assert table <= methods, path
        assert {"mlp", "resnet20", "tiny_vit"} <= set(config.load(config.Grid, path=path).models)
        assert len(config.load(config.Grid, path=path).seeds) == 3


def test_runs_are_the_product_of_the_grids(params):
    grid = {"grid.seeds": [3, 5], "grid.more_seeds_of": []}
    grid |= {"grid.methods": ["baseline", "momos_s4_c1"]}
    ablation = {"block_sizes": [8], "capacities": [0.5], "seeds": [0]}
    path = params(grid | {f"ablation.{key}": value for key, value in ablation.items()})
    runs = config.runs("mlp", path=path)
    assert [(run.method, run.seed, run.grid) for run in runs] == [
        ("baseline", 3, "main"),
        ("baseline", 5, "main"),
        ("momos_s4_c1", 3, "main"),
        ("momos_s4_c1", 5, "main"),
        ("s8_c0.5", 0, "ablation"),
    ]
    assert runs[-1].settings.capacity == 0.5 and runs[-1].folder(Path("runs")) == Path(
        "runs/mlp/s8_c0.5/0"
    )
    assert {run.model for run in config.runs(path=path)} == {"mlp", "resnet20", "tiny_vit"}


def test_a_cheap_model_has_more_seeds_than_the_others(params):
    grid = {"seeds": [0, 1], "more_seeds_of": ["mlp"], "more_seeds": [4], "methods": ["qat8"]}
    path = params(
        {f"grid.{key}": value for key, value in grid.items()}
        | {"report.picture_method": "qat8", "complexity.methods": []}
    )
    main = [(run.model, run.seed) for run in config.runs(path=path) if run.grid == "main"]
    assert main == [
        ("mlp", 0), ("mlp", 1), ("mlp", 4),
        ("resnet20", 0), ("resnet20", 1),
        ("tiny_vit", 0), ("tiny_vit", 1),
    ]  # fmt: skip


def test_a_model_may_have_epochs_of_its_own(params):
    path = params({"train.epochs": 9, "models.mlp.epochs": 3, "models.resnet20.epochs": None})
    loop = config.load(config.Train, path=path)
    models = {name: config.load(config.Model, name, path=path) for name in ("mlp", "resnet20")}
    assert {name: loop.of_model(model).epochs for name, model in models.items()} == {
        "mlp": 3,
        "resnet20": 9,
    }
    assert loop.of_model(models["mlp"]).batch_size == loop.batch_size


MISTAKES = [
    ({"models.mlp.lr": float("inf")}, ["models.mlp.lr must be a number", "got inf"]),
    ({"llc.localization": float("nan")}, ["llc.localization must be a number", "got nan"]),
    ({"grid.models": ["mpl"]}, ["grid.models", "'mpl'", "mlp"]),
    ({"grid.methods": ["momos_s2"]}, ["grid.methods", "'momos_s2'", "momos_s2_c1"]),
    ({"data.source": "cifar"}, ["data.source", "'cifar'", "'cifar10'"]),
    ({"train.epoch": 3}, ["train.epoch", "unknown key", "train.epochs".split(".")[1]]),
    ({"trian": {}}, ["trian", "unknown section", "train"]),
    ({"methods.momos_s2_c10.capacity": 0}, ["methods.momos_s2_c10.capacity", "(0, 1]", "0"]),
    ({"methods.momos_s2_c10.capacity": 1.5}, ["methods.momos_s2_c10.capacity", "(0, 1]", "1.5"]),
    (
        {"methods.momos_s2_c10.capacity": "a tenth"},
        ["methods.momos_s2_c10.capacity", "number", "'a tenth'"],
    ),
    ({"methods.momos_s2_c10.block_size": 0}, ["methods.momos_s2_c10.block_size", "1 or more", "0"]),
    (
        {"methods.momos_s2_c10.num_motifs": 5},
        ["methods.momos_s2_c10", "either capacity or num_motifs"],
    ),
    ({"methods.qat4.capacity": 0.1}, ["methods.qat4.capacity", "block_size", "0.1"]),
    ({"methods.qat4.bits": 1}, ["methods.qat4.bits", "2..16", "1"]),
    ({"methods.qat4.bits": 4.0}, ["methods.qat4.bits", "integer", "4.0"]),
    ({"methods.qat4.bits": True}, ["methods.qat4.bits", "integer", "True"]),
    ({"models.mlp.lr": "1e-3"}, ["models.mlp.lr", "'1e-3'", "1.0e-3"]),
    ({"models.mlp.lr": 0}, ["models.mlp.lr", "positive", "0"]),
    ({"grid.seeds": []}, ["grid.seeds", "at least one", "[]"]),
    ({"grid.seeds": [0, 0]}, ["grid.seeds", "without repeats", "[0, 0]"]),
    ({"grid.seeds": [-1]}, ["grid.seeds", "0 or more", "-1"]),
    ({"grid.seeds": 0}, ["grid.seeds", "list", "0"]),
    ({"grid.seeds": ["a"]}, ["grid.seeds[0]", "integer", "'a'"]),
    ({"train.epochs": 0}, ["train.epochs", "1 or more", "0"]),
    ({"train.device": "gpu"}, ["train.device", "cuda", "'gpu'"]),
    ({"train.patience": 0}, ["train.patience", "null", "0"]),
    ({"train.keep": [0, 5]}, ["train.keep", "steps of 1 or more, rising", "[0, 5]"]),
    ({"train.keep": [5, 5]}, ["train.keep", "rising", "[5, 5]"]),
    ({"train.checkpoint_seconds": -1}, ["train.checkpoint_seconds", "0 or more", "-1"]),
    ({"train.checkpoint_seconds": "1min"}, ["train.checkpoint_seconds", "a number", "'1min'"]),
    ({"mosaic.projection_every": "batch"}, ["mosaic.projection_every", "epoch, step", "'batch'"]),
    ({"mosaic.projection_every": 0}, ["mosaic.projection_every", "epoch, step", "0"]),
    ({"mosaic.slicing": "layer"}, ["mosaic.slicing", "'tensor'", "'layer'"]),
    ({"quantize.exclude": "norm"}, ["quantize.exclude", "'names'", "'norm'"]),
    ({"evaluate.compressors": ["zip"]}, ["evaluate.compressors[0]", "'gzip'", "'zip'"]),
    ({"ablation.capacities": [0.5, 2]}, ["ablation.capacities", "(0, 1]", "2"]),
    ({"report.picture_model": "vgg"}, ["report.picture_model", "grid.models", "'vgg'"]),
    ({"ablation.models": ["vgg"]}, ["ablation.models", "grid.models", "'vgg'"]),
    (
        {"data.source": "images", "data.test_fraction": None, "data.path": "../cifar.tar"},
        ["data.path", "data/raw", "'../cifar.tar'"],
    ),
    (
        {"data.source": "images", "data.test_fraction": None, "data.path": "data/raw/../../x"},
        ["data.path", "data/raw"],
    ),
    (
        {"data.source": "mnist", "data.path": "data/raw/torchvision"},
        ["data.test_fraction", "null", "0.4"],
    ),
    ({"data.validation_fraction": 1}, ["data.validation_fraction", "(0, 1)", "1"]),
    ({"survey.source": "hub"}, ["survey.source", "'folder'", "'hub'"]),
    (
        {"survey.source": "folder", "survey.path": "/mnt/weights"},
        ["survey.path", "inside data/zoo", "'/mnt/weights'"],
    ),
    (
        {"survey.source": "manifest", "survey.path": None},
        ["survey.path", "inside data/zoo", "None"],
    ),
    ({"report.imported": ["../elsewhere"]}, ["report.imported", "data/imported", "'../elsewhere'"]),
    ({"report.imported": "h200"}, ["report.imported", "a list", "'h200'"]),
    (
        {"survey.source": "timm", "survey.path": "data/zoo/x"},
        ["survey.path", "null otherwise", "'data/zoo/x'"],
    ),
    (
        {"survey.source": "timm", "survey.path": None, "survey.num_models": 0}
        | {"survey.min_models": 1},
        ["survey.min_models", "in 0..0", "1"],
    ),
    (
        {"survey.source": "timm", "survey.path": None, "survey.num_models": 5}
        | {"survey.min_models": 6},
        ["survey.min_models", "in 0..5", "6"],
    ),
    ({"survey.num_models": -1}, ["survey.num_models", "0 or more", "-1"]),
    ({"survey.init_seeds": []}, ["survey.init_seeds", "at least one"]),
    ({"survey.init_seeds": [0, -1]}, ["survey.init_seeds", "0 or more", "-1"]),
    ({"survey.compressors": ["rar"]}, ["survey.compressors", "'gzip'", "'rar'"]),
    ({"survey.untrained": ["a", "a"]}, ["survey.untrained", "without repeats"]),
    ({"survey.tasks": {"a": "x"}}, ["survey.tasks.a", "a list of text", "'x'"]),
    ({"survey.tasks": {"a": ["x"], "b": ["x"]}}, ["survey.tasks", "without repeats", "'x'"]),
    ({"survey.num_workers": -1}, ["survey.num_workers", "0 or more", "-1"]),
    ({"survey.max_parameters": 0}, ["survey.max_parameters", "1 or more", "0"]),
    ({"train.stacked_seeds": 0}, ["train.stacked_seeds", "1 or more", "0"]),
    (
        {"train.stacked_seeds": 2, "grid.more_seeds_of": []},
        ["grid.seeds", "whole groups of train.stacked_seeds (2), so 3 beside 2", "[0, 1, 2]"],
    ),
    (
        {"train.stacked_seeds": 3, "grid.seeds": [3, 4], "grid.more_seeds_of": []},
        ["grid.seeds", "so 5 beside 3", "[3, 4]"],
    ),
    ({"grid.more_seeds": [2, 3]}, ["grid.more_seeds", "none of grid.seeds", "[2, 3]"]),
    ({"grid.more_seeds_of": ["mpl"]}, ["grid.more_seeds_of", "'mpl'", "mlp"]),
    ({"models.mlp.epochs": 0}, ["models.mlp.epochs", "train.epochs", "0"]),
    ({"survey.seed": -1}, ["survey.seed", "0 or more", "-1"]),
    ({"rivals.num_initializations": 1}, ["rivals.num_initializations", "2 or more", "1"]),
    ({"rivals.compressors": ["rar"]}, ["rivals.compressors[0]", "'lzma'", "'rar'"]),
    ({"rivals.bit_depth": 17}, ["rivals.bit_depth", "1..16", "17"]),
    ({"profile": "a/b"}, ["profile", "plain name", "'a/b'"]),
    ({"train": None}, ["train", "mapping", "None"]),
]


@pytest.mark.parametrize(
    ("changes", "expected"),
    MISTAKES,
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_mistake_names_key_value_and_expectation(params, changes, expected):
    path = params(changes)
    with pytest.raises(ValueError) as error:
        config.profile(path)
    for part in expected:
        assert part in str(error.value)


@pytest.mark.parametrize(
    "key", ["train.epochs", "models.mlp.lr", "methods.qat8.bits", "data.path", "mosaic", "profile"]
)
def test_a_missing_key_is_named(params, key):
    with pytest.raises(ValueError, match=key) as error:
        config.profile(params(removed=[key]))
    assert "missing" in str(error.value) or "must be" in str(error.value)


def test_ablation_runs_are_named_as_dvc_writes_the_capacity(params):
    """DVC puts the value into the folder's name as it is written: 1 and 1.0 differ."""
    runs = config.runs(
        "mlp",
        path=params(
            {
                "ablation.block_sizes": [8],
                "ablation.capacities": [1, 0.5, 1.0e-5],
                "ablation.seeds": [0],
            }
        ),
    )
    assert [run.method for run in runs if run.grid == "ablation"] == [
        "s8_c1",
        "s8_c0.5",
        "s8_c1e-05",
    ]


def test_no_profile_trains_a_cell_twice():
    for path in PROFILES:
        keys = [(run.model, run.settings, run.seed) for run in config.runs(path=path)]
        assert len(set(keys)) == len(keys), path


def test_an_empty_list_of_ablation_models_means_none(params):
    assert {run.grid for run in config.runs(path=params({"ablation.models": []}))} == {"main"}


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"params.yaml is missing"):
        config.read_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("train: [1,")
    with pytest.raises(ValueError, match=r"params.yaml is not valid YAML"):
        config.read_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("- 1")
    with pytest.raises(ValueError, match=r"params.yaml must hold a mapping"):
        config.read_params(tmp_path / "params.yaml")


def test_integers_pass_as_numbers_and_a_method_can_state_its_motifs(params):
    path = params(
        {"models.mlp.lr": 1, "methods.momos_s2_c10.num_motifs": 7},
        removed=["methods.momos_s2_c10.capacity"],
    )
    lr = config.load(config.Model, "mlp", path=path).lr
    assert lr == 1.0 and isinstance(lr, float)
    assert config.load_method("momos_s2_c10", path=path).num_motifs == 7


def test_an_unknown_entry_suggests_the_nearest(params):
    with pytest.raises(ValueError, match="did you mean resnet20"):
        config.load(config.Model, "resnet", path=params())
