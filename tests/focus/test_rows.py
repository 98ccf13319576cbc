"""FOCUS rows: golden rows by hand arithmetic, the checker rule by rule, and the job with its two formats."""

import csv
import json
from datetime import datetime, timedelta, timezone
from decimal import Decimal, localcontext

import pytest
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from spark_billing import UsageError, check_focus, ledger_lines, to_focus
from spark_billing.commands import export_focus as job
from spark_billing.commands.export_focus import export_focus
from spark_billing.commands.hourly_bill import hourly_bill
from spark_billing.core.schemas import LEDGER_LINES
from spark_billing.focus.columns import FOCUS
from spark_billing.focus.rules import row_rules
from tests.conftest import ONE, call, usage_frame

UTC8 = timezone(timedelta(hours=8))
ACCOUNT = "1234567890123456"
TAGS = ("tag_team", 'tag_cost "center"')


def utc(*fields):
    return datetime(*fields, tzinfo=timezone.utc)


def line(hour="2026-04-08T00", **changes):
    """A ledger line: 260 input tokens of one call in Hangzhou, billed two hours after midnight."""
    start = datetime.strptime(hour, "%Y-%m-%dT%H").replace(tzinfo=UTC8)
    return {
        "workspace_id": "w-1",
        "region": "cn-hangzhou",
        "model": "qwen-plus",
        "period_start": start,
        "period_end": start + timedelta(hours=1),
        "billing_date": start.date(),
        "billing_hour": start.hour,
        "token_type": "input",
        "tier": "0-128K",
        "price_id": "qwen-plus/cn-hangzhou/0-128K",
        "currency": "USD",
        "requests": 1,
        "tokens": 260,
        "price_per_1k": Decimal("0.000138000"),
        "amount": Decimal("0.000035880000"),
        "entry": "original",
        "run": 1,
        "run_at": datetime(2026, 4, 8, 2, tzinfo=UTC8),
        "run_id": "a",
        **changes,
    }


OUTPUT = {
    "token_type": "output",
    "tokens": 50,
    "price_per_1k": Decimal("0.000344"),
    "amount": Decimal("0.000017200000"),
}
TAKEN_BACK = {
    "requests": -1,
    "tokens": -260,
    "amount": Decimal("-0.000035880000"),
    "entry": "adjustment",
    "reason": "withdrawn_usage",
}


def frame(spark, lines, tag_columns=()):
    schema = StructType([*LEDGER_LINES.fields, *(StructField(tag, StringType()) for tag in tag_columns)])
    return spark.createDataFrame([tuple(each.get(name) for name in schema.fieldNames()) for each in lines], schema)


def focus(spark, lines, tag_columns=(), **options):
    return to_focus(frame(spark, lines, tag_columns), **{"billing_account_id": ACCOUNT, **options})


