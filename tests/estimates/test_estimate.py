"""What prompts would cost before they are run: expected figures by hand, or by the oracle call by call."""

import math
import sys
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from pyspark.sql import functions as F

from spark_billing import UsageError, estimate_calls, learn_output
from spark_billing.commands.estimate_cost import estimate_cost
from spark_billing.estimates.answers import OutputPerInput
from spark_billing.estimates.estimate import Figures
from spark_billing.estimates.token_ratios import BY_LENGTH, LEVELS
from tests import oracle
from tests.conftest import call, setting, site_without, usage_frame
from tests.docs.blocks import claim
from tests.docs.commands import run_job
from tests.oracle import COMMERCIAL_START, GROUP_1, GROUP_2
from tests.test_layout import python

(COMMAND,) = claim("jobs/README.md", "sh", "estimate")
(SHOWN,) = claim("jobs/README.md", "text", "estimate")
LATER = COMMERCIAL_START + timedelta(days=30)
HANGZHOU = {"model": "qwen-plus", "region": "cn-hangzhou", "at": LATER}


def digits(n):
    """A text of exactly so many tokens by every ratio."""
    return "1" * n


def prompts(spark, *texts):
    return spark.createDataFrame([(text,) for text in texts], "prompt string")


def asked(tokens, output, **changes):
    return {**call(1), "call_time": LATER, "input_tokens": tokens, "output_tokens": output, **changes}


# text; low, middle, high as measured: letters / 4, x 7 / 24, / 3; characters / 2, x 3 / 4, x 1; digits x 1; rounded up;
# and by the provider's page: letters / 4; characters x 1.5, x 1.75, x 2; digits x 1
COUNTED = [
    ("", (0, 0, 0), (0, 0, 0)),
    ("a", (1, 1, 1), (1, 1, 1)),
    ("letters and no digit. AB", (6, 7, 8), (6, 6, 6)),
    ("letters and no digit. ABC", (7, 8, 9), (7, 7, 7)),  # 25: 6.25, 7.29, 8.33
    ("杭州天气如何。" * 12, (42, 63, 84), (126, 147, 168)),  # 84, the full stop like a character
    ("2026", (4, 4, 4), (4, 4, 4)),
    # 48 letters: 12, 14, 16; 24 characters: 12, 18, 24 or 36, 42, 48
    ("Translate this. " * 3 + "今天天气" * 6, (24, 32, 40), (48, 54, 60)),
    ("On 2026-04-08", (8 + 2, 8 + 2, 8 + 2), (8 + 2, 8 + 2, 8 + 2)),  # 8 digits, 5 others: 1.25, 1.46, 1.67
    ("é", (1, 1, 1), (1, 1, 2)),
    ("😀", (1, 1, 2), (3, 3, 3)),
    (None, (None,) * 3, (None,) * 3),
]


def test_tokens_by_length(spark, ansi):
    texts = spark.createDataFrame(list(enumerate(case[0] for case in COUNTED)), "n int, text string")
    ways = {f"{way}_{level}": c for way, (_, f) in BY_LENGTH.items() for level, c in f(F.col("text")).items()}
    counted = texts.select("n", *(column.alias(name) for name, column in ways.items()))
    assert dict(counted.dtypes) == {"n": "int", **dict.fromkeys(ways, "bigint")}
    for row, (text, *expected) in zip(counted.orderBy("n").collect(), COUNTED):
        for way, counts in zip(("ratio", "provider"), expected):
            assert tuple(row[f"{way}_{level}"] for level in LEVELS) == counts, (way, text)


def test_the_ratios_of_the_billing_page(spark, usd):
    """84 Chinese characters are 126, 147 or 168 tokens x 0.000138 / 1,000, and 50 tokens of output 0.0000172."""
    frame = prompts(spark, "杭州天气如何。" * 12)
    found = estimate_calls(frame, text="prompt", output_tokens=50, prices=usd, tokens="provider", **HANGZHOU)
    costs = [found.low.cost, found.middle.cost, found.high.cost]
    assert costs == [Decimal(cost) for cost in ("0.000034588", "0.000037486", "0.000040384")]
    assert "billing page" in found.tokens_rest_on


