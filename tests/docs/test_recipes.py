"""Each way to fill the usage table, run on a small log of that shape, with a bill computed by hand."""

import json
import re
import sys
from decimal import Decimal
from types import SimpleNamespace

import pytest

from spark_billing import check_usage
from spark_billing.commands.hourly_bill import hourly_bill
from tests.conftest import rows
from tests.docs.blocks import claim
from tests.docs.commands import job_of

pytestmark = pytest.mark.classic

SOURCES = "jobs/usage_sources.md"
WITH_SQL = ("openai", "litellm", "opentelemetry", "databricks", "estimated")
RECIPES = {
    **{kind: claim(SOURCES, "sql", kind) + claim(SOURCES, "sh", kind) for kind in WITH_SQL},
}
(TOKENIZER,) = claim(SOURCES, "python", "tokenizer")
START = 1775577600  # 2026-04-08T00:00+08:00, when commercial billing starts


@pytest.fixture
def run(spark, tmp_path):
    """Runs the blocks of a recipe in order."""
    made = []

    def run(kind, code=0):
        for block in RECIPES[kind]:
            if block.language == "sh":
                (words,) = block.commands
                assert hourly_bill(job_of([here(word, tmp_path) for word in words])[1]) == code
                continue
            for statement in re.split(r";\s*\n", here(block.text, tmp_path).strip().rstrip(";")):
                made.extend(re.findall(r"CREATE (?:OR REPLACE )?(TABLE|VIEW) (\w+)", statement))
                spark.sql(statement)

    yield run
    for kind, name in reversed(made):
        spark.sql(f"DROP {kind} IF EXISTS {name}")


def here(text, tmp_path):
    """A block's text with this machine's places."""
    text = text.replace("system.ai_gateway.usage", "made_usage")
    return text.replace("oss://bucket", str(tmp_path)).replace("s3://bucket", str(tmp_path))


def billed(spark, tmp_path):
    bills = rows(spark, tmp_path / "bills", "bills", ["workspace_id", "period_start"])
    return [(b["workspace_id"], b["billing_hour"], b["requests"], b["amount"]) for b in bills]


def rejected(spark, tmp_path, name):
    return {r[name]: r["reject_reason"] for r in rows(spark, tmp_path / "bills", "rejected", name)}


def write_json_lines(path, documents):
    path.write_text("".join(json.dumps(document) + "\n" for document in documents), encoding="utf-8")


def test_openai_responses(spark, usd, run, tmp_path):
    def response(number, usage, model="qwen-plus", kind="chat.completion"):
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
        created = START + 3600 * number
        answer = {"id": f"chatcmpl-{number}", "object": kind, "created": created, "model": model}
        return {**answer, "choices": [choice], "usage": usage}

    def counts(prompt, completion):
        both = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return {**both, "prompt_tokens_details": {"cached_tokens": 0}}

    write_json_lines(
        tmp_path / "responses",
        [
            response(0, counts(260, 50)),
            response(1, counts(300_000, 2_000)),
            response(2, None),  # a streamed answer without include_usage
            response(3, counts(1, 1), model="qwen-plus-2025-07-28"),
            # no time and no output, so the log's time; another shape; no usage at all
            {"id": "emb-1", "object": "list", "model": "text-embedding-v4",
             "usage": {"prompt_tokens": 184, "total_tokens": 184}, "logged_at": "2026-04-08T02:00:00.5+08:00"},
            {"id": "resp-1", "object": "response", "created_at": START + 7200, "model": "qwen-plus",
             "usage": {"input_tokens": 260, "output_tokens": 50, "input_tokens_details": {"cached_tokens": 0}}},
            {"id": "none-1", "object": "chat.completion", "created": START, "model": "qwen-plus"},
        ],
    )  # fmt: skip
    run("openai")
    seen = spark.table("response_usage")
    assert seen.schema["call_time"].dataType.simpleString() == "string"  # so the job takes no time without an offset
    # 0.00003588 + 0.0000172; 0.2481 + 0.016514
    assert billed(spark, tmp_path) == [
        ("w-1234567890abcdef", 0, 1, Decimal("0.00005308")),
        ("w-1234567890abcdef", 1, 1, Decimal("0.264614")),
        ("w-1234567890abcdef", 2, 2, Decimal("0.000068904")),  # 0.00005308 + 184 x 0.000086 / 1000
    ]
    assert rejected(spark, tmp_path, "request_id") == {
        "chatcmpl-2": "invalid_input_tokens",
        "chatcmpl-3": "unknown_model",
        "none-1": "invalid_input_tokens",
    }
    # alone, a row has the same fate as beside others
    for usage in ({"usage": None}, {}):
        answer = {"id": "n-1", "object": "chat.completion", "created": START, "model": "qwen-plus", **usage}
        write_json_lines(tmp_path / "responses", [answer])
        spark.catalog.refreshTable("responses")
        (row,) = check_usage(spark.table("response_usage"), prices=usd).collect()
        assert row["reject_reason"] == "invalid_input_tokens"


