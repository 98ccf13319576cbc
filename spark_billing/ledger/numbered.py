"""Files of a ledger that are named by a number, and texts that carry the hash of their own content.

A record of a run has its number for a name, and so have checkpoints and manifests: the next one is created only if it
is not there yet. Checkpoints and manifests are sealed, since what is broken must not be taken for less than it was. No
Spark in here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Optional

_NUMBERED = re.compile(r"[0-9]{20}\.json")  # as `numbered_name` says, and not as somebody has named a copy


def numbered_name(number: int) -> str:
    """The name of a file, such that their order is that of the numbers."""
    return f"{number:020}.json"


def numbered(names: Iterable[str]) -> list[str]:
    """Those of some files that are named by a number, in order."""
    return sorted(name for name in names if _NUMBERED.fullmatch(name))


def sealed(content: Mapping[str, Any]) -> str:
    """A content in one line, and before it the hash of that line."""
    line = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return f'{{"sha256":"{hash_of(line)}","content":\n{line}\n}}\n'


def unsealed(text: str) -> Optional[Any]:
    """The content of a sealed text; None if it is not whole."""
    first, _, rest = text.partition("\n")
    line = rest.partition("\n")[0]
    return json.loads(line) if first == f'{{"sha256":"{hash_of(line)}","content":' else None


def hash_of(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