def test_each_call_has_its_own_tier(spark, usd, ansi):
    counts = (260, 127_999, 128_000, 128_001, 256_000, 256_001, 1_000_000, 1_000_001, 0)
    frame = prompts(spark, *(digits(n) for n in counts), None)
    found = estimate_calls(frame, text="prompt", output_tokens=50, prices=usd, **HANGZHOU)
    calls = [asked(n, 50) for n in counts[:-2]]
    costs = [oracle.cost(c) for c in calls]
    assert found.low == found.middle == found.high
    assert found.middle == Figures(
        calls=7,
        input_tokens=sum(counts[:-2]),
        output_tokens=350,
        cost=sum(costs),
        calls_by_price={
            "qwen-plus/cn-hangzhou/0-128K": 3,
            "qwen-plus/cn-hangzhou/128K-256K": 2,
            "qwen-plus/cn-hangzhou/256K-1M": 2,
        },
        refused={"input_tokens_out_of_range": 1, "missing_text": 2},
        calls_error=0,
        input_tokens_error=0,
        cost_error=Decimal(0),
    )
    assert found.rows == 10
    assert found.elsewhere.keys() == {(m, r) for m in usd.models for r in (*GROUP_1, *GROUP_2)}
    for (model, region), figures in found.elsewhere.items():
        there = [oracle.cost({**c, "model": model, "region": region}) for c in calls]
        assert (figures.calls, figures.cost) == (7, sum(there)), (model, region)
        assert figures.output_tokens == (0 if model == "text-embedding-v4" else 350)


def test_the_providers_example(spark, usd, cny):
    """10,000 x (260 in, 50 out) in Hangzhou: 0.00096 x 260 x 10,000 / 1,000 + 0.0024 x 50 x 10,000 / 1,000."""
    frame = spark.range(10_000).select(F.lit(digits(260)).alias("prompt"))
    for prices, cost in ((cny, "3.696"), (usd, "0.5308")):
        found = estimate_calls(frame, text="prompt", output_tokens=50, prices=prices, **HANGZHOU)
        assert found.middle.cost == Decimal(cost)


def test_low_middle_and_high(spark, usd, session_zone):
    """48 letters are 12, 14 or 16 tokens; each is answered with 0.25, 0.5 or 2 tokens per input token."""
    ratios = OutputPerInput(250_000, 500_000, 2_000_000, 500_000, 3, "w-1", "qwen-plus")
    frame = prompts(spark, "letters " * 6, "letters " * 6)
    found = estimate_calls(frame, text="prompt", output_tokens=ratios, prices=usd, **HANGZHOU)
    tokens = [(f.input_tokens, f.output_tokens) for f in (found.low, found.middle, found.high)]
    assert tokens == [(24, 6), (28, 14), (32, 64)]
    # tokens x 0.000138 / 1000 + tokens x 0.000344 / 1000
    assert [f.cost for f in (found.low, found.middle, found.high)] == [
        Decimal("0.000005376"),
        Decimal("0.000008680"),
        Decimal("0.000026432"),
    ]
    assert "quantiles of 3 calls of w-1 to qwen-plus" in found.output_rests_on


def test_a_figure_may_be_refused_where_another_is_not(spark, usd):
    """3,500,000 letters are 875,000, 1,020,834 or 1,166,667 tokens."""
    frame = spark.range(1).selectExpr("repeat('abcdefg', int(500000 + id)) AS prompt")  # no literal of that length
    found = estimate_calls(frame, text="prompt", output_tokens=0, prices=usd, **HANGZHOU)
    assert (found.low.calls, found.low.input_tokens, found.low.refused) == (1, 875_000, {})
    for figures in (found.middle, found.high):
        assert (figures.calls, figures.cost, figures.refused) == (0, 0, {"input_tokens_out_of_range": 1})


REFUSED = [
    # changes of a call, the reason
    ({}, None),
    ({"region": None}, "missing_region"),
    ({"region": ""}, "missing_region"),
    ({"model": None, "prompt": None}, "missing_model"),
    ({"prompt": None, "output": None}, "missing_text"),
    ({"prompt": ""}, "missing_text"),
    ({"output": None}, "invalid_output_tokens"),
    ({"output": -1}, "invalid_output_tokens"),
    ({"output": 2**31, "model": "qwen-max"}, "invalid_output_tokens"),
    ({"model": "qwen-max"}, "unknown_model"),
    ({"region": "cn-chengdu"}, "unknown_region"),
    ({"model": "text-embedding-v4", "output": None}, None),
]


