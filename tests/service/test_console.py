"""The console as a user meets it: in a real Chromium, on a real service."""

from __future__ import annotations

import numpy as np
import pytest
from selenium.webdriver import ActionChains, Keys

from tests.service.browser import Page, chromium
from tests.service.samples import fitted, publish_fitted
from tests.service.served import NORMAL, ODD, fitted_images, rows, served

NAMES = ["boards", "conflict", "lathe", "promoted", "returned", "watched"]
EDGES = [0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    versions = [fitted(), fitted(2.0)]
    with served(tmp_path_factory.mktemp("console"), dict.fromkeys(NAMES, versions) | {"boards": [fitted_images()]}) as running:
        yield running


@pytest.fixture
def page(browser, service):
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what it holds is forgotten
    return Page(browser, str(service.client.base_url))


@pytest.fixture
def csv(tmp_path):
    batch = rows(12)
    batch[7] = 9
    np.savetxt(tmp_path / "rows.csv", batch, delimiter=",", header="a,b,c,d", comments="")
    return tmp_path / "rows.csv"


def champion(service, name):
    return service.client.get(f"/v1/detectors/{name}").json()["aliases"].get("champion")


def move(service, name, **where):
    return service.client.put(f"/v1/detectors/{name}/aliases/champion", json=where)


def test_it_shows_the_detectors_and_every_version(page):
    page.show("lathe")
    page.wait(lambda: page.text("health") == "Ready")
    assert [link.text.split()[0] for link in page.all("#detectors a")] == NAMES
    shown = [" ".join(row.text.replace("Promote", "").split()) for row in page.all("#versions tr")]
    assert [text.split(" random")[0] for text in shown] == ["2 gaussian 240 rows", "1 gaussian 240 rows"]
    assert all("random rows 60 rows 4 0.05" in text for text in shown)


def test_it_works_without_errors_and_asks_no_other_host(page, csv):
    page.show("lathe")
    page.score(csv)
    page.show("boards")
    page.score(NORMAL[0])
    assert [entry for entry in page.browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    asked = page.asked()
    assert f"{page.url}/metrics" in asked
    assert [url for url in asked if not url.startswith(page.url)] == []


def test_promote_moves_the_alias_once_it_is_confirmed(page, service):
    page.show("promoted")
    page.promote(1, "no")
    assert champion(service, "promoted") is None
    page.promote(1, "yes")
    page.wait(lambda: "Version 1 serves now" in page.text("notice"))
    assert champion(service, "promoted") == 1
    page.wait(lambda: page.all("[data-version='1'] .champion"))


def test_roll_back_returns_to_the_version_before_by_keyboard(page, service):
    for version in (1, 2):
        move(service, "returned", version=version).raise_for_status()
    page.show("returned")
    page.browser.execute_script("arguments[0].focus()", page.find("rollback"))
    ActionChains(page.browser).send_keys(Keys.ENTER).perform()
    page.wait(lambda: page.find("confirm").is_displayed())
    ActionChains(page.browser).send_keys(Keys.TAB, Keys.ENTER).perform()
    page.wait(lambda: "Version 1 serves now" in page.text("notice"))
    assert champion(service, "returned") == 1
    page.wait(lambda: not page.find("rollback").is_enabled())  # there is nothing further back


def test_a_promote_that_somebody_else_was_faster_with_is_explained(page, service):
    page.show("conflict")
    move(service, "conflict", version=2).raise_for_status()
    page.promote(1, "yes")
    refusal = move(service, "conflict", version=1, expected=0)
    assert refusal.status_code == 409
    page.wait(lambda: page.text("notice") == refusal.json()["detail"])
    assert champion(service, "conflict") == 2


def test_a_csv_file_gives_a_verdict_for_each_row(page, csv):
    page.show("lathe")
    verdicts = [row.text.split() for row in page.score(csv)]
    assert len(verdicts) == 12
    assert verdicts[0][:2] == ["row", "7"], "the highest score comes first"
    assert "outlier" in verdicts[0]
    assert sum(word.startswith("features[") for word in verdicts[0]) == 3
    csv.write_text("1,2,3,4\n1,,3,4\n")
    page.find("files").send_keys(str(csv))
    page.wait(lambda: "Line 2, column 2" in page.text("outcome"))


def test_images_and_npy_files_are_scored_too(page, tmp_path):
    page.show("boards")
    images = [*NORMAL[200:203], ODD[0]]
    assert {row.find_element("tag name", "th").text for row in page.score(*images)} == {path.name for path in images}
    page.wait(lambda: all(image.get_property("naturalWidth") for image in page.all("#verdicts img")))
    page.show("lathe")
    np.save(tmp_path / "rows.npy", rows(5))
    assert len(page.score(tmp_path / "rows.npy")) == 5


def test_the_histogram_and_the_rates_follow_the_metrics(page, service):
    page.show("watched")
    page.wait(lambda: page.find("quiet").is_displayed())
    results = service.score("watched", rows(400, seed=3)).json()["results"]
    page.wait(lambda: page.text("rows") == "400")
    assert page.text("outliers") == str(sum(result["is_outlier"] for result in results))
    titles = [title.get_property("textContent") for title in page.all("#histogram title")]
    middle = sum(0.4 < result["p_value"] <= 0.5 for result in results)
    assert any(title.startswith(f"p-value 0.4 to 0.5: {middle} rows") for title in titles), titles


@pytest.mark.parametrize("calibration", [60, 99, 240, 5000])
def test_p_values_of_normal_inputs_fill_every_bar_to_one(page, calibration):
    page.show("lathe")
    p_values = np.arange(1, calibration + 2) / (calibration + 1)
    buckets = [{"edge": edge, "rows": int((p_values <= edge).sum())} for edge in EDGES]
    bars = page.script("charts", f"module.ratios(given, {calibration})", buckets)
    assert sum(bar["rows"] for bar in bars) == calibration + 1
    np.testing.assert_allclose([bar["ratio"] for bar in bars], 1)


@pytest.mark.parametrize("text", ["1,2\n3,4", "x,y\n1,2\n3,4\n", "\ufeffx;y\r\n1;2\r\n3;4\r\n", '"x"\t"y"\n"1"\t2\n\n3\t4'])
def test_csv_is_read_in_its_forms(page, text):
    page.show("lathe")
    assert page.script("trial", "module.parseCsv(given)", text) == [[1, 2], [3, 4]]


@pytest.mark.parametrize("width", [360, 2560])
def test_the_page_never_scrolls_sideways(page, csv, width):
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    page.show("lathe")
    page.score(csv)
    assert page.browser.execute_script("return innerWidth") == width
    assert (
        page.browser.execute_script("const { scrollWidth, clientWidth } = document.documentElement; return scrollWidth - clientWidth") == 0
    )


def test_the_documentation_of_the_api_renders_offline(page, service):
    page.browser.get(f"{page.url}/docs")
    paths = service.client.get("/openapi.json").json()["paths"].values()
    page.wait(lambda: len(page.all(".opblock")) == sum(map(len, paths)))
    assert [url for url in page.asked() if not url.startswith(page.url)] == []


def test_an_empty_store_says_how_to_begin(browser, tmp_path):
    with served(tmp_path, {}) as running:
        page = Page(browser, str(running.client.base_url))
        browser.get(page.url)
        page.wait(lambda: page.find("empty").is_displayed())
        assert [code.text for code in page.all("#empty code")] == ["farfield fit NAME --data FILE", "make demo"]
        assert not page.find("detector").is_displayed()


def test_a_refused_version_is_named_with_its_reason(browser, tmp_path):
    with served(tmp_path, {}) as running:
        publish_fitted(running.store, "broken", fitted())
        state = running.store.manifest("broken", 1).blobs["state"].sha256
        running.store.connection.client.set(f"farfield:{{broken}}:blob:{state}:0", b"not what was written")
        assert running.score("broken", rows(1)).status_code == 503
        reason = running.client.get("/readyz").json()["refused"][0]["reason"]
        page = Page(browser, str(running.client.base_url))
        page.show("broken")
        page.wait(lambda: page.text("troubles") == f"Version 1 of broken is refused and does not serve: {reason}.")
        page.wait(lambda: page.text("health") == "Not ready")
