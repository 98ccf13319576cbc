"""The report: what it sums, by hand arithmetic; a page that no name can change; the job."""

import json
import re
import sys
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from spark_billing import UsageError
from spark_billing.commands.report import report as report_job
from spark_billing.core.errors import OutputError
from spark_billing.core.hours import Period, parse_hour
from spark_billing.estimates.expected import Expected
from spark_billing.ledger.stores import open_ledger
from spark_billing.provider.comparison import Cause, Reconciliation
from spark_billing.reports.breakdown import Part, Sums
from spark_billing.reports.charts import bars, cut_to_fit
from spark_billing.reports.report import Report, read_report
from spark_billing.reports.report_page import report_html
from tests.conftest import HOUR, call
from tests.oracle import COMMERCIAL_START

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></svg></style><svg onload=alert(1)>",
    "\u202eright to left",
    "two\nlines",
    "$x^2$ and $",
    "&lt;b&gt;",
    "]]><!--",
    "url(https://example.com/x)",
    "x" * 300,
    "工作区",
    "",
)
START = parse_hour("2026-04-08T00")
ESTIMATE = {"currency": "USD", "low": "1.0", "middle": "2.0", "high": "3.5", "calls": 10}
RECONCILIATION = {
    "currency": "USD",
    "ours": "2.00",
    "provider": "1.99",
    "difference": "-0.01",
    "causes": [{"cause": "rounding", "rows": 3, "difference": "-0.0075"}],
}


class Page(HTMLParser):
    """The elements, attributes and texts of a page, with what is left open."""

    void = ("meta",)

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def said(self):
        return "".join(self.texts)


def report_of(names=("w-1", "w-2"), **changes):
    """Each name costs 1.5, half of it added later."""
    one = Sums(3, 400, 50, Decimal("0.75"), Decimal("0.75"))
    parts = [Part(name, one) for name in names]
    total = Sums(3 * len(names), 400 * len(names), 50 * len(names), *[Decimal("0.75") * len(names)] * 2)
    kinds = ("workspace", "model", "region", "tier", "tag team", f"tag {names[0]}")
    entries = [
        Part("original", replace(total, adjustments=Decimal(0))),
        Part(names[0], replace(total, original=Decimal(0))),
    ]
    return Report(
        **{
            "period": Period(START, START + 48 * 3600),
            "currency": "USD",
            "total": total,
            "parts": {**dict.fromkeys(kinds, parts), "entry": entries},
            "hours": {START + 3600: total},
            "rejected": {"unknown_model": 2},
            "rejected_without_time": {"missing_call_time": 1},
            "ledger": "run 2 of bills",
            "run_at": "2026-04-10T00:00:00+00:00",
            **changes,
        }
    )


def test_no_name_changes_the_page():
    plain, hostile = (
        Page("\n".join(report_html(report_of(names, reconciliation=Reconciliation("USD", *[Decimal(0)] * 3, causes)))))
        for names, causes in (
            ([f"w-{n}" for n in range(len(HOSTILE))], [Cause("rounding", 1, Decimal(0))] * len(HOSTILE)),
            (HOSTILE, [Cause(name, 1, Decimal(0)) for name in HOSTILE]),
        )
    )
    assert hostile.tags == plain.tags
    assert not hostile.open
    assert [name for name, _ in hostile.attributes] == [name for name, _ in plain.attributes]
    assert not {"script", "img", "link", "iframe", "object", "use", "image", "a"} & set(hostile.tags)
    assert not [
        name for name, _ in hostile.attributes if name.startswith("on") or name in ("href", "src", "xlink:href")
    ]
    assert not [value for name, value in hostile.attributes if name != "data-of" and "url(" in (value or "")]
    assert not {"id"} & {name for name, _ in hostile.attributes}  # which two charts could share
    said = hostile.said()
    for shown in (HOSTILE[0], HOSTILE[1], HOSTILE[5], HOSTILE[6], HOSTILE[10], "\\u202eright to left", "two\\nlines"):
        assert said.count(shown) >= 6, shown
    assert "\u202e" not in said
    assert "x" * 79 + "…" in said
    assert "x" * 80 not in said


def test_nothing_is_loaded():
    page = "\n".join(report_html(report_of()))
    assert "://" not in page
    assert "url(" not in page
    assert "@import" not in page
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy[1].startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert page == "\n".join(report_html(report_of()))  # no date, no chance


