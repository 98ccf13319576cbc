"""The statement of a month: its parts, open hours, hours without usage and one rounding, by hand; and the job."""

import csv
from dataclasses import replace
from decimal import Decimal

import pytest

from spark_billing import UsageError, monthly_statement
from spark_billing.commands.statement import statement
from spark_billing.core.errors import TotalsError
from spark_billing.core.hours import hour_label
from spark_billing.reports.breakdown import Part, Sums, prove
from spark_billing.reports.statement_files import statement_csv, statement_html
from tests.conftest import HOUR, ONE, call
from tests.focus.test_rows import OUTPUT, TAKEN_BACK, frame, line
from tests.oracle import COMMERCIAL_START

AS_OF = "2026-04-10T12:00+08:00"
HUGE = Decimal("98765432109876543210.129456789012")  # with more digits than Decimal usually keeps
LATE = {"entry": "adjustment", "reason": "late_usage", "run": 2, "run_id": "b"}
MEXICO = {"workspace_id": "w-3", "region": "na-south-1", "model": "text-embedding-v4"}


def april():
    """260 tokens cost 0.00003588 and 50 output tokens 0.0000172."""
    yield line("2026-03-31T23", amount=Decimal(1000))  # another month
    yield line("2026-04-01T00")
    yield line("2026-04-01T00", **OUTPUT)
    yield line("2026-04-01T00", **LATE, requests=2, tokens=520, amount=Decimal("0.00007176"))
    yield line("2026-04-08T11", workspace_id="w-2", tag_team="red", amount=HUGE)
    yield line("2026-04-08T12", **MEXICO, tag_team="")
    yield line("2026-04-09T00", workspace_id="=1+1")
    yield line("2026-04-09T00", workspace_id="=1+1", **TAKEN_BACK, run=2, run_id="b")
    yield line("2026-05-01T00", amount=Decimal(1000))  # and another


def made(spark, lines=None, as_of=AS_OF, closed_after=48, **options):
    lines = frame(spark, april() if lines is None else lines, ["tag_team"])
    return monthly_statement(lines, "2026-04", as_of=as_of, closed_after=closed_after, **options)


def amounts(parts):
    return {(part.name, part.others): part.sums.amount for part in parts}


def test_the_parts_add_up(spark, session_zone):
    found = made(spark)
    # originals: 0.00003588 + 0.0000172 + HUGE + 0.00003588 + 0.00003588; adjustments: 0.00007176 - 0.00003588
    assert found.total == Sums(5, 1300, 50, Decimal("98765432109876543210.129581629012"), Decimal("0.00003588"))
    assert found.total.amount == Decimal("98765432109876543210.129617509012")
    assert found.rounded == Decimal("98765432109876543210.12")
    assert amounts(found.parts["workspace"]) == {
        ("w-2", 0): HUGE,
        ("w-1", 0): Decimal("0.00012484"),
        ("w-3", 0): Decimal("0.00003588"),
        ("=1+1", 0): 0,
    }
    assert [part.name for part in found.parts["workspace"]] == ["w-2", "w-1", "w-3", "=1+1"]
    assert amounts(found.parts["tag team"]) == {
        ("red", 0): HUGE,
        (None, 0): Decimal("0.00012484"),
        ("", 0): Decimal("0.00003588"),
    }
    assert amounts(found.parts["entry"]) == {
        ("original", 0): found.total.original,
        ("late_usage", 0): Decimal("0.00007176"),
        ("withdrawn_usage", 0): Decimal("-0.00003588"),
    }
    (w_1,) = (part.sums for part in found.parts["workspace"] if part.name == "w-1")
    assert w_1 == Sums(3, 780, 50, Decimal("0.00005308"), Decimal("0.00007176"))


def test_what_is_not_shown_is_one_row(spark):
    found = made(spark, top=1)
    assert amounts(found.parts["workspace"]) == {("w-2", 0): HUGE, (None, 3): Decimal("0.00016072")}
    assert len(found.parts["entry"]) == 3
    assert "3 others" in str(found)


@pytest.mark.parametrize(
    ("as_of", "closed_after", "final_until"),
    [
        ("2026-04-08T12:59:59+08:00", 0, "2026-04-08T12"),
        ("2026-04-08T13:00+08:00", 0, "2026-04-08T13"),
        ("2026-04-10T11:59:59+08:00", 48, "2026-04-08T11"),
        ("2026-04-10T04:00Z", 48, "2026-04-08T12"),
        ("2026-03-01T00:00Z", 48, "2026-04-01T00"),
        ("2026-05-02T23:59:59+08:00", 48, "2026-04-30T23"),
        ("2026-05-03T00:00+08:00", 48, "2026-05-01T00"),
        ("2027-01-01T00:00Z", 48, "2026-05-01T00"),
    ],
)
def test_when_an_hour_is_final(spark, as_of, closed_after, final_until):
    found = made(spark, [line("2026-04-08T11")], as_of=as_of, closed_after=closed_after)
    assert hour_label(found.final_until) == final_until


