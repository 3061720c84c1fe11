"""The pages of the service: who may use them, what they may do, and that anybody can read them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from selenium.webdriver import Keys

from service.pages import CONSOLE, SWAGGER_UI
from tests.service.browser import Page, chromium
from tests.service.samples import fitted
from tests.service.served import rows, served

MANY = 10_000
WIDTHS = [360, 768, 1024, 1280, 1920, 2560]
WIDE = "wide-" + "w" * 59
WIDE_KEYS = ["W" * 256, "<script>" + "w" * 248, "مضخة" * 64, *(f"line-3/part-{index:010}" for index in range(17))]
CUT_OFF = """
    const inner = (box) => box.getBoundingClientRect().left + box.clientLeft + box.clientWidth;
    const beyond = (part, box) => part.getBoundingClientRect().right > inner(box) + 1;
    const boxes = [document.documentElement, ...document.querySelectorAll(".card, .scroll, table, dialog[open]")];
    const cells = [...document.querySelectorAll(".scroll tbody :is(th, td, .shares .number)")].filter((cell) => cell.clientWidth);
    return [
      ...boxes.filter((box) => box.scrollWidth > box.clientWidth).map((box) => `${box.tagName} ${box.id || box.className} scrolls`),
      ...cells.filter((cell) => beyond(cell, cell.closest(".scroll"))).map((cell) => `${cell.textContent} is cut off`),
    ]"""
STYLE = (CONSOLE / "console.css").read_text()
COLOURS = dict(re.findall(r"--([\w-]+): light-dark\((#\w{6}, #\w{6})\)", STYLE))
TEXTS = [
    *((text, ground) for text in ("text", "quiet", "blue", "orange", "green") for ground in ("card", "ground")),
    *((f"{colour}", f"{colour}-soft") for colour in ("blue", "orange", "green")),
    *((text, "blue-soft") for text in ("text", "quiet")),
]
SHAPES = [(bar, "card") for bar in ("bar", "bar-alarm", "blue")]


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with served(
        tmp_path_factory.mktemp("pages"), {"lathe": [fitted(rows=1500), fitted(2.0, rows=1500)], WIDE: [fitted(rows=1500)] * 2}
    ) as running:
        running.score("lathe", rows(300) * 4)
        running.score(WIDE, {"rows": (1e90 * rows(len(WIDE_KEYS))).tolist(), "keys": WIDE_KEYS}).raise_for_status()
        running.score(WIDE, rows(300))
        for name in (WIDE, "lathe"):
            running.client.put(f"/v1/detectors/{name}/aliases/{'a' * 64}", json={"version": 1}).raise_for_status()
        running.client.post("/v1/detectors/lathe:fit", json={"rows": rows(50).tolist(), "alpha": 0.2}).raise_for_status()
        yield running


@pytest.fixture
def page(browser, service):
    return Page.fresh(browser, str(service.client.base_url))


@pytest.mark.parametrize("path", ["/", "/docs", "/assets/console/console.js", "/assets/docs/swagger-ui-bundle.js"])
def test_every_page_has_a_strict_policy(service, path):
    answer = service.client.get(path)
    assert answer.status_code == 200
    policy = dict(directive.split(" ", 1) for directive in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert [policy[name] for name in ("object-src", "base-uri", "frame-ancestors")] == ["'none'"] * 3
    assert policy["form-action"] == "'self'"
    assert "unsafe" not in str(policy)
    assert "http" not in str(policy)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    again = service.client.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == (304 if path.startswith("/assets") else 200)


def test_the_policy_stops_scripts_in_the_page(page):
    page.show("lathe")
    page.browser.execute_script(
        "const script = document.createElement('script'); script.textContent = 'document.title = \"taken\"'; document.body.append(script)"
    )
    assert page.browser.title == "lathe · farfield"
    assert any("Content Security Policy" in entry["message"] for entry in page.complaints())


def test_the_documentation_of_the_api_renders_offline(page, service):
    page.browser.get(f"{page.url}/docs")
    paths = service.client.get("/openapi.json").json()["paths"].values()
    page.wait(lambda: len(page.all(".opblock")) == sum(map(len, paths)))
    page.click(".opblock-summary-control")
    page.click(".opblock-body .try-out__btn")
    page.wait(lambda: page.all(".opblock-body .execute"))
    assert page.complaints() == []
    assert [url for url in page.asked() if not url.startswith(page.url)] == []
    assert page.all("header a[href='/openapi.json']")


def test_what_is_shipped_of_swagger_ui_is_as_its_note_says():
    note = (SWAGGER_UI / "README.md").read_text()
    sizes = {name: int(size.replace(" ", "")) for name, size in re.findall(r"`([\w.-]+)` \(([\d ]+) bytes\)", note)}
    assert sizes == {path.name: path.stat().st_size for path in SWAGGER_UI.iterdir() if path.suffix in {".js", ".css"}}


@pytest.mark.parametrize("path", sorted(CONSOLE.iterdir()), ids=lambda path: path.name)
def test_files_of_the_console_stay_short_and_bare(path: Path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|\bstyle=|<script>|\son\w+=\"", text)


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_its_box(page, width, tmp_path):
    """Neither the page nor a table, whatever the names, keys and numbers; every cell of every column is seen, in both themes."""
    (tmp_path / f"{'long' * 30}.csv").write_text("1,2,3,4\n1e90,9,9,9\n")
    page.resize(width)
    page.show(WIDE)
    page.score(tmp_path / f"{'long' * 30}.csv")
    page.wait(lambda: len(page.all("#feed-rows tr")) >= len(WIDE_KEYS) and page.all("#jobs-rows tr") and page.all("#drift-ranked tr"))
    for theme in ("light", "dark"):
        page.prefer(("prefers-color-scheme", theme))
        page.wait(lambda: page.browser.execute_script(CUT_OFF) == [])
    assert page.browser.execute_script("return innerWidth") == width
    page.prefer()
    page.click("[data-version='1'] button")
    page.wait(lambda: "golden" in page.text("confirm-details"))
    assert page.browser.execute_script(CUT_OFF) == []
    assert page.find("confirm").size["width"] <= width


def test_a_wide_window_has_room_for_whole_keys(page):
    """Those that rows without a key get."""
    page.resize(2560)
    page.show(WIDE)
    own = page.wait(lambda: [key for key in page.all("#feed-rows .picture span") if re.fullmatch(r"[0-9a-f]{16}:\d+", key.text)])
    cut_off = "return arguments[0].filter((key) => key.scrollWidth > key.clientWidth).map((key) => key.textContent)"
    assert page.browser.execute_script(cut_off, own) == []


def test_cells_without_a_head_above_them_are_named(page):
    """In a narrow window a row is a list; in a wide one it is a table again, which nothing has been lost from."""
    page.show(WIDE)
    for width, shown in ((360, "block"), (2560, "table-cell")):
        page.resize(width)
        page.wait(lambda shown=shown: page.all("#versions td:last-child")[0].value_of_css_property("display") == shown)
    page.resize(360)
    page.wait(lambda: page.all("#versions td:last-child")[0].value_of_css_property("display") == "block")
    label = "return getComputedStyle(arguments[0], '::before').content"
    named = [page.browser.execute_script(label, cell).strip('"') for cell in page.all("[data-version='1'] :is(th, td)")]
    assert named == [head.get_property("textContent") for head in page.all("table:has(#versions) thead th")]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_is_enough(theme):
    shades = {name: pair.split(", ")[theme == "dark"] for name, pair in COLOURS.items()}
    assert [pair for pair in TEXTS if contrast(*(shades[name] for name in pair)) < 4.5] == []
    assert [pair for pair in SHAPES if contrast(*(shades[name] for name in pair)) < 3] == []


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_is_that_of_the_system_and_motion_can_be_off(page, theme):
    page.prefer(("prefers-color-scheme", theme), ("prefers-reduced-motion", "reduce"))
    page.show("lathe")
    computed = "return getComputedStyle(arguments[0])[arguments[1]]"
    ground = page.browser.execute_script(computed, page.all("body")[0], "background-color")
    shade = COLOURS["ground"].split(", ")[theme == "dark"]
    assert ground == f"rgb({', '.join(str(int(shade[i : i + 2], 16)) for i in (1, 3, 5))})"
    assert page.browser.execute_script(computed, page.find("rollback"), "transition-duration") == "0s"
    page.prefer()


def test_everything_has_a_name_for_those_who_do_not_see_it(page):
    page.show("lathe")
    page.wait(lambda: page.all("#feed-rows tr") and page.all("#jobs-rows tr") and page.find("martingale").get_attribute("aria-label"))
    nodes = page.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"] and node["role"]["value"]
    ]
    roles = {"button", "link", "textbox", "searchbox", "spinbutton", "combobox", "progressbar", "region", "image", "table", "navigation"}
    assert [role for role, name in named if role in roles - {"table"} and not name.strip()] == []
    assert {"banner", "main", "navigation", "region", "table"} <= {role for role, _ in named}
    assert all(name.strip() for role, name in named if role in ("columnheader", "rowheader"))
    identifiers = [element.get_attribute("id") for element in page.all("[id]")]
    assert len(identifiers) == len(set(identifiers))
    levels = [int(heading.tag_name[1]) for heading in page.all("h1, h2, h3") if heading.is_displayed()]
    assert levels.count(1) == 1
    charts = [chart.get_attribute("aria-label") for chart in page.all("main svg[role=img]")]
    assert len(charts) == 5
    assert all(charts)


def test_the_keyboard_reaches_everything_in_order_and_is_seen_to(page):
    page.show("lathe")
    page.wait(lambda: page.all("#jobs-rows button") and page.all("#feed-rows tr"))
    page.press(Keys.TAB)
    assert page.focused().text == "Skip to the detector"
    reached, outlines = [], []
    for _ in range(30):
        page.press(Keys.TAB)
        element = page.focused()
        if element.tag_name == "body":
            break
        reached.append(element.get_attribute("id") or element.text or element.get_attribute("aria-label"))
        outlines.append(
            page.browser.execute_script("return getComputedStyle(arguments[0].closest('#drop') ?? arguments[0]).outlineStyle", element)
        )
    order = ["farfield", "API", "OpenAPI document", "Metrics", "lathe", "Promote", "files", "alpha", "by", "Cancel"]
    wanted = iter(reached)
    assert all(any(step == found.split("\n")[0] for found in wanted) for step in order), reached
    assert set(outlines) == {"solid"}


def test_skipping_leads_past_the_list(page):
    page.show("lathe")
    page.press(Keys.TAB, Keys.ENTER)
    assert page.focused().get_attribute("id") == "main"
    page.wait(lambda: page.text("name") == "lathe")


def test_pages_that_were_left_hold_no_connection(page):
    """The browser keeps them to go back to, and has six connections to a host; each page listens to the job that waits."""
    for _ in range(8):
        page.show("lathe")
        page.wait(lambda: page.all("#jobs-rows tr"))
        page.browser.get("about:blank")


def test_ten_thousand_detectors_are_found_a_page_at_a_time(browser, tmp_path):
    with served(tmp_path, {"lathe": [fitted()]}) as running:
        client = running.store.connection.client
        versions = client.hgetall("farfield:{lathe}:versions")
        names = [f"pump-{index:05}" for index in range(MANY)]
        written = client.pipeline(transaction=False)
        for name in names:
            written.hset(f"farfield:{{{name}}}:versions", mapping=versions)
        written.sadd("farfield:detectors", *names)
        written.execute()
        page = Page.fresh(browser, str(running.client.base_url))
        page.show("lathe")
        page.wait(lambda: page.text("range") == "1–50")
        assert listed(page) == ["lathe", *names[:49]]
        for first in (49, 99):
            page.find("later").click()
            page.wait(lambda first=first: listed(page) == names[first : first + 50])
        assert page.text("range") == "101–150"
        page.find("earlier").click()
        page.wait(lambda: listed(page) == names[49:99])
        for button, first in (("later", 99), ("earlier", 49)):  # of clicks that come before the page does, the first counts
            page.browser.execute_script("for (let click = 0; click < 3; click++) arguments[0].click()", page.find(button))
            page.wait(lambda first=first: listed(page) == names[first : first + 50])
            assert page.text("range") == f"{first + 2}–{first + 51}"
        page.find("search").click()
        page.press("P-07")
        page.wait(lambda: (page.text("range"), listed(page)) == ("1–50", names[7000:7050]))
        page.press("123")
        page.wait(lambda: listed(page) == ["pump-07123"])
        page.press("4")
        page.wait(lambda: page.text("found") == "None has this in its name.")
        assert page.find("detector").is_displayed()
        assert {url.partition("?")[2] for url in page.asked() if "/v1/detectors?" in url} >= {"count=50&after=&contains=P-07123"}
        assert page.focused().get_attribute("id") == "search"
        assert len(page.all("#troubles li")) <= 6


def listed(page):
    return [link.text.split()[0] for link in page.all("#detectors a")]