def test_what_the_page_says():
    said = re.sub(r"\s+", " ", Page("\n".join(report_html(report_of()))).said())
    assert said.count("2026-04-08: 3.00 USD, 6 calls") == 2  # in the wide and the narrow chart
    assert said.count("2026-04-09: 0.00 USD, 0 calls") == 2
    for words in (
        "3.00 USD",
        "for 6 calls with 800 input and 100 output tokens",
        "1 of 48",
        "unknown_model",
        "missing_call_time",
        "From run 2 of bills, committed at 2026-04-10T00:00:00+00:00.",
    ):
        assert words in said
    quiet = report_of(rejected={}, rejected_without_time={})
    quiet = replace(quiet, parts={**quiet.parts, "entry": quiet.parts["entry"][:1]})
    said = Page("\n".join(report_html(quiet))).said()
    assert "None in these hours." in said
    assert "None: no line was added" in said
    assert "Estimate and actual" not in said


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        ("1", "4", "within the estimate"),
        ("3", "3", "within"),
        ("3.5", "4", "below the lowest"),
        ("1", "2", "above the hi"),
    ],
)
def test_an_estimate_beside_the_actual_amount(low, high, words):
    estimate = Expected("USD", Decimal(low), Decimal(low), Decimal(high), 10)
    said = Page("\n".join(report_html(report_of(estimate=estimate)))).said()
    assert f"The actual amount is {words}" in said
    assert "10 expected, 6 billed" in said


def test_a_long_period_and_one_without_money():
    nothing = report_of(hours={START: Sums()}, total=Sums(), period=Period(START, START + 800 * 3600))
    nothing = replace(nothing, parts={kind: [Part("w", Sums())] for kind in nothing.parts})
    page = Page("\n".join(report_html(nothing)))
    assert "the last 744 hours" in page.said()
    assert not page.open


def test_a_chart_is_an_element_of_a_page():
    (figure, wide, narrow, end) = bars("USD", ["a", "b"], [Decimal(2), Decimal("-1")], ["2.00 USD", "-1.00 USD"])
    assert (figure, end) == ("<figure>", "</figure>")
    for form in (wide, narrow):
        svg = ElementTree.fromstring(re.search("<svg.*</svg>", form)[0])
        assert (svg.get("role"), svg.get("aria-label"), svg[0].text) == ("img", "USD", "USD")
        assert [text.text for text in svg.iter("text")] == ["a", "2.00 USD", "b", "-1.00 USD"]
        assert "#" not in form  # every colour is one of the page's


@pytest.mark.parametrize(
    ("name", "fitting"),
    [("abcdef", "abcdef"), ("abcdefg", "abcde…"), ("工作区", "工作区"), ("工作区甲", "工作…"), ("", "")],
)
def test_names_are_cut_to_fit(name, fitting):
    assert cut_to_fit(name, 6) == fitting


@pytest.mark.campaign
def test_what_is_read(spark, write, bill, tmp_path):
    """Three calls of a hour and one of the next day, some rejected rows, one call that came late."""
    day = 24 * HOUR
    calls = [call(n, tags={"team": "red"}) for n in range(3)]
    calls += [call(9, COMMERCIAL_START + day, workspace_id="w-2", region="cn-hongkong", tags={})]
    bad = [call(20, model="qwen-max"), call(21, COMMERCIAL_START + day, model="qwen-max"), call(22, at=None)]
    arguments = ("--group-by-tag", "team")
    assert bill(write(calls[1:], "u-1", tags=True), *arguments)[0] == 0
    assert bill(write([*calls, *bad, calls[0]], "u-2", tags=True), *arguments)[0] == 0
    out = str(tmp_path / "out")
    found = read_report(open_ledger(spark, out))
    # Hangzhou 3 x 0.00005308; Hong Kong 260 x 0.0005064 / 1000 + 50 x 0.001519 / 1000
    assert str(found.period) == "2026-04-08T00 to 2026-04-09T01"
    assert found.parts["workspace"][-1] == Part("w-1", Sums(3, 780, 150, Decimal("0.00010616"), Decimal("0.00005308")))
    assert {part.name for part in found.parts["tag team"]} == {"red", None}
    assert [part.name for part in found.adjustments] == ["late_usage"]
    assert found.rejected == {"unknown_model": 2, "duplicate_request": 1}
    assert found.rejected_without_time == {"missing_call_time": 1}
    assert {day: sums.requests for day, sums in found.days().items()} == {"2026-04-08": 3, "2026-04-09": 1}

    first = read_report(open_ledger(spark, out), Period(START, START + 3600), top=1)
    assert first.total == Sums(3, 780, 150, Decimal("0.00010616"), Decimal("0.00005308"))
    assert first.rejected == {"unknown_model": 1, "duplicate_request": 1}
    with pytest.raises(UsageError, match="no line of 2026-04-08T01"):
        read_report(open_ledger(spark, out), Period(START + 3600, START + 7200))
    with pytest.raises(UsageError, match="the estimate is in CNY, and the ledger in USD"):
        read_report(open_ledger(spark, out), estimate=Expected("CNY", *[Decimal(1)] * 3, 1))
    with pytest.raises(OutputError, match="nothing was ever billed"):
        read_report(open_ledger(spark, str(tmp_path / "none")))