def test_every_refused_call_has_a_reason(spark, usd, ansi):
    usual = {"prompt": digits(260), "model": "qwen-plus", "region": "na-south-1", "output": 50}
    rows = [{**usual, **changes} for changes, _ in REFUSED]
    frame = spark.createDataFrame(
        [tuple(r.values()) for r in rows], "prompt string, model string, region string, output bigint"
    )
    found = estimate_calls(
        frame,
        text=F.col("prompt"),
        model=F.col("model"),
        region=frame["region"],
        output_tokens="output",
        prices=usd,
        at=LATER,
    )
    reasons = [reason for _, reason in REFUSED if reason]
    assert found.middle.refused == {reason: reasons.count(reason) for reason in reasons}
    assert found.middle.calls == 2
    both = asked(260, 50, region="na-south-1"), asked(260, None, region="na-south-1", model="text-embedding-v4")
    assert found.middle.cost == sum(oracle.cost(c) for c in both)
    # with one model for all, only what is wrong with the text or the output counts; an embedding needs no output
    assert found.elsewhere["qwen-plus", "na-south-1"].refused == {"missing_text": 3, "invalid_output_tokens": 4}
    assert found.elsewhere["text-embedding-v4", "na-south-1"].refused == {
        "missing_text": 3,
        "invalid_output_tokens": 2,
    }


def test_prices_are_those_of_the_instant(spark, usd):
    frame = prompts(spark, digits(260))
    free = {**HANGZHOU, "at": COMMERCIAL_START - timedelta(microseconds=1)}
    for at, cost in ((free, "0"), ({**HANGZHOU, "at": COMMERCIAL_START}, "0.00005308")):
        found = estimate_calls(frame, text="prompt", output_tokens=50, prices=usd, **at)
        assert found.middle.cost == Decimal(cost)
    with pytest.raises(UsageError, match="no zone"):
        estimate_calls(frame, text="prompt", output_tokens=50, prices=usd, **{**HANGZHOU, "at": datetime(2026, 5, 1)})


def test_a_template_and_no_decimal_setting_matter(spark, usd):
    """`On ` and a blank are letters: 4 + 20 of the column are 24, which is 7 tokens."""
    frame = prompts(spark, "a" * 20)
    for allowed in ("true", "false"):
        with setting(spark, "spark.sql.decimalOperations.allowPrecisionLoss", allowed):
            found = estimate_calls(
                frame, text="concat('On: ', prompt)", output_tokens="length(prompt)", prices=usd, **HANGZHOU
            )
            assert (found.middle.input_tokens, found.middle.output_tokens) == (7, 20)


def test_output_learnt_from_past_calls(spark, usd):
    calls = [call(n, input_tokens=1_000, output_tokens=10 * n) for n in range(1, 11)]
    calls += [call(20, workspace_id="w-2"), call(21, model="text-embedding-v4", output_tokens=None)]
    calls += [call(22, input_tokens=0), call(23, output_tokens=-1), call(24, output_tokens=None)]
    found = learn_output(usage_frame(spark, calls), workspace_id="w-1", model="qwen-plus")
    # of ten calls the first, the fifth and the ninth; 550 output tokens to 10,000 input tokens over all
    assert found == OutputPerInput(10_000, 50_000, 90_000, 55_000, 10, "w-1", "qwen-plus")
    assert str(found).startswith("0.010000, 0.050000 and 0.090000 tokens per input token")
    with pytest.raises(UsageError, match="no call of the workspace 'w-3'"):
        learn_output(usage_frame(spark, calls), workspace_id="w-3", model="qwen-plus")


def test_the_largest_answers_stay_exact(spark, usd):
    """One token answered with 2^31 - 1: the ratio of one input token, applied to a million."""
    calls = [call(1, input_tokens=1, output_tokens=2**31 - 1)]
    learnt = learn_output(usage_frame(spark, calls), workspace_id="w-1", model="qwen-plus")
    assert learnt.middle == (2**31 - 1) * 10**6
    for text, refused in ((digits(1), {}), (digits(10**6), {"invalid_output_tokens": 1})):
        found = estimate_calls(prompts(spark, text), text="prompt", output_tokens=learnt, prices=usd, **HANGZHOU)
        assert found.middle.refused == refused
        assert found.middle.output_tokens == (0 if refused else 2**31 - 1)


