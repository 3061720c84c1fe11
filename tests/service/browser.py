"""A real Chromium without a window, and the console's page in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from selenium import webdriver
from selenium.common.exceptions import ElementNotInteractableException, StaleElementReferenceException
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from tests.servers import program

FLAGS = (
    "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    "disable-component-update disable-sync disable-dev-shm-usage"
)
PATIENCE = 20  # seconds


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser that keeps to itself, with logs of its console and of all that it asks for."""
    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium")
    for flag in FLAGS.split():
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=Service(program("chromedriver"))) as driver:
        yield driver


class Page:
    """The console in a browser window, and how a user finds things in it."""

    def __init__(self, browser, url):
        self.browser, self.url = browser, url

    @classmethod
    def fresh(cls, browser, url):
        """With a browser that has logged nothing, on an empty page of the usual size."""
        browser.get("about:blank")
        for kind in ("browser", "performance"):
            browser.get_log(kind)  # what it holds is forgotten
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        return cls(browser, url)

    def show(self, detector):
        self.browser.get(f"{self.url}/#/{detector}")
        self.wait(lambda: self.text("name") == detector)

    def find(self, element):
        return self.browser.find_element("id", element)

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def text(self, element):
        return self.find(element).text

    def wait(self, condition):
        """What the condition gives once that is true; it is asked again where the page changed under it."""
        changed = (StaleElementReferenceException, ElementNotInteractableException)
        return WebDriverWait(self.browser, PATIENCE, ignored_exceptions=changed).until(lambda _: condition())

    def click(self, selector):
        """The first such element, once it is there."""
        self.wait(lambda: [self.all(selector)[0].click()] if self.all(selector) else None)

    def promote(self, version, choice):
        self.click(f"[data-version='{version}'] button")
        self.click(f"#confirm [value={choice}]")

    def score(self, *paths):
        self.find("files").send_keys("\n".join(map(str, paths)))
        return self.wait(lambda: self.all("#verdicts tr"))

    def script(self, module, expression, given):
        """What an expression with functions of one of the console's modules makes of ``given``."""
        text = f"const [given, done] = arguments; import('/assets/console/{module}.js').then((module) => done({expression}))"
        return self.browser.execute_async_script(text, given)

    def press(self, *keys):
        """Real key presses, wherever the focus is."""
        ActionChains(self.browser).send_keys(*keys).perform()

    def focused(self):
        return self.browser.switch_to.active_element

    def resize(self, width, height=900):
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    def prefer(self, *features):
        """What the system of the user prefers, as pairs of a media feature and its value; nothing without any."""
        told = [{"name": name, "value": value} for name, value in features]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": told})

    def complaints(self):
        """What the browser has logged of errors, warnings and breaches of the policy."""
        return [entry for entry in self.browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def asked(self):
        """Every address that the browser has asked for anything, but those of data in the page itself."""
        events = (json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance"))
        urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("blob:", "data:"))]