def test_one_date_of_nonsense_does_not_draw_centuries(spark, write, bill, tmp_path):
    far = COMMERCIAL_START.replace(year=2999)
    assert bill(write([call(1), call(2, far)]), "--as-of", "3000-01-01T00:00Z")[0] == 0
    out = str(tmp_path / "out")
    with pytest.raises(UsageError, match="from 2026-04-08T00 to 2999-04-08T00, more than 1,100 days"):
        read_report(open_ledger(spark, out))
    assert read_report(open_ledger(spark, out), Period(START, START + 3600)).total.requests == 1


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (Expected, {"low": 1.0}, "has low 1.0; needed is a decimal number as text"),
        (Expected, {"low": "NaN"}, "has low 'NaN'"),
        (Expected, {"high": "1e999"}, "has high"),
        (Expected, {"low": "-9"}, "below 0"),
        (Expected, {"calls": True}, "has calls True"),
        (Expected, {"currency": None}, "has currency None"),
        (Reconciliation, {"difference": "0.02"}, "does not add up"),
        (Reconciliation, {"causes": None}, "no list of objects causes"),
        (Reconciliation, {"causes": [{"cause": "a", "rows": -1, "difference": "0"}]}, "has rows -1"),
    ],
)
def test_figures_that_are_none(kind, change, words):
    good = ESTIMATE if kind is Expected else RECONCILIATION
    assert kind.parse(json.dumps(good))
    with pytest.raises(UsageError, match=re.escape(words)):
        kind.parse(json.dumps({**good, **change}))
    for text in ("[]", "{"):
        with pytest.raises(UsageError, match="JSON"):
            kind.parse(text)


def test_a_difference_has_either_sign():
    assert Reconciliation.parse(json.dumps(RECONCILIATION)).unexplained == Decimal("-0.0025")
    assert Reconciliation.parse(
        json.dumps({**RECONCILIATION, "difference": "0.01", "causes": []})
    ).unexplained == Decimal("0.01")


@pytest.mark.classic
def test_the_job(write, bill, tmp_path, capsys):
    calls = [call(f"{n}-{m}", workspace_id=name) for n, name in enumerate(HOSTILE) for m in range(2) if name]
    assert bill(write(calls))[0] == 0
    (tmp_path / "estimate.json").write_text(json.dumps(ESTIMATE))
    (tmp_path / "reconciliation.json").write_text(json.dumps(RECONCILIATION))
    out, file = str(tmp_path / "out"), tmp_path / "report.html"
    asked = ["--output", out, "--to-file", str(file)]
    compared = [
        "--estimate",
        str(tmp_path / "estimate.json"),
        "--reconciliation",
        str(tmp_path / "reconciliation.json"),
    ]
    file.write_text("the last one")
    assert report_job([*asked, "--month", "2026-04", "--top", "4", *compared]) == 0
    # 11 workspaces of 2 calls at 0.00005308
    assert capsys.readouterr().out == f"2026-04-01T00 to 2026-05-01T00 (UTC+8): 0.00116776 USD, {file}\n"
    page = Page(file.read_text(encoding="utf-8"))
    assert not {"script", "img"} & set(page.tags)
    assert "7 others" in page.said()
    assert "below the lowest estimate" in page.said()
    assert f"From run 1 of {out}, committed at 2" in page.said()
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == [
        "estimate.json", "reconciliation.json", "report.html",
    ]  # fmt: skip
    size = file.stat().st_size
    assert bill(write([*calls, *(call(f"more-{n}") for n in range(2000))]))[0] == 0
    assert report_job([*asked, "--month", "2026-04", "--top", "4", *compared]) == 0
    assert abs(file.stat().st_size - size) < size // 5  # and no row for each call

    capsys.readouterr()
    for arguments, words in (
        (["--output", out, "--to-file", out], "is a folder"),
        ([*asked, "--month", "2026-04", "--from", "2026-04-08T00", "--to", "2026-04-09T00"], "--month takes the place"),
        ([*asked, "--month", "April"], "is not a UTC+8 month"),
        ([*asked, "--month", "2026-07"], "no line of 2026-07-01T00"),
        ([*asked, "--estimate", str(tmp_path / "none.json")], "there is no such file"),
        ([*asked, "--reconciliation", str(tmp_path / "estimate.json")], "has ours None"),
    ):
        assert report_job(arguments) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1


def test_without_matplotlib(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_svg", None)
    assert report_job(["--output", "out", "--to-file", "report.html"]) == 2
    said = capsys.readouterr().err
    assert "pip install 'spark_billing[report]'" in said
    assert said.count("\n") == 1
