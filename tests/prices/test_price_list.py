"""The bundled lists against the published page, and every way to refuse a list."""

import csv
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from importlib import resources

import pytest

from spark_billing import PriceList, PriceListError
from tests import oracle

HEADER = (
    "model,region,min_input_tokens,max_input_tokens,input_price_per_1k,output_price_per_1k,currency,"
    "effective_from,effective_to,region_name,source"
)
ROW = "m,r,0,128K,0.1,0.2,USD,,,,"
PAID = oracle.COMMERCIAL_START
TRIAL = PAID - timedelta(microseconds=1)
BEFORE_ALL = oracle.TRIAL_START - timedelta(microseconds=1)


def load(tmp_path, *rows, header=HEADER, name="prices.csv", **options):
    path = tmp_path / name
    path.write_bytes("\n".join([header, *rows, ""]).encode())
    return PriceList.from_csv(path, **options)


@pytest.mark.parametrize("k", [1000, 1024])
@pytest.mark.parametrize("currency", ["USD", "CNY"])
def test_every_published_cell_at_every_bound(currency, k):
    prices = PriceList.bundled("emr-serverless-spark", currency=currency, tokens_per_k=k)
    cells = 0
    for model, regions, tiers in oracle.PUBLISHED[currency]:
        for region in regions:
            low = 0
            for top, input_price, output_price in tiers:
                high = oracle.tokens(top, k)
                for count in (low + 1, low + 2, high - 1, high):
                    price = prices.find(model, region, count, PAID)
                    assert price.input_price_per_1k == Decimal(input_price)
                    assert price.output_price_per_1k == (output_price and Decimal(output_price))
                    assert price.tier.endswith(f"-{top}")
                    assert price.price_id == f"{model}/{region}/{price.tier}"
                    free = prices.find(model, region, count, TRIAL)
                    assert (free.input_price_per_1k, free.tier) == (0, price.tier)
                    assert free.output_price_per_1k == (None if output_price is None else 0)
                    assert prices.find(model, region, count, oracle.TRIAL_START) == free
                    assert prices.find(model, region, count, BEFORE_ALL) is None
                if low:
                    assert prices.find(model, region, low, PAID).tier != price.tier
                low, cells = high, cells + 1
            for count in (-1, 0, high + 1, 2**63):
                assert prices.find(model, region, count, PAID) is None
    assert len(prices.prices) == 2 * cells  # nothing beyond the published cells and their trial rows


def test_the_lists_are_complete():
    usd = PriceList.bundled("emr-serverless-spark", currency="USD")
    assert {p.region for p in usd.prices} == {*oracle.GROUP_1, *oracle.GROUP_2}
    assert len({p.region for p in usd.prices}) == 12
    assert usd.models == ("qwen-plus", "text-embedding-v4")
    assert usd.models_without_output_price == ("text-embedding-v4",)
    cny = PriceList.bundled("emr-serverless-spark", currency="CNY")
    assert cny.models == ("qwen-plus",)
    assert (usd.version, cny.version) == ("2026-03-19", "2026-03-19")
    assert all(p.source for prices in (usd, cny) for p in prices.prices)


def test_the_csv_reads_like_the_published_page():
    folder = resources.files("spark_billing.prices").joinpath("lists")
    with folder.joinpath("emr-serverless-spark.USD.2026-03-19.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    first = {name: rows[0][name] for name in list(rows[0])[:10]}
    assert first == {
        "model": "qwen-plus",
        "region": "cn-beijing",
        "min_input_tokens": "0",
        "max_input_tokens": "128K",
        "input_price_per_1k": "0.000138",
        "output_price_per_1k": "0.000344",
        "currency": "USD",
        "effective_from": "2026-04-08T00:00+08:00",
        "effective_to": "",
        "region_name": "China (Beijing)",
    }


@pytest.mark.parametrize(
    ("rows", "line", "words"),
    [
        (["m,r,0,128K,0.1,0.2,USD,,,,", "m,r,100K,1M,0.1,0.2,USD,,,,"], 3, "overlap with line 2"),
        (["m,r,0,1M,0.1,,USD,,,,", "m,r,0,1M,0.1,,USD,2026-01-01T00:00Z,,,"], 3, "overlap"),
        (["m,r,0,128K,0.1,,USD,,,,", "m,r,129K,1M,0.1,,USD,,,,"], 3, "gap between tiers"),
        (["m,r,128K,0,0.1,,USD,,,,"], 2, "reversed bound"),
        (["m,r,128K,128K,0.1,,USD,,,,"], 2, "reversed bound"),
        (["m,r,0,3000M,0.1,,USD,,,,"], 2, "max_input_tokens is 3,000,000,000"),
        (["m,r,0,128k,0.1,,USD,,,,"], 2, "max_input_tokens is '128k'"),
        (["m,r,,128K,0.1,,USD,,,,"], 2, "min_input_tokens is ''"),
        (["m,r,0,128K,-0.1,,USD,,,,"], 2, "never negative"),
        (["m,r,0,128K,0.1,-0.2,USD,,,,"], 2, "never negative"),
        (["m,r,0,128K,free,,USD,,,,"], 2, "plain number"),
        (["m,r,0,128K,NaN,,USD,,,,"], 2, "plain number"),
        (["m,r,0,128K,1e-3,,USD,,,,"], 2, "plain number"),
        (["m,r,0,128K,,,USD,,,,"], 2, "plain number"),
        (["m,r,0,128K,0.0000000001,,USD,,,,"], 2, "more than 9 decimals"),
        ([ROW, "m,s,0,128K,0.1,,CNY,,,,"], 3, "one list per currency"),
        (["m,r,0,128K,0.1,,usd,,,,"], 2, "currency is 'usd'"),
        (["m,r,0,128K,0.1,,USD,2026-04-08T00:00,,,"], 2, "an offset"),
        (["m,r,0,128K,0.1,,USD,,2026-04-08,,"], 2, "an offset"),
        (["m,r,0,128K,0.1,,USD,2026-02-30T00:00Z,,,"], 2, "no date and time of the calendar"),
        (["m,r,0,128K,0.1,,USD,2026-04-08T00:00Z,2026-04-08T08:00+08:00,,"], 2, "reversed period"),
        (["m,r,0,128K,8000,,USD,,,,"], 2, "dearest possible request"),
        (["m,r,0,1,0,0.5,USD,,,,"], 2, "dearest possible request"),
        ([",r,0,128K,0.1,,USD,,,,"], 2, "model is ''"),
        (["m, r,0,128K,0.1,,USD,,,,"], 2, "blanks around"),
        (["m,r/s,0,128K,0.1,,USD,,,,"], 2, "slash"),
        (["m,r,0,128K,0.1"], 2, "5 values for 11 columns"),
        ([ROW, '"m'], 3, "not CSV"),
    ],
)
def test_a_refusal_names_line_and_reason(tmp_path, rows, line, words):
    with pytest.raises(PriceListError) as refusal:
        load(tmp_path, *rows)
    assert f"prices.csv, line {line}: " in str(refusal.value)
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (HEADER + ",discount", "unknown column 'discount'"),
        (HEADER + ",model", "'model' stands there twice"),
        (HEADER.replace("currency,", ""), "the column currency is missing"),
    ],
)
def test_a_header_is_refused(tmp_path, header, words):
    with pytest.raises(PriceListError, match="line 1: ") as refusal:
        load(tmp_path, header=header)
    assert words in str(refusal.value)


