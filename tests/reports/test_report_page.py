"""The report as a person opens it, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from reports.browser import opened, started
from reports.written_run import STEP_DOWN, cut, evaluate, write_run

from longrepo.evaluation.results import Example
from longrepo.reports.html.page import choose_examples, write_report
from longrepo.reports.run_record import read_run_record

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
CONTRAST = """() => {
  const shine = name => {
    const hex = getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();
    const parts = [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16) / 255);
    const [r, g, b] = parts.map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = ['page', 'paper'].map(shine);
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  return Object.fromEntries(['ink', 'muted', 'base', 'tuned', 'accent', 'third', 'good', 'bad'].map(
    name => [name, Math.min(...paper.map(one => ratio(shine(name), one)))]));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("whole"))
    evaluate(run)
    return write_report(read_run_record(run))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_it_fits_loads_nothing_and_complains_of_nothing(
    browser: Browser, page_file: Path, width: int, scheme: str
) -> None:
    with opened(browser, page_file, width, scheme) as (page, wrong):
        for closed in page.locator("summary").all():
            closed.click()
        assert page.evaluate(OVERFLOW) == 0
        assert not wrong
        shown = [page.locator(f".{name} svg").first.is_visible() for name in ("narrow", "wide")]
        assert shown == [width == 360, width != 360]
        smallest = page.evaluate(
            "Math.min(...[...document.querySelectorAll('svg text')].filter(t => t.getClientRects().length)"
            ".map(t => parseFloat(getComputedStyle(t).fontSize) * Math.hypot(t.getScreenCTM().a, t.getScreenCTM().b)))"
        )
        assert smallest >= 9.5  # pixels


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read_in_both_themes(browser: Browser, page_file: Path, scheme: str) -> None:
    with opened(browser, page_file, scheme=scheme) as (page, _):
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background))) > 384) == (scheme == "light")
        assert min(page.evaluate(CONTRAST).values()) >= 4.5  # WCAG 2.2, 1.4.3
        assert page.evaluate("[...document.querySelectorAll('svg *')].every(e => !/#0(.)0\\1/.test(e.outerHTML))")


def test_what_was_bought_comes_first_and_everything_has_its_place(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file) as (page, _):
        assert page.title() == "one, tuned · longrepo"
        values = page.locator(".headlines .value").all_inner_texts()
        assert values == ["−5.7 %", "+0.300", "50.0 %"]
        words = page.locator("body").inner_text()
        for said in (
            "95 % interval of the difference −0.250 to −0.150, 12 commits.",
            "A note & its sign.",
            "Hitherto unknown",
            f"From update 9 on: {STEP_DOWN}",
            "The run waited for memory: little is left.",
            "dropped: too short a rest",
            "a young repository",
            "Redacted: 3 email",
            "training.base_learning_rate",
            "--format mlx",
        ):
            assert said in words, said
        assert page.locator("#memory tbody tr").first.inner_text().split() == [
            "1",
            "512",
            "plain",
            "1.00",
            "1.10",
            "110%",
        ]
        pictures = page.get_by_role("img").all()
        assert len(pictures) > 8
        assert all(len(one.get_attribute("aria-label") or "") > 20 for one in pictures)


def test_gains_stand_by_task_before_everything_else(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file) as (page, _):
        titles = [one.split("\n")[0] for one in page.locator("#result figcaption").all_inner_texts()]
        assert titles[:3] == [
            "Gain by task: loss against base's", "Gain by task: loss against b's", "Gain by task: written as committed",
        ]  # fmt: skip
        said = [page.locator("#result .wide svg").nth(at).get_attribute("aria-label") or "" for at in range(3)]
        for row in ("middles at syntax scopes", "the next edit", "new lines of gin", "neutral code (forgetting)"):
            assert f"{row} −12.0 % (better)" in said[0]
        assert "neutral code (forgetting): Go" not in said[0] and "BM25" not in said[0]
        assert "what they are given −12.0 %" in said[1] and "forgetting" not in said[1]
        assert "the next edit: base 20.0 %, tuned 30.0 %" in said[2] and "subject" not in said[2]
        assert "Forgetting by language, and search instead of tuning" in titles


def test_examples_are_one_of_each_tenth_and_no_winners() -> None:
    def example(measure: str, number: int, gain: float) -> Example:
        return Example(
            measure, {}, f"{number:03}.py", "", "", "x", "", "", "", {"edit": 0.5}, {"edit": 0.5 + gain}
        )  # fmt: skip

    some = [example("fim", number, (number * 7 % 40 - 20) / 40) for number in range(40)]
    gains = [round(one.tuned_scores["edit"] - 0.5, 3) for one in choose_examples([*some, example("question", 0, 0.5)])]
    assert gains == [round((19 - (2 + 4 * number)) / 40, 3) for number in range(10)]
    assert choose_examples(some[:3]) == sorted(some[:3], key=lambda one: -one.tuned_scores["edit"])
    assert choose_examples([]) == [] and len(choose_examples([example("question", 0, 0.5)])) == 1
    assert choose_examples(some) == choose_examples(some[::-1])


def test_differences_of_completions_are_marked_and_text_stays_text(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file) as (page, _):
        example = page.locator(".example")
        assert example.locator("h3.path").inner_text().startswith("src/<b>.py")
        base, tuned = example.locator("pre.wrap").all()[1:]
        assert "next line" in example.locator("h3.path").inner_text()
        assert base.locator("mark").first.inner_text() == "‹202E›zero"
        assert tuned.locator("mark").count() == 1
        assert tuned.locator("mark.gap").get_attribute("title") == "missing:  + two"


def test_names_on_the_page_are_unique_and_lead_somewhere(browser: Browser, page_file: Path) -> None:
    html = page_file.read_text()
    names = re.findall(r'\bid="([^"]+)"', html)
    assert len(names) == len(set(names))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', html)) <= set(names)
    assert "<script" not in html and len(html) < 1_500_000
    with opened(browser, page_file) as (page, _):
        headings = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
        assert headings[0] == 1
        assert headings.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(headings))


def test_it_prints_dark_on_light(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file, scheme="dark") as (page, _):
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.locator("nav").is_visible()
        assert page.pdf()[:5] == b"%PDF-"


@pytest.mark.filterwarnings("error:constrained_layout")
@pytest.mark.parametrize("lines", [0, 2, 4, 8])
def test_a_run_that_was_cut_off_is_told_as_far_as_it_got(browser: Browser, tmp_path: Path, lines: int) -> None:
    run = write_run(tmp_path, epochs=1)
    cut(run, lines)
    with opened(browser, write_report(read_run_record(run)), 360) as (page, wrong):
        words = page.locator("body").inner_text()
        assert "not finished" in words
        assert "Base and tuned have not been compared yet." in words
        assert f"--output {run} --resume auto" in words
        assert ("No update has been made yet." in words) == (lines == 0)
        assert ("No epoch has ended yet." in words) == (lines < 8)
        assert page.evaluate(OVERFLOW) == 0
        assert not wrong


def test_what_lies_elsewhere_by_now_is_said(browser: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (tmp_path / "sequences").rename(tmp_path / "moved")
    (run / "memory_plan.json").unlink()
    with opened(browser, write_report(read_run_record(run))) as (page, wrong):
        words = page.locator("body").inner_text()
        assert f"Its sequences can no longer be read: {tmp_path / 'sequences'}" in words
        assert "This run's memory was not planned." in words
        assert not wrong
