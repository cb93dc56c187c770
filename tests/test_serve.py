"""The live page: what it shows of a folder and of a database, what it refuses, and in a browser."""

from __future__ import annotations

import contextlib
import html
import http.client
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import (
    CANVAS,
    CONTRAST,
    UNREACHABLE,
    chromium,
    complaints,
    opened,
    requests,
    resize,
    wait,
)
from outcomes import outcome_of
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from test_cluster import Here
from test_conclusion import CSCL, ROCKSALT, document
from test_results import EVERY
from werkzeug.test import Client

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cli.errors import explain
from ccdcgan.launchers.doing import Doing, told
from ccdcgan.launchers.live import cache
from ccdcgan.launchers.live.folder import Folder
from ccdcgan.launchers.live.live import Live
from ccdcgan.launchers.live.server import App, bound, is_loopback
from ccdcgan.launchers.live.server import serve as serve_until_interrupted
from ccdcgan.launchers.results.query import PhaseQuery
from ccdcgan.launchers.workdir import DOCUMENTS, embedded_store
from ccdcgan.workflows import progress
from ccdcgan.workflows.documents import Phase
from ccdcgan.workflows.storage.stores import PHASES, RESULTS

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=2'>"
OWN = [p for p in EVERY if p["system"] == "Bi-Se"]


def stored_phases() -> list[dict[str, Any]]:
    """Phases of Bi-Se, one of them with texts of foreign hands."""
    phases = json.loads(json.dumps(OWN))
    phases[4]["origin"]["source"] = phases[4]["spacegroup"] = HOSTILE
    return phases


def relaxations() -> list[dict[str, Any]]:
    good = [document(f"{i:032x}", ROCKSALT, -4.0) for i in range(3)]
    bad = document("f" * 32, CSCL, None, reason=f"never {HOSTILE}", failure="crystal")
    return [one.model_dump(mode="json") for one in (*good, bad)]


def fill(folder: Path, **documents: list[dict[str, Any]]) -> None:
    """Put documents into the stores of a folder, as a run does."""
    store = embedded_store(folder)
    for name, found in documents.items():
        one = store.docs_store if name == "jobs" else store.additional_stores[name]
        one.connect()
        one._collection.insert_many([dict(d) for d in found])
        one.close()


def job(stage: str, number: int, output: Any = None) -> dict[str, Any]:
    return {
        "uuid": f"job-{number}",
        "index": 1,
        "metadata": {"stage": stage},
        "hosts": ["inner", "flow"],
        "output": output,
    }


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a campaign that is in its first round."""
    folder = tmp_path_factory.mktemp("serve") / "run"
    folder.mkdir()
    (folder / "campaign.yaml").write_text("system: Bi-Se\nloop: {rounds: 2}\n")
    stages = ("prototypes", "database", "autoencoder", "round 1: constraint")
    jobs = [job(stage, number) for number, stage in enumerate(stages)]
    fill(folder, jobs=jobs, **{RESULTS: relaxations(), PHASES: stored_phases()})
    return folder


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request looks, and waits for what it sees."""
    monkeypatch.setattr(cache, "PACE", 0.0)
    monkeypatch.setattr(cache, "SHARE", 1e9)
    monkeypatch.setattr(cache, "PATIENCE", 30.0)


def client(source: Any, campaign: str | None = None) -> Client:
    return Client(App(Live(source, campaign), explain).wsgi)


def text_of(client: Client, address: str = "/", status: int = 200) -> str:
    answer = client.get(address)
    assert answer.status_code == status, answer.text
    return answer.text


def test_a_folder_is_told_of_as_it_is(started: Path) -> None:
    page = text_of(client(Folder(started)))
    assert "round 1: constraint</th><td>stopped</td>" in page
    assert "database</th><td>done</td>" in page
    assert "conclusion</th><td>waiting</td>" in page
    assert page.count("<tr data-phase=") == len(OWN) + 4
    assert '<div class="value">1</div><div class="what">without a result</div>' in page
    assert "1 without a result" in page
    assert "<h1>Bi–Se · run</h1>" in page
    # New are the generated and distinct: 0.02, 0.12 eV/atom; the label of a place is the nearest.
    for number, word in ((0, "on the hull"), (1, "within 0.025"), (1, "within 0.10")):
        assert f'>{number}</div><div class="what">of these new and {word}<' in page