def test_files_that_are_no_list(tmp_path):
    with pytest.raises(PriceListError, match="no price in it"):
        load(tmp_path)
    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(PriceListError, match="empty"):
        PriceList.from_csv(tmp_path / "empty.csv")
    (tmp_path / "latin.csv").write_bytes(HEADER.encode() + b"\n\xe9")
    with pytest.raises(PriceListError, match="not UTF-8"):
        PriceList.from_csv(tmp_path / "latin.csv")
    with pytest.raises(PriceListError, match="cannot read"):
        PriceList.from_csv(tmp_path / "absent.csv")
    with pytest.raises(PriceListError, match="1000 or 1024"):
        load(tmp_path, ROW, tokens_per_k=1048)
    with pytest.raises(PriceListError, match=r"no bundled price list .* in 'EUR'"):
        PriceList.bundled("emr-serverless-spark", currency="EUR")


def test_what_is_accepted(tmp_path):
    prices = load(
        tmp_path,
        "org/m,r,0,128K,0.100000000000,0,USD,,2026-04-08T00:00:00.5+08:00,,",
        "",
        "org/m,r,128K,2147483647,0.2,,USD,,,,",
    )
    low, high = prices.prices
    assert low.input_price_per_1k == Decimal("0.1")
    assert low.output_price_per_1k == 0  # billed at nothing, which is not the same as not billed
    assert low.effective_to == datetime(2026, 4, 7, 16, 0, 0, 500_000, tzinfo=timezone.utc)
    assert (low.price_id, high.price_id) == ("org/m/r/0-128K", "org/m/r/128K-2147483647")
    assert prices.find("org/m", "r", 128_000, datetime(2026, 4, 8, tzinfo=timezone.utc)) is None
    with pytest.raises(ValueError, match="no zone"):
        prices.find("org/m", "r", 1, datetime(2026, 4, 8))


def test_a_tier_keeps_its_name_however_it_is_written(tmp_path):
    assert [load(tmp_path, f"m,r,0,{top},0.1,,USD,,,,").prices[0].tier for top in ("1000K", "1M", "128000", "7")] == [
        *("0-1M", "0-1M", "0-128K", "0-7")
    ]
    assert load(tmp_path, "m,r,0,128K,0.1,,USD,,,,", tokens_per_k=1024).prices[0].tier == "0-128K"
    assert load(tmp_path, "m,r,0,131072,0.1,,USD,,,,", tokens_per_k=1024).prices[0].tier == "0-128K"


def test_the_hash_is_of_the_content(tmp_path):
    rows = ["m,r,0,128K,0.1,0.2,USD,,,,", "m,s,0,128K,0.1,0.2,USD,,,,"]
    plain = load(tmp_path, *rows)
    path = tmp_path / "other.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([HEADER, *reversed(rows), ""]).encode())
    assert PriceList.from_csv(path).sha256 == plain.sha256
    assert load(tmp_path, rows[0].replace("0.2", "0.20"), rows[1]).sha256 == plain.sha256
    assert load(tmp_path, rows[0].replace("0.2", "0.3"), rows[1]).sha256 != plain.sha256
    assert load(tmp_path, *rows, tokens_per_k=1024).sha256 != plain.sha256


def test_the_version_is_in_the_files_name(tmp_path):
    assert load(tmp_path, ROW, name="ours-2026-05-01.csv").version == "2026-05-01"
    assert load(tmp_path, ROW, name="ours.csv", version="v7").version == "v7"
    unnamed = load(tmp_path, ROW, name="ours.csv")
    assert unnamed.version == f"sha256-{unnamed.sha256[:12]}"
