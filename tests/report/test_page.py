"""The page of a run: its content, and its display in a browser."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fanfold import Part, records
from fanfold.names import LEVEL_PAGE, LEVEL_REPORT, REPORT
from fanfold.page import MARK, shown
from fanfold.report import BARS, FAILED, SLOWEST, Report
from hypothesis import given
from hypothesis import strategies as st
from pipeline import INPUT, Volume, model

START = 1767225600.0
RUN = {"RUN_ID": "a", "RUN_STARTED": int(START)}
LONG = "x" * 3000
WIDTHS = 1280, 400
Browse = Callable[..., subprocess.CompletedProcess[str]]

# Shows a page in a frame of some width (a window has at least 500 pixels). Its title lists the
# elements with cut-off text.
FRAME = """<title></title>
<iframe width="%d" height="900" style="border:0" srcdoc="%s"></iframe>
<script>
onload = () => {
  const frame = document.querySelector('iframe'), page = frame.contentDocument
  const cut = [...page.querySelectorAll('*')]
    .filter(one => !one.closest('svg') && one.scrollWidth > one.clientWidth + 1
                   && frame.contentWindow.getComputedStyle(one).display !== 'inline')
    .map(one => one.tagName + ':' + one.textContent.slice(0, 40))
  document.title = JSON.stringify({width: frame.contentWindow.innerWidth, cut})
}</script>"""


def maker(second: float, seconds: float, **more: object) -> dict[str, object]:
    """The fields of a record about its maker: run, pod, node, attempt and times."""
    start = START + second
    times = {"start": records.utc(start), "end": records.utc(start + seconds)}
    return {
        "run": "a",
        "pod": "log-count-x7k2p-map-1",
        "node": "n-1",
        "attempt": 1,
        **times,
        **more,
    }


def page_of(parts: int, failed: int = 0, name: str = "") -> str:
    """A page about some parts; every tenth part is slow."""
    found = Report("a")
    for part in range(parts):
        seconds = 2 + part % 7 + 30 * (part % 10 == 9)
        found.add(str(part), 10_000_000, maker(part // 50, seconds, attempt=1 + part % 10 // 9))
    for number in range(failed):
        found.fail(f"in/{name}{number}", 1, f"cannot read it {name}")
    facts = {"input": f"in/{name}", "mode": "range", "parts": parts}
    totals = {"INFO": 7 * parts, f"ERROR{name}": 10**3000, "rate": -0.5}
    return b"".join(found.page("Proven.", facts, totals if parts else {}, failed)).decode()


SIZES = {"none": (0, 0, ""), "5": (5, 0, ""), "300": (300, 3, LONG), "10000": (10_000, 150, LONG)}


class Texts(HTMLParser):
    """The tags of a page, and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.texts = list[str](), list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, _: object) -> None:
        """Called by feed."""
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        """Called by feed."""
        self.texts.append(data)


@pytest.mark.parametrize("size", SIZES)
def test_page_is_one_small_file(size: str) -> None:
    """The page of any run has less than 1 MiB, bounded lists, and loads no other file."""
    parts, failed, name = SIZES[size]
    page = page_of(parts, failed, name)
    assert page.startswith(MARK)
    assert len(page.encode()) < 1 << 20
    assert not re.search(
        r"(?i)<(script|link|img|iframe|object)|[ \"'](src|href)=|url\(|@import", page
    )
    rows = Texts(page).tags.count("tr")
    assert rows <= 3 + 2 + min(parts, SLOWEST) + min(failed, FAILED)
    # A bar per part. For many parts, a bar per moment and bin: a bounded number.
    bars = Texts(page).tags.count("rect")
    assert parts <= bars if parts <= BARS else bars < BARS


