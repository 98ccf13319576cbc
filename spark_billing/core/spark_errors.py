"""Whose fault an error of Spark's is, by its SQLSTATE, and what it says in a line.

An error within a task comes as the text of another one: the driver's "Job aborted" has the stack traces of the task.
So what counts is the innermost condition, and the innermost cause, in the whole text.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Optional

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

from spark_billing.core.errors import SparkBillingError

# Cardinality, data, integrity, external routines (UDFs), syntax and names, and what was raised on purpose
_USERS_CLASSES = ("21", "22", "23", "38", "39", "42", "P0")
_READING = "KD001"  # a file that cannot be read
BROKEN_PROMISE = "spark_billing breaks a promise of its own: "  # what `raise_error` in its plans begins with

_NAME = r"[A-Z][A-Z0-9]*_[A-Z0-9_]+(?:\.[A-Z][A-Z0-9_]*)*"
_CONDITION = re.compile(rf"\[({_NAME})\]\s*((?:(?!\n\s+at |\[{_NAME}\]|SQLSTATE:|\n== |\nCaused by: ).)*)", re.S)
_STATE = re.compile(r"SQLSTATE: ([0-9A-Z]{5})")
_FRAGMENT = re.compile(r"\n== SQL[^\n]*==\n(.*?)\n *\^", re.S)
_CLASS = r"(?:[a-z_][\w$]*\.)+[A-Z][\w$]*"
_CAUSE = re.compile(rf"(?:^|Caused by: |\): |\n: )({_CLASS})(?::? |\n|$)", re.M)
_FRAME = re.compile(r"\n\s+at (?:java\.base/)?([\w.$]+)")

_PYTHON = re.compile(r"Traceback \(most recent call last\):.*?\n(\w[^\n]*)", re.S)
_OWN_PYTHON = re.compile(
    r"spark_billing[/\\](?:prices|usage|bills|estimates)[/\\]\w+\.py|No module named 'spark_billing"
)

# Spark 3.5 has no condition for some files that it cannot read, nor for what is raised on purpose
_UNREADABLE_FILE = re.compile(
    r"(?:Encountered error while reading file|Parquet column cannot be converted in file|CSV header does not conform|"
    r"\S+ is not a Parquet file|Malformed ORC file|Not a valid ORC file|"
    r"File \S+ does not exist|"
    r"Unexpected end of input stream|Unescaped quote character|Unexpected character '.' following quoted value)[^\n]*"
)
_RAISED = re.compile(
    r"java\.lang\.RuntimeException: ([^\n]*)\n\s+at org\.apache\.spark\.sql\.catalyst\.expressions\.(?:Gen|Raise)"
)

# Who says that a storage does not answer, in whatever words; a plain IOException is also what a decoder says of bytes
_NETWORK = re.compile(
    r"java\.net\.|javax\.net\.|java\.nio\.channels\.|org\.apache\.http|com\.amazonaws\.|software\.amazon\.|com\.aliyun|"
    r"org\.apache\.hadoop\.(?:net|ipc|hdfs|fs\.s3a|fs\.aliyun)\.|java\.util\.concurrent\.TimeoutException|"
    r"java\.io\.InterruptedIOException"
)
_DECODER = re.compile(
    r"org\.apache\.(?:parquet|orc|avro|hadoop\.io\.compress)|shaded\.parquet|org\.xerial|com\.(?:univocity|fasterxml|github\.luben)|"
    r"io\.airlift|net\.jpountz|java\.util\.zip"
)
_TROUBLES = (  # what the storage's own words are, what that is, and what to do about it
    (
        re.compile(r"No space left on device|Disk quota exceeded|DiskOutOfSpace|DSQuotaExceeded", re.I),
        "no space is left",
        "Free some; nothing half-written counts.",
    ),
    (
        re.compile(r"Read-only file system|is in safe mode", re.I),
        "the storage is read-only",
        "Let this user write there, or give another path.",
    ),
    (
        re.compile(
            r"AccessControlException|AccessDenied|Access Denied|Permission denied|Operation not permitted", re.I
        ),
        "permission denied",
        "Give this user the right to it, or run it as the one whose files they are.",
    ),
)
_AT = re.compile(r"(?:[a-z][a-z0-9]*:)?/[^\s'\",:()]+")
_NOT_ALLOWED = re.compile(r"AccessControlException|AccessDeniedException|Access ?Denied|Permission denied", re.I)


@dataclass(frozen=True)
class _Told:
    """The innermost condition of an error."""

    condition: str
    state: Optional[str]
    text: str


def users_error(error: Exception) -> Optional[str]:
    """What Spark says of a usage table or a user's expression, in a line; None if the failure is of another kind."""
    text = whole_text(error)
    if re.search(rf"(?:Exception: |\] ?){re.escape(BROKEN_PROMISE)}", text):
        return None
    if type(error).__name__ == "PythonException" or "org.apache.spark.api.python.PythonException" in text:
        said = _PYTHON.findall(text)
        return None if _OWN_PYTHON.search(text) else f"a Python UDF failed: {said[-1] if said else _first_line(text)}"
    told = _innermost(error, text)
    if told is not None and told.state is not None:
        if told.state == _READING:
            return None if _storage_is_broken(text) else told.text
        return told.text if told.state.startswith(_USERS_CLASSES) else None
    unreadable, raised = _UNREADABLE_FILE.search(text), _RAISED.search(text)
    if unreadable:
        return None if _storage_is_broken(text) else f"FAILED_READ_FILE: {unreadable[0].strip()}"
    return f"USER_RAISED_EXCEPTION: {raised[1]}" if raised else None


