"""The console command: every job is a subcommand, and says what it does."""

import re
from pathlib import Path

import pytest

import spark_billing
from spark_billing.commands import cli

ROOT = Path(__file__).resolve().parent.parent.parent


def test_every_job_is_a_subcommand():
    files = sorted(path.name for path in (ROOT / "jobs").glob("*.py"))
    assert sorted(command.job for command in cli.COMMANDS if command.job) == files
    assert len({command.name for command in cli.COMMANDS}) == len(cli.COMMANDS)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'spark-billing = "spark_billing.commands.cli:main"' in project


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.name)
def test_help_of_each_teaches(command, capsys):
    """By either name: its examples call it as the user did."""
    subcommand = f"spark-billing {command.name}"
    calls = ((lambda: cli.main([command.name, "--help"]), subcommand),
             (lambda: command(["--help"]), f"jobs/{command.job}" if command.job else subcommand))  # fmt: skip
    for call, prog in calls:
        with pytest.raises(SystemExit) as ended:
            call()
        said = capsys.readouterr().out
        assert ended.value.code == 0
        assert re.search(rf"^examples?:\n(  #.*\n)?  {re.escape(prog)} (\w+ )?--", said, flags=re.M), said


def test_the_command_alone(capsys):
    assert cli.main([]) == 2
    overview = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert re.search(rf"^  {command.name} +[A-Z].{{20}}", overview, flags=re.M)
    for option in ("--help", "--version"):
        with pytest.raises(SystemExit) as ended:
            cli.main([option])
        assert ended.value.code == 0
    said = capsys.readouterr().out
    assert overview.strip() in said
    assert f"spark-billing {spark_billing.__version__}" in said


def test_mistakes_are_one_line(capsys):
    assert cli.main(["bil"]) == 2
    assert capsys.readouterr().err == "spark-billing: 'bil' is no command; they are " + (
        ", ".join(command.name for command in cli.COMMANDS) + " (see --help)\n"
    )
    with pytest.raises(SystemExit) as ended:
        cli.main(["history", "--output", "o"])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