GOLDEN = {
    "BilledCost": Decimal("0.000035880000"),  # 0.260 x 0.000138
    "BillingAccountId": ACCOUNT,
    "BillingAccountName": None,
    "BillingCurrency": "USD",
    "BillingPeriodEnd": datetime(2026, 4, 30, 16),  # 2026-05-01T00:00+08:00
    "BillingPeriodStart": datetime(2026, 3, 31, 16),
    "ChargeCategory": "Usage",
    "ChargeClass": None,
    "ChargeDescription": "qwen-plus input tokens, requests of 0-128K, China (Hangzhou): 0.000138 USD per 1000",
    "ChargeFrequency": "Usage-Based",
    "ChargePeriodEnd": datetime(2026, 4, 7, 17),
    "ChargePeriodStart": datetime(2026, 4, 7, 16),
    "CommitmentDiscountStatus": None,
    "ConsumedQuantity": Decimal(260),
    "ConsumedUnit": "Tokens",
    "ContractedCost": Decimal("0.000035880000"),
    "ContractedUnitPrice": Decimal("0.000138000"),
    "EffectiveCost": Decimal("0.000035880000"),
    "InvoiceId": None,
    "InvoiceIssuerName": "Alibaba Cloud",
    "ListCost": Decimal("0.000035880000"),
    "ListUnitPrice": Decimal("0.000138000"),
    "PricingCategory": "Standard",
    "PricingCurrency": "USD",
    "PricingCurrencyContractedUnitPrice": Decimal("0.000138000"),
    "PricingCurrencyEffectiveCost": Decimal("0.000035880000"),
    "PricingCurrencyListUnitPrice": Decimal("0.000138000"),
    "PricingQuantity": Decimal("0.260"),
    "PricingUnit": "1000 Tokens",
    "ProviderName": "Alibaba Cloud",
    "PublisherName": "Alibaba Cloud",
    "RegionId": "cn-hangzhou",
    "RegionName": "China (Hangzhou)",
    "ResourceId": "w-1",
    "ResourceName": None,
    "ResourceType": "Workspace",
    "ServiceCategory": "AI and Machine Learning",
    "ServiceName": "EMR Serverless Spark AI Center",
    "ServiceSubcategory": "Generative AI",
    "SkuId": "qwen-plus/input",
    "SkuMeter": "Input Tokens",
    "SkuPriceDetails": '{"x_Model":"qwen-plus","x_TokenType":"input","x_InputTokensPerRequest":"0-128K"}',
    "SkuPriceId": "qwen-plus/cn-hangzhou/0-128K/input",
    "SubAccountId": "w-1",
    "SubAccountName": "w-1",
    "Tags": '{"team":"red","cost \\"center\\"":"=1+1"}',
    "x_BillingHour": "2026-04-08T00",
    "x_Entry": "original",
    "x_Ledger": None,
    "x_Model": "qwen-plus",
    "x_Reason": None,
    "x_Requests": 1,
    "x_Run": 1,
    "x_Tier": "0-128K",
    "x_TokenType": "input",
}


def test_a_golden_row(spark, session_zone):
    tagged = line(**dict(zip(TAGS, ("red", "=1+1"))))
    (row,) = focus(spark, [tagged], TAGS).collect()
    assert row.asDict() == GOLDEN
    assert list(row.asDict()) == list(GOLDEN)

    options = {"invoice_ids": {"2026-04": "I-4"}, "invoice_detail_ids": {"2026-04": "7"}, "version": "1.4"}
    names = {"billing_account_name": "Lab", "invoice_issuer": "Reseller", "region_names": {"cn-hangzhou": "Hangzhou"}}
    (newer,) = focus(spark, [tagged], TAGS, **options, **names, tags={"team": "Team"}).collect()
    changed = {
        "BillingAccountName": "Lab",
        "ChargeDescription": "qwen-plus input tokens, requests of 0-128K, Hangzhou: 0.000138 USD per 1000",
        "HostProviderName": "Alibaba Cloud",
        "InvoiceDetailId": "7",
        "InvoiceId": "I-4",
        "InvoiceIssuerName": "Reseller",
        "RegionName": "Hangzhou",
        "ServiceProviderName": "Alibaba Cloud",
        "Tags": '{"Team":"red","cost \\"center\\"":"=1+1"}',
    }
    gone = ("ProviderName", "PublisherName")
    assert newer.asDict() == {k: v for k, v in {**GOLDEN, **changed}.items() if k not in gone}


