"""The HTML report: whole, safe whatever the model says, readable on any screen."""

import dataclasses
import html.parser
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from samples import text_model, uniform_weight, write

from mcd_graph import InputError, Report, compress_model, verify_model
from mcd_graph.bench import Bench, BenchRow, Contestant
from mcd_graph.cli import main
from mcd_graph.footprint import Footprint
from mcd_graph.machine import Machine
from mcd_graph.report.data import Proof
from mcd_graph.report.histograms import Histogram, weight_histograms
from mcd_graph.report.html import render_report
from mcd_graph.verify import Difference, Verification

HOSTILE = (
    """<script>document.title = 'owned'</script><img src=x onerror="document.title='owned'">"><svg onload=a()>$\\x$"""
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


def chromium(*arguments: object) -> str:
    """Run a headless browser to the end and return what it prints."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.fixture
def compressed(tmp_path: Path) -> tuple[Report, list[Histogram], Verification]:
    """What is known of a model with two weights lowered and one kept."""
    source = write(text_model(w2=uniform_weight(128, 256)), tmp_path / "m.onnx")
    report = compress_model(source, tmp_path / "m.mcd.onnx")
    verification = verify_model(source, tmp_path / "m.mcd.onnx", runs=1)
    return report, weight_histograms(tmp_path / "m.mcd.onnx"), verification


def bench(m: Sequence[int | None] = (1, 8), name: str = "balanced", *, memory: bool = True) -> Bench:
    """Return figures to lay out."""
    rows = tuple(
        BenchRow(name, rows, {"batch": 1}, threads, 5, 2.0, 1.6, 1.25, 1.1, 1.4) for threads in (1, 2) for rows in m
    )
    footprints = (Footprint(10**6, 2 * 10**6, 3 * 10**6, 10**6, 12.5),) if memory else ()
    contestants = (Contestant("original", 5 * 10**6, footprints), Contestant(name, 4 * 10**6, footprints))
    return Bench(Machine("a processor", 2, "1.0", "0.1"), contestants, rows)


def headings(page: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", page)


class Outside(html.parser.HTMLParser):
    """Collects what would make a browser fetch or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe", "object", "embed", "base", "form", "foreignobject"):
            self.found.append(tag)
        for name, value in attrs:
            internal = (value or "").startswith("#")
            if name.startswith("on") or (name in ("src", "href", "xlink:href", "action") and not internal):
                self.found.append(f"{tag} {name}={value}")


def test_a_page_with_everything(compressed: tuple[Report, list[Histogram], Verification]) -> None:
    report, histograms, verification = compressed
    page = render_report(title="all", report=report, histograms=histograms, verification=verification, bench=bench())
    assert headings(page) == [
        "Size against speed",
        "Latency against m",
        "Files, memory and opening",
        "Histogram of the weights",
        "Saving per layer",
        "Not compressed",
        "Int8 constants that stay",
    ]
    (constant,) = (each for each in report.constants if each.status == "kept")
    assert f'<td class="name">{constant.name}</td>' in page
    (kept,) = (node for node in report.nodes if node.status == "kept")
    assert f'<td class="name">{kept.reason}</td>' in page
    assert report.totals.ratio is not None
    assert f"{report.totals.ratio:.3f}" in page
    assert "1.10 to 1.40" in page
    assert "a processor, 2 cores" in page
    assert ">identical<" in page
    assert page.count("<svg ") == 2 + 4 + 1, "one weight of its own needs no comparison with others"


def test_sections_without_figures_are_left_out(compressed: tuple[Report, list[Histogram], Verification]) -> None:
    report, _, _ = compressed
    assert headings(render_report(title="bench", bench=bench(m=(None,), memory=False))) == [
        "Size against speed",
        "Latency",
        "Files",
    ]
    lowered = dataclasses.replace(
        report,
        nodes=tuple(node for node in report.nodes if node.status == "lowered"),
        constants=tuple(each for each in report.constants if each.status == "lowered"),
    )
    assert headings(render_report(title="r", report=lowered)) == ["Saving per layer"]
    assert headings(render_report(title="nothing")) == []


def test_the_verdict_of_a_benchmark_stands_on_top() -> None:
    def page(*intervals: tuple[float, float, float]) -> str:
        one = bench(m=(1,))
        rows = tuple(
            dataclasses.replace(one.rows[0], m=m, speedup_low=low, speedup=middle, speedup_high=high)
            for m, (low, middle, high) in enumerate(intervals, 1)
        )
        return render_report(title="t", bench=dataclasses.replace(one, rows=rows)).partition("<section>")[0]

    assert ">faster in all 2 settings<" in page((1.1, 1.25, 1.4), (1.01, 1.02, 1.03))
    assert ">faster in 1, slower in 1, no clear difference in 1 of 3 settings<" in page(
        (1.1, 1.25, 1.4), (0.7, 0.8, 0.9), (0.9, 1.0, 1.1)
    )
    assert 'class="bad">0.80&nbsp;×<small>slower<' in page((0.7, 0.8, 0.9))  # noqa: RUF001
    assert "1.250&nbsp;×<small>smaller: 5.00 → 4.00 MB<" in page((1.1, 1.25, 1.4))  # noqa: RUF001


def test_a_compression_says_on_top_whether_it_is_proved(
    compressed: tuple[Report, list[Histogram], Verification],
) -> None:
    report, _, _ = compressed

    def top(proof: Proof) -> str:
        page = render_report(title="t", report=dataclasses.replace(report, proof=proof))
        return " ".join(page.partition("<section>")[0].split())

    both = ("default", "no optimisations")
    assert (
        "identical<small>1,234 values in 5 runs, every byte, at default settings and without optimisations of "
        "onnxruntime 1.32.0</small>"
    ) in top(Proof(True, None, "1.32.0", both, 5, 1234))
    assert "nothing is proved for y, z" in top(Proof(True, None, "1", both[:1], 1, 9, not_deterministic=("y", "z")))
    assert 'class="bad">not compared<small>it has &lt;no&gt; inputs</small>' in top(Proof(False, "it has <no> inputs"))


def test_a_form_that_all_weights_have_is_said_once(compressed: tuple[Report, list[Histogram], Verification]) -> None:
    report, _, _ = compressed
    (pattern,) = {node.pattern for node in report.nodes if node.status == "lowered"}
    page = render_report(title="t", report=report)
    assert page.count(pattern) == 1
    assert "<th>form</th>" not in page
    nodes = (
        *report.nodes,
        dataclasses.replace(report.nodes[0], name="b", weight="b", pattern="Another", status="lowered"),
    )
    both = render_report(title="t", report=dataclasses.replace(report, nodes=nodes))
    assert f"A is {pattern}; B is Another." in " ".join(both.split()) or f"A is Another; B is {pattern}." in both
    assert "<td>B</td>" in both


def test_the_page_says_what_of_the_files_is_not_compressed(
    compressed: tuple[Report, list[Histogram], Verification],
) -> None:
    report, _, _ = compressed
    outside = report.totals.file_bytes_before - report.totals.weight_bytes
    assert f"The other {outside / 1e6:,.2f} MB" in render_report(title="t", report=report)


def test_no_axis_has_an_offset() -> None:
    one = bench(m=(1, 8))
    rows = tuple(dataclasses.replace(row, speedup=1.00001, speedup_low=1.0, speedup_high=1.00002) for row in one.rows)
    assert not re.search(r">\+?1e-?\d|>\+1", render_report(title="t", bench=dataclasses.replace(one, rows=rows)))


def test_differences_are_shown() -> None:
    difference = Difference(0, 2, True, "y", "3 of 9 values differ")
    page = render_report(title="t", verification=Verification(({"x": (1,)},), (1, 2), (True,), 9, (difference,)))
    assert headings(page) == ["Differences"]
    assert "3 of 9 values differ" in page
    assert ">identical<" not in page


def hostile_page(report: Report) -> str:
    """A page about a model in which every string is an attack."""
    nodes = tuple(
        dataclasses.replace(
            node,
            name=HOSTILE,
            op_type=HOSTILE,
            pattern=HOSTILE,
            weight=f"{HOSTILE}{index}",
            reason=node.reason and HOSTILE,
            codec=node.codec and HOSTILE,
        )
        for index, node in enumerate(report.nodes)
    )
    counts = np.arange(256)
    verification = Verification(({HOSTILE: (1,)},), (1,), (True,), 9, (Difference(0, 1, True, HOSTILE, HOSTILE),))
    attacked = bench(name=HOSTILE)
    attacked = dataclasses.replace(
        attacked, machine=Machine(HOSTILE, 1, HOSTILE, HOSTILE), rows=(*attacked.rows, *bench((16,), HOSTILE).rows)
    )
    report = dataclasses.replace(report, input=HOSTILE, output=HOSTILE, profile=HOSTILE, nodes=nodes)
    return render_report(
        title=HOSTILE,
        report=report,
        histograms=[Histogram(HOSTILE, counts), Histogram(HOSTILE, counts + 1)],
        verification=verification,
        bench=attacked,
    )


def test_strings_of_the_model_are_text(compressed: tuple[Report, list[Histogram], Verification]) -> None:
    page = hostile_page(compressed[0])
    outside = Outside()
    outside.feed(page)
    assert outside.found == []
    assert page.count("&lt;script&gt;") > 20
    assert "default-src 'none'" in page
    assert "url(" not in re.sub(r"url\(#\w+\)", "", page)


@needs_chromium
def test_a_hostile_name_does_not_run(compressed: tuple[Report, list[Histogram], Verification], tmp_path: Path) -> None:
    page = hostile_page(compressed[0])
    policy = re.search(r'<meta http-equiv="Content-Security-Policy".*?>', page)
    assert policy is not None
    # Without its policy the page has nothing but the escapes to rely on; with scripts of its own it would run them.
    (tmp_path / "bare.html").write_text(page.replace(policy[0], ""))
    seen = chromium("--dump-dom", f"--user-data-dir={tmp_path / 'profile'}", tmp_path / "bare.html")
    assert "<title>owned</title>" not in seen
    assert "&lt;script&gt;document.title" in seen
    (tmp_path / "control.html").write_text(f"<title>a</title>{HOSTILE}")
    control = chromium("--dump-dom", f"--user-data-dir={tmp_path / 'profile'}", tmp_path / "control.html")
    assert "<title>owned</title>" in control, "the attack works where nothing is escaped"


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_only_boxes_scroll_sideways(
    compressed: tuple[Report, list[Histogram], Verification], tmp_path: Path, width: int
) -> None:
    report, histograms, verification = compressed
    long = {"name": "/block" * 30, "pattern": "Operator+" * 9}
    nodes = tuple(dataclasses.replace(node, **long, reason=node.reason and "/why" * 60) for node in report.nodes)
    page = render_report(
        title="model" * 30,
        report=dataclasses.replace(report, nodes=nodes),
        histograms=histograms,
        verification=verification,
        bench=bench(),
    )
    (tmp_path / "page.html").write_text(re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", page))
    # A frame, because a headless window is never as narrow as a phone.
    (tmp_path / "frame.html").write_text(
        f"""<iframe src="page.html" style="border:0;width:{width}px;height:900px" onload="
            const page = this.contentDocument.documentElement;
            document.title = 'overflow ' + (page.scrollWidth - page.clientWidth);
        "></iframe>"""
    )
    seen = chromium(
        "--dump-dom", "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'p'}", tmp_path / "frame.html"
    )
    assert "<title>overflow 0</title>" in seen


@needs_chromium
@pytest.mark.slow
def test_dark_mode_screenshot_and_paper(
    compressed: tuple[Report, list[Histogram], Verification], tmp_path: Path
) -> None:
    mpl = pytest.importorskip("matplotlib.image")
    report, histograms, _ = compressed
    page = tmp_path / "page.html"
    page.write_text(render_report(title="t", report=report, histograms=histograms, bench=bench()))
    brightness = {}
    for theme, setting in (("dark", 0), ("light", 1)):
        picture = tmp_path / f"{theme}.png"
        chromium(
            f"--blink-settings=preferredColorScheme={setting}",
            "--window-size=1000,1400",
            f"--user-data-dir={tmp_path / theme}",
            f"--screenshot={picture}",
            page,
        )
        brightness[theme] = float(np.median(mpl.imread(picture)[..., :3]))
    assert brightness["dark"] < 0.2
    assert brightness["light"] > 0.9
    chromium(
        "--no-pdf-header-footer", f"--user-data-dir={tmp_path / 'p'}", f"--print-to-pdf={tmp_path / 'p.pdf'}", page
    )
    assert (tmp_path / "p.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_compress_and_bench_write_pages(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", str(model), str(out / "m.onnx"), "--html", str(out / "c.html")]) == 0
    assert headings((out / "c.html").read_text()) == ["Histogram of the weights", "Saving per layer"]
    arguments = ["bench", str(model), str(out / "m.onnx"), "--m", "1,2", "--threads", "1", "--repeats", "2"]
    assert main([*arguments, "--html", str(out / "b.html")]) == 0
    assert "Latency against m" in headings((out / "b.html").read_text())
    capsys.readouterr()
    assert main([*arguments, "--html", str(out / "b.html")]) == 2
    assert "already exists (--force replaces it)" in capsys.readouterr().err


def test_without_the_extra_there_is_an_error_before_the_work(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    with pytest.raises(InputError, match="needs matplotlib"):
        render_report(title="t")
    assert main(["compress", str(model), str(out / "m.onnx"), "--html", str(out / "c.html")]) == 2
    assert "install mcd-graph with its extra, 'mcd-graph[report]'" in capsys.readouterr().err
    assert list(out.iterdir()) == []


def test_histograms_count_every_weight_once(model: Path, out: Path) -> None:
    compress_model(model, out / "m.onnx")
    histograms = weight_histograms(out / "m.onnx")
    assert len(histograms) == 2, "two nodes share a weight"
    assert [int(one.counts.sum()) for one in histograms] == [256 * 128] * 2
