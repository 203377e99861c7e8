"""What Felix acts on, field by field, and where each value comes from. Pure.

Felix takes the first that says something, of: what it overrides itself, its environment, its file,
the node's own FelixConfiguration, the one that a selector gives the node (v3.32 and later),
``default``, and the release's default. Empty text says nothing. A value that it cannot read becomes
the release's default, *whatever a lower place says*. Source: felix/config/config_params.go,
``resolve``, v3.16.1 to v3.32.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ebpfperf.calico import felix_fields, flags
from ebpfperf.calico.encapsulation import NEVER, enabled
from ebpfperf.calico.felix_fields import Field, fields, read_value
from ebpfperf.calico.mtu import IPIP_OVERHEAD_BYTES, VXLAN_OVERHEAD_BYTES
from ebpfperf.calico.releases import AUTO_MTU_FROM, derives_encapsulation, minor
from ebpfperf.felix_selected import Selected, Standing, standing
from ebpfperf.units import UNKNOWN

FILE = "/etc/calico/felix.cfg"
_MODES = {"ipipEnabled": "ipipMode", "vxlanEnabled": "vxlanMode"}
_AUTOMATIC_BYTES = {
    "ipipMTU": IPIP_OVERHEAD_BYTES,
    "vxlanMTU": VXLAN_OVERHEAD_BYTES,
    "vxlanMTUV6": 70,
    "wireguardMTU": 60,
}
_HEADER = re.compile(r"^==> (.+) <==$", re.M)
# Felix's own names end so where the resource's do not.
_ENDINGS = ("secs", "millis")


class Origin(StrEnum):
    """Where a value comes from, highest first."""

    OVERRIDE = "Felix itself"
    ENVIRONMENT = "environment"
    FILE = "file"
    NODE = "node's resource"
    SELECTOR = "selected resource"
    DEFAULT = "resource default"
    DERIVED = "derived"
    RELEASE = "release's default"


@dataclass(frozen=True, slots=True)
class Given:
    """A value that one place gives.

    Attributes
    ----------
    where
        The place's name: ``FELIX_BPFLOGLEVEL``, ``FelixConfiguration node.node-1``, ….
    value
        As Calico spells it; text that begins UNKNOWN where it is not known or not readable.
    invalid
        What Felix wants there instead; empty where it can read it.
    """

    origin: Origin
    where: str
    value: Any
    invalid: str = ""


@dataclass(frozen=True, slots=True)
class Effective:
    """What Felix on a node acts on.

    Attributes
    ----------
    value
        None is *unset*; text that begins UNKNOWN says why it is not known.
    shadowed
        What other places say in vain, highest first.
    """

    node: str
    field: str
    value: Any
    origin: Origin
    where: str
    shadowed: tuple[Given, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that decides on one node.

    Attributes
    ----------
    default, own
        ``spec`` of FelixConfiguration ``default`` and ``node.NAME``; None where there is none.
    selected
        All with a ``nodeSelector``, whether or not they choose this node.
    labels
        The node's, as Calico sees them; None where they are not known.
    environment
        Variable in capitals → its text; None for one that comes from a ConfigMap or Secret.
    file
        Key → text of Felix's file; None where it was not read.
    pools
        Name → ``spec`` of every IPPool; None where they were not read.
    unsupported
        Whether Felix's log says that the kernel does not let it forward by eBPF.
    remarks
        Sentences on what could not be read there, without the node's name.
    """

    node: str
    release: str
    default: Mapping[str, Any] | None = None
    own: Mapping[str, Any] | None = None
    selected: tuple[Selected, ...] = ()
    labels: Mapping[str, str] | None = None
    environment: Mapping[str, str | None] | None = None
    file: Mapping[str, str] | None = None
    pools: Mapping[str, Mapping[str, Any]] | None = None
    unsupported: bool = False
    remarks: tuple[str, ...] = ()


def parse_printed(text: str) -> tuple[dict[str, str | None] | None, dict[str, str] | None]:
    """Felix's environment and file as a node printed them; None twice where no Felix was found.

    A header ``==> NAME <==`` stands before each part. A file that is not there sets nothing.
    """
    pieces = _HEADER.split(text)
    parts = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    if "environment" not in parts:
        return None, None
    lines = (line.partition("=") for line in parts["environment"].splitlines())
    environment: dict[str, str | None] = {
        name.upper(): value for name, equals, value in lines if equals
    }
    return environment, parse_file(parts.get("file", ""))


