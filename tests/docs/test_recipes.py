"""Each way to fill the usage table, run on a small log of that shape, with a bill computed by hand."""

import json
import re
import sys
from decimal import Decimal
from types import SimpleNamespace

import pytest

from spark_billing.commands.hourly_bill import hourly_bill
from tests.conftest import rows
from tests.docs.blocks import claim
from tests.docs.commands import job_of

pytestmark = pytest.mark.classic

SOURCES = "jobs/usage_sources.md"
WITH_SQL = ("litellm", "opentelemetry", "estimated")
RECIPES = {
    "openai": claim(SOURCES, "sh", "openai"),
    **{kind: claim(SOURCES, "sql", kind) + claim(SOURCES, "sh", kind) for kind in WITH_SQL},
}
(TOKENIZER,) = claim(SOURCES, "python", "tokenizer")
START = 1775577600  # 2026-04-08T00:00+08:00, when commercial billing starts


@pytest.fixture
def run(spark, tmp_path):
    """Runs the blocks of a recipe in order."""
    made = []

    def run(kind):
        for block in RECIPES[kind]:
            if block.language == "sh":
                (words,) = block.commands
                assert hourly_bill(job_of([word.replace("oss://bucket", str(tmp_path)) for word in words])[1]) == 0
                continue
            for statement in re.split(r";\s*\n", block.text.replace("oss://bucket", str(tmp_path)).strip().rstrip(";")):
                made.extend(re.findall(r"CREATE (?:OR REPLACE )?(TABLE|VIEW) (\w+)", statement))
                spark.sql(statement)

    yield run
    for kind, name in reversed(made):
        spark.sql(f"DROP {kind} IF EXISTS {name}")


def billed(spark, tmp_path):
    bills = rows(spark, tmp_path / "bills", "bills", ["workspace_id", "period_start"])
    return [(b["workspace_id"], b["billing_hour"], b["requests"], b["amount"]) for b in bills]


def rejected(spark, tmp_path, name):
    return {r[name]: r["reject_reason"] for r in rows(spark, tmp_path / "bills", "rejected", name)}


def write_json_lines(path, documents):
    path.write_text("".join(json.dumps(document) + "\n" for document in documents), encoding="utf-8")


def test_openai_responses(spark, run, tmp_path):
    def response(number, usage, model="qwen-plus", kind="chat.completion"):
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
        created = START + 3600 * number
        answer = {"id": f"chatcmpl-{number}", "object": kind, "created": created, "model": model}
        return {**answer, "choices": [choice], "usage": usage}

    def counts(prompt, completion):
        both = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return {**both, "prompt_tokens_details": {"cached_tokens": 0}}

    write_json_lines(
        tmp_path / "responses.jsonl",
        [
            response(0, counts(260, 50)),
            response(1, counts(300_000, 2_000)),
            response(2, None),  # a streamed answer without include_usage
            response(3, counts(1, 1), model="qwen-plus-2025-07-28"),
        ],
    )
    run("openai")
    # 0.00003588 + 0.0000172; 0.2481 + 0.016514
    assert billed(spark, tmp_path) == [
        ("w-1234567890abcdef", 0, 1, Decimal("0.00005308")),
        ("w-1234567890abcdef", 1, 1, Decimal("0.264614")),
    ]
    assert rejected(spark, tmp_path, "id") == {
        "chatcmpl-2": "invalid_input_tokens",
        "chatcmpl-3": "unknown_model",
    }


