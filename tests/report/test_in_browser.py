"""The page in headless Chromium, with no network, on a desk and on a phone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.report.answered_points import answered_experiment
from tests.report.reported_points import case_2, optima, with_spec, world, write_points
from trimtab.config.methods import DIAL
from trimtab.data.synthetic import write_data
from trimtab.report import write_report
from trimtab.results.samples import Answer, Sample, write_samples

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = {"desk": 1280, "phone": 390}
WIDE = 1440
REPOSITORY = Path(__file__).parent.parent.parent
COMMITTED = {"answered": "experiments/conflict", "of many methods": "docs/comparison/smollm2"}
"""Folders of points whose methods and data have long names."""

MARKS = ".measured_marks path"

playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    known_world = world()
    write_data(known_world, folder, rows=4)
    (folder / "experiment.yaml").write_text("model: tiny\ntask: {chat: chat.jsonl}\n")
    points = [*optima(known_world), *case_2("chat", height=2.0)]
    return write_report(write_points(folder, points)).page


@pytest.fixture(scope="module")
def answered_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(answered_experiment(tmp_path_factory.mktemp("answered"))).page


@pytest.fixture(scope="module", params=WIDTHS.values(), ids=WIDTHS.keys())
def choosing(browser: Browser, answered_report: Path, request: pytest.FixtureRequest) -> Visit:
    return Visit(browser, answered_report, request.param)


@pytest.fixture(scope="module")
def dial_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dial")
    known_world = world()
    write_data(known_world, folder, rows=4)
    penalties = {10.0: 0.0, 1.0: 0.5, 0.1: 1.0}
    points = [
        replace(
            with_spec(optimum, method=DIAL, value=penalties[float(optimum.spec.value or 0)]),
            multiplier=optimum.spec.value,
        )
        for optimum in optima(known_world, penalties)
        if (optimum.proxy, optimum.task) == ("near", "chat")
    ]
    answers = tuple(Answer(alpha, f"answer at {alpha}", "") for alpha in (0.0, 1.0))
    write_samples(folder, [Sample(True, "student-asks-about-locks", answers)])
    return write_report(write_points(folder, points)).page


class Visit:
    """A page opened from disk, and all that it said and asked for."""

    def __init__(self, browser: Browser, report: Path, width: int) -> None:
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
        self.page: Page = context.new_page()
        self.messages: list[str] = []
        self.urls: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.urls.append(request.url))
        self.page.goto(report.as_uri())
        self.page.wait_for_function(
            "document.querySelectorAll('.plot svg.marks').length"
            " === document.querySelectorAll('.plot').length"
        )


@pytest.fixture(scope="module", params=WIDTHS.values(), ids=WIDTHS.keys())
def visit(browser: Browser, report: Path, request: pytest.FixtureRequest) -> Visit:
    return Visit(browser, report, request.param)


def test_the_page_opens_without_complaint(visit: Visit) -> None:
    assert visit.messages == []


def test_the_page_asks_for_nothing_but_itself(visit: Visit) -> None:
    assert all(url.startswith(("file:", "data:", "blob:")) for url in visit.urls)
    assert len([url for url in visit.urls if url.startswith("file:")]) == 1


def test_the_page_does_not_scroll_sideways(visit: Visit) -> None:
    wide = visit.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0


def test_a_wide_table_scrolls_in_its_own_box(visit: Visit) -> None:
    boxes = visit.page.evaluate(
        "[...document.querySelectorAll('.scroll')]"
        ".map(box => [box.getBoundingClientRect().right, box.scrollWidth > box.clientWidth])"
    )
    width = visit.page.viewport_size["width"]
    assert all(right <= width for right, _ in boxes)
    assert any(scrolls for _, scrolls in boxes) is (width < WIDE / 2)


@pytest.fixture(scope="module", params=COMMITTED.values(), ids=COMMITTED.keys())
def committed(
    browser: Browser, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Visit:
    folder = tmp_path_factory.mktemp("committed")
    for name in ("points.jsonl", "experiment.yaml"):
        path = REPOSITORY / request.param / name
        if path.exists():
            shutil.copy(path, folder)
    return Visit(browser, write_report(folder).page, WIDE)


def test_no_column_is_cut_on_a_wide_screen(committed: Visit) -> None:
    cut = committed.page.evaluate(
        """[...document.querySelectorAll('.scroll')].map(box => {
            box.closest('details')?.setAttribute('open', '');
            return [box.ariaLabel, box.scrollWidth, box.clientWidth];
        }).filter(([, table, box]) => table > box)"""
    )
    assert cut == []


def test_a_table_that_is_cut_says_how_many_rows_are_below(committed: Visit) -> None:
    page, box = committed.page, committed.page.locator(".scroll.choices")
    hint = box.locator(".more")
    rows = box.locator("tbody tr").count()
    hidden = re.fullmatch(r"(\d+) more rows: scroll ↓", hint.inner_text())
    assert hidden is not None
    assert 0 < int(hidden[1]) < rows
    box.evaluate("box => box.scrollTo(0, box.scrollHeight)")
    page.wait_for_timeout(200)
    assert hint.text_content() == ""
    last = box.locator("tbody tr").last.bounding_box()
    frame = box.bounding_box()
    assert last is not None
    assert frame is not None
    assert last["y"] + last["height"] <= frame["y"] + frame["height"]


def test_words_are_explained_before_the_figures_that_use_them(committed: Visit) -> None:
    places = committed.page.evaluate(
        """[...document.querySelectorAll('h2')].map(head => head.id)"""
    )
    assert places.index("choices") < places.index("reading") < places.index("figures")
    if "dial" in places:
        assert places.index("reading") < places.index("dial")
    glossary = committed.page.locator(".reading").inner_text()
    for word in ("Alignment gap", "Proxy gap", "Capability gap", "Lemma 0", "oracle", "Theorem 1"):
        assert word in glossary


def test_every_plot_has_its_points(visit: Visit) -> None:
    plots = visit.page.locator(".plot")
    assert plots.count() == 5
    for index in range(plots.count()):
        assert plots.nth(index).locator(MARKS).count() >= 4
        box = plots.nth(index).bounding_box()
        assert box is not None
        assert box["width"] <= visit.page.viewport_size["width"]


def test_no_label_is_cut_off(visit: Visit) -> None:
    cut = visit.page.evaluate(
        """[...document.querySelectorAll('.plot')].flatMap(plot => {
            const frame = plot.getBoundingClientRect();
            const texts = [...plot.querySelectorAll('svg text')];
            if (texts.length < 8) return ['too few texts'];
            return texts
              .filter(text => {
                const box = text.getBoundingClientRect();
                return box.left < frame.left - 1 || box.right > frame.right + 1
                  || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
              }).map(text => text.textContent);
        })"""
    )
    assert cut == []


def test_no_two_texts_of_a_plot_overlap(visit: Visit) -> None:
    over = visit.page.evaluate(
        """[...document.querySelectorAll('.plot')].flatMap(plot => {
            const texts = [...plot.querySelectorAll('svg text')]
              .filter(text => text.textContent && text.getAttribute('stroke') !== 'white');
            const boxes = texts.map(text => text.getBoundingClientRect());
            return texts.flatMap((text, one) => texts.slice(one + 1).filter((_, later) => {
              const [a, b] = [boxes[one], boxes[one + 1 + later]];
              return Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
                && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4;
            }).map(other => `${text.textContent} | ${other.textContent}`));
        })"""
    )
    assert over == []


def test_a_mark_tells_what_was_measured_there(visit: Visit) -> None:
    plot = visit.page.locator(".plot").first
    plot.scroll_into_view_if_needed()
    box = plot.locator(MARKS).nth(1).bounding_box()
    assert box is not None
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tooltip = visit.page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    text = tooltip.text_content() or ""
    assert "Case I" in text
    assert "nats per token" in text
    assert "λ = " in text


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
def test_the_slider_moves_the_ring_the_losses_and_the_answers(
    browser: Browser, dial_report: Path, width: int
) -> None:
    visit = Visit(browser, dial_report, width)
    slider = visit.page.locator("#alpha")

    def shown_texts() -> list[str]:
        visit.page.wait_for_timeout(200)
        ring = str(visit.page.locator("#dial-plot path[stroke-width='3']").bounding_box())
        parts = ("#dial-name", "#dial-measured", "#dial-theory", ".answer")
        return [ring, *(visit.page.locator(part).inner_text() for part in parts)]

    slider.fill("0")
    safest = shown_texts()
    slider.fill("2")
    most_capable = shown_texts()
    assert safest[1] == "α = 0"
    assert most_capable[1] == "α = 1"
    assert safest[4] == "answer at 0.0"
    assert most_capable[4] == "answer at 1.0"
    assert all(before != after for before, after in zip(safest, most_capable, strict=True))
    assert "bound" in safest[3]
    slider.press("ArrowLeft")
    assert shown_texts()[1] == "α = 0.5"
    assert visit.messages == []
    wide = visit.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0


def model_names(visit: Visit) -> list[str]:
    names = visit.page.locator(".choices tbody td:first-child").all_inner_texts()
    return [name.replace("\u00a0", " ") for name in names]


def test_a_head_sorts_its_column_by_number(choosing: Visit) -> None:
    head = choosing.page.locator(".choices th", has_text="harmful refused")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    rising = model_names(choosing)
    assert rising == ["plain fine-tuning", "Case I, λ = 1", "start θₛ"]
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert model_names(choosing) == rising[::-1]


def test_a_table_is_saved_with_intervals_in_columns(browser: Browser, report: Path) -> None:
    visit = Visit(browser, report, WIDTHS["desk"])
    with visit.page.expect_download() as started:
        visit.page.locator("section:has(#points) .csv").click()
    lines = started.value.path().read_text(encoding="utf-8").splitlines()
    assert started.value.suggested_filename == "points.csv"
    assert lines[0].startswith('"method","setting"')
    assert len(lines) == 1 + visit.page.locator("section:has(#points) tbody tr").count()
    assert visit.messages == []


def test_choosing_a_row_shows_its_losses_and_answers(choosing: Visit) -> None:
    page = choosing.page
    page.get_by_role("button", name="plain fine-tuning").click()
    assert page.locator(".choices tr.is-chosen").inner_text().startswith("plain fine-tuning")
    assert "+0.400" in page.locator(".chosen-readout").first.inner_text()
    first = page.locator("#answers-list article").first
    assert first.locator("h4").all_inner_texts() == ["start θₛ", "plain fine-tuning"]
    page.locator(".choose-from").first.select_option(label="Case I, λ = 1 · near")
    assert first.locator("h4").count() == 3
    assert "strict: refused" in first.locator(".outcomes").last.inner_text()


def test_choosing_a_mark_chooses_its_model(choosing: Visit) -> None:
    page = choosing.page
    page.get_by_role("button", name="start θₛ").click()
    page.locator(f"#choice-plot {MARKS}").nth(-2).click()  # the square: the star alone lies over it
    assert page.locator(".choices tr.is-chosen").inner_text().startswith("plain fine-tuning")


def test_answers_are_filtered_by_outcome_and_by_disagreement(choosing: Visit) -> None:
    page = choosing.page
    page.get_by_role("button", name="Case I, λ = 1").click()
    cards, shown = page.locator("#answers-list article"), page.locator("#answers-shown")
    assert cards.count() == 5
    page.locator("#by-disagreement").check()
    assert shown.inner_text() == "2 of 5 prompts"
    assert all("pick lock" in text for text in cards.all_inner_texts())
    page.locator("#by-disagreement").uncheck()
    page.locator("#by-outcome").select_option(label="refused")
    assert cards.count() == 1
    page.locator("#by-kind").select_option("benign")
    assert "No prompt is left" in page.locator("#answers-list").inner_text()
    page.locator("#by-kind").select_option("")
    page.locator("#by-outcome").select_option("")


def test_choosing_stays_within_the_screen_and_quiet(choosing: Visit) -> None:
    assert choosing.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert choosing.messages == []