def test_every_filter_of_a_question_has_a_field(started: Path) -> None:
    asked = client(Folder(started))
    page = html.unescape(text_of(asked))
    for name, field in PhaseQuery.model_fields.items():
        assert f'name="{name}"' in page
        assert str(field.description).split("`")[0] in page
    for question, number in (
        ("label=on+the+hull", 3),
        ("formula=Se3Bi2&distinct=true", 2),
        ("max_e_above_hull=0.02", 4),
        ('where={"nsites":{"$lte":3}}', sum(p["nsites"] <= 3 for p in OWN)),
        ("elements=Bi-Se&limit=2", 2),
        ("elements=Bi-Se&limit=2&page=3", 2),
        ("campaign=ffff", 0),
    ):
        found = text_of(asked, f"/?{question}")
        assert found.count('<tr data-phase="aa00') == number, question
    assert 'value="Se3Bi2"' in text_of(asked, "/?formula=Se3Bi2")
    rows = text_of(asked, "/?sort=-e_above_hull").split("<tr data-phase=")
    assert "0.400" in rows[1]
    assert "is no formula such as Bi2Se3" in text_of(asked, "/?formula=%3Cb%3E", 400)
    assert "$where is not for free filters" in text_of(asked, '/?where={"$where":"1"}', 400)


def test_hull_and_crystals_are_those_of_the_store(started: Path) -> None:
    asked = client(Folder(started))
    drawn = json.loads(text_of(asked, "/hull"))
    traces = [t for t in drawn["figure"]["data"] if t.get("meta", {}).get("phases")]
    assert sorted(drawn["keys"]) == sorted(p["uid"] for p in OWN)
    assert sum(len(t["customdata"]) for t in traces) == len(OWN)
    some = json.loads(text_of(asked, "/hull?origin=generated"))
    on_it = {p["uid"] for p in OWN if p["e_above_hull"] == 0}
    assert set(some["keys"]) == on_it | {
        p["uid"] for p in OWN if p["origin"]["kind"] == "generated"
    }
    # Of whatever is asked, the line is that of all phases.
    lines = [
        next(t for t in figure["data"] if t["name"] == "convex hull")
        for figure in (drawn["figure"], some["figure"])
    ]
    assert lines[0] == lines[1] and lines[0]["x"] == [0.0, 0.6, 1.0]
    found = json.loads(text_of(asked, f"/crystal?id={OWN[2]['uid']}"))
    assert found["crystal"]["formula"] == "Bi2Se3"
    assert found["crystal"]["frac"] == pytest.approx(
        Structure.from_dict(OWN[2]["structure"]).frac_coords.ravel(), abs=1e-5
    )
    fresh = json.loads(text_of(asked, f"/crystal?id=relaxation:{0:032x}"))
    assert fresh["crystal"]["label"] == "not placed yet"
    for nothing in ("", "aa00:no", "relaxation:no", "relaxation:../../etc/passwd"):
        text_of(asked, f"/crystal?id={nothing}", 404)


def test_only_reading_and_only_from_here(started: Path) -> None:
    asked = client(Folder(started))
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        assert asked.open("/", method=method).status_code == 405
    for host in ("evil.example", "evil.example:8765", "localhost.evil.example", "127.0.0.1.nip.io"):
        assert asked.get("/", headers={"Host": host}).status_code == 421
    for host in ("localhost", "localhost:8765", "127.0.0.1:1", "[::1]:8765", "[::1]"):
        assert asked.get("/", headers={"Host": host}).status_code == 200
    for path in ("/campaign.yaml", "/../campaign.yaml", "/%2e%2e/x", "/store/documents.sqlite"):
        text_of(asked, path, 404)
    answer = asked.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert is_loopback("::1") and not is_loopback("0.0.0.0")


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_others_get_nothing(started: Path, site: str) -> None:
    asked = client(Folder(started))
    for destination in ("empty", "image", "iframe", "script"):
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Dest": destination}
        for path in ("/", "/hull", "/mark", "/plotly.js"):
            assert asked.get(path, headers=headers).status_code == 403
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Dest": "document"}
    assert asked.get("/", headers=headers).status_code == 200
    own = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "empty"}
    assert asked.get("/hull", headers=own).status_code == 200


def test_no_question_holds_the_server(started: Path) -> None:
    """Python's regular expressions may backtrack without end."""
    asked = client(Folder(started))
    for where in ('{"id": {"$regex": "^([0-9a-f]+)+!"}}', '{"$or": [{"id": {"$regex": "a"}}]}'):
        for path in ("/", "/hull"):
            answer = asked.get(path, query_string={"where": where})
            assert answer.status_code == 400 and "ccdcgan query --where" in answer.text