@pytest.mark.campaign
def test_litellm_spend_logs(spark, run, tmp_path):
    head = (
        "request_id,call_type,api_key,spend,total_tokens,prompt_tokens,completion_tokens,startTime,endTime,"
        "completionStartTime,model,model_id,model_group,custom_llm_provider,api_base,user,metadata,cache_hit,cache_key,"
        "request_tags,team_id,end_user,requester_ip_address,messages,response,session_id,status"
    )

    def row(
        number,
        start,
        end,
        model,
        team="w-a",
        cache_hit="False",
        status="success",
        spend="9.9",
        tokens=(260, 50),
        kind="acompletion",
    ):
        usage = f"{sum(tokens)},{tokens[0]},{tokens[1]},{start},{end},{start}"
        who = f'{model},,qwen-plus,dashscope,,me,"{{""tags"": [""a, b""]}}",{cache_hit},k,"[""x""]",{team},,,'
        return f'c-{number},{kind},hash,{spend},{usage},{who}"{{""text"": ""line\nline""}}",{{}},,{status}'

    log = [
        head,
        # the call starts in one hour of UTC+8 and ends in the next; the times are UTC
        row(1, "2026-04-07 16:59:59.9", "2026-04-07 17:00:00.25", "dashscope/qwen-plus"),
        row(2, "2026-04-07 17:10:00", "2026-04-07 17:10:01", "qwen-plus", status=""),  # of a version before status
        row("2_cache_hit1", "2026-04-07 17:11:00", "2026-04-07 17:11:00", "qwen-plus", cache_hit="True", spend="0"),
        row(3, "2026-04-07 17:12:00", "2026-04-07 17:12:00", "qwen-plus", status="failure", spend="0"),
        row(4, "2026-04-07 17:13:00", "2026-04-07 17:13:00", "qwen-plus", team=""),
        # a thousand requests of a finished batch
        row(5, "2026-04-07 17:14:00", "2026-04-07 17:14:00", "qwen-plus", tokens=(260_000, 50_000),
            kind="aretrieve_batch"),
        # 184 x 0.000086 / 1000, whatever output it says
        row(6, "2026-04-07 17:15:00", "2026-04-07 17:15:00", "dashscope/text-embedding-v4", tokens=(184, 0),
            kind="aembedding"),
    ]  # fmt: skip
    (tmp_path / "spend_logs").mkdir()
    (tmp_path / "spend_logs" / "a.csv").write_text("\n".join([*log, ""]), encoding="utf-8")
    run("litellm")
    assert billed(spark, tmp_path) == [("w-a", 1, 3, Decimal("0.000121984"))]
    assert rejected(spark, tmp_path, "request_id") == {"c-4": "missing_workspace_id"}

    # a file with input and output in the other order is not read by position
    swapped = [head.replace("prompt_tokens,completion_tokens", "completion_tokens,prompt_tokens"), log[1]]
    (tmp_path / "spend_logs" / "b.csv").write_text("\n".join([*swapped, ""]), encoding="utf-8")
    spark.catalog.refreshTable("litellm_spend_logs")
    with pytest.raises(Exception, match="CSV header"):
        spark.table("litellm_usage").collect()


def otlp_attributes(**values):
    typed = {int: "intValue", str: "stringValue"}  # OTLP writes 64-bit integers as text
    return [{"key": key.replace("__", "."), "value": {typed[type(v)]: str(v)}} for key, v in values.items()]