def test_hours_without_usage(spark):
    found = made(spark, as_of="2026-04-11T12:30+08:00")  # final until 04-09T12, over until 04-11T12
    assert [tuple(map(hour_label, period)) for period in found.without_usage()] == [
        ("2026-04-01T01", "2026-04-08T11"),
        ("2026-04-08T13", "2026-04-09T12"),  # in 04-09T00 what was billed was taken back
        ("2026-04-09T12", "2026-04-11T12"),
    ]
    said = str(found)
    assert "Hours without any usage: 249 (a lost log" in said  # 178 + 23 + 48: 7 days and 10 hours, 23, 2 days
    assert "Not over yet: 2026-04-11T12 to 2026-05-01T00" in said
    every = [line(f"2026-04-{day:02}T{hour:02}") for day in range(1, 31) for hour in range(24)]
    assert "Every hour that is over has usage." in str(made(spark, every, as_of="2027-01-01T00:00Z"))
    every_other = made(spark, every[::2], as_of="2027-01-01T00:00Z")
    assert len(every_other.without_usage()) == 360
    assert "and 340 more periods of 340 hours" in str(every_other)


def test_every_row_of_the_csv(spark):
    found = made(spark, top=1)
    rows = list(csv.DictReader(statement_csv(found)))
    of_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in dict.fromkeys(r["kind"] for r in rows)}
    assert list(of_kind) == ["charge", "hour", "no_usage", "total", "total_rounded_down"]
    said = [tuple(row[name] for name in ("workspace_id", "tag_team", "entry", "reason", "state", "requests", "amount"))
            for row in of_kind["charge"]]  # fmt: skip
    assert said == [
        ("=1+1", "", "adjustment", "withdrawn_usage", "open", "-1", "-0.000035880000"),
        ("=1+1", "", "original", "", "open", "1", "0.000035880000"),
        ("w-1", "", "adjustment", "late_usage", "final", "2", "0.000071760000"),
        ("w-1", "", "original", "", "final", "1", "0.000053080000"),
        ("w-2", "red", "original", "", "final", "1", "98765432109876543210.129456789012"),
        ("w-3", "", "original", "", "open", "1", "0.000035880000"),
    ]
    assert [(row["period_start"], row["state"], row["amount"]) for row in of_kind["hour"]] == [
        ("2026-04-01T00", "final", "0.000124840000"),
        ("2026-04-08T11", "final", "98765432109876543210.129456789012"),
        ("2026-04-08T12", "open", "0.000035880000"),
        ("2026-04-09T00", "open", "0.000000000000"),
    ]
    assert [row["amount"] for row in of_kind["total"]] == ["98765432109876543210.129617509012"]
    assert [row["amount"] for row in of_kind["total_rounded_down"]] == ["98765432109876543210.12"]
    assert {row["month"] for row in rows} == {"2026-04"}
    assert {row["currency"] for row in rows} == {"USD"}


def test_names_in_csv_are_as_they_are(spark):
    names = ["=1+1", 'a "b", c', "two\nlines", " blank ", "", "@x", "\u202ertl"]
    lines = [line(workspace_id=name, model=name, tag_team=name) for name in names]
    text = "\n".join(statement_csv(made(spark, lines))) + "\n"
    charges = [row for row in csv.DictReader(text.splitlines(keepends=True)) if row["kind"] == "charge"]
    assert {row["workspace_id"] for row in charges} == {row["tag_team"] for row in charges} == set(names)
    assert '"","",""' in text  # empty text, and not nothing


def test_a_page_of_it(spark):
    page = "\n".join(statement_html(made(spark, [line(workspace_id="<script>alert(1)</script>")])))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<h1>0.00 <small>USD</small></h1>" in page
    assert "0.00003588 USD exactly, rounded down to the cent once" in page


def test_what_it_was_made_from(spark):
    named = made(spark, [line()], ledger="run 12 of <b>\u202e")
    assert "\nFrom run 12 of <b>\\u202e\n" in str(named)
    assert "From run 12 of &lt;b&gt;\\u202e. Every list" in "\n".join(statement_html(named))
    rows = list(csv.DictReader(statement_csv(named)))
    assert {row["kind"] for row in rows if row["ledger"] == "run 12 of <b>\u202e"} == {"total", "total_rounded_down"}
    assert {row["ledger"] for row in csv.DictReader(statement_csv(made(spark, [line()])))} == {""}
    assert "From" not in str(made(spark, [line()]))