def test_a_sample_is_scaled_up_and_says_how_far_off_it_may_be(spark, usd):
    """Which rows are drawn depends on the partitions: of five samples the interval has the truth in four at least."""
    lengths = [1 + 37 * n % 900 for n in range(4_000)]
    text = F.expr("repeat('1', int(1 + 37 * id % 900))").alias("p")
    truth = sum(oracle.cost(asked(n, 50)) for n in lengths)
    squares = sum(oracle.cost(asked(n, 50)) ** 2 for n in lengths)
    hits = 0
    for partitions in (1, 2, 3, 5, 7):
        frame = spark.range(0, 4_000, 1, partitions).select(text)
        found = estimate_calls(frame, text="p", output_tokens=50, prices=usd, one_in=10, **HANGZHOU)
        figures = found.middle
        assert figures.calls == 10 * found.rows
        hits += abs(figures.cost - truth) <= figures.cost_error
        # 1.96 standard errors of a count: 10 x 9 x rows
        assert figures.calls_error == math.isqrt(90 * found.rows * 196**2) // 100
        # and of the cost: 9 x the sum of all squares, which the sample knows roughly
        assert (Decimal("1.96") * (9 * squares).sqrt() / figures.cost_error - 1).copy_abs() < Decimal("0.2")
    assert hits >= 4
    assert found == estimate_calls(frame, text="p", output_tokens=50, prices=usd, one_in=10, **HANGZHOU)
    with pytest.raises(UsageError, match="has no row"):
        estimate_calls(frame.limit(0), text="p", output_tokens=50, prices=usd, one_in=10, **HANGZHOU)


WRONG = [
    ({"model": "qwen-max"}, "no model 'qwen-max'; it has qwen-plus, text-embedding-v4"),
    ({"region": "cn-chengdu"}, "no region 'cn-chengdu'; it has ap-northeast-1"),
    ({"text": "nothing"}, "text 'nothing': UNRESOLVED_COLUMN"),
    ({"text": "explode(array(prompt))"}, "text 'explode"),
    ({"text": "max(prompt)"}, "text 'max"),
    ({"text": "prompt prompt prompt"}, "PARSE_SYNTAX_ERROR"),
    ({"text": "1 + 1"}, "text is int, but a prompt is text"),
    ({"output_tokens": -1}, "output_tokens is -1; one call has 0 to"),
    ({"output_tokens": 2**31}, "output_tokens is 2,147,483,648"),
    ({"output_tokens": 1.5}, "output_tokens is 1.5; needed is a whole number"),
    ({"output_tokens": "array(1)"}, "output_tokens is array<int>, but a whole number is needed"),
    ({"tokens": "guess"}, "tokens is 'guess'; it is ratio, provider or tokenizer"),
    ({"one_in": 0}, "one_in is 0"),
    ({"one_in": 0.1}, "one_in is 0.1"),
]


@pytest.mark.parametrize(("changes", "words"), WRONG, ids=[words[:30] for _, words in WRONG])
def test_what_does_not_fit_is_refused(spark, usd, changes, words):
    usual = {"text": "prompt", "output_tokens": 50, "prices": usd, **HANGZHOU}
    with pytest.raises(UsageError) as refused:
        estimate_calls(prompts(spark, "a"), **{**usual, **changes})
    assert words in str(refused.value)


# --- the tokenizer


@pytest.fixture
def words_for_tokens(spark, tmp_path):
    """A package `dashscope` here and on the executors whose tokens are words; it notes who loads it, in a file."""
    loads = tmp_path / "loads"
    (tmp_path / "dashscope.py").write_text(
        "import os\n"
        "class Words:\n"
        "    def encode(self, text):\n"
        "        return text.split()\n"
        "def get_tokenizer(name):\n"
        "    assert name == 'qwen-plus'\n"
        f"    with open({str(loads)!r}, 'a') as file:\n"
        "        file.write(f'{os.getpid()}\\n')\n"
        "    return Words()\n"
    )
    from spark_billing.estimates.tokenizer import load_tokenizer

    before, loaded = list(sys.path), sys.modules.pop("dashscope", None)
    load_tokenizer.cache_clear()
    spark.sparkContext.addPyFile(str(tmp_path / "dashscope.py"))
    yield loads
    sys.path[:] = before
    sys.modules.pop("dashscope", None)
    if loaded is not None:
        sys.modules["dashscope"] = loaded
    load_tokenizer.cache_clear()


