"""Figures as data URIs: fewer bytes, the same picture, in any browser without scripts."""

import io
import re
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
import vl_convert
from bs4 import BeautifulSoup
from matplotlib.figure import Figure
from PIL import Image
from synthetic import ROOT

from momos.page import pictures, svg, svg_numbers
from momos.report.shared import figures

SCALE = 2  # pixels per point


def drawn(picture: str) -> np.ndarray:
    """An SVG as (height, width, 3) colours from 0 to 255, by resvg."""
    png = vl_convert.svg_to_png(picture, scale=SCALE)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(np.int16)


def assert_looks_the_same(before: str, after: str) -> None:
    """Up to how edges are smoothed: a shape may move by a thousandth of a point, nothing more."""
    old, new = drawn(before), drawn(after)
    assert old.shape == new.shape and np.ptp(old) > 100
    difference = np.abs(old - new).max(-1)
    # resvg takes 16 samples per pixel: 64 of 255 is one row of them
    assert (difference > 70).sum() <= 3 and difference.mean() < 0.1


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> str:
    """A figure with all that Matplotlib draws: texts, markers, dashes, areas, images, hatches."""
    folder = tmp_path_factory.mktemp("figure")
    generator = np.random.default_rng(0)
    with figures.style():
        figure = Figure(figsize=(8, 6))
        (curves, areas), (image, points) = figure.subplots(2, 2)
        for marker, dash in zip("os^Dx+", ["-", "--", ":", "-.", (0, (5, 1)), "-"], strict=True):
            curves.plot(generator.normal(size=9).cumsum(), marker=marker, ls=dash, label=marker)
        curves.set(title="$x^2$ & <b> 'quoted' \"twice\" #1 50 %", yscale="symlog")
        curves.legend()
        areas.fill_between(range(5), range(5), alpha=0.3)
        areas.bar(range(5), range(5), hatch="//", fill=False)
        areas.errorbar(range(5), range(5), yerr=0.5, capsize=3, alpha=0.5)
        image.pcolormesh(generator.normal(size=(5, 4)), rasterized=True)
        image.imshow(generator.normal(size=(4, 4)), extent=(0, 2, 0, 2))
        points.scatter(*generator.normal(size=(2, 40)), c=range(40), s=range(40), alpha=0.6)
        points.annotate("far", (0, 0), (1, 1), arrowprops={"arrowstyle": "->"}, rotation=30)
        figures.save(figure, folder, "all")
    return (folder / "all.svg").read_text()


def test_a_figure_looks_the_same_in_far_fewer_bytes(everything):
    small = svg.minified(everything)
    assert_looks_the_same(everything, small)
    assert len(small) < 0.5 * len(everything)
    size = ("width", "height", "viewBox")
    before, after = ElementTree.fromstring(everything), ElementTree.fromstring(small)
    assert [after.get(name) for name in size] == [before.get(name) for name in size]


@pytest.mark.parametrize("name", [
    "digits/slt/figures/llc", "cifar10/figures/accuracy_rac",
    *(pytest.param(f"digits/{name}", marks=pytest.mark.stress) for name in
      ("figures/figure1", "figures/training", "figures/figure_b1_mlp", "slt/figures/eps")),
])  # fmt: skip
def test_a_committed_figure_looks_the_same(name):
    figure = (ROOT / "reports" / f"{name}.svg").read_text()
    assert_looks_the_same(figure, svg.minified(figure))


def test_every_reference_leads_to_an_element_and_every_id_is_used(everything):
    small = svg.minified(everything)
    ids = re.findall(r" id='(.*?)'", small)
    assert len(ids) == len(set(ids)) > 20
    assert {*re.findall(r"href='#(.*?)'", small), *re.findall(r"url\(#(.*?)\)", small)} == set(ids)


def test_an_svg_of_another_program_stays_as_it_is():
    other = f"<svg xmlns='{svg.SVG}'><style>.a{{fill:red}}</style><path d='M 0 0 L 1 1'/></svg>"
    assert svg.minified(other) == other, "a style sheet that is not Matplotlib's"


@pytest.mark.parametrize(("path", "short"), [
    ("M 0 0 \nL 3 0 \nL 3 4.5 \nz \n", "m0 0h3v4.5z"),
    ("M 10.0004 -0.0006 L 10.5004 0.9994", "m10-.001.5 1"),
    ("M 1 1 L 2 3 L 4 3.5 M 5 5 L 5 5 L 5 5", "m1 1 1 2 2 .5m1 1.5h0"),
    ("M 0 1 Q 1 2 3 4 C 4 5 6 7 8.25 9", "m0 1q1 1 3 3c1 1 3 3 5.25 5"),
    ("M 1 1 L 2 2 z M 2 2 L 3 3", "m1 1 1 1zm1 1 1 1"),
    ("M 0 0 A 1 1 0 0 0 2 2", "M 0 0 A 1 1 0 0 0 2 2"),
    ("M 1e-05 0 L 2 2", "M 1e-05 0 L 2 2"),
])  # fmt: skip
def test_paths_are_relative_and_rounded(path, short):
    assert svg_numbers.short_path(path) == short


def end_of(path: str) -> tuple[float, float]:
    """Where a path of relative lines ends."""
    x = y = 0.0
    for name, text in re.findall(r"([mlhv])([^mlhv]*)", path):
        steps = [float(number) for number in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", text)]
        x += sum({"h": steps, "v": []}.get(name, steps[::2]))
        y += sum({"h": [], "v": steps}.get(name, steps[1::2]))
    return x, y


def test_rounding_does_not_add_up():
    steps = "".join(f"L {index * 0.0004:.6f} {index * 0.00037:.6f} " for index in range(1, 1001))
    short = svg_numbers.short_path("M 0 0 " + steps)
    assert end_of(short) == pytest.approx((0.4, 0.37), abs=0.0006) and len(short) < len(steps) / 3


def test_a_data_uri_is_safe_in_an_attribute_and_holds_the_picture(everything, tmp_path):
    (tmp_path / "a.svg").write_text(everything)
    (tmp_path / "a.png").write_bytes(b"png" * 10**6)
    uri = pictures.data_uri(tmp_path / "a.svg")
    image = BeautifulSoup(f'<img alt="x" src="{uri}"><p>', "html.parser").img
    assert image["src"] == uri and image["alt"] == "x" and not re.search('["#&\n]', uri)
    assert unquote(uri.removeprefix("data:image/svg+xml,")) == svg.minified(everything)


def test_a_large_picture_is_a_png_where_that_is_smaller(everything, tmp_path, monkeypatch):
    (tmp_path / "a.svg").write_text(everything)
    (tmp_path / "a.png").write_bytes(b"small")
    assert pictures.data_uri(tmp_path / "a.svg").startswith("data:image/svg+xml,")
    monkeypatch.setattr(pictures, "LARGE", 1000)
    assert pictures.data_uri(tmp_path / "a.svg") == "data:image/png;base64,c21hbGw="