def otlp_span(number, operation, ends, usage=(260, 50), response="resp", below=None, **more):
    counts = {"gen_ai__usage__input_tokens": usage[0], "gen_ai__usage__output_tokens": usage[1]} if usage else {}
    response_id = {"gen_ai__response__id": f"{response}-{number}"} if response else {}
    of_call = {"gen_ai__operation__name": operation, "gen_ai__request__model": "qwen-plus"}
    return {
        "traceId": "5b8efff798038103d269b633813fc60c",
        "spanId": f"eee19b7ec3c1b17{number}",
        **({} if below is None else {"parentSpanId": f"eee19b7ec3c1b17{below}"}),
        "name": f"{operation} qwen-plus",
        "kind": 3,
        "startTimeUnixNano": str(ends - 5_000_000_001),
        "endTimeUnixNano": str(ends),
        "attributes": otlp_attributes(**{**of_call, **counts, **response_id, **more}),
        "status": {},
    }


def otlp_export(service, *spans):
    resource = {"attributes": otlp_attributes(service__name=service)}
    scope_spans = [{"scope": {"name": "x"}, "spans": list(spans)}]
    return {"resourceSpans": [{"resource": resource, "scopeSpans": scope_spans}]}


@pytest.mark.campaign
def test_opentelemetry_spans(spark, run, tmp_path):
    nano = START * 10**9
    (tmp_path / "traces").mkdir()
    first, again = otlp_span(1, "chat", nano + 999), otlp_span(9, "chat", nano + 7200 * 10**9)
    again["attributes"] += otlp_attributes(gen_ai__usage__input_tokens=260)  # an attribute twice with one value
    torn = otlp_span(8, "chat", nano + 7200 * 10**9)
    torn["attributes"] += otlp_attributes(gen_ai__usage__input_tokens=9)  # and with two
    write_json_lines(
        tmp_path / "traces" / "a.jsonl",
        [
            otlp_export(
                "search",
                first,
                otlp_span(2, "chat", nano - 1, response=None),
                otlp_span(3, "invoke_agent", nano, (520, 100)),
            ),
            otlp_export("search", first),  # sent twice
            otlp_export(
                "support",
                otlp_span(4, "chat", nano, None, error__type="timeout"),
                otlp_span(5, "execute_tool", nano, None),
            ),
            # a framework's span, the client's one below it, and below that an embedding, which is another call
            otlp_export(
                "support",
                otlp_span(0, "chat", nano + 3600 * 10**9, response=None),
                otlp_span(6, "chat", nano + 3600 * 10**9, below=0),
                otlp_span(7, "embeddings", nano + 3600 * 10**9, (184, 0), below=6,
                          gen_ai__request__model="text-embedding-v4"),
            ),
            otlp_export("support", again, torn),
        ],
    )  # fmt: skip
    run("opentelemetry")
    free, one = Decimal(0), Decimal("0.00005308")
    who = "w-1234567890abcdef"  # hour 23 of the day before, in the free trial
    assert sorted(billed(spark, tmp_path), key=lambda bill: bill[1]) == [
        (who, 0, 1, one),
        (who, 1, 2, one + Decimal("0.000015824")),  # 184 x 0.000086 / 1000
        (who, 2, 1, one),
        (who, 23, 1, free),
    ]
    lines = rows(spark, tmp_path / "bills", "bill_lines", ["period_start", "token_type"])
    assert [line["tag_service"] for line in lines] == ["search"] * 4 + ["support"] * 5
    assert rejected(spark, tmp_path, "request_id") == {
        "resp-1": "duplicate_request",
        "resp-4": "invalid_input_tokens",
        "resp-8": "invalid_input_tokens",
    }


