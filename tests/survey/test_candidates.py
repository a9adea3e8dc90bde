"""Which models are surveyed: lists of them, the control, a seeded draw, and what a survey needs."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from source_files import ROOT

from momos import config
from momos.config.running import REPOSITORY
from momos.survey import candidates, weights
from momos.survey.candidates import Candidate, RowSettings
from momos.survey.run import measure_candidate

sys.path.insert(0, str(ROOT / "scripts"))
import worker  # noqa: E402

ARCH = "test_vit"
DROPPINGS = ("._model.safetensors", ".DS_Store", "desktop.ini", "__MACOSX/model.safetensors")


def test_the_untrained_control_has_a_ratio_of_about_one(tmp_path):
    settings = RowSettings((0,), ("bz2",), 0, False, tmp_path / "downloads")
    (control,) = candidates.untrained([ARCH])
    found = measure_candidate(control, settings).row
    assert (
        found["source"] == candidates.CONTROL
        and abs(found["bdm_1d_ratio"] - 1) < 0.01
        and abs(found["bdm_2d_ratio"] - 1) < 0.01
    )
    with pytest.raises(
        ValueError, match=r"survey\.untrained must name timm architectures, got no_such"
    ):
        candidates.untrained(["no_such", ARCH])


PROFILES = sorted({path.stem for path in (ROOT / "profiles").glob("*.yaml")} - {"base"})


@pytest.mark.parametrize("profile", PROFILES)
def test_a_survey_has_initialisations_enough_to_tell_chance(profile):
    """At least 20 (method A11), but for the quick profile, which judges nothing."""
    seeds = config.profile_settings(profile, ROOT / "profiles")["survey"]["init_seeds"]
    assert len(set(seeds)) == len(seeds) and len(seeds) >= (1 if profile == "quick" else 20)


def test_a_file_belongs_to_the_longest_timm_name_it_begins_with(tmp_path):
    names = [
        "resnet50.a1_in1k.safetensors",
        "resnet50-mine.pth",
        "resnet50_gn_x.pt",
        "resnet50.of_mine.bin",
        "resnet5.pth",
        "notes.txt",
    ]
    for name in names:
        (tmp_path / name).touch()
    found = {candidate.name: candidate for candidate in candidates.in_folder(tmp_path)}
    archs = {
        "resnet50.a1_in1k": "resnet50.a1_in1k",
        "resnet50-mine": "resnet50",
        "resnet50_gn_x": "resnet50_gn",
        "resnet50.of_mine": "resnet50",
    }
    assert {name: one.arch for name, one in found.items() if one.arch} == archs
    assert not found["resnet5"].arch and not any(one.problem for one in found.values())
    assert found["resnet50.a1_in1k"].about() == {
        "name": "resnet50.a1_in1k", "family": "resnet", "tags": "a1_in1k", "source": "local file"
    }  # fmt: skip


@pytest.mark.parametrize(
    "workspace", [".", "scratch/sweep/work/host-1", "scratch/exp", ".dvc/tmp/exps/standalone/tmp1"]
)
def test_what_lies_beside_the_project_is_found_from_its_workspaces_too(
    tmp_path, monkeypatch, workspace
):
    root = tmp_path / "project"
    (root / workspace).mkdir(parents=True)
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "list.csv").write_text("arch\ntest_vit\n")
    digits = config.profile_settings("digits", ROOT / "profiles")
    beside = {"source": "manifest", "path": "../zoo/list.csv", "num_models": None}
    merged = digits["survey"] | beside | {"untrained": []}
    monkeypatch.chdir(root / workspace)
    if workspace.startswith("scratch"):
        stages = worker.stage_environment(root, root / workspace)
        monkeypatch.setenv(REPOSITORY, stages[REPOSITORY])
    found = candidates.chosen(config.Survey.from_mapping(merged, "survey"))
    assert [one.arch for one in found] == ["test_vit"]


def test_a_folder_without_weights_and_a_name_twice_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"survey\.path: expected a folder with weight files"):
        candidates.in_folder(tmp_path)
    (tmp_path / "test_vit.pth").touch()
    (tmp_path / "test_vit.pt").touch()
    with pytest.raises(ValueError, match="found twice: test_vit"):
        candidates.in_folder(tmp_path)


def test_what_systems_leave_in_a_folder_is_no_candidate(tmp_path, capsys):
    for name in ("a.safetensors", "._a.safetensors", "__MACOSX/b.safetensors", ".DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (found,) = candidates.in_folder(tmp_path)
    assert found.name == "a" and capsys.readouterr().err == ""


def test_what_systems_leave_in_a_models_folder_counts_for_nothing(tmp_path):
    """Neither its size, which max_parameters bounds, nor its hash, which the table has."""
    (tmp_path / "net").mkdir()
    save_file({"fc.weight": torch.ones(9)}, tmp_path / "net" / "model.safetensors")
    (tmp_path / "net" / "config.json").write_text("{}")

    def known() -> tuple[int | None, str]:
        (drawn,) = candidates.draw(
            candidates.in_folder(tmp_path), None, max_parameters=1000, seed=0
        )
        return drawn.num_parameters, weights.sha256(Path(drawn.file))

    before = known()
    for name in DROPPINGS:
        (tmp_path / "net" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "net" / name).write_bytes(bytes(9000))
    assert known() == before


def test_a_manifest_lists_files_and_timms_own_weights(tmp_path):
    (tmp_path / "w.pth").touch()
    lines = [
        "arch, file,name ,source",
        "test_vit.r160_in1k,w.pth,mine,timm",
        "test_vit,gone.pth,,",
        "test_resnet.r160_in1k,,,",
        "tset_vit,w.pth,x,",
    ]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    mine, gone, hub, unknown = candidates.in_manifest(tmp_path / "list.csv")
    assert (mine.name, mine.source, mine.file) == ("mine", "timm", str(tmp_path / "w.pth"))
    assert (gone.name, gone.source, gone.problem) == (
        "gone",
        "local file",
        "no such file: gone.pth",
    )
    assert (hub.name, hub.source, hub.file) == ("test_resnet.r160_in1k", "timm", None)
    assert unknown.problem == "timm has no architecture 'tset_vit'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model\nx", "must have the columns arch"),
        ("arch,size\nx,1", "got arch, size"),
        (None, "no file"),
        ("", "got none"),
        ("arch,file", "expected a row for each model, found none"),
        ("arch,file,file\nx,y,z", "each column once, got arch, file, file"),
        ('arch,name\nx,"a\nb"', "line 3, column name: expected printable text on one line"),
        ("arch,file\nx,y\0", "line 2, column file: expected printable"),
    ],
)
def test_a_bad_manifest_is_an_error(text, message, tmp_path):
    if text is not None:
        (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        candidates.in_manifest(tmp_path / "list.csv")


def test_the_draw_is_seeded_and_passes_over_large_models():
    archs = [
        "test_vit",
        "test_resnet",
        "test_convnext",
        "test_efficientnet",
        "resnet18",
        "vit_base_patch16_224",
    ]
    models = [Candidate(arch, arch, candidates.SOURCE) for arch in archs]
    models.append(Candidate("x", "x", candidates.LOCAL, "x", problem="none"))
    draws = [
        [c.name for c in candidates.draw(models, None, max_parameters=20_000_000, seed=seed)]
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert sorted(draws[0]) == sorted({*archs, "x"} - {"vit_base_patch16_224"})
    three = candidates.draw(models, 3, max_parameters=20_000_000, seed=0)
    assert [candidate.name for candidate in three] == draws[0][:3]
    sizes = {
        c.name: c.num_parameters
        for c in candidates.draw(models, None, max_parameters=20_000_000, seed=0)
    }
    assert sizes["resnet18"] == 11_689_512 and sizes["x"] is None


def test_the_need_is_that_of_downloads_and_of_models_side_by_side(tmp_path):
    local, hub = (
        Candidate("a", "a", candidates.LOCAL, "f", num_parameters=10**6),
        [Candidate(n, n, candidates.SOURCE, num_parameters=2 * 10**6) for n in "bcd"],
    )
    needed = candidates.need([local, *hub], keep_weights=False, num_workers=2)
    assert (needed.num_weights, needed.download, needed.disk) == (7 * 10**6, 24 * 10**6, 16 * 10**6)
    assert candidates.need([local, *hub], keep_weights=True, num_workers=0).disk == 24 * 10**6
    with pytest.raises(OSError, match="needs 1000000000.0 GB of disk"):
        candidates.require_disk(needed._replace(disk=10**18), tmp_path / "not" / "there")