def test_what_does_not_add_up_is_refused(spark):
    with pytest.raises(TotalsError, match="the parts by model"):
        prove(Sums(original=Decimal(2)), {"model": [Part("a", Sums(original=Decimal(1)))]})
    found = made(spark, [line()])
    with pytest.raises(TotalsError, match=r"come to 0\.00003588"):
        list(statement_csv(replace(found, total=Sums())))


@pytest.mark.parametrize(
    ("lines", "options", "words"),
    [
        ([line("2026-05-01T00")], {}, "no line of 2026-04"),
        ([line(), line(currency="CNY")], {}, "CNY and USD, which are never added"),
        ([line()], {"as_of": "2026-04-10"}, "is not an instant"),
        ([line()], {"closed_after": -1}, "closed_after is -1"),
        ([line()], {"top": 0}, "top is 0"),
    ],
)
def test_what_is_refused(spark, lines, options, words):
    with pytest.raises(UsageError, match=words):
        made(spark, lines, **options)


def test_other_months_and_tables_are_refused(spark):
    with pytest.raises(UsageError, match="is not a UTC"):
        monthly_statement(frame(spark, [line()]), "2026-4", as_of=AS_OF, closed_after=48)
    with pytest.raises(UsageError, match="have no column entry"):
        monthly_statement(frame(spark, [line()]).drop("entry"), "2026-04", as_of=AS_OF, closed_after=48)


@pytest.mark.classic
def test_the_job(write, bill, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert bill(write([call(1), call(2, COMMERCIAL_START + 2 * HOUR, workspace_id="w-2")]))[0] == 0
    assert bill(write([call(1), call(2, COMMERCIAL_START + 2 * HOUR, workspace_id="w-2"), call(3)]))[0] == 0
    asked = ["--output", out, "--month", "2026-04", "--closed-after", "48", "--as-of", "2026-04-10T02:00+08:00"]
    assert statement(asked) == 0
    said = capsys.readouterr().out.splitlines()
    assert next(line.split() for line in said if line.startswith("  w-1")) == [
        *("w-1", "2", "520", "100", "0.00005308", "0.00005308", "0.00010616"),
    ]
    assert next(line.split()[2:] for line in said if line.startswith("Total, exact")) == [
        *("3", "780", "150", "0.00010616", "0.00005308", "0.00015924"),
    ]
    assert f"From run 2 of {out}" in said
    assert "  2026-04-08T01 to 2026-04-08T02, 1, final" in said
    assert "  2026-04-08T03 to 2026-04-10T02, 47, open" in said
    assert [line.split()[-1] for line in said if line.startswith("Total, rounded down to the cent")] == ["0.00"]

    for file_format, first in (("csv", "kind,month,"), ("html", "<!doctype html>"), ("text", "Statement of 2026-04")):
        file = tmp_path / "new" / f"statement.{file_format}"
        assert statement([*asked, "--format", file_format, "--to", str(file)]) == 0
        assert file.read_text(encoding="utf-8").startswith(first)
        assert "0.00015924 USD exactly" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [f"statement.{f}" for f in ("csv", "html", "text")]
    charges = list(csv.DictReader((tmp_path / "new" / "statement.csv").read_text(encoding="utf-8").splitlines()))
    assert sum(Decimal(row["amount"]) for row in charges if row["kind"] == "charge") == 3 * ONE

    assert statement([*asked, "--to", out]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert statement(["--output", out, "--month", "2026-06", "--closed-after", "48"]) == 2
    assert "no line of 2026-06" in capsys.readouterr().err
    assert statement([*asked[:2], "--month", "April", "--closed-after", "48"]) == 2
    assert "--month" in capsys.readouterr().err
    assert statement(asked[:4]) == 0  # as of now, which is long after
    assert "final, 2026-04-01T00 to 2026-05-01T00" in capsys.readouterr().out


@pytest.mark.classic
def test_as_of_an_instant_that_has_no_name_is_refused(write, bill, tmp_path, capsys):
    assert bill(write([call(1)]))[0] == 0
    capsys.readouterr()
    asked = ["--output", str(tmp_path / "out"), "--month", "2026-04", "--as-of"]
    for text in ("9999-12-31T23:59:59Z", "0001-01-01T00:00+14:00"):
        assert statement([*asked, text]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert text in said
