"""Our bill against the provider's: each seeded kind of difference gets its cause, and nothing is left over."""

import json
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from pyspark.sql import functions as F

from spark_billing import (
    BillMapping,
    ProviderBillError,
    provider_bill,
    read_bill,
    reconcile,
    to_focus,
)
from spark_billing.commands.reconcile_bill import reconcile_bill
from spark_billing.core.schemas import BILL_LINES
from spark_billing.provider.causes import CAUSES
from spark_billing.provider.comparison import summarize
from spark_billing.provider.printed import printed_comparison
from tests.conftest import HOUR, call
from tests.oracle import COMMERCIAL_START

DAY = timedelta(days=1)
# per 1,000 tokens in Hangzhou, from the published table
PRICES = {
    ("input", "0-128K"): "0.000138",
    ("input", "128K-256K"): "0.000414",
    ("output", "0-128K"): "0.000344",
    ("output", "128K-256K"): "0.003442",
}
CODES = {f"qwen_{kind}_{tier}": (kind, tier) for kind, tier in PRICES}
MAPPING = {
    "layout": "describe-instance-bill",
    "grain": "day",
    "ignore_items": ["spark_cu"],
    "items": {code: {"model": "qwen-plus", "token_type": k, "tier": t} for code, (k, t) in CODES.items()},
    "units": {"1K tokens": 1000},
    "workspaces": {"i-renamed": "w-renamed"},
}
BILL = (
    "BillingDate string, InstanceID string, Region string, BillingItemCode string, Usage string, UsageUnit string, "
    "ListPrice string, PretaxGrossAmount string, InvoiceDiscount string, DeductedByCoupons string, Currency string"
)


def our(spark, *rows):
    """Bill lines: (workspace, tokens, token type, tier, hours after the start of commercial billing, price)."""

    def line(workspace, tokens, kind="input", tier="0-128K", hours=0, price=None):
        price = Decimal(PRICES[kind, tier] if price is None else price)
        start = COMMERCIAL_START + hours * HOUR
        local = datetime(2026, 4, 8) + hours * HOUR
        return (
            *(workspace, "cn-hangzhou", "qwen-plus", start, start + HOUR, local.date(), local.hour, kind, tier),
            *(f"qwen-plus/cn-hangzhou/{tier}", "USD", 1, tokens, price, tokens * price / 1000),
        )

    return spark.createDataFrame([line(*row[:1], **row[1]) for row in rows], BILL_LINES)


def theirs(spark, *rows, mapping=MAPPING):
    """(workspace, thousands of tokens, amount) and what else the row of DescribeInstanceBill says."""

    def row(workspace, usage, amount, code="qwen_input_0-128K", day="2026-04-08", price=None, **more):
        found = {"discount": None, "coupons": None, "unit": "1K tokens", "currency": "USD", **more}
        return (day, workspace, "cn-hangzhou", code, usage, found["unit"], price, amount, found["discount"],
                found["coupons"], found["currency"])  # fmt: skip

    frame = spark.createDataFrame([row(*given[:3], **(given[3] if len(given) > 3 else {})) for given in rows], BILL)
    return provider_bill(frame, BillMapping.of(mapping))


MILLION = {"tokens": 1_000_000}  # 0.138 USD of input at the first tier
TOMORROW = {"tokens": 1_000_000, "hours": 24}

