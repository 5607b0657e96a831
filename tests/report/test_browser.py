"""The report's page in a real browser: it asks for nothing, complains of nothing, and does what its controls say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.report.browser import Page, find_browser, open_browser
from tests.report.sample_reports import EVIL, evil_report, full_report, many_refusals, report, saved_model_report
from tf_opt.report.optimization import OptimizationReport

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="no Chromium here; on Debian and Ubuntu: apt-get install chromium"
)

VIEW = "document.querySelector('svg').viewBox.baseVal"
READ_VIEW = f"(({{x, y, width, height}}) => [x, y, width, height])({VIEW})"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def show(page: Page, tmp_path: Path) -> Callable[..., Page]:
    def show(content: OptimizationReport, width: int = 1200, height: int = 900) -> Page:
        path = tmp_path / "report.html"
        content.to_html(path)
        page.resize(width, height)
        page.open(path)
        return page

    return show


@pytest.mark.parametrize(
    "content",
    [
        report(),
        full_report(),
        evil_report(),
        many_refusals(50),
        saved_model_report(),
        OptimizationReport(engine="openvino", compute_nodes=0, original_nodes=0),
    ],
    ids=["small", "full", "evil", "refused", "saved model", "empty"],
)
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_page_is_quiet_whole_and_as_wide_as_its_window(show, content, width, scheme):
    page = show(content, width, 800)
    page.prefer(scheme)
    assert page.complaints == []
    assert [request for request in page.requests if not request.startswith(("file:", "data:"))] == []
    assert len([request for request in page.requests if request.startswith("file:")]) == 1
    assert page.run("document.scrollingElement.scrollWidth") <= width
    assert page.run("document.querySelectorAll('h1').length") == 1
    reports = [content] if isinstance(content, OptimizationReport) else [each for _, each in content.distinct()]
    boxes = sum(len(each.graph.boxes) for each in reports)
    assert page.run("document.querySelectorAll('svg .box').length") == boxes
    for group in range(page.run("document.querySelectorAll('details').length")):
        page.run(f"document.querySelectorAll('details')[{group}].open = true")
    assert page.run("document.scrollingElement.scrollWidth") <= width


def test_names_are_shown_and_not_obeyed(show):
    page = show(evil_report())
    page.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.run("document.querySelector('.box').dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    page.run("new Promise((done) => setTimeout(done, 50))")
    assert page.run("window.harm") is None
    assert page.run("document.querySelectorAll('img').length") == 0
    assert page.run("document.querySelector('.group li').firstChild.textContent") == EVIL
    assert page.run("document.querySelector('.details div:not([hidden]) h3').textContent") == EVIL


def test_buttons_and_keys_zoom_and_fit(show):
    page = show(full_report())
    start = page.run(READ_VIEW)
    page.run("document.querySelector('[data-zoom=in]').click()")
    near = page.run(READ_VIEW)
    assert near[2] == pytest.approx(start[2] / 1.3)
    assert near[0] + near[2] / 2 == pytest.approx(start[0] + start[2] / 2)  # It stays in the middle.
    page.run("document.querySelector('[data-zoom=out]').click()")
    assert page.run(READ_VIEW) == pytest.approx(start)
    page.run("document.querySelector('svg').focus()")
    for key in "++":
        page.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
    assert page.run(READ_VIEW)[2] == pytest.approx(start[2] / 1.69)
    page.run("document.querySelector('[data-zoom=fit]').click()")
    assert page.run(READ_VIEW) == pytest.approx(start)


def center(page: Page, selector: str) -> tuple[float, float]:
    x, y = page.run(
        f"(() => {{ const box = document.querySelector({selector!r}).getBoundingClientRect();"
        "return [box.left + box.width / 2, box.top + box.height / 2]; })()"
    )
    return x, y


def test_dragging_moves_and_a_click_shows_what_is_in_a_box(show):
    page = show(full_report())
    page.run("document.querySelector('svg').scrollIntoView()")
    x, y = center(page, ".box.adopted")
    before = page.run(READ_VIEW)
    page.mouse("mousePressed", x, y, button="left", clickCount=1)
    page.mouse("mouseReleased", x, y, button="left", clickCount=1)
    shown = "[...document.querySelectorAll('.details div:not([hidden])')].map((each) => each.textContent).join()"
    assert "tf_opt_segment_0" in page.run(shown)
    assert "x:0 float32 [?, 16]" in page.run(shown)
    assert page.run("document.querySelectorAll('.edge.near').length") == 3
    assert page.run(READ_VIEW) == before
    page.mouse("mousePressed", x, y, button="left", clickCount=1)
    page.mouse("mouseMoved", x + 30, y + 50, button="left", buttons=1)
    page.mouse("mouseReleased", x + 30, y + 50, button="left", clickCount=1)
    after = page.run(READ_VIEW)
    scale = page.run("document.querySelector('svg').clientWidth") / before[2]
    assert after[:2] == pytest.approx([before[0] - 30 / scale, before[1] - 50 / scale])
    assert after[2:] == pytest.approx(before[2:])


def test_wheel_zooms_only_once_the_picture_was_chosen(show):
    page = show(full_report())
    page.run("document.querySelector('svg').scrollIntoView()")
    x, y = center(page, "svg")
    start = page.run(READ_VIEW)
    turned = f"{{deltaY: -200, bubbles: true, cancelable: true, clientX: {x}, clientY: {y}}}"
    wheel = f"document.querySelector('svg').dispatchEvent(new WheelEvent('wheel', {turned}))"
    assert page.run(wheel)  # Not cancelled: the page scrolls.
    assert page.run(READ_VIEW) == start
    page.run("document.querySelector('svg').focus()")
    assert not page.run(wheel)
    assert page.run(READ_VIEW)[2] < start[2]


def test_boxes_open_by_keyboard(show):
    page = show(full_report())
    page.run("document.querySelector('.box.rejected').focus()")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="Enter")
    assert page.run("document.querySelector('.details div:not([hidden]) h3').textContent") == "tf_opt_segment_1"


def test_filter_finds_nodes_among_thousands(show):
    page = show(many_refusals(6000))
    visible = "[...document.querySelectorAll('details.group')].filter((each) => !each.hidden)"
    assert page.run(f"{visible}.length") == 6
    assert page.run("document.querySelectorAll('.group li').length") < 30

    def search(text: str) -> str:
        page.run(
            f"(() => {{ const input = document.querySelector('.filter input'); input.value = {text!r};"
            "input.dispatchEvent(new Event('input')); return new Promise((done) => setTimeout(done, 250)); })()"
        )
        return str(page.run("document.querySelector('.filter output').textContent"))

    assert search("block_4711/ betainc") == "0 of 6000 nodes"
    assert search("block_4711/") == "1 of 6000 nodes"
    assert page.run(f"{visible}.length") == 1
    assert search("reason_5") == "0 of 6000 nodes"
    assert search("") == ""
    page.run("document.querySelector('[data-category=\"control flow\"]').click()")
    assert page.run("document.querySelector('.filter output').textContent") == "3000 of 6000 nodes"
    page.run(f"{visible}[0].open = true")
    page.run("new Promise((done) => setTimeout(done, 100))")
    names = f"{visible}[0].querySelectorAll('li:not(.more)').length"
    assert page.run(names) == 200
    page.run(f"{visible}[0].querySelector('.more button').click()")
    assert page.run(names) == 400


def test_tabs_show_one_signature_at_a_time(show):
    page = show(saved_model_report())
    visible = "[...document.querySelectorAll('.signature')].filter((each) => !each.hidden).map((each) => each.id)"
    assert page.run(visible) == ["signature-0"]
    page.run("document.querySelectorAll('[role=tab]')[1].click()")
    assert page.run(visible) == ["signature-1"]
    page.run("document.querySelector('[data-tab=signature-0]').click()")
    assert page.run(visible) == ["signature-0"]
    assert page.run("[...document.querySelectorAll('[aria-selected=true]')].length") == 1


def test_page_can_be_read_without_script(show, page, tmp_path):
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        show(full_report())
        text = page.run("document.body.innerText")
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)
    for expected in (
        "2.00 times as fast",
        "Betainc",
        "no conversion",
        "outside of the tolerance",
        "slower than TensorFlow",
    ):
        assert expected in text
    assert "Fit" not in text  # Controls that would do nothing are not there.
