"""What a Felix field does in a release, as sentences. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ebpfperf.calico import flags
from ebpfperf.calico.felix_fields import Field
from ebpfperf.calico.releases import minor
from ebpfperf.felix_values import FILE, shown

# felix/daemon/daemon.go, v3.16.1 and v3.32.1: what is not on its list of fields restarts Felix.
RESTART = (
    "Any change of it restarts Felix on the nodes that it reaches (exit status 129, after about "
    "2 s; the container is not restarted). Programs stay attached meanwhile."
)
_TYPES: Mapping[str, str] = {
    "bool": "true or false",
    "int": "a whole number",
    "text": "text",
    "regexp": "a regular expression of device names",
    "duration": "a duration, such as 1m30s (environment and file: plain seconds)",
    "list": "a list (environment and file: separated by commas)",
    "map": "names and values (environment and file: NAME=VALUE, separated by commas)",
    "ports": "a range of ports, such as 20000:29999",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """A field in one release.

    Attributes
    ----------
    present
        Whether that release's resource has it.
    lifetime
        Since when, and until when.
    default
        As text; what it is in other releases is in ``defaults``.
    ebpf
        What it changes where Felix forwards by eBPF, with what the table of flags says.
    page, page_now
        The advice of the v3.16 page, and what has become of it in this release.
    """

    field: str
    release: str
    present: bool
    lifetime: str
    internal: str
    variable: str
    values: str
    default: str
    defaults: tuple[tuple[str, str], ...]
    what: str
    ebpf: tuple[str, ...]
    change: str
    traps: tuple[str, ...]
    page: str
    page_now: tuple[str, ...]
    source: str

    def rows(self) -> Iterator[tuple[str, str]]:
        """(label, text) as a table shows them; what there is nothing to say of is left out."""
        yield "field", self.field
        yield "release", self.release
        yield "there", f"{'yes' if self.present else 'NO'}: {self.lifetime}"
        yield "what it does", self.what
        for text in self.ebpf:
            yield "in eBPF mode", text
        yield "values", self.values
        if self.present:
            yield "default", self.default
        if len(self.defaults) > 1:
            yield "default by release", "; ".join(f"{r}: {text}" for r, text in self.defaults)
        if self.present:
            yield "also set by", f"{self.variable} (environment), {self.internal} ({FILE})"
            yield "a change", self.change
        for text in self.traps:
            yield "trap", text
        if self.page:
            yield "page of v3.16", self.page
        for text in self.page_now:
            yield f"in {self.release}", text
        yield "source", self.source

    def as_json(self) -> dict[str, Any]:
        """The same as JSON can hold it."""
        plain = ("field", "release", "present", "lifetime", "internal", "variable", "values")
        document: dict[str, Any] = {name: getattr(self, name) for name in plain}
        document |= {"default": self.default if self.present else None}
        document |= {"defaults": dict(self.defaults), "what": self.what}
        for name in ("ebpf", "traps", "page_now"):
            document[name] = list(getattr(self, name))
        return document | {"change": self.change, "page": self.page, "source": self.source}


def explain(field: Field, release: str) -> Explanation:
    """The field in that release.

    Raises
    ------
    ValueError
        ``release`` is no version.
    """
    minor(release)
    rule = flags.rule(field.name, release)
    ebpf = field.said(field.how, release)
    if rule is not None:
        ebpf = [f"{_sentence(rule.changes)} ({rule.releases}).", *ebpf]
    source = field.source if rule is None else f"{field.source}; {rule.source}"
    return Explanation(
        field=field.name,
        release=release,
        present=field.in_resource(release),
        lifetime=_lifetime(field),
        internal=field.internal,
        variable=field.variable,
        values=_TYPES.get(field.type) or ", ".join(field.of(release).levels),
        default=_default(field, field.default(release)),
        defaults=tuple(
            (since, _default(field, None if value == "unset" else value))
            for since, value in field.defaults
        ),
        what=field.what,
        ebpf=tuple(ebpf),
        change=RESTART,
        traps=tuple(field.said(field.traps, release)),
        page=field.page,
        page_now=tuple(field.said(field.page_now, release)),
        source=source,
    )


def _lifetime(field: Field) -> str:
    since = f"since {field.since}" if field.since else "older than v3.13, the first with eBPF mode"
    if field.settable_since != field.since:
        since += f" (by environment and file since {field.settable_since})"
    if not field.until:
        return since
    major, last = minor(field.until)
    return f"{since}, removed in v{major}.{last + 1}"


def _default(field: Field, value: Any) -> str:
    text = shown(value)
    return f"{text}: {field.unset}" if value is None and field.unset else text


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