@given(
    st.text(min_size=1), st.text(), st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
def test_any_text(name: str, text: str, total: float) -> None:
    """Text of users and programs stays text: it makes no tag."""
    found = Report("a")
    found.add("0", 1, maker(0, 1, pod=name, node=text))
    found.fail(name, 1, text)
    page = b"".join(found.page(text, {"input": name}, {name: total}, 1)).decode()
    plain = Report("a")
    plain.add("0", 1, maker(0, 1, pod="x", node="x"))
    plain.fail("x", 1, "x")
    like = b"".join(plain.page("x", {"input": "x"}, {"x": 1}, 1)).decode()
    assert sorted(Texts(page).tags) == sorted(Texts(like).tags)
    assert shown(name)[:200] in page


def test_content() -> None:
    """The page has totals, times, the slowest parts with pod and node, attempts and failures."""
    found = Report("a")
    found.add("0", 5_000_000, maker(0, 2))
    found.add("1", 5_000_000, maker(1, 10, pod="slow-pod", node="slow-node", attempt=3))
    found.add("2", 5_000_000, maker(0, 99, run="b"))
    found.add("3", 5_000_000, {"run": "a", "pod": "p"})
    found.fail("in/bad.png", 7, "no picture")
    page = b"".join(found.page("Proven.", {"input_bytes": 1234567}, {"INFO": 12345}, 1)).decode()
    text = " ".join(Texts(page).texts)
    for words in (
        "fanfold run a", "Proven.", "input bytes 1,234,567", "INFO 12,345", "slow-pod slow-node",
        "sum of all pods 12.0 s (0:00:12)", "1 parts at attempt 1; 1 parts at attempt 3",
        "first start 2026-01-01T00:00:00.000Z", "last end 2026-01-01T00:00:11.000Z",
        "parts of other runs 1, not shown", "parts without times 1, not shown", "1 files failed",
        "in/bad.png 7 no picture", "The slowest 2 of 2", "part 1: 10.000 s, 0.5 MB/s, slow-pod",
    ):  # fmt: skip
        assert words in text, words
    assert text.index("slow-pod slow-node") < text.index("log-count-x7k2p-map-1 n-1")


@pytest.mark.usefixtures("storage")
def test_every_run_has_a_page(volume: Volume) -> None:
    """Each pipeline writes its page to results/ and next to the result."""
    volume.write(INPUT, b"INFO\n" * 100)
    run = volume.having(NUM_PARTS=4, **RUN)
    run.log_count()
    (made,) = run.results().values()
    assert made[REPORT] == run.final(REPORT)
    text = " ".join(Texts(made[REPORT].decode()).texts)
    for words in ("INFO 100", "parts 4", "One bar per part", run.job(), run.plan()["id"]):
        assert words in text

    run = volume.having(RUN_ID="b", RUN_STARTED=int(START) + 1)
    run.write_level_1([b"x"] * 8)
    assert run.aggregate(8, fan_in=2, levels=3).code == 0
    text = " ".join(Texts((run.final(LEVEL_REPORT) or b"").decode()).texts)
    assert "4 of level 2, 2 of level 3" in text
    assert "file 1 of level 3" in text


def test_parallel_parts() -> None:
    """With more than BARS parts, the page counts parallel parts: 1 if they run one by one."""
    for at_once in (1, 7):
        found = Report("a")
        for part in range(2000):
            found.add(str(part), 1, maker(part // at_once, 0.99))
        page = b"".join(found.page("Proven.", {})).decode()
        assert f"at each moment: {at_once} at most" in page


def echo(part: Part) -> None:
    """Write the bytes of a part unchanged."""
    for piece in part.pieces():
        part.write(piece)


@pytest.mark.usefixtures("storage")
def test_both_pipelines_in_one_run(volume: Volume) -> None:
    """Each pipeline has its page. Each last step can run again without the intermediate files, and
    without its page."""
    volume.write(INPUT, b"INFO\n" * 100)
    run = volume.having(NUM_PARTS=2, CLEAN="true", MAP_SETTINGS="1", **RUN)
    assert run.fan_out(echo).code == 0
    run.write_level_1([b"x"] * 4)
    assert run.aggregate(4, fan_in=2, levels=2).code == 0
    (made,) = run.results().values()
    assert made[REPORT] == run.final(REPORT)
    assert made[LEVEL_PAGE] == run.final(LEVEL_REPORT) != made[REPORT]
    (folder,) = run.results()
    (run.root / "results" / folder / REPORT).unlink()
    assert run.run("merge").code == 0
    assert run.run("merge", 2, LEVEL=2).code == 0


@pytest.mark.folder
@pytest.mark.usefixtures("storage")
def test_a_users_link_stays(volume: Volume) -> None:
    """A user's link with the name of the page stays, and so does its target."""
    volume.write(INPUT, b"INFO\n" * 100)
    volume.write("mine.html", MARK.encode())
    (volume.root / REPORT).symlink_to("mine.html")
    run = volume.having(NUM_PARTS=2, **RUN)
    run.log_count()
    assert (volume.root / REPORT).is_symlink()
    assert volume.final(REPORT) == MARK.encode()


@pytest.mark.usefixtures("storage")
def test_the_newest_run_has_the_final_name(volume: Volume) -> None:
    """A late run keeps the newer page. A run with a failed page removes the older page."""
    volume.write(INPUT, b"INFO\n" * 100)
    older = volume.having(NUM_PARTS=2, **RUN)
    newer = volume.having(NUM_PARTS=2, RUN_ID="b", RUN_STARTED=int(START) + 1)
    newer.log_count()
    older.log_count()
    assert newer.final(REPORT) == newer.results()["20260101T000001Z-b"][REPORT]

    newest = volume.having(NUM_PARTS=2, RUN_ID="c", RUN_STARTED=int(START) + 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Report, "page", lambda *_: 1 / 0)
        newest.log_count()
    assert newest.totals() == model([b"INFO\n" * 100])
    assert newest.final(REPORT) is None


@pytest.mark.usefixtures("storage")
def test_a_users_file_stays(volume: Volume) -> None:
    """A user's file with the name of the page stays, and the run succeeds."""
    volume.write(INPUT, b"INFO\n" * 100)
    volume.write(REPORT, b"<!doctype html>mine")
    run = volume.having(NUM_PARTS=2, **RUN)
    run.log_count()
    assert run.totals() == model([b"INFO\n" * 100])
    assert run.final(REPORT) == b"<!doctype html>mine"
    (made,) = run.results().values()
    assert made[REPORT].startswith(MARK.encode())


@pytest.fixture(scope="session")
def browse() -> Browse:
    """Open a page in a headless Chromium."""
    program = shutil.which("chromium")
    if not program:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
            "chromium must be installed"
        )

    def run(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                str(program), "--headless=new", "--no-sandbox", "--disable-gpu",
                "--hide-scrollbars", "--enable-logging=stderr", "--disable-dev-shm-usage",
                "--window-size=1400,1000", f"--user-data-dir={page.parent}/profile",
                *options, page.as_uri(),
            ],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("size", SIZES)
def test_in_a_browser(size: str, tmp_path: Path, browse: Browse) -> None:
    """The console has no error, and no text is cut off in a wide and in a narrow window."""
    page, frame = tmp_path / "report.html", tmp_path / "frame.html"
    page.write_text(page_of(*SIZES[size]))
    assert "CONSOLE" not in browse(page, f"--screenshot={tmp_path}/page.png").stderr
    assert (tmp_path / "page.png").stat().st_size > 10_000
    for width in WIDTHS:
        frame.write_text(FRAME % (width, html.escape(page.read_text())))
        title = re.findall("<title>(.*?)</title>", browse(frame, "--dump-dom").stdout)[0]
        assert json.loads(html.unescape(title)) == {"width": width, "cut": []}


def test_the_browser_finds_errors(tmp_path: Path, browse: Browse) -> None:
    """test_in_a_browser can fail: by a forbidden load of a page, and by a cut-off text."""
    page, frame = tmp_path / "report.html", tmp_path / "frame.html"
    page.write_text(page_of(5) + '<img src="https://example.com/x.png">')
    assert "CONSOLE" in browse(page, "--dump-dom").stderr
    wide = page_of(5) + '<p style="width:9em;white-space:nowrap">a text that is too long for it'
    frame.write_text(FRAME % (400, html.escape(wide)))
    assert "P:a text that is too long" in browse(frame, "--dump-dom").stdout
