"""Profiles: overlays on one base file, as values and as the text that params.yaml becomes."""

from pathlib import Path

import pytest
import yaml

from momos.config import overlays

ROOT = Path(__file__).parents[2]
PROFILES = [path for path in sorted((ROOT / "profiles").glob("*.yaml")) if path.stem != "base"]
BASE = """\
# Every setting.
profile: null # the name

train: # how
  epochs: 3 # at most
  patience: null # or never

  device: cpu
models:
  mlp: {width: 8, kwargs: {depth: 2}}
methods: # by name
  baseline: {bits: 32}
  qat: {bits: 4}
grid:
  methods:
    - baseline # first
    - qat

sweep: {cpus: 2}
"""


@pytest.fixture
def complete(tmp_path):
    """The complete text of an overlay on BASE."""
    (tmp_path / "base.yaml").write_text(BASE)

    def write(overlay: str) -> str:
        (tmp_path / "mine.yaml").write_text("# Mine.\nbase: base.yaml\nprofile: mine\n" + overlay)
        return overlays.complete_text(tmp_path / "mine.yaml")

    return write


def test_what_the_overlay_does_not_say_stays_with_its_comments(complete):
    expected = BASE.replace("# Every setting.", "# Mine.").replace("profile: null", "profile: mine")
    assert complete("") == expected


@pytest.mark.parametrize(
    ("overlay", "below", "above"),
    [
        ("train:\n  epochs: 9\n", "epochs: 3 # at most", "epochs: 9 # at most"),
        ("train:\n  epochs: 9 # few\n", "epochs: 3 # at most", "epochs: 9 # few"),
        ("train:\n  patience: 4\n", "patience: null #", "patience: 4 #"),
        ("train:\n  epochs: null\n", "epochs: 3", "epochs: null"),
        ("train: {epochs: 9}\n", "epochs: 3", "epochs: 9"),
        ("models:\n  mlp: {width: 9}\n", "width: 8", "width: 9"),
        ("models:\n  mlp: {kwargs: {depth: 5}}\n", "depth: 2", "depth: 5"),
        ("models:\n  mlp: {kwargs: {rank: 5}}\n", "depth: 2", "depth: 2, rank: 5"),
        ("models:\n  mlp: {kwargs: !replace {}}\n", "{depth: 2}", "{}"),
        ("models:\n  new: {width: 1} # mine\n", "2}}\n", "2}}\n  new: {width: 1} # mine\n"),
        ("methods: !replace\n  qat: {bits: 4}\n", "  baseline: {bits: 32}\n", ""),
        ("methods: !replace {}\n", " # by name\n  baseline: {bits: 32}\n  qat: {bits: 4}",
         " {} # by name"),
        ("grid:\n  methods: [qat]\n", "methods:\n    - baseline # first\n    - qat",
         "methods: [qat]"),
        ("grid:\n  methods:\n    - qat # one\n", "    - baseline # first\n    - qat",
         "    - qat # one"),
        ("sweep:\n  cpus: 8\n", "cpus: 2", "cpus: 8"),
    ],
)  # fmt: skip
def test_an_entry_takes_the_place_of_the_base_s(complete, overlay, below, above):
    assert BASE.count(below) == 1
    assert complete(overlay) == complete("").replace(below, above)


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("trian:\n  epochs: 9\n", r"mine\.yaml: trian: unknown section \(did you mean train\?\)"),
        ("train:\n  epoch: 9\n", r"mine\.yaml: train\.epoch: unknown key \(did you mean epochs\?"),
        ("train:\n   epochs: 9\n", r"mine\.yaml: train must be indented by 2 spaces, got 3"),
        ("train: [\n", r"mine\.yaml is not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_file_and_key(complete, overlay, message):
    with pytest.raises(ValueError, match=message):
        complete(overlay)


@pytest.mark.parametrize("name", ["nowhere.yaml", "mine.yaml"])
def test_a_base_is_another_file(tmp_path, name):
    (tmp_path / "mine.yaml").write_text(f"base: {name}\nprofile: mine\n")
    with pytest.raises(ValueError, match=rf"mine\.yaml: base must be another file.*'{name}'"):
        overlays.read_settings(tmp_path / "mine.yaml")


class Loader(yaml.SafeLoader):
    """Reads a mapping that is marked `!replace` as one that says so."""


class Whole(dict):
    """A mapping that replaces the base's."""


Loader.add_constructor(
    "!replace", lambda loader, node: Whole(loader.construct_mapping(node, deep=True))
)


def merged(base: object, changes: object) -> object:
    """The overlay rule on values, which cannot share a mistake with the one on text."""
    if isinstance(changes, Whole) or not (isinstance(base, dict) and isinstance(changes, dict)):
        return changes
    return base | {key: merged(base.get(key), value) for key, value in changes.items()}


def layers(path: Path) -> tuple[dict, dict]:
    """The complete settings below a profile, which may lie on another one, and its own."""
    changes = yaml.load(path.read_text(), Loader=Loader)
    below = ROOT / "profiles" / changes.pop("base")
    if below.stem == "base":
        return yaml.safe_load(below.read_text()), changes
    return merged(*layers(below)), changes


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_profiles_follow_the_rule(path):
    assert overlays.profile_settings(path.stem, ROOT / "profiles") == merged(*layers(path))


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_profile_says_nothing_that_the_base_says_already(path):
    def repeated(base: dict, changes: dict, where: str = "") -> list[str]:
        return [
            name
            for key, value in changes.items()
            for name in (
                repeated(base[key], value, f"{where}{key}.")
                if isinstance(value, dict) and isinstance(base.get(key), dict)
                and not isinstance(value, Whole)
                else [f"{where}{key}"] * (key in base and base[key] == value)
            )
        ]  # fmt: skip

    assert repeated(*layers(path)) == []
