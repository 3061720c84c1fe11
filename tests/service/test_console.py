"""The console as a user meets it: in a real Chromium, on a real service."""

from __future__ import annotations

import numpy as np
import pytest
from selenium.webdriver import Keys

from service.jobs.queue import Jobs, Progress
from tests.service.browser import Page, chromium
from tests.service.samples import fitted, publish_fitted
from tests.service.served import NORMAL, ODD, fitted_images, rows, served

NAMES = ["boards", "conflict", "drifting", "fed", "keyed", "lathe", "promoted", "reset", "returned", "watched"]
EDGES = [0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    versions = [fitted(), fitted(2.0)]
    with served(
        tmp_path_factory.mktemp("console"),
        dict.fromkeys(NAMES, versions) | {"boards": [fitted_images()], "drifting": [fitted(rows=1500)], "reset": [fitted(rows=1500)]},
    ) as running:
        yield running


@pytest.fixture
def page(browser, service):
    return Page.fresh(browser, str(service.client.base_url))


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
    assert page.complaints() == []
    asked = page.asked()
    assert f"{page.url}/metrics" in asked
    assert [url for url in asked if not url.startswith(page.url)] == []


def test_promote_moves_the_alias_once_it_is_confirmed(page, service):
    page.show("promoted")
    page.click("[data-version='1'] button")
    page.wait(lambda: "P-values of 8 golden rows" in page.text("confirm-details"))
    difference = service.client.get("/v1/detectors/promoted/versions/2/difference/1").json()
    assert f"mean moved by {difference['shifts'][0]['mean_shift']:.3g}" in page.text("confirm-details")
    assert [row.text.split()[0] for row in page.all("#confirm-details tbody tr")] == list(difference["changes"])
    page.press(Keys.ESCAPE)
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
    page.press(Keys.ENTER)
    page.wait(lambda: page.find("confirm").is_displayed())
    page.press(Keys.TAB, Keys.ENTER)
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
    assert page.script("files", "module.parseCsv(given)", text) == [[1, 2], [3, 4]]


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
        page.wait(lambda: reason in page.text("drift-trouble"))
        assert not page.find("drift").is_displayed()


def test_drift_is_told_with_its_alarm(page, service):
    page.show("drifting")
    assert service.score("drifting", rows(300, seed=5) + 2).status_code == 200
    page.wait(lambda: page.text("drift-state") == "alarm")
    report = service.client.get("/v1/detectors/drifting/drift").json()
    assert page.text("drift-rows") == "300"
    assert f"row {report['martingale']['alarm_row']}:" in page.text("drift-why")
    page.wait(lambda: f"{report['features']['moved']} of 4 features have moved" in page.text("drift-moved"))
    assert [row.text.split()[0] for row in page.all("#drift-ranked tr")] == [each["feature"] for each in report["features"]["ranked"]]
    page.wait(lambda: page.all("#detectors [href='#/drifting'] .badge"))
    page.wait(lambda: "now" in page.find("martingale").get_attribute("aria-label"))


def test_drift_is_reset_once_that_is_confirmed(page, service):
    page.show("reset")
    page.wait(lambda: page.find("drift").is_displayed() and not page.find("reset-drift").is_enabled())
    assert service.score("reset", rows(300, seed=5) + 2).status_code == 200
    page.wait(lambda: (page.text("drift-state"), page.text("drift-rows")) == ("alarm", "300"))
    for choice, watched in (("no", 300), ("yes", 0)):
        page.click("#reset-drift")
        page.wait(lambda: "Reset the drift of reset?" in page.text("confirm"))
        assert "the 300 rows that it has watched are forgotten" in page.text("confirm")
        page.click(f"#confirm [value={choice}]")
        page.wait(lambda watched=watched: page.text("drift-rows") == str(watched))
        assert service.client.get("/v1/detectors/reset/drift").json()["rows"] == watched
    page.wait(lambda: (page.text("drift-notice"), page.text("drift-state")) == ("Begun anew.", "no alarm"))
    assert page.focused().get_attribute("id") == "drift-notice"
    page.show("lathe")
    page.wait(lambda: page.text("drift-notice") == "")
    assert page.complaints() == []


def test_outliers_are_listed_with_their_shares(page, service):
    page.show("fed")
    assert service.score("fed", {"rows": [[9, 0, 0, 0], [0, 0, 0, 0]], "keys": ["far", "near"]}).json()["results"][0]["is_outlier"]
    page.wait(lambda: page.all("#feed-rows tr"))
    [row] = page.all("#feed-rows tr")
    assert row.text.split()[0] == "far"
    assert "features[0]" in row.text
    assert len(row.find_elements("css selector", "rect.share")) == 3


@pytest.mark.parametrize("key", ["<script>document.title = 'taken'</script>", '"><img src=x onerror=alert(1)>', "مضخة 7", "k" * 64])
def test_a_hostile_key_is_text_and_nothing_else(page, service, key):
    page.show("keyed")
    assert service.score("keyed", {"rows": [[9, 9, 9, len(key)]], "keys": [key]}).status_code == 200
    page.wait(lambda: key in [found.get_property("textContent") for found in page.all("#feed-rows bdi")])
    assert page.all("#feed-rows :is(script, img)") == []
    assert page.browser.title == "keyed · farfield"
    assert page.complaints() == []


def test_a_job_tells_its_progress_and_is_cancelled_once_that_is_confirmed(page, service):
    page.show("lathe")
    queue = Jobs(service.store.connection)
    body = {"rows": rows(50).tolist(), "alpha": 0.2}
    waiting, running = (service.client.post("/v1/detectors/lathe:fit", json=body).json()["id"] for _ in range(2))
    assert queue.claim("me", 60.0).id == waiting
    waiting, running = running, waiting
    page.wait(lambda: page.all(f"[data-job='{running}']"))
    for done in (50, 150):
        queue.beat(running, "me", 60.0, Progress("read", done, 200, 25.0))
        page.wait(lambda done=done: f"read: {done} of 200" in page.all(f"[data-job='{running}']")[0].text)
    bar = page.all(f"[data-job='{running}'] progress")[0]
    assert (bar.get_property("value"), bar.get_property("max")) == (150, 200)
    queue.fail(running, "me", "<b>no</b> such column")
    page.wait(lambda: "<b>no</b> such column" in page.all(f"[data-job='{running}']")[0].text)
    for choice, state in (("no", "queued"), ("yes", "cancelled")):
        page.click(f"[data-job='{waiting}'] button")
        page.click(f"#confirm [value={choice}]")
        page.wait(lambda: not page.find("confirm").is_displayed())
        page.wait(lambda state=state: state in page.all(f"[data-job='{waiting}']")[0].text)
        assert queue.get(waiting).state == state


def test_a_service_that_is_gone_is_told_and_its_return_too(browser, tmp_path):
    with served(tmp_path, {"lathe": [fitted()]}) as running:
        page = Page.fresh(browser, str(running.client.base_url))
        page.show("lathe")
        page.wait(lambda: page.text("health") == "Ready")
        running.process.kill()
        page.wait(lambda: "The service does not answer. What is shown is as it was at" in page.text("troubles"))
        assert page.text("name") == "lathe"
        running.process.command[running.process.command.index("--port") + 1] = page.url.rpartition(":")[2]
        running.process.start()
        page.wait(lambda: page.text("health") == "Ready" and page.text("troubles") == "")
        page.wait(lambda: page.all("#versions tr"))
