"""How the package hangs together: what it imports and when, its public face, and the checks by tools."""

import ast
import inspect
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import spark_billing
from tests.conftest import site_without

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "spark_billing"

# A room may import only from rooms before it, the face from all
ROOMS = "core prices usage bills ledger estimates provider focus reports commands"


def modules():
    """Every module of the package by its name, such as core.hours; a room is named as such, the face is ''."""
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), ast.parse(path.read_text(encoding="utf-8"))


TREES = dict(modules())
WITHOUT_SPARK = sorted(
    module for module, tree in TREES.items() if "No Spark in here" in " ".join((ast.get_docstring(tree) or "").split())
)


def imports(module):
    """The modules of the package that a module imports, wherever in it, and the rooms that it passes on the way."""
    for node in ast.walk(TREES[module]):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            inside = name.split(".")[1:] if name.split(".")[0] == "spark_billing" else None
            if inside is None:
                continue
            while ".".join(inside) not in TREES:  # the rest is the name of something in the module
                inside.pop()
            yield ".".join(inside)


def test_every_module_is_in_a_room():
    assert {module.split(".")[0] for module in TREES} == {"", *ROOMS.split()}
    assert sorted(path.name for path in PACKAGE.glob("*.py")) == ["__init__.py"]


def test_rooms_import_one_way():
    order = ROOMS.split()
    wrong = [
        f"{module} imports {found or 'the face'}"
        for module in TREES
        if module
        for found in imports(module)
        if not found or order.index(found.split(".")[0]) > order.index(module.split(".")[0])
    ]
    assert not wrong


def test_no_modules_import_each_other():
    graph = {module: {found for found in imports(module) if found != module} for module in TREES}
    for module in graph:  # a room is loaded before what is in it
        graph[module] |= {module.rpartition(".")[0]} if "." in module else set()
    assert list(TopologicalSorter(graph).static_order())  # CycleError names the circle


@pytest.mark.parametrize("module", WITHOUT_SPARK)
def test_what_says_that_no_spark_is_in_it_imports_none(module):
    seen, to_follow = set(), {module}
    while to_follow:
        here = to_follow.pop()
        seen.add(here)
        names = {name.name for node in ast.walk(TREES[here]) if isinstance(node, ast.Import) for name in node.names}
        names |= {node.module for node in ast.walk(TREES[here]) if isinstance(node, ast.ImportFrom)}
        assert not [name for name in names if name.split(".")[0] in ("pyspark", "py4j")], f"{module} by way of {here}"
        to_follow |= set(imports(here)) - seen


def test_what_stands_in_backticks_is_there():
    """Written as `module.name`, `room.module` or `Class.name`; what is no name of ours is written without backticks."""
    there = set(TREES)
    for module, tree in TREES.items():
        inside = [(module.rpartition(".")[2], tree)]
        inside += [(node.name, node) for node in tree.body if isinstance(node, ast.ClassDef)]
        for owner, node in inside:
            for found in node.body:
                targets = getattr(found, "targets", [getattr(found, "target", found)])
                names = [name for target in targets for name in getattr(target, "elts", [target])]
                there |= {f"{owner}.{getattr(name, 'id', getattr(name, 'name', ''))}" for name in names}
    for path in PACKAGE.rglob("*.py"):
        told = re.findall(r"`([A-Za-z_]\w*(?:\.\w+)+)`", path.read_text(encoding="utf-8"))
        ours = [name for name in told if not name.endswith(".py") and not name.startswith("ice.")]  # a user's catalog
        assert not [name for name in ours if name not in there], path


def test_no_file_is_long():
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {name: length for name, length in lengths.items() if length > 400}


def python(code, *options, **environment):
    command = [sys.executable, *options, "-c", code]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.classic