def parse_file(text: str) -> dict[str, str]:
    """Key → text of a ``felix.cfg``: lines ``Key = value``, sections and comments left out."""
    found = {}
    for line in text.splitlines():
        plain = line.strip()
        key, equals, value = plain.partition("=")
        if equals and plain[0] not in "#;[":
            found[key.strip()] = value.strip()
    return found


def effective(evidence: Evidence) -> list[Effective]:
    """The values of all fields that the release has, in the table's order."""
    return [value_of(evidence, f) for f in fields().values() if f.settable(evidence.release)]


def value_of(evidence: Evidence, field: Field) -> Effective:
    """The value of one field, also of one that the release does not have.

    Raises
    ------
    ValueError
        The evidence's release is no version.
    """
    if not field.settable(evidence.release):
        return Effective(
            evidence.node,
            field.name,
            f"{UNKNOWN}: {evidence.release} has no such field",
            Origin.RELEASE,
            evidence.release,
            tuple(_givens(evidence, field)),
        )
    givens = list(_givens(evidence, field))
    if not givens:
        return _unset(evidence, field)
    first, rest = givens[0], tuple(givens[1:])
    value, notes = first.value, _notes(evidence, field, first.value)
    if first.invalid and field.fatal:
        value = f"{UNKNOWN}: Felix does not start with it"
    elif first.invalid:
        value = field.default(evidence.release)
        notes = (f"{first.value!r} is not {first.invalid}: Felix takes its default instead",)
    return Effective(evidence.node, field.name, value, first.origin, first.where, rest, notes)


def strays(evidence: Evidence) -> list[str]:
    """Sentences on what is set and that this release's Felix ignores, with the nearest name.

    Without the node's name.
    """
    found = list(_standing(evidence).remarks)
    for where, spec in _resources(evidence):
        found += [f"{where} sets {name}, {why}" for name, why in _stray_fields(evidence, spec)]
    for name in evidence.environment or {}:
        plain = name.lower().removeprefix(felix_fields.PREFIX.lower())
        if why := _stray(evidence, plain):
            found.append(f"the environment sets {name}, {why}")
    for name in evidence.file or {}:
        if why := _stray(evidence, name.lower()):
            found.append(f"{FILE} sets {name}, {why}")
    return found


def _givens(evidence: Evidence, field: Field) -> Iterator[Given]:
    """What the places say, highest first; those that say nothing are left out."""
    field = field.of(evidence.release)
    if field.name == "bpfEnabled" and evidence.unsupported:
        where = "the kernel lacks what eBPF mode needs (calico-node's log)"
        yield Given(Origin.OVERRIDE, where, value=False)
    environment = evidence.environment or {}
    if field.variable in environment:
        text = environment[field.variable]
        if text is None:
            reason = f"{UNKNOWN}: it comes from a ConfigMap or Secret that the pod does not show"
            yield Given(Origin.ENVIRONMENT, field.variable, reason)
        elif text.strip():
            yield _given(field, Origin.ENVIRONMENT, field.variable, text)
    for key, text in (evidence.file or {}).items():
        if key.lower() == field.internal.lower() and text:
            yield _given(field, Origin.FILE, FILE, text)
    yield from _of_resource(
        field, Origin.NODE, f"FelixConfiguration node.{evidence.node}", evidence.own
    )
    yield from _of_selected(field, _standing(evidence))
    yield from _of_resource(field, Origin.DEFAULT, "FelixConfiguration default", evidence.default)


def _of_resource(
    field: Field, origin: Origin, where: str, spec: Mapping[str, Any] | None
) -> Iterator[Given]:
    value = (spec or {}).get(field.name)
    if value is not None and value != "":
        yield _given(field, origin, where, value)


def _of_selected(field: Field, found: Standing) -> Iterator[Given]:
    said = found.said(field.name)
    if said is None:
        return
    where = f"FelixConfiguration {said.names}"
    if said.unknown:
        yield Given(Origin.SELECTOR, where, f"{UNKNOWN}: {said.unknown}")
    else:
        yield _given(field, Origin.SELECTOR, where, said.value)


def _standing(evidence: Evidence) -> Standing:
    return standing(evidence.selected, evidence.labels, evidence.release)