SEEDED = {
    # what is seeded: our lines, the provider's rows, and for each difference its cause and amount, by hand
    "agrees": ([("w-a", {**MILLION})], [("w-a", "1000", "0.138")], []),
    "agrees in two rows": ([("w-b", {**MILLION})], [("w-b", "400", "0.0552"), ("w-b", "600.000", "0.08280")], []),
    "free, so on no bill": ([("w-free", {"tokens": 5000, "price": "0"})], [], []),
    "taken back again": ([("w-zero", {"tokens": 10}), ("w-zero", {"tokens": -10})], [], []),
    "lost by the provider": ([("w-lost", {**MILLION})], [], [("missing_at_provider", "-0.138")]),
    "lost by us": ([], [("i-renamed", "500", "0.172", {"code": "qwen_output_0-128K"})],
                   [("missing_in_usage", "0.172")]),
    "more tokens": ([("w-more", {**MILLION})], [("w-more", "1200", "0.1656")], [("quantity_differs", "0.0276")]),
    "fewer tokens": ([("w-less", {**MILLION})], [("w-less", "999", "0.137862")], [("quantity_differs", "-0.000138")]),
    "another price": ([("w-price", {**MILLION})], [("w-price", "1000", "0.15", {"price": "0.00015"})],
                      [("price_differs", "0.012")]),
    "another price, not told": ([("w-dear", {**MILLION})], [("w-dear", "1000", "0.15")],
                                [("price_differs", "0.012")]),
    "both": ([("w-both", {**MILLION})], [("w-both", "2000", "0.4", {"price": "0.0002"})],
             [("price_differs", "0.124"), ("quantity_differs", "0.138")]),
    "tokens in another tier": (
        [("w-tier", {**MILLION}), ("w-tier", {"tokens": 300_000, "tier": "128K-256K"})],
        [("w-tier", "700", "0.0966"), ("w-tier", "600", "0.2484", {"code": "qwen_input_128K-256K"})],
        [("tier_differs", "-0.0414"), ("tier_differs", "0.1242")],
    ),
    "the price of another tier": ([("w-tier-price", {**MILLION})], [("w-tier-price", "1000", "0.414")],
                                  [("tier_differs", "0.276")]),
    "a day later": (
        [("w-late", {**MILLION}), ("w-late", {**TOMORROW})],
        [("w-late", "900", "0.1242"), ("w-late", "1100", "0.1518", {"day": "2026-04-09"})],
        [("timing", "-0.0138"), ("timing", "0.0138")],
    ),
    "a day later, all of it": ([("w-next", {**MILLION})], [("w-next", "1000", "0.138", {"day": "2026-04-09"})],
                               [("timing", "-0.138"), ("timing", "0.138")]),
    "two days later is another day": (
        [("w-far", {**MILLION})], [("w-far", "1000", "0.138", {"day": "2026-04-10"})],
        [("missing_at_provider", "-0.138"), ("missing_in_usage", "0.138")],
    ),
    # 7 tokens are 0.000000966; published with 8 decimals
    "rounded": ([("w-round", {"tokens": 7})], [("w-round", "0.007", "0.00000097")], [("rounding", "0.000000004")]),
    "no reason": ([("w-odd", {**MILLION})], [("w-odd", "1000", "0.1234567")], [("unexplained", "-0.0145433")]),
    "its price is not its amount": ([("w-odd2", {**MILLION})], [("w-odd2", "1000", "0.15", {"price": "0.000138"})],
                                    [("unexplained", "0.012")]),
}  # fmt: skip


def test_every_seeded_difference_has_its_cause(spark, usd, ansi):
    lines = our(spark, *(line for ours, _, _ in SEEDED.values() for line in ours))
    provider = theirs(spark, *(row for _, rows, _ in SEEDED.values() for row in rows))
    differences = reconcile(lines, provider, prices=usd, grain="day", decimals=8)
    found = {}
    for row in differences.collect():
        found.setdefault(row["workspace_id"], []).append((row["cause"], row["difference"]))
    workspaces = {
        name: (ours + rows)[0][0].replace("i-renamed", "w-renamed") for name, (ours, rows, _) in SEEDED.items()
    }
    for name, (_, _, expected) in SEEDED.items():
        told_of = sorted(found.pop(workspaces[name], []))
        assert told_of == sorted((cause, Decimal(amount)) for cause, amount in expected), name
    assert not found
    by_hand = sum((Decimal(amount) for _, _, expected in SEEDED.values() for _, amount in expected), Decimal(0))
    summary = summarize(lines, provider, differences, "day")
    assert summary.difference == summary.provider - summary.ours == by_hand
    assert not summary.explained
    assert {cause for cause, _, _ in summary.causes} == set(CAUSES)


def test_without_a_difference(spark, usd):
    lines, provider = our(spark, ("w-a", MILLION)), theirs(spark, ("w-a", "1000", "0.138", {"discount": "0.02"}))
    differences = reconcile(lines, provider, prices=usd, grain="day")
    summary = summarize(lines, provider, differences, "day")
    assert summary.explained
    said = "\n".join(printed_comparison(summary))
    assert "No difference." in said
    assert "0.118" in said  # after the discount, which is no difference