def test_importing_starts_nothing_and_changes_nothing():
    result = python(
        "import os, sys, logging, warnings, decimal\n"
        "import pyspark.sql.functions\n"  # which does change some of these
        "before = (dict(os.environ), list(logging.root.handlers), list(warnings.filters), decimal.getcontext().prec)\n"
        "there = set(sys.modules)\n"
        "import spark_billing\n"
        "after = (dict(os.environ), list(logging.root.handlers), list(warnings.filters), decimal.getcontext().prec)\n"
        "assert before == after\n"
        "from pyspark import SparkContext\n"
        "assert SparkContext._gateway is None and SparkContext._active_spark_context is None\n"
        "unwanted = {'argparse', 'numpy', 'pandas', 'pyarrow', 'spark_billing.commands.command'}\n"
        "assert not (unwanted & set(sys.modules)) - there, unwanted & set(sys.modules)\n"
        "from spark_billing import model_call_cost, PriceList\n"
        "model_call_cost(PriceList.bundled('emr-serverless-spark', currency='USD'))\n"  # a UDF needs no session either
        "assert SparkContext._gateway is None\n"
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.campaign
@pytest.mark.classic
@pytest.mark.own_spark
def test_the_default_path_needs_neither_numpy_nor_pandas_nor_pyarrow(tmp_path):
    site = site_without(tmp_path / "site", "numpy", "pandas", "pyarrow")
    result = python(
        "from spark_billing.commands.hourly_bill import hourly_bill\n"
        f"assert hourly_bill(['--demo', '--output', {str(tmp_path / 'demo')!r}]) == 0\n"
        "refused = ['--usage', 'u', '--output', 'o', '--currency', 'USD', '--pricing', 'udf']\n"
        "assert hourly_bill(refused) == 2\n",
        "-S",
        PYTHONPATH=str(site),
    )
    assert result.returncode == 0, result.stderr
    assert "needs pyarrow" in result.stdout
    assert "--pricing udf needs pyarrow" in result.stderr


def test_the_public_names():
    assert spark_billing.__all__ == sorted(spark_billing.__all__)
    for name in spark_billing.__all__:
        assert inspect.getdoc(getattr(spark_billing, name)), name
    with pytest.raises(AttributeError, match="nothing"):
        _ = spark_billing.nothing


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("bill_lines", "(usage: 'DataFrame', *, prices: 'PriceList', group_by_tags: 'Sequence[str]' = (), "
                       "pricing: 'Pricing' = 'native', duplicates: 'bool' = True, dedup_lookback: 'int' = 24, "
                       "keep_copy: 'KeepCopy' = 'fullest') -> 'DataFrame'"),
        ("bill_usage", "(usage: 'DataFrame', *, prices: 'PriceList', source: 'str', "
                       "output: 'Optional[str]' = None, catalog: 'Optional[str]' = None, "
                       "period: 'Optional[tuple[str, str]]' = None, last: 'Optional[int]' = None, "
                       "cover_gap: 'bool' = False, "
                       "columns: 'Optional[Mapping[str, str]]' = None, call_time_zone: 'Optional[str]' = None, "
                       "where: 'Optional[str]' = None, model_alias: 'GivenAliases' = (), "
                       "usage_schema: 'Optional[str]' = None, max_rejected: 'MaxRejected' = None, "
                       "pricing: 'Pricing' = 'native', duplicates: 'bool' = True, dedup_lookback: 'int' = 24, "
                       "keep_copy: 'KeepCopy' = 'fullest', group_by_tags: 'Sequence[str]' = (), "
                       "detail: 'bool' = False, as_of: 'Optional[str]' = None, closed_after: 'Optional[int]' = None, "
                       "adjust_within: 'Optional[int]' = None, allow_retractions: 'bool' = False, "
                       "dry_run: 'bool' = False, one_writer: 'bool' = False, publishing_patience: 'float' = 10) "
                       "-> 'RunRecord'"),
        ("bill_history", "(spark: 'SparkSession', output: 'Optional[str]' = None, *, "
                         "catalog: 'Optional[str]' = None, workspace_id: 'str', hour: 'str') -> 'DataFrame'"),
        *((name, "(spark: 'SparkSession', output: 'Optional[str]' = None, *, "
                 "catalog: 'Optional[str]' = None, start: 'Optional[str]' = None, "
                 "end: 'Optional[str]' = None) -> 'DataFrame'") for name in ("ledger_bill_lines", "ledger_bills")),
        ("ledger_lines", "(spark: 'SparkSession', output: 'Optional[str]' = None, *, "
                         "catalog: 'Optional[str]' = None, start: 'Optional[str]' = None, "
                         "end: 'Optional[str]' = None) -> 'DataFrame'"),
        ("monthly_statement", "(lines: 'DataFrame', month: 'str', *, as_of: 'Optional[str]' = None, "
                              "closed_after: 'int' = 48, top: 'int' = 20, "
                              "ledger: 'Optional[str]' = None) -> 'Statement'"),
        ("provider_bill", "(bill: 'DataFrame', mapping: 'BillMapping') -> 'DataFrame'"),
        ("read_bill", "(spark: 'SparkSession', path: 'str', file_format: 'Optional[str]' = None) -> 'DataFrame'"),
        ("reconcile", "(lines: 'DataFrame', provider: 'DataFrame', *, prices: 'PriceList', grain: 'str', "
                      "other_lines: 'Optional[DataFrame]' = None, decimals: 'int' = 10, tokens_tolerance: 'int' = 0) "
                      "-> 'DataFrame'"),
        ("rerate", "(usage: 'DataFrame', *, prices: 'PriceList', other: 'PriceList', "
                   "period: 'Optional[tuple[str, str]]' = None, duplicates: 'bool' = True, "
                   "dedup_lookback: 'int' = 24, keep_copy: 'KeepCopy' = 'fullest') -> 'DataFrame'"),
        ("estimate_calls", "(df: 'DataFrame', *, text: 'StrOrColumn', model: 'StrOrColumn', region: 'StrOrColumn', "
                           "output_tokens: 'OutputTokens', prices: 'PriceList', at: 'Optional[datetime]' = None, "
                           "tokens: 'str' = 'ratio', one_in: 'int' = 1) -> 'Estimate'"),
        ("learn_output", "(usage: 'DataFrame', *, workspace_id: 'str', model: 'str') -> 'OutputPerInput'"),
        ("check_focus", "(frame: 'DataFrame', version: 'str' = '1.2') -> 'list[BrokenRule]'"),
        ("bill_touched_hours", "(prices: 'PriceList', *, usage: 'str', output: 'Optional[str]' = None, "
                               "catalog: 'Optional[str]' = None, "
                               "usage_format: 'Optional[str]' = None, columns: 'Optional[Mapping[str, str]]' = None, "
                               "call_time_zone: 'Optional[str]' = None, where: 'Optional[str]' = None, "
                               "model_alias: 'GivenAliases' = (), usage_schema: 'Optional[str]' = None, "
                               "max_rejected: 'MaxRejected' = None, duplicates: 'bool' = True, "
                               "dedup_lookback: 'int' = 24, keep_copy: 'KeepCopy' = 'fullest', "
                               "source: 'Optional[str]' = None, "
                               "pricing: 'Pricing' = 'native', group_by_tags: 'Sequence[str]' = (), "
                               "detail: 'bool' = False, as_of: 'Optional[str]' = None, "
                               "closed_after: 'Optional[int]' = None, adjust_within: 'Optional[int]' = None, "
                               "allow_retractions: 'bool' = False, one_writer: 'bool' = False) "
                               "-> 'Callable[[DataFrame, int], None]'"),
        ("sql_function_ddl", "(prices: 'PriceList', *, namespace: 'Optional[str]' = None, prefix: 'str' = '') "
                             "-> 'list[str]'"),
        ("check_usage", "(usage: 'DataFrame', *, prices: 'PriceList', duplicates: 'bool' = True, "
                        "dedup_lookback: 'int' = 24, keep_copy: 'KeepCopy' = 'fullest') -> 'DataFrame'"),
        ("hourly_bills", "(lines: 'DataFrame') -> 'DataFrame'"),
        ("model_call_cost", "(prices: 'PriceList') -> 'CallUdf'"),
        ("model_call_tier", "(prices: 'PriceList') -> 'CallUdf'"),
        ("price_calls", "(usage: 'DataFrame', *, prices: 'PriceList') -> 'DataFrame'"),
        ("register", "(spark: 'SparkSession', prices: 'PriceList') -> 'None'"),
        ("to_focus", "(lines: 'DataFrame', *, billing_account_id: 'str', billing_account_name: 'Optional[str]' = None, "
                     "invoice_issuer: 'str' = 'Alibaba Cloud', version: 'str' = '1.2', closed_months: 'ClosedMonths' "
                     "= (), invoice_ids: 'Optional[Mapping[str, str]]' = None, invoice_detail_ids: "
                     "'Optional[Mapping[str, str]]' = None, tags: 'Optional[Mapping[str, str]]' = None, region_names: "
                     "'Optional[Mapping[str, str]]' = None, ledger: 'Optional[str]' = None) -> 'DataFrame'"),
        ("PriceList.bundled", "(name: 'str', *, currency: 'str', tokens_per_k: 'int' = 1000, "
                              "version: 'Optional[str]' = None) -> 'PriceList'"),
        ("PriceList.from_csv", "(path: 'object', *, tokens_per_k: 'int' = 1000, "
                               "version: 'Optional[str]' = None) -> 'PriceList'"),
    ],
)  # fmt: skip
def test_public_signatures(name, signature):
    found = spark_billing
    for part in name.split("."):
        found = getattr(found, part)
    assert str(inspect.signature(found)) == signature


def test_the_top_level_is_the_owners():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    top = {name.partition("/")[0] for name in listed if name}
    assert {name for name in top if not name.startswith(".")} <= {
        "pyproject.toml",
        "README.md",
        "spark_billing",
        "jobs",
        "tests",
    }


@pytest.mark.default_engine
@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        pytest.param(("mypy",), marks=pytest.mark.campaign),
        ("vermin", "--target=3.9-", "--violations", "--no-tips", "--eval-annotations", "spark_billing", "jobs"),
    ],
    ids=lambda command: "-".join(command[:2]),
)
def test_tools(command):
    tool = Path(sys.executable).with_name(command[0])
    result = subprocess.run([str(tool), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
