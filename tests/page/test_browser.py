"""index.html in a real Chromium: drawn, interactive and accessible on every screen and on paper."""

import os
import shutil

import pytest
from pages import build, render
from source_files import ROOT

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed (the test extra has it)"
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"
)
PHONE, WIDE = {"width": 390, "height": 844}, {"width": 1400, "height": 900}
LAPTOP = {"width": 1280, "height": 800}
OVERFLOWING = """[...document.querySelectorAll(".scroll, section, header, table, details")]
    .filter((part) => part.scrollWidth > part.clientWidth + 1 ||
                      part.getBoundingClientRect().right > innerWidth)
    .map((part) => part.getAttribute("aria-label") || part.tagName + " " + part.scrollWidth)"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return (build(tmp_path_factory.mktemp("browser")) / "index.html").as_uri()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # Chromium refuses its sandbox to root.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


class View:
    """The page opened, with what the console said and what was asked of the network."""

    def __init__(self, browser, address, **options):
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.complaints, self.requests = [], []
        self.page.on(
            "console",
            lambda message: (
                self.complaints.append(message.text)
                if message.type in ("error", "warning")
                else None
            ),
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        if options.get("java_script_enabled", True):
            self.page.wait_for_selector("html.drawn")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def width(self) -> int:
        return self.page.evaluate("document.documentElement.scrollWidth")

    def marks(self, chart: str) -> int:
        return self.page.locator(f'[data-chart="{chart}"] .role-mark path').count()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, WIDE], ids=["phone", "wide"])
def test_every_chart_is_drawn_inside_the_window_without_a_complaint(browser, address, size, scheme):
    with View(browser, address, viewport=size, color_scheme=scheme) as view:
        assert view.width() == size["width"], "no sideways scrolling of the page"
        for chart in ("accuracy_rac", "training", "figure2", "figure4"):
            assert view.marks(chart) >= 8, chart
            box = view.page.locator(f'[data-chart="{chart}"] svg').first.bounding_box()
            assert box["height"] > 250 and 0.75 * size["width"] < box["width"] <= size["width"]
        assert view.page.evaluate(
            "[...document.images].every((image) => image.complete && image.naturalWidth > 0)"
        )
        ground = view.page.evaluate("getComputedStyle(document.body).backgroundColor")
        ink = view.page.evaluate(
            "getComputedStyle(document.querySelector('[data-chart] .role-axis-label text')).fill"
        )
        assert (ground, ink) == {
            "light": ("rgb(253, 253, 251)", "rgb(27, 30, 35)"),
            "dark": ("rgb(20, 23, 27)", "rgb(230, 231, 228)"),
        }[scheme]
        assert view.complaints == []
        assert [
            url
            for url in view.requests
            if not url.startswith(("data:", "blob:")) and url != address
        ] == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The page of the study of digits, which has all sections, from its committed numbers."""
    page = tmp_path_factory.mktemp("whole") / "index.html"
    return render(ROOT / "reports" / "digits", page).as_uri()


@pytest.mark.parametrize("page", ["address", "whole"])
def test_no_table_scrolls_sideways_on_a_laptop(browser, request, page):
    """All of them, those that are folded away at first too."""
    with View(browser, request.getfixturevalue(page), viewport=LAPTOP) as view:
        view.page.evaluate(
            "document.querySelectorAll('details').forEach((part) => part.open = true)"
        )
        if page == "whole":
            assert view.page.locator("table caption", has_text="Checkpoints").count() > 0
        assert view.page.locator("table").count() > 20 and view.width() == LAPTOP["width"]
        assert view.page.evaluate(OVERFLOWING) == []


def test_the_first_screen_of_a_laptop_says_what_was_found(browser, address):
    with View(browser, address, viewport=LAPTOP) as view:
        sentences = view.page.locator(".findings li")
        assert sentences.count() == 5
        box = sentences.last.bounding_box()
        assert box["y"] + box["height"] <= LAPTOP["height"]