def test_months_corrections_and_odd_lines(spark, ansi):
    may_10, may_2 = datetime(2026, 5, 10, tzinfo=UTC8), datetime(2026, 5, 2, tzinfo=UTC8)
    free = {"price_per_1k": Decimal(0), "amount": Decimal(0)}
    most = {"tokens": 2**63 - 1, "price_per_1k": Decimal("999999999.999999999")}
    most["amount"] = Decimal(f"{(2**63 - 1) * (10**18 - 1)}e-12")
    lines = [
        line("2026-03-31T23", run=1, run_at=may_10, **free),  # the last hour of March, first billed in May
        line("2026-04-01T00", run=2, **OUTPUT, workspace_id="w-0"),
        line("2026-04-30T23", run=3, token_type="output", tokens=0, amount=Decimal(0)),
        line(run=4, run_at=datetime(2026, 4, 20, tzinfo=UTC8), **TAKEN_BACK),
        line(run=5, run_at=may_2, **TAKEN_BACK),
        line(run=6, run_at=may_10, **TAKEN_BACK),
        line("2026-05-01T00", run=7, run_at=may_10, region="moon", **most),
    ]
    march, april, may = (datetime(2026, m, d, 16) for m, d in ((2, 28), (3, 31), (4, 30)))

    def found(closed, checked=False):
        made = focus(spark, lines, closed_months=closed, invoice_ids={"2026-05": "I-5"})
        assert not checked or check_focus(made) == []
        rows = {r["x_Run"]: r for r in made.collect()}
        assert all((r["InvoiceId"] == "I-5") == (r["BillingPeriodStart"] == may) for r in rows.values())
        return rows, {run: (r["BillingPeriodStart"], r["ChargeClass"]) for run, r in rows.items()}

    open_months = {1: march, 2: april, 3: april, 4: april, 5: april, 6: april, 7: may}
    rows, months = found(())
    assert months == {run: (month, None) for run, month in open_months.items()}
    # closed on 3 May: only what was added after that, be it an adjustment or not
    closed = {run: (month, None) for run, month in open_months.items()}
    closed.update({1: (may, "Correction"), 6: (may, "Correction")})
    closings = {"2026-04": "2026-05-03T00:00+08:00", "2026-03": "2026-04-03T00:00Z"}
    assert found(closings, checked=True)[1] == closed
    # closed at an unknown time: the adjustments after the end of the month
    ended = {**closed, 1: (march, None), 5: (may, "Correction")}
    assert found(["2026-03", "2026-04"])[1] == ended

    assert (rows[1]["ListUnitPrice"], rows[1]["BilledCost"], rows[1]["ConsumedQuantity"]) == (0, 0, 260)
    assert rows[1]["ChargeDescription"].endswith("China (Hangzhou): 0 USD per 1000")
    assert (rows[2]["PricingQuantity"], rows[2]["BilledCost"]) == (Decimal("0.050"), Decimal("0.0000172"))
    assert (rows[3]["PricingQuantity"], rows[3]["BilledCost"], rows[3]["x_Requests"]) == (0, 0, 1)
    assert (rows[6]["PricingQuantity"], rows[6]["BilledCost"]) == (Decimal("-0.260"), Decimal("-0.00003588"))
    assert rows[6]["ChargeDescription"].endswith("0.000138 USD per 1000 (withdrawn usage)")
    assert rows[7]["PricingQuantity"] == Decimal("9223372036854775.807")
    assert (rows[7]["RegionName"], rows[7]["BilledCost"]) == ("moon", most["amount"])
    with localcontext() as context:
        context.prec = 50
        assert sum(r["BilledCost"] for r in rows.values()) == sum(each["amount"] for each in lines)
    assert rows[1]["Tags"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"version": "1.3"}, "1.3"),
        ({"billing_account_id": ""}, "empty"),
        ({"closed_months": ["2026-4"]}, "is not a UTC.8 month"),
        ({"closed_months": "2026-04"}, "list of months"),
        ({"closed_months": {"2026-04": "2026-04-30T23:59+08:00"}}, "before it ended.* 2026-05-01T00:00:00.08:00"),
        ({"closed_months": {"2026-04": "2026-05-03"}}, "offset"),
        ({"invoice_ids": {"April": "I"}}, "is not a UTC.8 month"),
        ({"invoice_ids": {"2026-04": ""}}, "empty"),
        ({"invoice_ids": {"2026-04": "I", "2026-05": "I"}}, "another invoice"),
        ({"invoice_ids": {"2026-04": "I"}, "version": "1.4"}, "invoice detail id"),
        ({"invoice_detail_ids": {"2026-04": "I"}}, "1.2 has no"),
        ({"tags": {"job": "Job"}}, "no tag job"),
        ({"tags": {"team": 'cost "center"'}}, "same name"),
    ],
)
def test_options_that_do_not_fit(spark, options, words):
    with pytest.raises(UsageError, match=words):
        focus(spark, [line()], TAGS, **options)


def test_lines_without_their_run_are_refused(spark):
    with pytest.raises(UsageError, match="run_at"):
        to_focus(frame(spark, [line()]).drop("run_at"), billing_account_id=ACCOUNT)
    with pytest.raises(UsageError, match=r"1\.3"):
        check_focus(focus(spark, [line()]), "1.3")


# --- the checker: every rule is broken by a row of its own

