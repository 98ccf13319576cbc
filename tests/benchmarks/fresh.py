"""Runs a function in a Python process of its own, and looks at the memory of processes."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Callable, Optional

from pyspark.sql import SparkSession

GIB = 1 << 30
_PROC = Path("/proc")  # Linux only; elsewhere no memory is reported


def fresh(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns in a new process, which ends with it; so does the JVM that it started."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def jvm_pid(spark: SparkSession) -> int:
    return int(spark._jvm.java.lang.ProcessHandle.current().pid())  # type: ignore[union-attr]


def memory(pid: int, field: str) -> Optional[int]:
    """Bytes of a field of /proc/<pid>/status, such as VmHWM, the most that was ever resident; None without it."""
    try:
        lines = (_PROC / str(pid) / "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def family(pid: int) -> list[int]:
    """The process, its children and theirs."""
    children: dict[int, list[int]] = {}
    for stat in _PROC.glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:  # ended meanwhile
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def in_gib(size: Optional[int]) -> Optional[float]:
    return None if size is None else round(size / GIB, 2)