@pytest.mark.classic
@pytest.mark.filterwarnings("ignore:The distutils package:DeprecationWarning")  # PySpark 3.5 compares versions with it
def test_tokens_counted_by_a_tokenizer_loaded_once_per_worker(spark, usd, words_for_tokens):
    texts = ["one", "one two", "", None] * 50
    frame = prompts(spark, *texts).repartition(8)
    for _ in range(2):
        found = estimate_calls(frame, text="prompt", output_tokens=1, prices=usd, tokens="tokenizer", **HANGZHOU)
        assert found.low == found.middle == found.high
        assert (found.middle.calls, found.middle.input_tokens) == (100, 150)
        assert found.middle.refused == {"missing_text": 100}
    processes = words_for_tokens.read_text().split()
    assert len(processes) == len(set(processes)) >= 2  # this process and the workers, each once


def test_without_the_tokenizer(spark, usd, monkeypatch):
    from spark_billing.estimates.tokenizer import load_tokenizer

    load_tokenizer.cache_clear()
    monkeypatch.setitem(sys.modules, "dashscope", None)
    with pytest.raises(UsageError, match=r"pip install 'spark_billing\[tokenizer\]'"):
        estimate_calls(prompts(spark, "a"), text="prompt", output_tokens=1, prices=usd, tokens="tokenizer", **HANGZHOU)


# --- the job

PLACE = ["--model", "qwen-plus", "--region", "cn-hangzhou", "--currency", "USD", "--at", "2026-05-01T00:00+08:00"]


@pytest.fixture
def reviews(spark, tmp_path):
    """A path with 1,000 reviews of 24 letters and one that is empty."""
    path = str(tmp_path / "reviews")
    texts = [("a" * 24,)] * 1_000 + [("",)]
    spark.createDataFrame(texts, "review string").coalesce(1).write.parquet(path)
    return path


@pytest.mark.classic
def test_the_job_says_what_it_would_cost(reviews, capsys):
    arguments = ["--prompts", reviews, "--text", "review", *PLACE]
    assert estimate_cost([*arguments, "--output-tokens", "50"]) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["qwen-plus/cn-hangzhou/0-128K", "1,000", "1,000", "1,000"] in said
    assert ["refused,", "missing_text", "1", "1", "1"] in said
    assert ["input", "tokens", "6,000", "7,000", "8,000"] in said
    # 6,000, 7,000 and 8,000 x 0.000138 / 1000 + 50,000 x 0.000344 / 1000
    assert ["USD", "0.018028", "0.018166", "0.018304"] in said
    # 7,000 x 0.00048 / 1000 + 50,000 x 0.00144 / 1000; 7,000 x 0.000084 / 1000
    assert [line[:4] for line in said if "ap-northeast-1," in line] == [
        ["qwen-plus", "0.07536", "1", "ap-northeast-1,"],
        ["text-embedding-v4", "0.000588", "1", "ap-northeast-1,"],
    ]
    assert not any("sampling" in line for line in said)

    assert estimate_cost([*arguments, "--output-tokens", "length(review)", "--sample", "0.1"]) == 0
    printed = capsys.readouterr().out
    assert "rows, one in 10, scaled up" in printed
    assert printed.count("sampling") == 3  # of calls, input tokens and cost


@pytest.mark.classic
def test_a_prompt_of_many_lines_in_a_csv_file_is_one_call(tmp_path, capsys):
    (tmp_path / "prompts.csv").write_text('prompt\n"aaaaaaaaaaaa\n\nbbbbbbbbbb"\ncccccccccccccccccccccccc')
    arguments = ["--prompts", str(tmp_path / "prompts.csv"), "--text", "prompt", *PLACE, "--output-tokens", "50"]
    assert estimate_cost(arguments) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["qwen-plus/cn-hangzhou/0-128K", "2", "2", "2"] in said
    # 24 characters each, the two line breaks among them: / 4, x 7 / 24 and / 3
    assert ["input", "tokens", "12", "14", "16"] in said