@pytest.mark.campaign
def test_the_other_reading_of_k(spark, usd):
    """130,000 tokens are above 128,000 and below 131,072; beside a million tokens of the lower tier, without tiers."""
    without = {**MAPPING, "without": ["tier"]}
    ours = our(spark, ("w-k", MILLION), ("w-k", {"tokens": 130_000, "tier": "128K-256K"}))  # 0.138 + 0.05382
    other = our(spark, ("w-k", {"tokens": 1_130_000}))  # 0.15594
    rows = [("w-k", "1130", "0.15594")]
    for lines, cause in ((other, "tier_differs"), (None, "price_differs")):  # 0.000138 per 1,000 is a price like others
        differences = reconcile(
            ours, theirs(spark, *rows, mapping=without), prices=usd, grain="day", other_lines=lines
        ).collect()
        assert [(row["cause"], row["difference"]) for row in differences] == [
            ("tier_differs" if cause == "price_differs" else cause, Decimal("-0.03588"))
        ]
    mixed = our(spark, ("w-k", {"tokens": 1_000_000}), ("w-k", {"tokens": 260_000, "tier": "128K-256K"}))
    half = our(spark, ("w-k", {"tokens": 1_130_000}), ("w-k", {"tokens": 130_000, "tier": "128K-256K"}))
    rows = [("w-k", "1260", "0.20976")]  # 1,130,000 at 0.138 per million and 130,000 at 0.414: no single price
    for lines, cause in ((half, "tier_differs"), (None, "unexplained")):
        provider = theirs(spark, *rows, mapping=without)
        (row,) = reconcile(mixed, provider, prices=usd, grain="day", other_lines=lines).collect()
        assert (row["cause"], row["difference"]) == (cause, Decimal("-0.03588"))
    with pytest.raises(ProviderBillError, match="the same usage"):
        reconcile(ours, provider, prices=usd, grain="day", other_lines=half)


@pytest.mark.campaign
def test_a_month_cut_to_the_cent(spark, usd):
    month = {**MAPPING, "grain": "month", "columns": {"period": "BillingDate"}, "without": ["tier"]}
    lines = our(spark, ("w-m", MILLION), ("w-n", MILLION), ("w-n", {"tokens": 1, "hours": 24 * 20}))
    provider = theirs(spark, ("w-m", "1000", "0.13"), ("w-n", "1000.001", "0.14"), mapping=month)
    found = {row["workspace_id"]: row for row in reconcile(lines, provider, prices=usd, grain="month").collect()}
    assert (found["w-m"]["cause"], found["w-m"]["difference"]) == ("rounding", Decimal("-0.008"))
    assert found["w-n"]["cause"] == "unexplained"  # rounded up is not rounded down; 1,000,001 tokens have no such price
    assert found["w-n"]["difference"] == Decimal("0.14") - Decimal("0.138000138")
    assert found["w-m"]["period_end"] - found["w-m"]["period_start"] == 30 * DAY


def test_hours_and_a_bill_without_quantities(spark, usd):
    """Timing among hours in a row, of which only some belong together; amounts alone."""
    mapping = {
        "grain": "hour",
        "columns": {"period": "at", "workspace_id": "ws", "amount": "usd", "currency": "'USD'"},
    }
    lines = our(spark, *(("w-h", {"tokens": 1_000_000, "hours": h}) for h in range(4)))
    rows = [("2026-04-08T00", "0.138"), ("2026-04-08T01", "0.1"), ("2026-04-07T18:30:00Z", "0.176")]
    frame = spark.createDataFrame([(at, "w-h", usd_) for at, usd_ in rows], "at string, ws string, usd string")
    found = reconcile(lines, provider_bill(frame, BillMapping.of(mapping)), prices=usd, grain="hour").collect()
    assert sorted((row["period_start"].hour, row["cause"], row["difference"]) for row in found) == [
        (17, "timing", Decimal("-0.038")),  # 01:00 in UTC+8
        (18, "timing", Decimal("0.038")),
        (19, "missing_at_provider", Decimal("-0.138")),
    ]


