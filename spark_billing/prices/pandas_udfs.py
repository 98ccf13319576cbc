"""The vectorized UDFs on engines before Spark 4.1, which have no `arrow_udf`: the same behind a `pandas_udf`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import Column, SparkSession
from pyspark.sql.functions import pandas_udf  # type: ignore[attr-defined]
from pyspark.sql.types import DataType, StructType

_SESSION_ZONE = "spark.sql.session.timeZone"


class PandasCallUdf:
    """A UDF of calls. An instant arrives as wall-clock time of the session's zone and is turned back with that zone:
    the one in force when the query runs if the session has set it, else the one known when the UDF was used."""

    def __init__(self, name: str, function: Callable[..., pa.Array], return_type: DataType) -> None:
        self._name, self._function, self._return_type = name, function, return_type

    def __call__(self, *columns: Any) -> Column:
        session = SparkSession.getActiveSession()
        made: Column = self.with_zone(session.conf.get(_SESSION_ZONE) if session else None)(*columns)
        return made

    def with_zone(self, default_zone: Optional[str]) -> Any:
        function = self._function

        def call(
            model: pd.Series,
            region: pd.Series,
            input_tokens: pd.Series,
            output_tokens: pd.Series,
            call_time: pd.Series,
        ) -> Any:
            calls = [pa.Array.from_pandas(column) for column in (model, region, input_tokens, output_tokens)]
            if not pd.api.types.is_datetime64_any_dtype(call_time.dtype):
                priced = function(*calls, pa.Array.from_pandas(call_time))
            else:
                context = TaskContext.get()
                zone = (context and context.getLocalProperty(_SESSION_ZONE)) or default_zone
                # the hour that a zone passes twice in autumn: priced only if both readings say the same
                priced, again = (function(*calls, _of_wall_clock(call_time, zone, summer)) for summer in (True, False))
                if not priced.equals(again):
                    same = [a == b for a, b in zip(priced.to_pylist(), again.to_pylist())]
                    priced = pa.array([v if ok else None for v, ok in zip(priced.to_pylist(), same)], priced.type)
            if pa.types.is_struct(priced.type):
                fields = zip([field.name for field in priced.type], priced.flatten())
                return pd.DataFrame({name: _series(values) for name, values in fields})
            return _series(priced)

        # pandas_udf goes by the annotations: a struct is a frame
        call.__annotations__["return"] = pd.DataFrame if isinstance(self._return_type, StructType) else pd.Series
        call.__name__ = call.__qualname__ = self._name
        return pandas_udf(call, self._return_type)


def _series(values: pa.Array) -> pd.Series:
    return pd.Series(pd.arrays.ArrowExtensionArray(values))


def _of_wall_clock(wall_clock: pd.Series, zone: Optional[str], summer: bool) -> pa.Array:
    if zone is None:
        return pa.nulls(len(wall_clock), pa.timestamp("us", tz="UTC"))
    known = wall_clock.dt.tz_localize(zone, ambiguous=np.full(len(wall_clock), summer), nonexistent="shift_forward")
    return pa.Array.from_pandas(known.dt.tz_convert("UTC")).cast(pa.timestamp("us", tz="UTC"), safe=False)