def spark_reason(error: Exception) -> str:
    """A Spark error in one line."""
    return users_error(error) or _first_line(str(error)) or repr(error)


def is_storage_failure(error: Exception) -> bool:
    """Whether a storage does not answer, as far as can be told; a file that is broken or absent is another matter."""
    return users_error(error) is None and _storage_is_broken(whole_text(error))


def storage_trouble(error: Exception) -> Optional[str]:
    """If a storage is full, read-only or not this user's: that and where, in a line; else None.

    Spark tells it as the last cause of something else, if not as the absence of a file.
    """
    if isinstance(error, SparkBillingError):
        return None
    for said in (str(error), whole_text(error)):
        for words, what, to_do in _TROUBLES:
            found = words.search(said)
            if found:
                line = said[said.rfind("\n", 0, found.start()) + 1 :].split("\n")[0]
                at = _AT.search(line)
                return f"{what}{f' ({at[0]})' if at else ''}. {to_do}"
    return None


def whole_text(error: Exception) -> str:
    """All that Spark says, with the stack traces of the JVM."""
    return "\n".join(text for text in (str(error), getattr(error, "_stackTrace", None)) if text)


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith("An error occurred while calling")), "")  # py4j's words


def _innermost(error: Exception, text: str) -> Optional[_Told]:
    found = list(_CONDITION.finditer(text))
    for match in reversed(found):
        rest = text[match.end() :]
        state = _STATE.match(rest.lstrip())
        said = _told(match[1], match[2], rest)
        code = state[1] if state else _state_of(error, match[1])
        if code is not None:  # else it is a word in brackets
            return _Told(match[1], code, said)
    code = _own_state(error)
    return None if code is None else _Told("", code, _first_line(str(error)))


def _told(condition: str, message: str, rest: str) -> str:
    """With the expression that it is about, where Spark gives it right behind."""
    fragment = _FRAGMENT.match(_STATE.sub("", rest[:4000], count=1).lstrip(" ;") if rest else "")
    about = f" (in {' '.join(fragment[1].split())})" if fragment else ""
    return f"{condition}: {' '.join(message.split())}{about}"


def _own_state(error: Exception) -> Optional[str]:
    if not isinstance(error, PySparkException):
        return None
    with suppress(Py4JError, AttributeError, NotImplementedError):
        return error.getSqlState()
    return None


def _state_of(error: Exception, condition: str) -> Optional[str]:
    """The SQLSTATE of a condition, for texts of Spark 3.5, which do not have it."""
    java: Any = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    while java is not None:
        with suppress(Py4JError, TypeError):  # what is no SparkThrowable has none
            if java.getErrorClass() == condition:
                state: Optional[str] = java.getSqlState()
                return state
        java = java.getCause()
    return _own_state(error) if str(error).startswith(f"[{condition}]") else None


def _storage_is_broken(text: str) -> bool:
    """Whether the innermost cause in a text is a storage that does not answer."""
    if _NOT_ALLOWED.search(text):
        return False
    causes = list(_CAUSE.finditer(text))
    if not causes:
        return False
    if any(_NETWORK.match(cause[1]) for cause in causes):
        return True
    last = causes[-1]
    frame = _FRAME.search(text, last.end() - 1)
    return last[1] == "java.io.IOException" and not (frame and _DECODER.match(frame[1]))
