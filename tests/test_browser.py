"""The notebooks as a student meets them: run in JupyterLab in a real browser, then looked at.

Runs when COURSE_BROWSER=1 is set, as `make browser` does, and a Chromium is on the machine. It leaves a picture of
every notebook in every theme and width in build/browser, and goes on from the runs that `make assignment` has finished.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from conftest import NOTEBOOKS, ROOT
from nbconvert import HTMLExporter

if os.environ.get("COURSE_BROWSER") != "1":
    pytest.skip("takes minutes: set COURSE_BROWSER=1 to run it", allow_module_level=True)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed: pip install -e '.[browser]'"
)
pytest.importorskip("jupyterlab", reason="JupyterLab is not installed: pip install -e '.[lab]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium here; on Debian and Ubuntu: apt install chromium", allow_module_level=True)

PICTURES = ROOT / "build" / "browser"
WIDTHS = (1280, 800)
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
MINUTES = 60_000  # milliseconds
SETTINGS = {
    # Every cell is in the page, not only the visible ones.
    "notebook-extension/tracker": '{"windowingMode": "none"}',
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}
# What is in an output and wider than its box, a table's number that is broken, and text that hardly differs from what
# is behind it.
LOOK = """
() => {
  const found = [];
  const name = el => `${el.tagName.toLowerCase()}.${[...el.classList].join('.')}: ${el.innerText.trim().slice(0, 60)}`;
  const outputs = [...document.querySelectorAll('.jp-OutputArea-output, .jp-MarkdownOutput')];
  for (const output of outputs)
    for (const el of [output, ...output.querySelectorAll('*')])
      if (el.clientWidth && el.scrollWidth > el.clientWidth + 1 && getComputedStyle(el).overflowX !== 'visible'
          && !el.closest('.jp-mod-hidden, mjx-container, svg'))
        found.push(`cut off, ${el.scrollWidth} of ${el.clientWidth} pixels are seen: ${name(el)}`);
  for (const cell of document.querySelectorAll('.dataframe th, .dataframe td')) {
    const text = document.createRange();
    text.selectNodeContents(cell);
    if (/^[\\d.e-]+$/.test(cell.innerText.trim()) && new Set([...text.getClientRects()].map(line => line.top)).size > 1)
      found.push(`broken within a number: ${name(cell)}`);
  }
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const over = ([r, g, b, a = 1], below) => a === 1 ? [r, g, b] : [r, g, b].map((v, i) => a * v + (1 - a) * below[i]);
  const white = [255, 255, 255];
  const behind = el => el ? over(numbers(getComputedStyle(el).backgroundColor), behind(el.parentElement)) : white;
  for (const output of outputs) {
    const walk = document.createTreeWalker(output, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      const el = walk.currentNode.parentElement;
      if (!walk.currentNode.data.trim() || !el.offsetParent || el.closest('style, script, svg')) continue;
      const ground = behind(el), ink = over(numbers(getComputedStyle(el).color), ground);
      const [low, high] = [light(ground), light(ink)].sort((a, b) => a - b);
      const contrast = (high + 0.05) / (low + 0.05);
      if (contrast < 4.5) found.push(`contrast ${contrast.toFixed(1)}: ${name(el)}`);
    }
  }
  return [...new Set(found)];
}
"""
NOTEBOOK = "window.jupyterapp.shell.currentWidget.content.model.toJSON()"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab that serves a copy of the notebooks, with nobody's settings."""
    folder, config = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("config")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for name, text in SETTINGS.items():
        path = config / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if (ROOT / "build" / "quick").exists():
        shutil.copytree(ROOT / "build" / "quick", folder / "build" / "quick")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex()
    environment = {name: value for name, value in os.environ.items() if name not in ("COURSE_PROGRESS", "COURSE_BUILD")}
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(config), "JUPYTER_CONFIG_DIR": str(config)}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--expose-app-in-browser"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}", "--allow-root"]
    PICTURES.mkdir(parents=True, exist_ok=True)
    with open(PICTURES / "jupyterlab.log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/api?token={token}", server)
        yield f"http://127.0.0.1:{port}/doc/tree/notebooks/{{}}?token={token}"
    finally:
        server.terminate()
        server.wait()


