"""A real browser for the tests of pages: Debian's Chromium, driven by Selenium."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Any]:
    """The browser with a profile in a folder; the test is skipped where there is none."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (program and driver):
        if os.environ.get("CI"):
            pytest.fail("chromium and chromedriver are needed here")
        pytest.skip("needs chromium and chromedriver (Debian: chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "force-prefers-reduced-motion",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "window-size=1280,900",
        f"user-data-dir={folder / 'profile'}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        # The browser's own start page has requests of its own, which are not the page's.
        browser.get("about:blank")
        browser.get_log("performance")
        browser.get_log("browser")
        yield browser
    finally:
        browser.quit()


def opened(browser: Any, address: str, ready: str) -> Any:
    """The browser once a page has said that it is ready, by a name in its window."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address)
    WebDriverWait(browser, 60).until(lambda b: b.execute_script(f"return window.{ready} === true"))
    return browser


def wait(browser: Any, script: str, seconds: float = 20) -> Any:
    """What a script gives, once that is true."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds).until(lambda b: b.execute_script(script))


def resize(browser: Any, width: int | None) -> None:
    """The window of a phone so many pixels wide; None for that of a desk."""
    if width is None:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        return
    size = {"width": width, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def requests(browser: Any) -> list[str]:
    """Addresses that were asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [str(params["request"]["url"]) for params in sent]


def complaints(browser: Any) -> list[Any]:
    """What the console has said that is an error, since the last call."""
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


#: Share of the canvas that is drawn on, and its picture.
CANVAS = """
    const canvas = document.getElementById("crystal");
    const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let sum = 0;
    for (let i = 3; i < data.length; i += 4) sum += data[i] > 0;
    return [sum / (data.length / 4), canvas.toDataURL()];
"""

#: Texts with too little contrast to their ground, by WCAG 2 AA: their own words and the ratio.
CONTRAST = """
    const channel = (c) => (
      c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const parse = (text) => {
      const [r, g, b, a] = text.match(/[\\d.]+/g).map(Number);
      return [r, g, b, a === undefined ? 1 : a];
    };
    const ground = (node) => {
      const layers = [];
      for (let at = node; at; at = at.parentElement) {
        layers.push(parse(getComputedStyle(at).backgroundColor));
        if (layers.at(-1)[3] === 1) break;
      }
      let below = [255, 255, 255];
      for (const [r, g, b, a] of layers.reverse()) {
        below = [r, g, b].map((c, i) => a * c + (1 - a) * below[i]);
      }
      return below;
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const node = walker.currentNode.parentElement;
      if (!walker.currentNode.textContent.trim() || !node.getClientRects().length) continue;
      if (node.closest("script, style, noscript, svg, :disabled")) continue;
      const style = getComputedStyle(node);
      const [a, b] = [light(parse(style.color)), light(ground(node))].sort((p, q) => q - p);
      const ratio = (a + 0.05) / (b + 0.05);
      const size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      if (ratio < (large ? 3 : 4.5)) found.push([node.textContent.slice(0, 40), ratio]);
    }
    return found;
"""

#: What a mouse can press and the keyboard cannot reach.
UNREACHABLE = """
    const all = [...document.querySelectorAll(
      "a[href], button, input, select, tr[data-phase], canvas, .scroll, summary")];
    return all.filter((n) => n.tabIndex < 0).map((n) => n.outerHTML.slice(0, 80));
"""