def test_pointing_at_a_mark_shows_its_numbers(browser, address):
    with View(browser, address, viewport=WIDE) as view:
        for chart, words in (
            ("accuracy_rac", ("RAC", "Accuracy")),
            ("figure2", ("BDM ratio", "Weights")),
            ("training", ("Epoch", "Value")),
        ):
            view.page.locator(f'[data-chart="{chart}"] .mark-symbol.role-mark path').last.hover()
            tip = view.page.locator("#vg-tooltip-element.visible")
            tip.wait_for()
            assert all(word in tip.inner_text() for word in words), chart
            view.page.mouse.move(0, 0)


def test_choosing_a_method_or_a_model_changes_what_is_drawn(browser, address):
    with View(browser, address, viewport=WIDE) as view:
        for chart in ("accuracy_rac", "figure2", "training"):
            form = view.page.locator(f'[data-chart="{chart}"] form')
            everything = view.marks(chart)
            form.get_by_label("Method").select_option(index=1)
            sync_api.expect(
                view.page.locator(f'[data-chart="{chart}"] .role-mark path')
            ).not_to_have_count(everything)
            assert 0 < view.marks(chart) < everything
            form.get_by_label("Method").select_option("all")
            sync_api.expect(
                view.page.locator(f'[data-chart="{chart}"] .role-mark path')
            ).to_have_count(everything)
        rac = view.page.locator('[data-chart="accuracy_rac"]')
        with_published = view.marks("accuracy_rac")
        rac.locator("form").get_by_label("Published points").uncheck()
        sync_api.expect(rac.locator(".role-mark path")).not_to_have_count(with_published)
        training = view.page.locator('[data-chart="training"]')
        before = training.locator("svg").first.inner_html()
        training.locator("form").get_by_label("Validation").select_option("loss")
        view.page.wait_for_function(
            "(old) => document.querySelector('[data-chart=training] svg').innerHTML !== old",
            arg=before,
        )


def test_on_paper_the_static_figures_stand_in_place_of_the_charts(browser, address):
    with View(browser, address, viewport={"width": 1018, "height": 700}) as view:
        assert not view.page.locator("#fig-training img").is_visible()
        view.page.emulate_media(media="print", color_scheme="dark")
        assert (
            view.page.locator("#fig-training img").is_visible()
            and not view.page.locator("[data-chart=training] svg").first.is_visible()
        )
        assert not view.page.locator("nav").is_visible()
        assert (
            view.page.evaluate("getComputedStyle(document.body).backgroundColor")
            == "rgb(255, 255, 255)"
        ), "white, also in the dark"
        assert view.width() <= 1018
        assert view.page.pdf(prefer_css_page_size=True)[:5] == b"%PDF-"


def test_without_scripts_the_static_figures_are_there(browser, address):
    with View(browser, address, viewport=WIDE, java_script_enabled=False) as view:
        assert (
            view.page.locator("#fig-accuracy_rac img").is_visible()
            and view.page.locator("#fig-training img").is_visible()
        )
        assert view.page.locator(".tiles").is_visible()


def test_a_browser_that_cannot_decompress_keeps_the_static_figures(browser, address):
    context = browser.new_context(viewport=WIDE)
    context.add_init_script("delete window.DecompressionStream")
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    assert page.locator("#fig-training img").is_visible() and errors == []
    assert not page.locator("[data-chart=training]").is_visible()
    context.close()


def test_the_keyboard_reaches_the_verdict_first(browser, address):
    with View(browser, address, viewport=WIDE) as view:
        view.page.keyboard.press("Tab")
        assert view.page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
        assert (
            view.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        )
        view.page.keyboard.press("Enter")
        view.page.wait_for_url("**/index.html#verdict")


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.stress)])
def test_axe_finds_nothing_serious(browser, address, scheme):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright",
        reason="axe-playwright-python is not installed (the test extra has it)",
    )
    with View(browser, address, viewport=WIDE, color_scheme=scheme) as view:
        view.page.evaluate(
            "document.querySelectorAll('details').forEach((part, index) => part.open = index < 5)"
        )
        found = axe.Axe().run(view.page).response
        grave = [
            violation
            for violation in found["violations"]
            if violation["impact"] in ("serious", "critical")
        ]
        assert len(found["passes"]) > 20
        assert [(violation["id"], violation["nodes"][0]["html"][:200]) for violation in grave] == []