NEXT_DAY = {"day": "2026-04-09"}
DEARER = {"code": "qwen_input_128K-256K"}
UNPRICED = {
    # with no model the list has no price for what the provider bills alone: the provider's rows, and the differences
    "another amount a day later": ([("1000", "500.00", NEXT_DAY)],
                                   [("missing_at_provider", "-0.138"), ("missing_in_usage", "500")]),
    "the amount a day later": ([("1000", "0.138", NEXT_DAY)], [("timing", "-0.138"), ("timing", "0.138")]),
    "less than 10^-10 off": ([("1000", "0.13800000009", NEXT_DAY)],
                             [("timing", "-0.138"), ("timing", "0.13800000009")]),
    "10^-10 off": ([("1000", "0.1380000001", NEXT_DAY)],
                   [("missing_at_provider", "-0.138"), ("missing_in_usage", "0.1380000001")]),
    "two rows, so less than 2 x 10^-10 off": (
        [("400", "0.0552", NEXT_DAY), ("600", "0.0828000001", NEXT_DAY)],
        [("timing", "-0.138"), ("timing", "0.1380000001")],
    ),
    # 900,000 of ours are 0.1242
    "another amount for a part": ([("900", "0.1242"), ("100", "500", NEXT_DAY)],
                                  [("missing_in_usage", "500"), ("quantity_differs", "-0.0138")]),
    "another amount in another tier": ([("1000", "500.00", DEARER)],
                                       [("missing_at_provider", "-0.138"), ("missing_in_usage", "500")]),
    "the amount in another tier": ([("1000", "0.138", DEARER)],
                                   [("tier_differs", "-0.138"), ("tier_differs", "0.138")]),
}  # fmt: skip


@pytest.mark.campaign
@pytest.mark.parametrize("without", ["model", None])
def test_equal_tokens_of_unknown_price_need_equal_amounts(spark, usd, without):
    """In a comparison without models, and (None) for a model that the list does not have."""
    model = "qwen-plus" if without else "qwen-own"
    mapping = {**MAPPING, "items": {code: {**item, "model": model} for code, item in MAPPING["items"].items()},
               "without": [without] if without else []}  # fmt: skip
    lines = our(spark, *((name, MILLION) for name in UNPRICED)).withColumn("model", F.lit(model))
    provider = theirs(spark, *((name, *row) for name, (rows, _) in UNPRICED.items() for row in rows), mapping=mapping)
    found = {name: [] for name in UNPRICED}
    for row in reconcile(lines, provider, prices=usd, grain="day").collect():
        found[row["workspace_id"]].append((row["cause"], row["difference"]))
    for name, (_, expected) in UNPRICED.items():
        assert sorted(found[name]) == sorted((cause, Decimal(amount)) for cause, amount in expected), name


@pytest.mark.campaign
def test_tolerated_tokens(spark, usd):
    lines, provider = our(spark, ("w-a", {"tokens": 1_000_400})), theirs(spark, ("w-a", "1000", "0.138"))
    for tolerance, cause in ((0, "quantity_differs"), (400, "rounding")):
        (row,) = reconcile(lines, provider, prices=usd, grain="day", tokens_tolerance=tolerance).collect()
        assert (row["cause"], row["difference"]) == (cause, Decimal("-0.0000552"))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"code": "qwen_max"}, "the item code qwen_max is neither in items nor in ignore_items"),
        ({"unit": "calls"}, "the unit calls is not in units"),
        ({"day": "2026-04"}, "the period is 2026-04, not a UTC.8 day"),
        ({"day": "2026-02-30"}, "the period is 2026-02-30"),
        ({"currency": None}, "no currency"),
        ({"price": "free"}, "the price is free, not a plain number"),
    ],
)
def test_rows_that_do_not_fit_are_refused(spark, row, words):
    with pytest.raises(ProviderBillError, match=words):
        theirs(spark, ("w-a", "1000", "0.138"), ("w-a", "1", "0.1", row))


@pytest.mark.parametrize(
    ("workspace", "usage", "amount", "words"),
    [
        (None, "1000", "0.138", "no workspace_id"),
        ("w-a", "0.0005", "0.1", "no whole number of tokens"),
        ("w-a", "1", None, "the amount is nothing"),
        ("w-a", "1", "1,000.5", "the amount is 1,000.5"),
        ("w-a", "1", "1E-7", "the amount is 1E-7"),
        ("w-a", "1", "0.1234567890123", "more than 12 decimals"),
    ],
)
def test_figures_that_do_not_fit_are_refused(spark, workspace, usage, amount, words):
    with pytest.raises(ProviderBillError, match=words):
        theirs(spark, (workspace, usage, amount))