def test_litellm_spend_logs(spark, run, tmp_path):
    head = (
        "request_id,call_type,api_key,spend,total_tokens,prompt_tokens,completion_tokens,startTime,endTime,"
        "completionStartTime,model,model_id,model_group,custom_llm_provider,api_base,user,metadata,cache_hit,cache_key,"
        "request_tags,team_id,end_user,requester_ip_address,messages,response,session_id,status"
    )

    def row(number, start, end, model, team="w-a", cache_hit="False", status="success", spend="9.9", tokens=(260, 50)):
        usage = f"{sum(tokens)},{tokens[0]},{tokens[1]},{start},{end},{start}"
        who = f'{model},,qwen-plus,dashscope,,me,"{{""tags"": [""a, b""]}}",{cache_hit},k,"[""x""]",{team},,,'
        return f'c-{number},acompletion,hash,{spend},{usage},{who}"{{""text"": ""line\nline""}}",{{}},,{status}'

    log = [
        head,
        # the call starts in one hour of UTC+8 and ends in the next; the times are UTC
        row(1, "2026-04-07 16:59:59.9", "2026-04-07 17:00:00.25", "dashscope/qwen-plus"),
        row(2, "2026-04-07 17:10:00", "2026-04-07 17:10:01", "qwen-plus", status=""),  # of a version before status
        row("2_cache_hit1", "2026-04-07 17:11:00", "2026-04-07 17:11:00", "qwen-plus", cache_hit="True", spend="0"),
        row(3, "2026-04-07 17:12:00", "2026-04-07 17:12:00", "qwen-plus", status="failure", spend="0"),
        row(4, "2026-04-07 17:13:00", "2026-04-07 17:13:00", "qwen-plus", team=""),
    ]
    (tmp_path / "spend_logs.csv").write_text("\n".join([*log, ""]), encoding="utf-8")
    run("litellm")
    assert billed(spark, tmp_path) == [("w-a", 1, 2, Decimal("0.00010616"))]
    assert rejected(spark, tmp_path, "request_id") == {"c-4": "missing_workspace_id"}


def test_opentelemetry_spans(spark, run, tmp_path):
    def attributes(**values):
        typed = {int: "intValue", str: "stringValue"}  # OTLP writes 64-bit integers as text
        return [{"key": key.replace("__", "."), "value": {typed[type(v)]: str(v)}} for key, v in values.items()]

    def span(number, operation, ends, usage=(260, 50), response="resp", **more):
        counts = {"gen_ai__usage__input_tokens": usage[0], "gen_ai__usage__output_tokens": usage[1]} if usage else {}
        response_id = {"gen_ai__response__id": f"{response}-{number}"} if response else {}
        of_call = {"gen_ai__operation__name": operation, "gen_ai__request__model": "qwen-plus"}
        return {
            "traceId": "5b8efff798038103d269b633813fc60c",
            "spanId": f"eee19b7ec3c1b17{number}",
            "name": f"{operation} qwen-plus",
            "kind": 3,
            "startTimeUnixNano": str(ends - 5_000_000_001),
            "endTimeUnixNano": str(ends),
            "attributes": attributes(**of_call, **counts, **response_id, **more),
            "status": {},
        }

    def export(service, *spans):
        resource = {"attributes": attributes(service__name=service)}
        scope_spans = [{"scope": {"name": "x"}, "spans": list(spans)}]
        return {"resourceSpans": [{"resource": resource, "scopeSpans": scope_spans}]}

    nano = START * 10**9
    (tmp_path / "traces").mkdir()
    first = span(1, "chat", nano + 999)
    write_json_lines(
        tmp_path / "traces" / "a.jsonl",
        [
            export(
                "search", first, span(2, "chat", nano - 1, response=None), span(3, "invoke_agent", nano, (520, 100))
            ),
            export("search", first),  # sent twice
            export("support", span(4, "chat", nano, None, error__type="timeout"), span(5, "execute_tool", nano, None)),
            export("support", span(6, "chat", nano + 3600 * 10**9)),
        ],
    )
    run("opentelemetry")
    free, one = Decimal(0), Decimal("0.00005308")
    who = "w-1234567890abcdef"  # hour 23 of the day before, in the free trial
    assert sorted(billed(spark, tmp_path), key=lambda bill: bill[1]) == [
        (who, 0, 1, one),
        (who, 1, 1, one),
        (who, 23, 1, free),
    ]
    lines = rows(spark, tmp_path / "bills", "bill_lines", ["period_start", "token_type"])
    assert [line["tag_service"] for line in lines] == ["search"] * 4 + ["support"] * 2
    assert rejected(spark, tmp_path, "request_id") == {
        "resp-1": "duplicate_request",
        "resp-4": "invalid_input_tokens",
    }


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
