"""One offline HTML page around a report's body: landmarks, contents, one style sheet, no script."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape, unescape

_HEADING = re.compile(r"<h(?P<level>[1-6])(?P<attributes>[^>]*)>(?P<inner>.*?)</h\1>", re.S)
_TAG = re.compile(r"<[^>]+>")

STYLE = """
:root{--ink:#1d2129;--soft:#555d6b;--paper:#fff;--line:#d9dde3;--shade:#f4f6f8;--link:#0b5cad;
--good:#00664b;--bad:#a63d00;--mind:#fff6df;--mind-line:#c58a00}
@media (prefers-color-scheme:dark){:root{--ink:#e8eaee;--soft:#aab1bd;--paper:#16181d;
--line:#3a3f49;--shade:#20242b;--link:#7db8f5;--good:#4fd0a5;--bad:#ff9a5c;--mind:#332a12;
--mind-line:#c58a00}}
*{box-sizing:border-box}html{scroll-behavior:smooth}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
a{color:var(--link)}a:focus-visible,summary:focus-visible{outline:3px solid var(--link);
outline-offset:2px}
.skip{position:absolute;left:-999px}.skip:focus{left:8px;top:8px;background:var(--paper);padding:8px}
header,main,footer,nav.contents{max-width:60rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:2rem}main{padding-bottom:2rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .3rem}
h2{font-size:1.35rem;margin:2.4rem 0 .6rem;padding-top:.8rem;border-top:1px solid var(--line)}
h3{font-size:1.08rem;margin:1.6rem 0 .4rem}p{max-width:44rem}
.stamp{color:var(--soft);font-size:.9rem;margin:0}
nav.contents{margin-top:1rem}nav.contents ol{list-style:none;display:flex;flex-wrap:wrap;
gap:.15rem 1.2rem;margin:0;padding:.7rem 1rem;background:var(--shade);border-radius:6px}
figure{margin:1.2rem 0}figure img{display:block;background:#fff;border-radius:4px}
figcaption{color:var(--soft);font-size:.92rem;margin-top:.35rem}
details{margin:.3rem 0}summary{cursor:pointer;color:var(--link);font-size:.92rem}
.table{overflow-x:auto;margin:1rem 0}table{font-size:.9rem}
caption{text-align:left;font-weight:600;padding:.3rem 0}
th,td{padding:.32rem .5rem .32rem 0;border-bottom:1px solid var(--line);vertical-align:top;
text-align:left}thead th{border-bottom:2px solid var(--line);white-space:nowrap}
tbody th{font-weight:600;white-space:nowrap}td.verdict{font-weight:600;min-width:8rem}
td.better{color:var(--good)}td.worse{color:var(--bad)}td.void,td.undecided{color:var(--soft)}
ul.headline{padding:0;list-style:none}ul.headline li{margin:.7rem 0;padding-left:.9rem;
border-left:4px solid var(--link);max-width:46rem}
ol.notes{font-size:.88rem;color:var(--soft);margin:.2rem 0 1rem;padding-left:1.4rem}
p.legend{color:var(--soft);font-size:.92rem}
ul.notice,.incomplete{margin:1rem 0;padding:.7rem 1rem .7rem 2rem;background:var(--mind);
border-left:4px solid var(--mind-line);border-radius:4px}
.incomplete{padding-left:1rem;font-weight:600}
pre{background:var(--shade);padding:.8rem 1rem;border-radius:6px;overflow-x:auto;font-size:.86rem}
code{font-family:ui-monospace,"DejaVu Sans Mono",monospace}
footer{color:var(--soft);font-size:.85rem;padding-bottom:2.5rem}
@media print{nav.contents,.skip{display:none}body{font-size:11pt}figure,table{break-inside:avoid}
h2{break-after:avoid}a{color:inherit}}
"""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading of the page: level 1 to 6, words, and the id by which it is linked."""

    level: int
    text: str
    anchor: str


def shell(
    *, title: str, body: str, stamp: str, footer: str = "", incomplete: str = "", lang: str = "en"
) -> str:
    """The whole page as text: one ``h1`` (the title), contents, ``body`` in the main landmark.

    Headings in ``body`` get ids; a first-level one becomes second-level. Nothing on the page asks
    the network for anything.

    Parameters
    ----------
    stamp
        What this is a report of: campaign, time, version.
    incomplete
        When not empty, the page says at its top that it is, and this sentence.
    """
    body, headings = anchored(body)
    warning = (
        f'<p class="incomplete" role="alert">Incomplete: {escape(incomplete)}</p>'
        if incomplete
        else ""
    )
    return f"""<!DOCTYPE html>
<html lang="{lang}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(("Incomplete: " if incomplete else "") + title)}</title>
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header>
<h1>{escape(title)}</h1>
<p class="stamp">{escape(stamp)}</p>
{warning}</header>
{_contents(headings)}
<main id="main" tabindex="-1">
{body}
</main>
<footer>{escape(footer)}</footer>
</body>
</html>
"""


def anchored(body: str) -> tuple[str, tuple[Heading, ...]]:
    """The body with an id on every heading and none above the second level; and the headings."""
    headings: list[Heading] = []

    def give(match: re.Match[str]) -> str:
        level = max(2, int(match["level"]))
        text = unescape(_TAG.sub("", match["inner"])).strip()
        anchor = _free(slug(text), {heading.anchor for heading in headings})
        headings.append(Heading(level, text, anchor))
        return f'<h{level} id="{anchor}">{match["inner"]}</h{level}>'

    return _HEADING.sub(give, body), tuple(headings)


def slug(text: str) -> str:
    """``"1-headline"`` for ``"1 Headline"``: letters, digits and hyphens; ``section`` for none."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "section"


def _free(anchor: str, taken: Iterable[str]) -> str:
    used = {"main", *taken}
    candidates = (anchor if number == 1 else f"{anchor}-{number}" for number in range(1, 1000))
    return next(candidate for candidate in candidates if candidate not in used)


def _contents(headings: Iterable[Heading]) -> str:
    entries = "".join(
        f'<li><a href="#{heading.anchor}">{escape(heading.text)}</a></li>'
        for heading in headings
        if heading.level == 2
    )
    return (
        f'<nav class="contents" aria-label="Contents"><ol>{entries}</ol></nav>' if entries else ""
    )