def test_items_of_other_products_are_left_out(spark):
    assert theirs(spark, ("w-a", "12", "3.5", {"code": "spark_cu", "unit": "CU"})).count() == 0


def test_items_of_other_products_are_left_out_where_columns_tell_the_model(spark):
    columns = {"model": "'qwen-plus'", "token_type": "'input'"}
    mapping = {**{name: value for name, value in MAPPING.items() if name != "items"}, "columns": columns}
    rows = [("w-a", "1000", "0.138"), ("w-b", "12", "3.5", {"code": "spark_cu", "unit": "CU"}),
            ("w-c", "500", "0.069", {"code": None})]  # fmt: skip
    found = theirs(spark, *rows, mapping=mapping).orderBy("workspace_id").collect()
    assert [(row["workspace_id"], row["model"], row["tokens"], row["amount"]) for row in found] == [
        ("w-a", "qwen-plus", 1_000_000, Decimal("0.138")),
        ("w-c", "qwen-plus", 500_000, Decimal("0.069")),
    ]
    table = {"grain": "day", "columns": {"period": "day", "amount": "usd", "currency": "'USD'"}}
    with pytest.raises(ProviderBillError, match="columns: item is missing: the column with the codes of ignore_items"):
        BillMapping.of({**table, "ignore_items": ["spark_cu"]})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"grain": "week"}, "grain is 'week'"),
        ({"grian": "day"}, "unknown key 'grian'"),
        ({"layout": "excel"}, "layout is 'excel'"),
        ({"layout": ["focus"]}, "layout is ..focus"),
        ({"columns": {"cost": "x"}}, "unknown column 'cost'"),
        ({"items": {}}, "items is missing"),
        ({"items": {"a": {"model": "m"}, "b": {"tier": "t"}}}, "each must tell the same"),
        ({"items": {"a": {"token_type": "in"}}}, "not input or output"),
        ({"units": {"1K": 1024}}, "1K is 1024 tokens"),
        ({"units": {"1K": True}}, "1K is True tokens"),
        ({"without": ["amount"]}, "without may name"),
        ({"without": 5}, "without may name"),
        ({"ignore_items": "a"}, "ignore_items is no list"),
        ({"ignore_items": 5}, "ignore_items is no list"),
        ({"ignore_items": {"a": 1}}, "ignore_items is no list"),
        ({"columns": {"model": "ProductName"}}, "leave one of them out"),
    ],
)
def test_mappings_that_do_not_fit(change, words):
    with pytest.raises(ProviderBillError, match=words):
        BillMapping.of({**MAPPING, **change})


def test_other_currencies_are_never_compared(spark, usd):
    with pytest.raises(ProviderBillError, match="never converted"):
        reconcile(our(spark, ("w-a", MILLION)), theirs(spark, ("w-a", "1000", "0.138", {"currency": "CNY"})),
                  prices=usd, grain="day")  # fmt: skip


def test_json_pages_lists_and_lines(spark, tmp_path):
    """As the API gives it, as a list, one after the other: always every row, and no amount through a float."""
    item = {"InstanceID": "w-a", "PretaxGrossAmount": 12345678.1234567891, "Usage": "1"}
    number = '{"InstanceID": "w-a", "PretaxGrossAmount": 12345678.1234567891, "Usage": 1}'
    pages = [
        json.dumps({"Data": {"BillingCycle": "2026-04", "Items": [item, item]}}).replace("12345678.12345679", "1.5"),
        f"[{number}, {number}]",
        f"{number}\n{number}\n",
        json.dumps(json.loads(number), indent=2).replace("12345678.12345679", "12345678.1234567891") * 2,
    ]
    for at, text in enumerate(pages):
        (tmp_path / f"{at}.json").write_text(text)
        rows = read_bill(spark, str(tmp_path / f"{at}.json")).collect()
        assert len(rows) == 2
        assert rows[1]["PretaxGrossAmount"] == ("1.5" if at == 0 else "12345678.1234567891")
    assert read_bill(spark, str(tmp_path / "0.json")).first()["BillingCycle"] == "2026-04"
    (tmp_path / "bad.json").write_text('{"a": 1')
    for path, words in ((tmp_path / "bad.json", "is not JSON"), (tmp_path / "none.csv", "cannot read")):
        with pytest.raises(ProviderBillError, match=words):
            read_bill(spark, str(path))