def _given(field: Field, origin: Origin, where: str, raw: Any) -> Given:
    local = origin in (Origin.ENVIRONMENT, Origin.FILE)
    try:
        return Given(origin, where, read_value(field, raw, local=local))
    except ValueError as error:
        return Given(origin, where, raw, str(error))


def _unset(evidence: Evidence, field: Field) -> Effective:
    release = evidence.release
    value = field.default(release)
    if value is None and field.name in _MODES and derives_encapsulation(release):
        return _derived(evidence, field)
    notes = _notes(evidence, field, value)
    return Effective(evidence.node, field.name, value, Origin.RELEASE, release, (), notes)


def _derived(evidence: Evidence, field: Field) -> Effective:
    """A tunnel flag that nobody sets: on if a pool asks for it, disabled or not."""
    if evidence.pools is None:
        value = f"{UNKNOWN}: it follows of the IP pools, which were not read"
        return Effective(evidence.node, field.name, value, Origin.DERIVED, "IP pools")
    tunnels = enabled({}, evidence.pools.values(), evidence.release)
    on = tunnels.ipip if field.name == "ipipEnabled" else tunnels.vxlan
    where = f"IP pools: {', '.join(_asking(evidence, field)) or 'none asks for it'}"
    return Effective(evidence.node, field.name, on, Origin.DERIVED, where)


def _asking(evidence: Evidence, field: Field) -> list[str]:
    """The pools that ask for a tunnel, and how."""
    mode = _MODES[field.name]
    return [
        f"{name} has {mode} {spec[mode]}"
        for name, spec in (evidence.pools or {}).items()
        if spec.get(mode, NEVER) not in ("", NEVER)
    ]


def _tunnel_note(evidence: Evidence, field: Field, value: Any) -> tuple[str, ...]:
    """What comes of a flag that says otherwise than the pools."""
    asking = _asking(evidence, field)
    if value is False and asking:
        return (f"{asking[0]}: that overlay does not work without the flag",)
    rule = flags.rule(field.name, evidence.release)
    if value is not True or asking or evidence.pools is None or rule is None:
        return ()
    return (f"no IP pool asks for it; in eBPF mode it changes {rule.changes}",)


def _notes(evidence: Evidence, field: Field, value: Any) -> tuple[str, ...]:
    if field.name in _MODES:
        return _tunnel_note(evidence, field, value)
    if value is None and field.unset:
        return (field.unset,)
    if value == 0 and field.name in _AUTOMATIC_BYTES and minor(evidence.release) >= AUTO_MTU_FROM:
        return (f"automatic: the NIC's less {_AUTOMATIC_BYTES[field.name]} bytes",)
    return ()


def _resources(evidence: Evidence) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "FelixConfiguration default", evidence.default or {}
    yield f"FelixConfiguration node.{evidence.node}", evidence.own or {}
    for each in _standing(evidence).possible:
        yield f"FelixConfiguration {each.name}", each.spec


def _stray_fields(evidence: Evidence, spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    known = fields()
    for name, value in spec.items():
        if value is None or name in felix_fields.other_names():
            continue
        if name not in known:
            yield name, f"which is no field of Felix{_nearest(name)}"
        elif not known[name].in_resource(evidence.release):
            yield name, f"a field that {evidence.release} does not have: it does nothing."


def _stray(evidence: Evidence, plain: str) -> str:
    """Why Felix ignores a name in its environment or file; empty where it does not."""
    for field in fields().values():
        if plain == field.internal.lower():
            if field.settable(evidence.release):
                return ""
            return f"which Felix {evidence.release} does not know: it does nothing."
    names = {name.lower() for name in felix_fields.internal_names() | felix_fields.other_names()}
    if plain in names or any(plain.removesuffix(ending) in names for ending in _ENDINGS):
        return ""
    if (meant := felix_fields.find(plain)) is not None:
        return f"which Felix does not know: {meant.name} is {meant.variable} or {meant.internal}."
    return f"which Felix does not know{_nearest(plain)}"


def _nearest(name: str) -> str:
    nearest = felix_fields.nearest_names(name, most=1)
    return f": did you mean {nearest[0]}?" if nearest else ": it does nothing."


def shown(value: Any) -> str:
    """A value as text: ``true``, ``unset``, ``a, b``, ``k=v``."""
    if value is None:
        return felix_fields.UNSET
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={held}" for key, held in value.items()) or "none"
    return str(value)
