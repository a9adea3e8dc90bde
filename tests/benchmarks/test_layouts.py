"""Forms in which weights are stored: a folded batch norm is the same function."""

import csv

import pytest
import torch
from torch import nn

from benchmarks import layouts


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6)
        )
        for norm in (model[1], model[3]):
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
                tensor.normal_()
            norm.running_var.uniform_(0.5, 2)
        return model.eval()


def test_a_folded_network_is_the_same_function():
    model, images = network(), torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    merged, factors = layouts.folded(model.state_dict())
    assert list(merged) == ["0.weight", "2.weight", "2.bias", "0.bias"] and len(factors) == 2
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Identity(), nn.Conv2d(8, 6, 3), nn.Identity())
    plain.load_state_dict(merged)
    torch.testing.assert_close(plain(images), model(images))


def test_each_network_has_a_row_for_each_of_its_forms(tmp_path):
    torch.save(network().state_dict(), tmp_path / "a.pt")
    torch.save(nn.Linear(30, 20).state_dict(), tmp_path / "b.pt")
    (tmp_path / "list.csv").write_text("file,name\na.pt,a\nb.pt,b\n")
    layouts.main(tmp_path / "list.csv", tmp_path / "out.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [(row["name"], row["form"]) for row in rows] == [
        ("a", "swapped"),
        ("a", "folded"),
        ("b", "swapped"),
    ]
    _, factors = layouts.folded(network().state_dict())
    negative = (torch.cat(factors) < 0).float().mean()
    assert float(rows[1]["share_negative"]) == pytest.approx(float(negative), abs=1e-4)
    assert rows[1]["num_folded"] == "2" and 0 < float(rows[1]["ratio_1d"]) < 2
