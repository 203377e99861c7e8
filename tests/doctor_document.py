"""The generated tables of docs/doctor.md; run as a program it writes them there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ebpfperf.doctor import judge, listing
from ebpfperf.preflight import OF_TREATMENTS

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "doctor.md"


def tables() -> dict[str, str]:
    """Name of the marked part → the table that belongs there."""
    checks = [
        (
            f"{check.id} `{check.name}`",
            check.title,
            listing.releases(check),
            "yes" if check.preflight and check.id not in OF_TREATMENTS else "",
            check.source,
        )
        for check in judge.CHECKS
    ]
    sources = [(f"`{name}`", how, what) for name, how, what in listing.sources()]
    return {
        "checks": table(("check", "asks", "releases", "before a campaign", "from"), checks),
        "sources": table(("source", "asked by", "tells"), sources),
    }


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", r"\|") for cell in row] for row in (columns, *rows)]
    head, *body = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join((head, f"|{'---|' * len(columns)}", *body))


def filled(text: str) -> str:
    """The document with its tables as they are now."""
    for name, made in tables().items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
        assert marked.search(text), f"docs/doctor.md has no part {name}"
        text = marked.sub(lambda found, made=made: f"{found[1]}{made}\n{found[2]}", text)
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(filled(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