AWARE = {name: v.replace(tzinfo=timezone.utc) for name, v in GOLDEN.items() if isinstance(v, datetime)}
GOOD = {**GOLDEN, **AWARE, "InvoiceId": "I-4"}
CORRECTION = {
    "ChargeClass": "Correction",
    "BillingPeriodStart": utc(2026, 4, 30, 16),
    "BillingPeriodEnd": utc(2026, 5, 31, 16),
    "InvoiceId": "I-5",
}
COSTS = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost")
PRICES = ("ContractedUnitPrice", "ListUnitPrice")
TAGS_RULE = "Tags is a JSON object of text, each key once"
HOUR_LATER = "ChargePeriodEnd is an hour later"
IN_PERIOD = "a charge that is no Correction lies in its billing period"
MONTH_START, MONTH_AFTER = (
    "BillingPeriodStart is the start of a month in UTC+8",
    "BillingPeriodEnd is the start of the month after",
)
OF_PRICES = ("ListUnitPrice x PricingQuantity is ListCost", "ContractedUnitPrice x PricingQuantity is ContractedCost")
QUANTITY = "ConsumedQuantity is 1000 x PricingQuantity"
NOT_NULL = [
    *("BillingAccountId", "ChargeCategory", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd"),
    *("ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit", "ContractedUnitPrice", "InvoiceIssuerName"),
    *("ListUnitPrice", "PricingCategory", "PricingCurrency", "PricingQuantity", "PricingUnit", "ProviderName"),
    *("PublisherName", "ServiceCategory", "ServiceName", "ServiceSubcategory", *COSTS),
    *("PricingCurrencyContractedUnitPrice", "PricingCurrencyEffectiveCost", "PricingCurrencyListUnitPrice"),
    *("BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "SkuId", "SkuPriceId"),
]
ALSO_BROKEN = {
    "SkuId": ["SkuMeter is null where SkuId is"],
    "SkuPriceId": ["SkuPriceDetails is null where SkuPriceId is"],
}
OF_ITS_OWN = {"SkuId": {"SkuPriceId": "of no SKU"}, "BillingPeriodStart": {"InvoiceId": None}}
# what is changed in a good row, and what that breaks
CASES = [
    ({}, []),
    (CORRECTION, []),
    ({"Tags": None, "SkuPriceDetails": None, "SkuPriceId": "other"}, []),
    ({"RegionId": None, "RegionName": None, "ResourceId": None, "ResourceType": None}, []),
    *(
        ({name: None, **OF_ITS_OWN.get(name, {})}, [f"{name} is not null", *ALSO_BROKEN.get(name, [])])
        for name in NOT_NULL
    ),
    ({"ChargeCategory": "Adjustment"}, ["ChargeCategory is 'Usage'"]),
    ({"ChargeFrequency": "Recurring"}, ["ChargeFrequency is 'Usage-Based'"]),
    ({"ConsumedUnit": "Token"}, ["ConsumedUnit is 'Tokens'"]),
    ({"PricingCategory": "Committed"}, ["PricingCategory is 'Standard'"]),
    ({"PricingUnit": "1K Tokens"}, ["PricingUnit is '1000 Tokens'"]),
    ({"ServiceCategory": "Analytics"}, ["ServiceCategory is 'AI and Machine Learning'"]),
    ({"ServiceSubcategory": "Bots"}, ["ServiceSubcategory is 'Generative AI'"]),
    ({**CORRECTION, "ChargeClass": "correction"}, ["ChargeClass is null or 'Correction'"]),
    ({"CommitmentDiscountStatus": "Used"}, ["CommitmentDiscountStatus is null"]),
    ({"RegionName": None}, ["RegionName is null where RegionId is"]),
    ({"SubAccountName": None}, ["SubAccountName is null where SubAccountId is"]),
    ({"ResourceType": None}, ["ResourceType is null where ResourceId is"]),
    ({"ResourceId": None, "ResourceName": "n", "ResourceType": None}, ["ResourceName is null where ResourceId is"]),
    ({"RegionName": ""}, ["no column of FOCUS holds empty text"]),
    ({"Tags": ""}, ["no column of FOCUS holds empty text", TAGS_RULE]),
    *(
        ({name: "usd"}, [f"{name} is a code of three letters", "PricingCurrency is BillingCurrency"])
        for name in ("BillingCurrency", "PricingCurrency")
    ),
    ({"PricingCurrency": "CNY"}, ["PricingCurrency is BillingCurrency"]),
    # one unit in the last place, which the official validator's tolerance lets pass
    ({"ListCost": Decimal("0.000035880001")}, [OF_PRICES[0], "ListCost is ContractedCost"]),
    ({"BilledCost": Decimal("0.000035880001")}, ["BilledCost is ContractedCost"]),
    (
        {"EffectiveCost": Decimal("0.000035879999")},
        ["EffectiveCost is ContractedCost", "PricingCurrencyEffectiveCost is EffectiveCost"],
    ),
    (
        {"ContractedCost": Decimal("0.00003589")},
        [OF_PRICES[1], *(f"{name} is ContractedCost" for name in ("ListCost", "EffectiveCost", "BilledCost"))],
    ),
    (
        {"ListUnitPrice": Decimal("0.000138001")},
        [OF_PRICES[0], "PricingCurrencyListUnitPrice is ListUnitPrice"],
    ),
    (
        {"PricingCurrencyContractedUnitPrice": Decimal(0)},
        ["PricingCurrencyContractedUnitPrice is ContractedUnitPrice"],
    ),
    ({"PricingQuantity": Decimal("0.261")}, [*OF_PRICES, QUANTITY]),
    ({"ConsumedQuantity": Decimal(26)}, [QUANTITY]),
    (
        {
            **dict.fromkeys((*PRICES, *(f"PricingCurrency{name}" for name in PRICES)), Decimal("-0.000138")),
            "PricingQuantity": Decimal("-0.260"),
            "ConsumedQuantity": Decimal(-260),
        },
        [f"{name} is not negative" for name in PRICES],
    ),
    *(({"Tags": tags}, [TAGS_RULE]) for tags in ("{", "[]", '"a"', '{"a":1}', '{"a":{}}', '{"a":"b","a":"c"}')),
    (
        {"BillingPeriodStart": utc(2026, 4, 1), "BillingPeriodEnd": utc(2026, 5, 1), "InvoiceId": None},
        [MONTH_START, MONTH_AFTER],
    ),
    ({"BillingPeriodStart": utc(2026, 4, 1, 16), "InvoiceId": None}, [MONTH_START, MONTH_AFTER]),
    ({"BillingPeriodEnd": utc(2026, 4, 30, 16, 0, 0, 1)}, [MONTH_AFTER]),
    ({"ChargePeriodEnd": utc(2026, 4, 7, 18)}, [HOUR_LATER]),
    (
        {"ChargePeriodStart": utc(2026, 4, 7, 16, 30), "ChargePeriodEnd": utc(2026, 4, 7, 17, 30)},
        ["ChargePeriodStart is the start of an hour"],
    ),
    ({"ChargePeriodStart": utc(2026, 3, 31, 15), "ChargePeriodEnd": utc(2026, 3, 31, 16)}, [IN_PERIOD]),
    ({"ChargePeriodStart": utc(2026, 4, 30, 16), "ChargePeriodEnd": utc(2026, 4, 30, 17)}, [IN_PERIOD]),
    ({"ChargeClass": "Correction"}, ["a Correction is of a month before its billing period"]),
]


def numbered(number, changes):
    """A row whose workspace is the number of its case."""
    name = f"case-{number:03}"
    return {**GOOD, "SubAccountId": name, "SubAccountName": name, **changes}


def broken_rules(spark, rows, schema):
    made = spark.createDataFrame([tuple(row[name] for name in schema.fieldNames()) for row in rows], schema)
    return {broken.rule: broken for broken in check_focus(made)}


def test_every_rule_is_broken_by_a_row_of_its_own(spark):
    found = broken_rules(spark, [numbered(i, changes) for i, (changes, _) in enumerate(CASES)], FOCUS["1.2"])
    expected = {}
    for i, (_, rules) in enumerate(CASES):
        for rule in rules:
            expected.setdefault(rule, []).append(f"case-{i:03}")
    assert set(expected) == {rule.name for rule in row_rules("1.2")}
    assert {rule: broken.count for rule, broken in found.items()} == {rule: len(ids) for rule, ids in expected.items()}
    for rule, ids in expected.items():
        assert found[rule].example.split(" ")[0] == min(ids), rule
    assert found["ChargeCategory is 'Usage'"].example.endswith(
        " 2026-04-07T16:00:00Z qwen-plus/cn-hangzhou/0-128K/input"
    )


def test_what_rows_must_have_in_common(spark):
    other = {"SkuPriceId": "p", "SkuId": "s", "SkuMeter": "m", "InvoiceId": None}
    rows = [
        GOOD,
        {**GOOD, **CORRECTION, "InvoiceId": "I-4"},  # a correction on the invoice that it corrects
        {**GOOD, **other},
        {**GOOD, **other, "SkuPriceDetails": None},
        {**GOOD, **other, "SkuId": "t"},
        {**GOOD, **other, "SkuPriceId": "q", "SkuMeter": "n"},
        {**GOOD, "SkuPriceDetails": "no", "SkuPriceId": "c"},
        {**GOOD, "SkuPriceDetails": '{"x_a":"b","x_a":"c"}', "SkuPriceId": "d"},
        {**GOOD, "SkuPriceDetails": '{"Model":"m"}', "SkuPriceId": "e"},
    ]
    found = broken_rules(spark, rows, FOCUS["1.2"])
    assert {rule: (broken.count, broken.example) for rule, broken in found.items()} == {
        "each SkuPriceId has one SkuId": (3, "p"),
        "each SkuPriceId has one SkuPriceDetails": (3, "p"),
        "each SkuId has one SkuMeter": (3, "s"),
        "each InvoiceId has one BillingPeriodStart": (5, "I-4"),
        "SkuPriceDetails is a JSON object of text, each key once": (2, "c"),
        "the keys of SkuPriceDetails begin with x_": (1, "e"),
    }


def as_text(row):
    """A row as the text that stands in CSV."""
    shown = {name: f"{value:%Y-%m-%dT%H:%M:%SZ}" for name, value in row.items() if isinstance(value, datetime)}
    return {name: shown.get(name, None if value is None else str(value)) for name, value in row.items()}


def test_the_checker_reads_text(spark, ansi):
    schema = StructType([StructField(name, StringType()) for name in GOOD])
    bad = [
        ("ListCost", "3.588E-5", "a plain number"),
        ("ListUnitPrice", "+0.000138", "a plain number"),
        ("PricingQuantity", "0,260", "a plain number"),
        ("BilledCost", "0.0000358800001", "a plain number"),  # a digit more than the column has
        ("ConsumedQuantity", "260.0", "a plain number"),
        ("x_Requests", "one", "a plain number"),
        ("ChargePeriodStart", "2026-04-08T00:00:00+08:00", "a UTC instant with Z"),
        ("BillingPeriodEnd", "2026-13-01T00:00:00Z", "a UTC instant with Z"),
    ]
    good = {**as_text(GOOD), "Tags": None}
    found = broken_rules(spark, [good, *({**good, column: text} for column, text, _ in bad)], schema)
    for column, _, kind in bad:
        assert found[f"the text of {column} is {kind}"].count == 1
        assert column.startswith("x_") or found[f"{column} is not null"].count == 1  # what cannot be read is missing
    assert len(found) == 2 * len(bad) - 1


def test_columns_are_checked_before_rows(spark):
    rows = focus(spark, [line()])

    def found(other, version="1.2"):
        return [(broken.rule, broken.example) for broken in check_focus(other, version)]

    assert found(rows.drop("Tags", "SkuId")) == [("FOCUS 1.2 has these columns", "SkuId, Tags")]
    assert found(rows, "1.4") == [
        ("FOCUS 1.4 has these columns", "HostProviderName, InvoiceDetailId, ServiceProviderName"),
        ("columns that FOCUS 1.4 does not have begin with x_", "ProviderName, PublisherName"),
    ]
    assert found(rows.withColumn("BilledCost", F.col("BilledCost").cast("double"))) == [
        ("BilledCost is decimal(38,12)", "it is double")
    ]
    assert found(rows.select("Tags", "*")) == [("no column is there twice", "Tags")]
    own = ["x_Run", *(name for name in GOLDEN if name.startswith("x_") and name != "x_Run")]
    assert found(rows.select("x_Run", *(name for name in rows.columns if name != "x_Run"))) == [
        ("the columns that begin with x_ are the last", ", ".join(own))
    ]
    newer = focus(spark, [line()], version="1.4")
    assert found(newer.select([name for name in newer.columns if not name.startswith("x_")]), "1.4") == []
    assert [f.name for f in FOCUS["1.4"].fields] == newer.columns


# --- the job


@pytest.fixture
def export(tmp_path, capsys):
    def export(*arguments, to="focus", output=None):
        ledger = str(output or tmp_path / "out")
        given = ["--output", ledger, "--to", str(tmp_path / to), "--billing-account", ACCOUNT]
        code = export_focus([*given, *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return export


HOSTILE = '=1+1, "x"\r\n \'é '


@pytest.fixture(scope="module")
def ledger(spark, tmp_path_factory):
    """One call of a workspace with a tag, two of one with a name as hostile as can be."""
    path = tmp_path_factory.mktemp("focus")
    calls = [call(1, tags={"team": " red\n"}), *(call(n, workspace_id=HOSTILE) for n in (2, 3))]
    usage_frame(spark, calls, tags=True).write.parquet(str(path / "usage"))
    arguments = ["--usage", str(path / "usage"), "--output", str(path / "out"), "--currency", "USD"]
    assert hourly_bill([*arguments, "--group-by-tag", "team"]) == 0
    return path / "out"


@pytest.mark.classic
def test_parquet(spark, ledger, export, tmp_path):
    (tmp_path / "new" / "focus").mkdir(parents=True)  # empty is as good as new
    code, out, _ = export("--month", "2026-04", "--tag", "team=Team", to="new/focus", output=ledger)
    assert code == 0
    assert "FOCUS 1.2: 4 rows in " in out
    assert "Total: 0.00015924 USD" in out  # 3 x 0.00005308
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["focus"]  # and no draft beside it
    rows = spark.read.parquet(str(tmp_path / "new" / "focus"))
    assert [(f.name, f.dataType) for f in rows.schema.fields] == [(f.name, f.dataType) for f in FOCUS["1.2"].fields]
    found = {(r["SubAccountId"], r["SkuId"]): r.asDict() for r in rows.collect()}
    assert len(found) == 4
    made_from = f"run 1 of {ledger}"
    assert f"\nFrom {made_from}\n" in out
    assert found["w-1", "qwen-plus/input"] == {**GOLDEN, "Tags": '{"Team":" red\\n"}', "x_Ledger": made_from}
    assert found[HOSTILE, "qwen-plus/output"]["PricingQuantity"] == Decimal("0.100")


@pytest.mark.classic
def test_csv(spark, ledger, export, tmp_path):
    assert export("--format", "csv", "--focus-version", "1.4", output=ledger)[0] == 0
    (file,) = (tmp_path / "focus").glob("*.csv")
    with file.open(encoding="utf-8", newline="") as text:
        header, *values = csv.reader(text, strict=True)
    assert header == FOCUS["1.4"].fieldNames()
    written = {(r["SubAccountId"], r["SkuId"]): r for r in (dict(zip(header, row)) for row in values)}
    assert len(written) == len(values) == 4
    row = written["w-1", "qwen-plus/input"]
    assert (row["ListUnitPrice"], row["PricingQuantity"], row["ConsumedQuantity"]) == ("0.000138000", "0.260", "260")
    assert (row["BilledCost"], row["ChargeClass"]) == ("0.000035880000", "")
    assert (row["BillingPeriodStart"], row["ChargePeriodStart"]) == ("2026-03-31T16:00:00Z", "2026-04-07T16:00:00Z")
    assert json.loads(row["Tags"]) == {"team": " red\n"}
    assert written[HOSTILE, "qwen-plus/output"]["Tags"] == ""
    assert sum(Decimal(row["BilledCost"]) for row in written.values()) == 3 * ONE


@pytest.mark.classic
def test_the_job_exports_billing_months(spark, write, bill, export, tmp_path):
    """Calls of January 2020, one of them noticed only now."""
    (tmp_path / "prices.csv").write_text(
        "model,region,min_input_tokens,max_input_tokens,input_price_per_1k,output_price_per_1k,currency,region_name\n"
        "qwen-plus,cn-hangzhou,0,1M,0.1,,USD,Home\n"
    )
    prices = ("--price-list", str(tmp_path / "prices.csv"))
    january = datetime(2020, 1, 15, tzinfo=UTC8)
    assert bill(write([call(1, january)]), *prices)[0] == 0
    assert bill(write([call(1, january), call(2, january)]), *prices)[0] == 0
    second = ledger_lines(spark, str(tmp_path / "out")).filter("run = 2")
    ran = datetime.fromtimestamp(second.select(F.unix_seconds("run_at")).collect()[0][0], UTC8)
    this_month = f"{ran:%Y-%m}"

    code, _, _ = export("--month", "2020-01", "--closed-month", "2020-01", *prices, to="january")
    assert code == 0
    (row,) = spark.read.parquet(str(tmp_path / "january")).collect()
    assert (row["x_Run"], row["ChargeClass"], row["RegionName"]) == (1, None, "Home")
    assert row["BilledCost"] == Decimal("0.026")  # 260 x 0.1 / 1000

    # with the instant at which the invoice was issued, the first bill came after it, too
    closed = ("--closed-month", "2020-01=2020-02-03T00:00+08:00", "--invoice-id", f"{this_month}=I-now")
    code, out, _ = export("--month", this_month, *closed, to="now")
    assert code == 0
    rows = spark.read.parquet(str(tmp_path / "now")).orderBy("x_Run").collect()
    assert [(r["x_Run"], r["ChargeClass"], r["InvoiceId"]) for r in rows] == [
        (1, "Correction", "I-now"),
        (2, "Correction", "I-now"),
    ]
    assert {r["ChargePeriodStart"] for r in rows} == {datetime(2020, 1, 14, 16)}
    assert {r["BillingPeriodStart"] for r in rows} == {datetime(ran.year, ran.month, 1) - timedelta(hours=8)}
    assert [words.split() for words in out.splitlines() if words.startswith(this_month)] == [
        [this_month, "2", "2", "520", "0.052"]
    ]


@pytest.mark.campaign
@pytest.mark.classic
def test_what_the_job_refuses(ledger, export, tmp_path, monkeypatch, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    before = sorted(path.name for path in tmp_path.iterdir())
    for arguments, to, words in (
        ((), "full", "is not empty"),
        ((), "full/note.txt", "is a file"),
        ((), str(ledger / "focus"), "lie in one another"),
        ((), "focus*", "pattern"),
        (("--month", "2026-06"), "focus", "no line of 2026-06"),
        (("--month", "2026-6"), "focus", "is not a UTC+8 month"),
        (("--closed-month", "2026-04=2026-04-09T00:00Z"), "focus", "before it ended"),
        (("--closed-month", "2026-04", "--closed-month", "2026-04=2026-05-09T00:00Z"), "focus", "given twice"),
        (("--invoice-id", "I-4"), "focus", "NAME=VALUE"),
        (("--invoice-id", "2026-04=a", "--invoice-id", "2026-04=b"), "focus", "given twice"),
        (("--tag", "job=Job"), "focus", "no tag job"),
    ):
        code, _, said = export(*arguments, to=to, output=ledger)
        assert (code, words in said) == (2, True), said
        assert said.count("\n") == 1
    assert export(output=tmp_path / "nothing")[0] == 2
    with pytest.raises(SystemExit):
        export_focus(["--output", "out", "--to", "focus"])
    assert "--billing-account" in capsys.readouterr().err

    # rows that are not the ledger's, or break a rule: nothing is exported
    real = job.to_focus
    for change, words in (
        (lambda rows: rows.filter("SkuMeter = 'Input Tokens'"), "has 4 lines, 930 tokens, 0.00015924"),
        (lambda rows: rows.withColumn("ConsumedUnit", F.lit("Words")), "ConsumedUnit is 'Tokens' (4 do not"),
    ):
        monkeypatch.setattr(job, "to_focus", lambda lines, change=change, **options: change(real(lines, **options)))
        code, _, said = export(output=ledger)
        assert (code, words in said) == (1, True), said
    assert sorted(path.name for path in tmp_path.iterdir()) == before
