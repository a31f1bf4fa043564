"""The page in a real browser: headless Chromium, driven by its own chromedriver."""

from __future__ import annotations

import json
import shutil
import time

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium with chromedriver: apt-get install chromium chromium-driver"
)
QUIET = "--disable-background-networking --disable-component-update --disable-sync --disable-quic --no-first-run"
CHARTS = "return document.querySelectorAll('[data-chart]').length"
READY = "return document.querySelectorAll('[data-chart] svg.marks').length"


@pytest.fixture(scope="module")
def browser(written, tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for word in f"--headless=new --no-sandbox --disable-gpu {QUIET} --user-data-dir={profile}".split():
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=Service(DRIVER)) as driver:
        driver.set_window_size(1280, 900)
        open_page(driver, written)
        yield driver


def open_page(driver, report) -> None:
    driver.get(report.page.as_uri())
    deadline = time.time() + 60
    while driver.execute_script(READY) < driver.execute_script(CHARTS) and time.time() < deadline:
        time.sleep(0.1)


def rows(browser) -> list[list[str]]:
    """Values of the leaderboard's cells, of the rows that can be seen."""
    script = """
        const rows = [...document.querySelectorAll("#leaderboard-table tbody tr")].filter((row) => !row.hidden);
        return rows.map((row) => [...row.cells].map((cell) => cell.dataset.value ?? cell.textContent.trim()));
    """
    return browser.execute_script(script)


def control(browser, name: str):
    return browser.find_element("css selector", f"form[data-table=leaderboard-table] [name={name}]")


def test_page_loads_without_errors_or_requests(browser, written):
    assert browser.execute_script(READY) == browser.execute_script(CHARTS) == 16
    assert browser.get_log("browser") == []
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    urls = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"} - {
        written.page.as_uri()
    }
    assert not [url for url in urls if not url.startswith(("data:", "chrome:", "chrome-"))]  # chrome: its own first tab


def test_sorting_by_drop_orders_rows_and_says_so(browser):
    header = browser.find_element("css selector", "#leaderboard-table th:nth-child(5)")
    button = header.find_element("tag name", "button")
    button.click()
    assert header.get_attribute("aria-sort") == "ascending"
    drops = [row[4] for row in rows(browser)]
    numbers = [float(each) for each in drops if each]
    assert numbers == sorted(numbers) and len(numbers) == 15
    assert drops[15:] == ["", "", ""]  # FP32 has none and comes last, both ways
    button.click()
    assert header.get_attribute("aria-sort") == "descending"
    numbers = [float(row[4]) for row in rows(browser)[:15]]
    assert numbers == sorted(numbers, reverse=True)


def test_sorting_works_by_keyboard(browser):
    from selenium.webdriver.common.keys import Keys

    button = browser.find_element("css selector", "#leaderboard-table th:nth-child(1) button")
    browser.execute_script("document.querySelector('#leaderboard-table th:nth-child(1) button').focus()")
    assert browser.switch_to.active_element == button
    button.send_keys(Keys.ENTER)
    names = [row[0] for row in rows(browser)]
    assert names == sorted(names)


def test_filtering_by_words_and_by_choice(browser):
    from selenium.webdriver.support.ui import WebDriverWait

    control(browser, "text").send_keys("stunet w4a4")
    assert {(row[0], row[1]) for row in rows(browser)} == {
        ("stunet_b_btcv", "w4a4_per_channel"),
        ("stunet_b_btcv", "w4a4_per_tensor"),
    }
    counter = browser.find_element("css selector", "form[data-table=leaderboard-table] output")
    assert counter.text == "2 of 18 rows"
    browser.find_element("css selector", "form[data-table=leaderboard-table] button[type=reset]").click()
    control(browser, "runs-on").send_keys("openvino")
    assert {row[2] for row in rows(browser)} == {"openvino"} and len(rows(browser)) == 3
    browser.find_element("css selector", "form[data-table=leaderboard-table] button[type=reset]").click()
    WebDriverWait(browser, 10).until(lambda _: len(rows(browser)) == 18)  # the page filters once the form is empty


def test_a_cells_link_opens_its_command(browser):
    from selenium.webdriver.common.keys import Keys

    browser.find_element("css selector", "#leaderboard-table tbody a").send_keys(Keys.ENTER)
    target = browser.execute_script("return document.querySelector(':target')")
    assert target.text.startswith("python -m mqb_monai bench run")  # text is empty where it cannot be seen


def set_width(browser, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def assert_fits(browser, width: int) -> None:
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    too_wide = """return [...document.querySelectorAll("[data-chart] svg.marks")]
        .filter((chart) => chart.getBoundingClientRect().right > innerWidth).length"""
    deadline = time.time() + 10
    while browser.execute_script(too_wide) and time.time() < deadline:
        time.sleep(0.1)  # Vega draws again when the window's width changes
    assert browser.execute_script(too_wide) == 0


@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_its_window(browser, width):
    set_width(browser, width)
    assert_fits(browser, width)


def test_page_of_recipes_works_and_fits(browser, recipe_report):
    """The browser leaves the other page."""
    open_page(browser, recipe_report)
    assert browser.execute_script(READY) == browser.execute_script(CHARTS) and browser.get_log("browser") == []
    chart = browser.find_element("css selector", "#precision figure [data-chart] [role=graphics-document]")
    assert "12 W4A4" in chart.get_attribute("aria-label")
    for width in (1280, 390):
        set_width(browser, width)
        assert_fits(browser, width)


def test_page_of_a_third_party_bundle_works_and_fits(browser, third_party_report):
    """It comes last: the browser leaves the other page."""
    from selenium.webdriver.common.keys import Keys

    open_page(browser, third_party_report)
    assert browser.execute_script(READY) == browser.execute_script(CHARTS) == 2 and browser.get_log("browser") == []
    browser.find_element("css selector", "#agreement-table tbody a").send_keys(Keys.ENTER)
    assert browser.execute_script("return document.querySelector(':target').textContent").startswith("The command")
    for width in (1280, 500):
        set_width(browser, width)
        assert_fits(browser, width)
