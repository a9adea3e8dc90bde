"""The picture of the pipeline."""

import yaml
from synthetic import ROOT

from momos.page import dag


def test_the_picture_has_each_stage_once_and_every_edge_goes_down():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    waits = dag.edges(stages)
    picture = dag.layout(waits)
    places = {box.name: box for box in picture.boxes}
    assert set(places) == set(stages) and len(picture.boxes) == len(stages)
    assert all(
        places[other].y < places[name].y for name, others in waits.items() for other in others
    )
    assert len({(box.x, box.y) for box in picture.boxes}) == len(stages)
    assert "prepare" in waits["train"] and waits["page"] == ["cost", "provenance"], (
        "through provenance it waits for the report"
    )


def test_only_direct_edges_are_drawn():
    stages = {
        "a": {"outs": ["x"]},
        "b": {"deps": ["x"], "outs": ["y/${item.m}"]},
        "c": {"deps": ["x", "y"], "outs": [{"z": {"cache": False}}]},
        "d": {"deps": ["z/file"]},
    }
    assert dag.edges(stages) == {"a": [], "b": ["a"], "c": ["b"], "d": ["c"]}