def pages(folder, *pages, cycle="2026-04"):
    """Pages of DescribeInstanceBill, one in a file: (TotalCount, the days of its rows, and the amount of the first)."""
    folder.mkdir()
    for number, (total, days, amount) in enumerate(pages):
        items = [{"BillingDate": day, "PretaxGrossAmount": str(amount + at)} for at, day in enumerate(days)]
        data = {"BillingCycle": cycle, "TotalCount": total, "Items": items}
        (folder / f"page-{number}.json").write_text(json.dumps({"Data": data}))
    return f"{folder}/*.json"


def test_every_page_is_there_once(spark, tmp_path):
    def count(*given):
        return read_bill(spark, pages(tmp_path / str(len(list(tmp_path.iterdir()))), *given)).count()

    day, other = "2026-04-08", "2026-04-09"
    assert count((3, [day, other], 1), (3, [other], 7)) == 3
    assert count((3, [day], 1), (3, [day], 2), ("3", [other], 7)) == 3
    assert count((None, [day, day], 1), (None, [day], 7)) == 3
    assert count((5, [day, other], 1), (4, [other], 7)) == 3  # two queries, of which nothing is known
    assert count((2, [day, day], 1), (2, [other, other], 7)) == 4  # asked for day by day
    assert count((3, [day, day], 1), (3, [day], 7), (1, [other], 9), (0, [], 0)) == 4
    for given, words in (
        ([(3, [day, other], 1)], "has 2 rows of 2026-04-08, but TotalCount in its pages is 3"),
        ([(5, [day, other], 1), (5, [other, other], 7)], "has 4 rows of 2026-04-08, but TotalCount in its pages is 5"),
        ([(4, [day, day], 1), (1, [other], 7)], "has 2 rows of 2026-04-08, but TotalCount in its pages is 4"),
        ([(1, [day, day], 1)], "has 2 rows of 2026-04-08, but TotalCount in its pages is 1"),
        ([(4, [day], 1), (4, [other, other], 7), (4, [day], 1)], "same page twice: .*page-[02].json and .*page-[02]"),
        ([(None, [day], 1), (None, [other], 7), (None, [day], 1)], "same page twice: .*page-[02].json and .*page-[02]"),
    ):
        with pytest.raises(ProviderBillError, match=words):
            count(*given)


def test_pages_in_one_file(spark, tmp_path):
    """Each month has its own TotalCount, two months may have the same row, and rows that are the same are two rows."""
    item = {"InstanceID": "w-a", "PretaxGrossAmount": "0.138"}

    def page(cycle, items):
        return json.dumps({"Data": {"BillingCycle": cycle, "TotalCount": 2, "Items": items}})

    bill = tmp_path / "bill.json"
    bill.write_text(page("2026-04", {"Item": [item, item]}) + page("2026-05", {"Item": [item, item]}))
    assert [row["BillingCycle"] for row in read_bill(spark, str(bill)).collect()] == ["2026-04"] * 2 + ["2026-05"] * 2
    bill.write_text(page("2026-04", [item, item]) + page("2026-04", {"Item": None}))
    assert read_bill(spark, str(bill)).count() == 2
    bill.write_text(page("2026-04", [item]) + page("2026-05", [item, item]) + page("2026-04", [item]))
    with pytest.raises(ProviderBillError, match=r"twice: .*bill\.json and .*bill\.json \(its document 3\)"):
        read_bill(spark, str(bill))
    bill.write_text(page("2026-04", [item]))
    with pytest.raises(ProviderBillError, match="has 1 rows of 2026-04, but TotalCount in its pages is 2"):
        read_bill(spark, str(bill))
    for items, words in (({"Item": None}, "has no row"), (None, "has no row"), ({"Item": 5}, "has 5 where a row")):
        bill.write_text(json.dumps({"Data": {"Items": items}}))
        with pytest.raises(ProviderBillError, match=words):
            read_bill(spark, str(bill))


ROW = {"BillingDate": "2026-04-08", "InstanceID": "w-a", "PretaxGrossAmount": "0.138"}
OTHER_ROW = {**ROW, "BillingDate": "2026-04-09"}
CSV_HEAD = "BillingDate,InstanceID,PretaxGrossAmount\n"