def test_hostile_texts_are_shown_as_texts(started: Path) -> None:
    asked = client(Folder(started))
    pages = text_of(asked), text_of(asked, f"/?source={HOSTILE}"), text_of(asked, "/hull")
    for page in pages:
        assert "<script>window" not in page and "<img" not in page.replace("&lt;img", "")
    assert "&lt;script&gt;window" in pages[0]


def test_what_is_damaged_hides_nothing_else(started: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(started, folder)
    broken = [{"key": "a", "converged": False}, {"key": "b", "origin": 3, "structure": {"x": 1}}]
    fill(folder, **{RESULTS: broken, PHASES: [{**OWN[1], "uid": "c", "id": "c", "structure": []}]})
    asked = client(Folder(folder))
    page = text_of(asked)
    assert "1 without a result" in page and "converged</td>" in page
    text_of(asked, "/crystal?id=c", 404)
    assert len(json.loads(text_of(asked, "/hull"))["keys"]) == len(OWN)


def test_a_run_that_writes_is_not_held_up(started: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(started, folder)
    source = Folder(folder)
    before = source.progress(None, None)
    assert source.progress(None, before) is before
    writer = sqlite3.connect(folder / DOCUMENTS, timeout=0, isolation_level=None)
    with source._store(RESULTS) as store:
        reading = iter(store.query({}))
        next(reading)
        # With all that is being read, nobody who writes waits at all; and the reverse.
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM relaxations WHERE id = 1")
        assert source.progress(None, None).relaxed == 4
        writer.execute("ROLLBACK")
        assert len(list(reading)) == 3
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            store._collection.delete_many({})
    more = document("e" * 32, CSCL, None, reason="x").model_dump(mode="json")
    fill(folder, **{RESULTS: [more]})
    after = source.progress(None, before)
    assert (after.relaxed, len(after.failures)) == (5, 2)
    assert after.newest[0].key == "e" * 32
    assert after.mark != before.mark


def test_what_a_run_is_doing_is_kept_beside_it(started: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(started, folder)
    asked = client(Folder(folder))
    with told(folder):
        assert ">running: starting</p>" in text_of(asked)
        progress.report("database", 10, 40)
        assert "running: database, 10 of 40" in text_of(asked)
        assert "<td>under way</td>" in text_of(asked)
        mark = text_of(asked, "/mark")
        progress.report("database", 40, 40)
        assert text_of(asked, "/mark") != mark
    assert Doing.of(folder) is None
    assert "not running, and not done" in text_of(asked)
    # Of a run that was killed, its file stays.
    gone = {"pid": 2**22 + 1, "host": os.uname().nodename, "began": 0, "stage_began": 0}
    (folder / "store" / "doing.json").write_text(json.dumps(gone | {"updated": 0}))
    assert "not running" in text_of(asked)
    (folder / "store" / "doing.json").write_text("[" * 5000)
    assert "not running" in text_of(asked)


def test_a_campaign_that_is_done_has_its_report(started: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(started, folder)
    asked = client(Folder(folder))
    text_of(asked, "/report", 404)
    plain = [{k: v for k, v in p.items() if k in Phase.model_fields} for p in OWN]
    outcome = outcome_of(OWN[0]["level_of_theory"], plain).model_dump(mode="json")
    fill(folder, jobs=[job("conclusion", 9, outcome)])
    page = text_of(asked)
    assert 'href="/report?"' in page and '<p class="lead" id="state"' in page
    assert ">done</p>" in page
    answer = asked.get("/report")
    assert "Bi–Se crystals" in answer.text and answer.status_code == 200
    assert "script-src 'sha256-" in answer.text


def test_where_nothing_is_yet(tmp_path: Path) -> None:
    empty = tmp_path / "soon"
    empty.mkdir()
    asked = client(Folder(empty))
    page = text_of(asked)
    assert "nothing yet" in page and "No phases yet" in page
    assert list(empty.iterdir()) == []
    (empty / "campaign.yaml").write_text("system: Bi-Se\n")
    assert "nothing is relaxed yet" in text_of(asked)
    assert json.loads(text_of(asked, "/hull")) == {"figure": None, "caption": "", "keys": []}
    (empty / "store").mkdir()
    # A run that has just made the file, and no table in it.
    sqlite3.connect(empty / DOCUMENTS).execute("PRAGMA user_version = 0").close()
    (empty / DOCUMENTS).touch()
    assert "nothing is relaxed yet" in text_of(asked)


def test_what_goes_away_or_is_none_is_one_line(started: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(started, folder)
    asked = client(Folder(folder))
    text_of(asked)
    (folder / DOCUMENTS).write_bytes(b"no database at all" * 100)
    assert "the embedded database is damaged" in text_of(asked, status=503)
    shutil.rmtree(folder)
    page = text_of(asked, status=503)
    assert f"there is no folder {folder}" in page
    # What was read before is still there.
    assert page.count("<tr data-phase=") == len(OWN) + 4
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "file").touch()
    for place, words in ((tmp_path / "no", "there is no folder"), (tmp_path / "else", "holds no")):
        with pytest.raises(UserError, match=words):
            Folder(place)


def test_a_folder_of_result_files_alone(tmp_path: Path) -> None:
    """As ``ccdcgan fetch`` writes it."""
    import gzip

    folder = tmp_path / "fetched"
    folder.mkdir()
    (folder / "campaign.yaml").write_text("system: Bi-Se\n")
    packed = gzip.compress(json.dumps(OWN).encode())
    (folder / "phases.json.gz").write_bytes(packed)
    page = text_of(client(Folder(folder)))
    assert page.count("<tr data-phase=") == len(OWN)
    assert not (folder / "store").exists()


def test_the_campaigns_of_a_cluster(tmp_path, database, monkeypatch, capsys) -> None:
    here = Here(tmp_path, database, monkeypatch, capsys)
    from ccdcgan.launchers.live.cluster import Campaigns

    (tmp_path / "mine.yaml").write_text("system: Bi-Se\n")
    assert here.command("submit", "mine.yaml")[0] == 0
    run = here.handle["campaigns"].find_one({})["_id"]
    mine = [{**p, "campaign": run, "uid": f"{run}:{p['id']}"} for p in stored_phases()]
    here.handle["phases"].insert_many([*mine, *(dict(p) for p in EVERY)])
    here.handle["relaxations"].insert_many([{**d, "campaign": run} for d in relaxations()])
    asked = client(Campaigns(here.cluster))
    page = text_of(asked)
    assert "1 campaign" in page and f"campaign={run}" in page
    assert page.count("<tr data-phase=") == len(mine) + len(EVERY) + 4
    assert "choose one to see it" in text_of(asked, "/hull")
    for name in (run, "mine"):
        page = text_of(asked, f"/?campaign={name}")
        assert page.count("<tr data-phase=") == len(mine) + 4
        assert "prototypes</th><td>1 queued</td>" in page
        assert "1 without a result" in page
        assert len(json.loads(text_of(asked, f"/hull?campaign={name}"))["keys"]) == len(mine)
    # A name in an address is never that of a file.
    page = text_of(asked, f"/?campaign={tmp_path / 'mine.yaml'}")
    assert "was submitted" in page and page.count("<tr data-phase=") == 0
    only = client(Campaigns(here.cluster), run)
    assert text_of(only).count("<tr data-phase=") == len(mine) + 4
    assert text_of(only, "/?origin=generated").count(f'<tr data-phase="{run}') == 4


def test_a_database_that_goes_away_is_one_line(
    tmp_path, stoppable_server, database, monkeypatch, capsys
) -> None:
    here = Here(tmp_path, database, monkeypatch, capsys)
    from ccdcgan.launchers.live.cluster import Campaigns

    here.handle["phases"].insert_many([dict(p) for p in EVERY])
    asked = client(Campaigns(here.cluster))
    assert text_of(asked).count("<tr data-phase=") == len(EVERY)
    stoppable_server.stop()
    page = text_of(asked, status=503)
    assert "the database" in page and page.count("<tr data-phase=") == len(EVERY)
    assert "mongodb://" not in page
    stoppable_server.start()
    wait_for(lambda: asked.get("/").status_code == 200)


def wait_for(condition: Any) -> None:
    from services import wait_until

    wait_until(condition, "the page")


@contextlib.contextmanager
def command(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-m", "ccdcgan.launchers.cli", "serve", *map(str, arguments)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_command_serves_until_it_is_interrupted(started: Path) -> None:
    with command(started, "--port", 0) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith(f"{len(OWN)} phases; http://127.0.0.1:")
        port = int(line.split("127.0.0.1:")[1].split("/")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.status == 200 and b"Bi" in answer.read()
        assert "erkzeug" not in str(answer.headers)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert (process.returncode, said) == (0, "ended\n")


def test_mistakes_are_one_line(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    from test_campaign import command as cli

    taken = bound("127.0.0.1", 0)
    port = taken.getsockname()[1]
    for arguments, words in (
        ((tmp_path, "--port", port), f"port {port} is in use: choose another with --port"),
        ((tmp_path / "no",), "there is no folder"),
        ((tmp_path, "--config", "x.yaml"), "give a folder or --config"),
        ((tmp_path, "--campaign", "x"), "--campaign goes with --config"),
        (("--config", tmp_path / "no.yaml"), "there is no"),
        ((tmp_path, "--host", "203.0.113.7"), "cannot listen on 203.0.113.7"),
    ):
        options = () if "--port" in arguments else ("--port", 0)
        code, said = cli(monkeypatch, capsys, "serve", *map(str, (*options, *arguments)))
        assert code == 2 and words in said and len(said.strip().splitlines()) == 1, said
    taken.close()


@pytest.fixture(scope="module")
def page(started: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The browser on the page of a server that runs."""
    folder = tmp_path_factory.mktemp("live")
    shutil.copytree(started, folder / "run")
    listening = bound("127.0.0.1", 0)
    port = listening.getsockname()[1]
    app = App(Live(Folder(folder / "run")), explain)
    threading.Thread(target=serve_until_interrupted, args=(app, listening), daemon=True).start()
    with chromium(folder) as browser:
        browser.folder, browser.address = folder / "run", f"http://127.0.0.1:{port}/"
        yield opened(browser, browser.address, "liveReady")


def title(page: Any) -> str:
    return str(page.find_element("id", "viewer-title").text.replace("\n", ""))


def test_a_click_shows_a_crystal_and_copies_it(page: Any) -> None:
    assert page.execute_script("return window.hullPoints") == len(OWN)
    assert len(page.find_elements("css selector", "#hull .scatterlayer .points path")) >= len(OWN)
    page.execute_script("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    wanted = OWN[5]
    page.find_element("css selector", f'tr[data-phase="{wanted["uid"]}"]').click()
    wait(page, "return document.getElementById('viewer-title').textContent === 'BiSe'")
    assert page.execute_script(CANVAS)[0] > 0.02
    page.find_element("id", "copy-cif").click()
    copied = Structure.from_str(wait(page, "return window.copied"), fmt="cif")
    stored = Structure.from_dict(wanted["structure"])
    assert StructureMatcher(scale=False, stol=1e-3, ltol=1e-3).fit(copied, stored)
    page.execute_script(
        "document.getElementById('hull').emit('plotly_click', {points: [{customdata: 0}]})"
    )
    assert wait(page, "return document.getElementById('viewer-title').textContent !== 'BiSe'")


def test_news_come_by_themselves(page: Any) -> None:
    page.find_element("css selector", "summary").click()
    page.find_element("id", "f-formula").send_keys("BiSe")
    more = document("d" * 32, ROCKSALT, -4.0).model_dump(mode="json")
    fill(page.folder, **{RESULTS: [more]})
    assert wait(page, "return document.querySelectorAll('#newest tbody tr').length === 5", 40)
    # What somebody is typing stays.
    assert page.find_element("id", "f-formula").get_property("value") == "BiSe"
    page.find_element("css selector", ".filters button").click()
    assert wait(page, "return location.search.includes('formula=BiSe') && window.liveReady")
    assert len(page.find_elements("css selector", "#phases tbody tr")) == 1


def test_everybody_can_read_and_reach_all_of_it(page: Any) -> None:
    opened(page, page.address, "liveReady")
    assert page.execute_script(CONTRAST) == []
    assert page.execute_script(UNREACHABLE) == []
    labels = "return [...document.querySelectorAll('.filters input, .filters select')]"
    assert page.execute_script(f"{labels}.every((n) => n.labels.length === 1)")
    resize(page, 390)
    assert wait(page, "return document.documentElement.scrollWidth <= 390")
    resize(page, None)


def test_a_mistake_in_a_question_is_told_in_the_page(page: Any) -> None:
    page.get(f"{page.address}?formula=%3Cb%3E")
    assert wait(page, "return window.liveReady === true")
    alert = page.find_element("css selector", "[role=alert]").text
    assert alert == "'<b>' is no formula such as Bi2Se3"
    # The status itself is told as an error of the network.
    assert [e for e in complaints(page) if e["source"] != "network"] == []


def test_nothing_is_asked_of_others_and_nothing_fails(page: Any) -> None:
    asked = requests(page)
    assert any(url.endswith("/live.js") for url in asked)
    assert [u for u in asked if not u.startswith((page.address, "data:", "blob:"))] == []
    assert complaints(page) == []
    assert page.execute_script("return window.hacked === undefined")
    assert not page.find_elements("css selector", "img")