@pytest.mark.classic
def test_the_job_learns_from_past_usage(reviews, write, capsys):
    usage = write([call(n, input_tokens=100, output_tokens=n) for n in range(1, 11)])
    arguments = ["--prompts", reviews, "--text", "concat(review, review)", *PLACE, "--learn-from", usage]
    assert estimate_cost([*arguments, "--workspace", "w-1"]) == 0
    said = capsys.readouterr().out
    assert "quantiles of 10 calls of w-1 to qwen-plus (0.055000 over all)" in said
    # 12, 14 and 16 tokens x 0.01, 0.05 and 0.09, each rounded up
    assert ["output", "tokens", "1,000", "1,000", "2,000"] in [line.split() for line in said.splitlines()]


@pytest.mark.classic
def test_the_job_prints_what_the_manual_shows(spark, tmp_path, capsys):
    review = """
        CASE WHEN id % 1000 = 0 THEN NULL
        WHEN id = 1 THEN repeat('The room was clean and breakfast was fine. ', 20000)
        WHEN id % 2 = 0 THEN repeat('房间很干净，早餐也不错。', int(1 + id % 7))
        ELSE repeat('The room was clean and breakfast was fine. ', int(1 + id % 5)) END AS review"""
    spark.range(10_000).selectExpr(review).write.parquet(str(tmp_path / "reviews"))
    assert run_job(COMMAND, reviews=f"{tmp_path}/reviews") == 0
    assert capsys.readouterr().out == SHOWN.text


MISTAKES = [
    (["--sample", "0.03"], "--sample 0.03: needed is 1 over a whole number"),
    (["--sample", "0"], "--sample 0: needed"),
    (["--sample", "some"], "--sample some: needed"),
    (["--at", "2026-05-01T00:00"], "its offset must be given"),
    (["--output-tokens", "-1"], "output_tokens is -1"),
    (["--output-tokens", "nothing"], "output_tokens 'nothing': UNRESOLVED_COLUMN"),
    (["--text", "string(1 div (length(review) - 24))"], "the prompts cannot be read or mapped: DIVIDE_BY_ZERO"),
    (["--model", "qwen-max"], "no model 'qwen-max'"),
    (["--prompts", "nowhere"], "cannot read the prompts 'nowhere' as parquet"),
    (["--workspace", "w-1"], "--learn-from and --workspace belong together"),
    (["--usage-format", "csv"], "for the prompts give --prompts-format"),
]


@pytest.mark.classic
def test_mistakes_are_one_line(spark, reviews, capsys):
    usual = ["--prompts", reviews, "--text", "review", *PLACE, "--output-tokens", "50"]
    with setting(spark, "spark.sql.ansi.enabled", "true"):
        for arguments, words in MISTAKES:
            assert estimate_cost([*usual, *arguments]) == 2, arguments
            said = capsys.readouterr()
            assert said.out == ""
            assert len(said.err.splitlines()) == 1
            assert words in said.err
    with pytest.raises(SystemExit) as ended:
        estimate_cost([a for a in usual if a not in ("--output-tokens", "50")])
    assert ended.value.code == 2
    assert "--output-tokens" in capsys.readouterr().err


@pytest.mark.campaign
@pytest.mark.classic
@pytest.mark.own_spark
def test_the_ratios_need_neither_numpy_nor_pandas_nor_pyarrow(tmp_path, reviews):
    site = site_without(tmp_path / "site", "numpy", "pandas", "pyarrow")
    arguments = ["--prompts", reviews, "--text", "review", *PLACE, "--output-tokens", "50"]
    result = python(
        "from spark_billing.commands.estimate_cost import estimate_cost\n"
        f"assert estimate_cost({arguments!r}) == 0\n"
        f"assert estimate_cost({[*arguments, '--tokens', 'tokenizer']!r}) == 2\n",
        "-S",
        PYTHONPATH=str(site),
    )
    assert result.returncode == 0, result.stderr
    assert "0.018166" in result.stdout
    assert "pip install 'spark_billing[tokenizer]'" in result.stderr


def test_a_sample_too_small_to_have_a_row(spark, usd):
    """10^5000 has more digits than Python writes."""
    frame = spark.range(3).selectExpr("string(id) AS p")
    hangzhou = {"model": "qwen-plus", "region": "cn-hangzhou"}
    for one_in, words in (
        (10**5000, "less than one in 1,000,000,000 rows"),
        (10**9 + 1, "less than one in 1,000,000,000 rows"),
        (10**9, "one in 1,000,000,000 rows has no row"),
    ):
        with pytest.raises(UsageError, match=words):
            estimate_calls(frame, text="p", output_tokens=50, prices=usd, one_in=one_in, **hangzhou)