@pytest.mark.parametrize(
    ("ending", "day", "month"),
    [
        ("json", json.dumps([ROW, ROW]), json.dumps([OTHER_ROW, ROW])),
        ("json", json.dumps({"Data": {"Items": [ROW]}}), json.dumps({"Data": {"Items": [ROW, OTHER_ROW]}})),
        ("jsonl", json.dumps(ROW), f"{json.dumps(OTHER_ROW)}\n{json.dumps(ROW)}\n"),
        ("csv", f"{CSV_HEAD}2026-04-08,w-a,0.138\n", f"{CSV_HEAD}2026-04-09,w-a,0.138\n2026-04-08,w-a,0.138\n"),
    ],
)
def test_a_row_is_in_one_file(spark, tmp_path, ending, day, month):
    """The bill of a day beside that of its month would bill the day twice. Alone each is fine, also with equal rows."""
    for name, text in (("day", day), ("month", month)):
        (tmp_path / f"{name}.{ending}").write_text(text)
        assert read_bill(spark, str(tmp_path / f"{name}.{ending}")).count()
    with pytest.raises(ProviderBillError, match=rf"1 rows in two files.*day\.{ending} and .*month\.{ending}.*w-a"):
        read_bill(spark, f"{tmp_path}/*.{ending}")


def test_a_row_is_in_one_file_of_parquet(spark, tmp_path):
    rows = spark.createDataFrame([("w-a", Decimal("0.138"))], "InstanceID string, PretaxGrossAmount decimal(28,10)")
    for folder in ("april", "may"):
        rows.write.parquet(str(tmp_path / "bill" / f"part={folder}"))
        assert read_bill(spark, str(tmp_path / "bill")).count() == (1 if folder == "april" else 2)  # of two months
        rows.write.mode("append").parquet(str(tmp_path / "one"))
    with pytest.raises(ProviderBillError, match="1 rows in two files"):
        read_bill(spark, str(tmp_path / "one"))


@pytest.mark.campaign
@pytest.mark.parametrize("workspace", ["cn-hangzhou", "China (Hangzhou)", "eu-central-1"])
def test_a_region_is_no_workspace(spark, workspace):
    with pytest.raises(ProviderBillError, match=r"is a region.*the mapping of workspaces does not know it"):
        theirs(spark, (workspace, "1000", "0.138"))
    mapped = {**MAPPING, "workspaces": {workspace: "w-a"}}
    assert theirs(spark, (workspace, "1000", "0.138"), mapping=mapped).first()["workspace_id"] == "w-a"
    together = {**MAPPING, "without": ["workspace_id"]}
    assert "workspace_id" not in theirs(spark, (workspace, "1000", "0.138"), mapping=together).columns


def test_no_amount_comes_through_a_float(spark):
    frame = spark.createDataFrame([("2026-04-08", 0.1, "USD")], "period string, amount double, currency string")
    mapping = {"grain": "day", "columns": {"period": "period", "amount": "amount", "currency": "currency"}}
    with pytest.raises(ProviderBillError, match=r"amount .* is double"):
        provider_bill(frame, BillMapping.of(mapping))
    mapping["columns"]["amount"] = "cast(amount as decimal(28,10))"
    assert provider_bill(frame, BillMapping.of(mapping)).first()["amount"] == Decimal("0.1")


@pytest.mark.campaign
def test_a_bill_in_focus(spark, usd):
    """Our own export, which is what a provider's would be like, is our bill; with one price changed it is not."""
    mapping = BillMapping.of(
        {
            "layout": "focus",
            "grain": "hour",
            "columns": {"model": "x_Model", "token_type": "x_TokenType", "tier": "x_Tier"},
            "units": {"Tokens": 1},
        }
    )
    ours = our(spark, ("w-a", MILLION), ("w-a", {"tokens": 300_000, "tier": "128K-256K", "hours": 5}))
    ledger = ours.selectExpr("*", "'original' AS entry", "string(null) AS reason", "1L AS run",
                             "period_end AS run_at", "'r' AS run_id")  # fmt: skip
    focus = to_focus(ledger, billing_account_id="1")
    assert reconcile(ours, provider_bill(focus, mapping), prices=usd, grain="hour").count() == 0
    dearer = focus.withColumns({name: F.expr(f"{name} * 2") for name in ("ListCost", "ListUnitPrice")})
    rows = reconcile(ours, provider_bill(dearer, mapping), prices=usd, grain="hour").collect()
    assert sorted((row["tier"], row["cause"], row["difference"], row["provider_price_per_1k"]) for row in rows) == [
        ("0-128K", "price_differs", Decimal("0.138"), Decimal("0.000276")),
        ("128K-256K", "price_differs", Decimal("0.1242"), Decimal("0.000828")),
    ]