@pytest.mark.campaign
def test_the_gateway_of_databricks(spark, run, tmp_path):
    """The columns of its table that the view reads, with their types, as the provider's comments describe them."""
    columns = (
        "workspace_id string, request_id string, invocation_id string, event_time timestamp, latency_ms bigint, "
        "destination_model string, request_tags map<string,string>, input_tokens bigint, output_tokens bigint, "
        "status_code int"
    )
    head = "model,region,min_input_tokens,max_input_tokens,input_price_per_1k,output_price_per_1k,currency"
    prices = ["llama,us-west-2,0,1M,0.0005,0.0015,USD", "bge-large,us-west-2,0,1M,0.0001,,USD"]
    (tmp_path / "prices.csv").write_text("\n".join([head, *prices, ""]))

    def row(number, tokens, at="2026-05-01T01:00:00Z", request="turn", model="llama", status=200, latency=500):
        team = None if number == 4 else {"team": "search"}
        return ("123", request, number and f"i-{number}", at, latency, model, team, *tokens, status)

    made = [
        row(1, (1000, 100)),  # two turns of one request: 2 x (0.0005 + 0.00015)
        row(2, (1000, 100)),
        row(3, (1000, 100), at="2026-05-01T01:59:59.900Z"),  # it ends in the next hour
        row(4, (2000, None), model="bge-large"),  # 0.0002
        row(5, (None, None)),  # the answer told no tokens
        row(6, (None, None), status=429),
        row(7, (None, None), model=None),  # a tool
        row(None, (1000, 100), request="older", latency=None),  # of before there was an invocation_id
    ]
    names = columns.replace("event_time timestamp", "event_time string")
    rows_made = spark.createDataFrame(made, names).selectExpr(
        *(f"to_timestamp({n}) AS {n}" if n == "event_time" else n for n in (c.split()[0] for c in columns.split(", ")))
    )
    rows_made.write.saveAsTable("made_usage")
    try:
        run("databricks")
    finally:
        spark.sql("DROP TABLE made_usage")
    assert billed(spark, tmp_path) == [("123", 9, 4, Decimal("0.00215")), ("123", 10, 1, Decimal("0.00065"))]
    lines = rows(spark, tmp_path / "bills", "bill_lines", ["period_start", "model", "token_type"])
    assert [(line["model"], line["tag_team"]) for line in lines][:2] == [("bge-large", None), ("llama", "search")]
    assert rejected(spark, tmp_path, "request_id") == {"i-5": "invalid_input_tokens"}


def test_counted_afterwards(spark, run, tmp_path):
    answers = [
        # 9 letters and blanks are 3 tokens, 5 characters and a full stop are 6
        ("a-1", "w-1", "cn-hangzhou", "2026-04-08T00:30:00+08:00", "Who is it", "杭州是好地。"),
        ("a-2", "w-1", "cn-hangzhou", "2026-04-08T00:31:00+08:00", "", None),
    ]
    names = "request_id string, workspace_id string, region string, called_at string, prompt string, answer string"
    spark.createDataFrame(answers, names).selectExpr("*", "to_timestamp(called_at) AS call_time").drop(
        "called_at"
    ).write.saveAsTable("answers")
    try:
        run("estimated")
    finally:
        spark.sql("DROP TABLE answers")
    # 3 x 0.000138 / 1000 + 6 x 0.000344 / 1000
    assert billed(spark, tmp_path) == [("w-1", 0, 1, Decimal("0.000002478"))]
    lines = rows(spark, tmp_path / "bills", "bill_lines", "token_type")
    assert [(line["tag_counted"], line["tokens"]) for line in lines] == [("estimated", 3), ("estimated", 6)]
    assert rejected(spark, tmp_path, "request_id") == {"a-2": "invalid_output_tokens"}


def test_counted_with_the_tokenizer(spark, monkeypatch):
    """The function of the block in this process, with a tokenizer that takes each character for a token."""
    import pandas as pd

    of_model = {"qwen-plus": SimpleNamespace(encode=list)}
    monkeypatch.setitem(sys.modules, "dashscope", SimpleNamespace(get_tokenizer=of_model.__getitem__))
    spark.createDataFrame([("Who", "是好")], "prompt string, answer string").createOrReplaceTempView("answers")
    names = {"spark": spark}
    exec(compile(TOKENIZER.text, SOURCES, "exec"), names)
    assert dict(names["counted"].dtypes) == {
        "prompt": "string",
        "answer": "string",
        "input_tokens": "bigint",
        "output_tokens": "bigint",
    }
    (counted,) = names["tokens"].func(iter([pd.Series(["Who", "是好", None])]))
    assert counted.tolist()[:2] == [3, 2]
    assert counted.isna().tolist() == [False, False, True]
    spark.catalog.dropTempView("answers")
