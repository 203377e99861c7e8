"""What commands print: a table or JSON on stdout, errors as one sentence on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from ebpfperf.errors import EbpfperfError

WIDE = 200


def as_json(document: object) -> None:
    """Print JSON, indented, keys in the order given."""
    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def sentence(text: str) -> None:
    """Print a sentence on stdout."""
    print(text)


def remark(text: str) -> None:
    """Print a sentence on stderr, where it does not mix with results."""
    print(text, file=sys.stderr, flush=True)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str = "",
    numeric: Sequence[str] = (),
    empty: str = "Nothing to show.",
) -> None:
    """Print a table, or ``empty`` where it would have no row; nothing is cut off in a pipe."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title or None, title_justify="left", box=box.SIMPLE, pad_edge=False)
    for name in columns:
        drawn.add_column(name, justify="right" if name in numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(str(cell)) for cell in row))
    if not drawn.rows:
        print(empty)
        return
    tty = sys.stdout.isatty()
    Console(width=None if tty else WIDE, soft_wrap=not tty).print(drawn)


def error(raised: BaseException) -> None:
    """Print an error, and before it those it came up on while cleaning up."""
    earlier = raised.__context__
    if isinstance(earlier, EbpfperfError) and raised.__cause__ is not earlier:
        error(earlier)
    if isinstance(raised, EbpfperfError):
        problems = raised.fields.get("problems")
        told = problems if isinstance(problems, tuple) and problems else (str(raised),)
        for text in told:
            remark(f"error: {text}")
    else:
        remark(f"error: {raised}")


def record(row: Mapping[Hashable, Any]) -> dict[str, object]:
    """A row with NaN and NA as None, so that it is JSON."""
    return {str(key): None if value != value else value for key, value in row.items()}