@pytest.mark.classic
def test_the_job(spark, write, bill, tmp_path, capsys):
    """Two calls of 260 and 50 tokens, on one UTC+8 day; the provider has one of them in dearer hands."""
    assert bill(write([call(1), call(2, workspace_id="w-2")]))[0] == 0
    mapping = json.dumps({**MAPPING, "units": {"tokens": 1}})
    (tmp_path / "mapping.json").write_text(mapping)

    def rows(workspace, amount="0.00003588"):
        day = {"BillingDate": "2026-04-08", "InstanceID": workspace, "Region": "China (Hangzhou)", "Currency": "USD"}
        yield {**day, "BillingItemCode": "qwen_input_0-128K", "Usage": 260, "UsageUnit": "tokens",
               "PretaxGrossAmount": amount, "InvoiceDiscount": "0.00001"}  # fmt: skip
        yield {**day, "BillingItemCode": "qwen_output_0-128K", "Usage": 50, "UsageUnit": "tokens",
               "PretaxGrossAmount": "0.0000172"}  # fmt: skip

    def reconciled(bill, *more):
        (tmp_path / "bill.json").write_text(json.dumps({"Data": {"Items": bill}}))
        arguments = ["--output", str(tmp_path / "out"), "--provider", str(tmp_path / "bill.json"), *more]
        code = reconcile_bill([*arguments, "--mapping", str(tmp_path / "mapping.json")])
        said = capsys.readouterr()
        return code, said.out, said.err

    month = ("--month", "2026-04")
    code, out, _ = reconciled([*rows("w-1"), *rows("w-2")], *month)
    assert (code, "No difference." in out) == (0, True)
    assert "to pay" in out
    assert "0.00008616" in out  # 0.00010616 - 2 x 0.00001
    outside = {**next(rows("w-1")), "BillingDate": "2026-05-01"}
    written = ("--differences", str(tmp_path / "found"), "--summary", str(tmp_path / "summary.json"))
    code, out, _ = reconciled([*rows("w-1", "0.000039"), outside], *month, *written)
    assert code == 0  # 0.000039 is 260 tokens at 0.00015, and w-2 is missing
    assert "1 rows of the provider's bill (0.00003588) are of other periods" in out
    assert json.loads((tmp_path / "summary.json").read_text()) == {
        "currency": "USD",
        "ours": "0.000106160000",
        "provider": "0.000056200000",
        "difference": "-0.000049960000",
        "causes": [
            {"cause": "missing_at_provider", "rows": 2, "difference": "-0.000053080000"},
            {"cause": "price_differs", "rows": 1, "difference": "0.000003120000"},
        ],
    }
    assert spark.read.parquet(str(tmp_path / "found")).count() == 3
    code, _, err = reconciled(list(rows("w-1")), *month, "--differences", str(tmp_path / "found"))
    assert (code, "is there already" in err) == (2, True)
    odd = [{**next(rows("w-1")), "Usage": 260_000_000, "PretaxGrossAmount": "1.2345678"}]
    code, out, _ = reconciled(odd, *month, "--differences", str(tmp_path / "csv"), "--format", "csv")
    assert (code, "unexplained" in out) == (3, True)
    (part,) = (tmp_path / "csv").glob("part-*.csv")
    assert "2026-04-07T16:00:00Z" in part.read_text()
    for more, words in (
        (("--from", "2026-04-08T01", "--to", "2026-04-09T00"), "is within a day"),
        (("--from", "2026-04-08T00"), "--from needs --to"),
        ((*month, "--to", "2026-04-09T00"), "leave --to out"),
        (("--month", "2026-4"), "is not a UTC"),
    ):
        code, _, err = reconciled(odd, *more)
        assert (code, words in err) == (2, True), err
        assert len(err.splitlines()) == 1
    (tmp_path / "mapping.json").write_text("{")
    assert reconciled(odd, *month)[0] == 2