def wait_for(address: str, server: subprocess.Popen) -> None:
    for _ in range(120):
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            assert server.poll() is None, "JupyterLab ended; see build/browser/jupyterlab.log"
            time.sleep(1)
    raise AssertionError("JupyterLab did not answer within two minutes; see build/browser/jupyterlab.log")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def page(request, lab, browser):
    """A notebook that has been run from its first cell to its last."""
    page = browser.new_page(viewport={"width": WIDTHS[0], "height": 900})
    page.name = request.param.stem
    page.goto(lab.format(request.param.name), timeout=2 * MINUTES)
    page.wait_for_function(
        "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
        timeout=2 * MINUTES,
    )
    page.evaluate("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    started = time.monotonic()
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    print(f"{page.name}: run in {time.monotonic() - started:.0f} s")
    yield page
    # Otherwise its kernel would go on, counting, if pytest opens the same notebook again.
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.close()


def show(page, theme: str, width: int) -> None:
    """Choose a theme, and a window that is as wide as said and as high as the notebook."""
    page.evaluate("name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})", THEMES[theme])
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(2000)
    height = page.evaluate(
        "Math.max(...[...document.querySelectorAll('.jp-WindowedPanel-outer')].map(e => e.scrollHeight))"
    )
    page.set_viewport_size({"width": width, "height": min(height + 150, 16_000)})
    page.evaluate("document.querySelectorAll('.jp-WindowedPanel-outer').forEach(e => e.scrollTop = 0)")
    page.wait_for_timeout(2000)


def test_runs_from_first_cell_to_last_without_an_error(page):
    cells = [cell for cell in page.evaluate(NOTEBOOK)["cells"] if cell["cell_type"] == "code" and cell["source"]]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"] == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("theme", THEMES)
def test_everything_can_be_seen_and_read(page, theme, width):
    show(page, theme, width)
    page.screenshot(path=PICTURES / f"{page.name}-{theme}-{width}.png")
    assert page.evaluate(LOOK) == []


@pytest.mark.parametrize("page", NOTEBOOKS[:1], indirect=True, ids=lambda path: path.stem)
def test_the_token_table_answers_what_is_typed(page):
    explorer = page.locator(".jupyter-widgets.widget-vbox").filter(has=page.get_by_placeholder("none"))
    text, pair = explorer.locator("input[type=text]").all()[:2]
    text.fill("Rewatchability matters.")
    cells = explorer.locator("td").filter(has_text="##watch")
    cells.first.wait_for(timeout=MINUTES)
    pair.fill("Indeed.")
    explorer.locator("td").filter(has_text="indeed").first.wait_for(timeout=MINUTES)
    text.fill("")
    explorer.get_by_text("The first text is empty").wait_for(timeout=MINUTES)
    assert explorer.locator("td").count() == 0


@pytest.mark.parametrize("page", NOTEBOOKS[2:3], indirect=True, ids=lambda path: path.stem)
def test_the_curve_answers_a_chosen_cell(page):
    explorer = page.locator(".jupyter-widgets.widget-vbox").filter(has=page.get_by_text("Batch size", exact=True))
    before = explorer.locator("img").get_attribute("src")
    explorer.locator("select").last.select_option("128")
    changed = "before => ![...document.querySelectorAll('.widget-output img')].some(each => each.src === before)"
    page.wait_for_function(changed, arg=before, timeout=MINUTES)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def static_page(request, browser, tmp_path):
    """A committed notebook as nbconvert's HTML, opened without a network, and the notebook."""
    html, _ = HTMLExporter().from_filename(str(request.param))
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    page = browser.new_page(viewport={"width": WIDTHS[0], "height": 900}, offline=True)
    page.goto((tmp_path / "page.html").as_uri(), timeout=2 * MINUTES)
    page.name = request.param.stem
    yield page, nbformat.read(request.param, as_version=4)
    page.close()


def test_a_static_page_shows_something_in_place_of_every_widget(static_page):
    page, notebook = static_page
    page.screenshot(path=PICTURES / f"{page.name}-static.png", full_page=True)
    assert page.evaluate(LOOK) == []
    for cell in notebook.cells:
        for data in (output.get("data", {}).keys() for output in cell.get("outputs", [])):
            if "application/vnd.jupyter.widget-view+json" in data:
                assert {"text/html", "image/png"} & data, f"nothing but a widget in cell {cell.id}"


@pytest.mark.parametrize(
    ("box", "found"),
    [
        ("width: 40px; overflow: auto; color: black", "cut off"),
        ("background: #777; color: #555", "contrast 1."),
        ("background: #111; color: #eee", None),
        ("width: 40px", "broken"),
    ],
)
def test_the_look_finds_what_is_cut_off_or_hard_to_read(browser, box, found):
    page = browser.new_page()
    table = "<table class='dataframe'><td>unmistakable evidence<td>3e-4</table>"
    page.set_content(f'<!doctype html><div class="jp-OutputArea-output" style="{box}">{table}</div>')
    seen = page.evaluate(LOOK)
    page.close()
    assert seen == [] if found is None else any(line.startswith(found) for line in seen)
