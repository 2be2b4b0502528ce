"""The page: complete without its script, live with it, and deaf to whatever a name or an error tries to be."""

import json
import re
from pathlib import Path

import httpx
import pytest

from cai.service.page import CSP, STATIC, render, summary
from tests.service.browser import CHROMIUM, Browser
from tests.service.conftest import Server
from tests.service.test_app import write_run

EVIL = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"


def a_run(**change: object) -> dict[str, object]:
    stage = {"kind": "revise", "state": "done", "done": 8, "total": 8, "counts": {"outputs": 7}}
    going = {"kind": "sft", "state": "running", "done": 3, "total": 9, "counts": {}}
    run = {"id": "a", "state": "running", "error": "", "updated": 1.0, "stages": [stage, going], "report": None}
    return {**run, **change}


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_the_page_says_everything_without_its_script() -> None:
    text = text_of(render([a_run(), a_run(id="b", state="failed", error="it broke")], "http://here"))
    for said in ("1 running, 1 failed", "revise 7", "sft 3 of 9", "sft: 3 of 9", "it broke", "http://here/v1"):
        assert said in text.replace("\xa0", " ")


def test_a_page_without_runs_says_how_to_start_one() -> None:
    html = render([], "http://here")
    assert "cai run pipelines/quickstart.yaml" in html
    assert re.search(r'id="empty" class="empty" *>', html), "it is not hidden"


def test_whatever_a_name_or_an_error_holds_is_text() -> None:
    html = render([a_run(id=EVIL, error=EVIL, state="failed")], "http://here")
    assert EVIL not in html
    assert html.count("<script") == 1
    assert '<script src="/static/page.js" defer></script>' in html


def test_the_policy_lets_nothing_inline_run_and_the_page_needs_nothing_inline() -> None:
    assert "unsafe" not in CSP
    assert "default-src 'none'" in CSP
    html = render([a_run()], "http://here")
    assert not re.search(r"\sstyle=|\son\w+=|<style|javascript:", html)
    script = (STATIC / "page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_the_summary_counts_states_in_their_order() -> None:
    runs = [a_run(state=state) for state in ("done", "queued", "done", "running")]
    assert summary(runs).replace("\xa0", " ") == "1 running, 1 queued, 2 done"
    assert summary([]) == "No runs"


def test_the_served_page_carries_its_policy_and_its_parts(server: Server) -> None:
    page = httpx.get(server.url)
    assert page.headers["Content-Security-Policy"] == CSP
    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript")):
        part = httpx.get(f"{server.url}/static/{name}")
        assert part.headers["Content-Type"].startswith(kind)
        assert part.headers["X-Content-Type-Options"] == "nosniff"
        assert part.text == (STATIC / name).read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; `apt-get install chromium` brings it")
def test_a_real_browser_shows_runs_as_they_change_and_runs_no_text(server: Server, tmp_path: Path) -> None:
    text = "document.querySelector('[data-run=shown]')?.innerText ?? ''"
    with Browser(tmp_path) as browser:
        browser.open(server.url)
        browser.wait_for("document.getElementById('live')?.dataset.state === 'on'")
        assert not browser.evaluate("document.getElementById('empty').hidden")

        folder = write_run(server.project, "shown", "run_finished")
        browser.wait_for(f"/done/.test({text})")
        assert browser.evaluate("document.getElementById('empty').hidden")
        assert browser.evaluate("document.getElementById('summary').textContent").replace("\xa0", " ") == "1 done"

        line = {"time": 3.0, "kind": "run_failed", "stage": "", "data": {"error": EVIL}}
        with open(folder / "events.jsonl", "a") as events:
            events.write(json.dumps(line) + "\n")
        browser.wait_for(f"/failed/.test({text})")
        assert EVIL in browser.evaluate(text)
        (folder / "report.html").write_text(f"<title>report</title><p>{EVIL}</p>")
        report = browser.wait_for("document.querySelector('[data-field=report]:not([hidden])')?.href")
        assert browser.evaluate("document.title") == "Runs · cai"
        assert browser.evaluate("document.querySelectorAll('img, [data-run] script').length") == 0

        browser.open(report)
        browser.wait_for("document.readyState === 'complete' && document.title")
        assert browser.evaluate("document.title") == "report"
