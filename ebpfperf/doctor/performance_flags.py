"""Checks of Felix's tunnel flags: on without need, off against need, the FIB short-cut. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ebpfperf import felix_values
from ebpfperf.calico import felix_fields, flags
from ebpfperf.calico.releases import AUTO_MTU_FROM, DERIVES_ENCAPSULATION_FROM
from ebpfperf.diagnosis import Outcome, Shown, Verdict
from ebpfperf.doctor.case import Case, Missing, not_applicable
from ebpfperf.doctor.performance_overlay import (
    FLAGS,
    MODES,
    NO_IPIP_SHORTCUT_BEFORE,
    PoolUse,
    pools,
    show_pools,
    show_value,
)
from ebpfperf.felix_values import Effective, Origin, shown
from ebpfperf.model import Overlay
from ebpfperf.units import UNKNOWN

_WRONG_NAME = "The page calls it ipInIpEnabled; the resource's field is ipipEnabled."

# ------------------------------------------------------------------------------------ E2


def flags_without_overlay(case: Case, node: str) -> Iterator[Outcome]:
    """Whether Felix is told to keep a tunnel that no pool asks for."""
    known = pools(case)
    values = {name: case.value(node, name) for name in FLAGS}
    evidence = (show_pools(case, known), *(show_value(case, each) for each in values.values()))
    found = []
    for name, value in values.items():
        if isinstance(value.value, str) and value.value.startswith(UNKNOWN):
            found.append(Outcome(Verdict.UNKNOWN, f"{name} is {value.value}.", evidence, node))
        elif value.value is True and not _asking(known, FLAGS[name][0]):
            found.append(_needless(case, known, value, evidence))
    for stray in felix_values.strays(case.felix(node)):
        if "ipinip" in stray.lower():
            found.append(
                Outcome(
                    Verdict.WARN,
                    f"{stray[:1].upper()}{stray[1:]}",
                    evidence,
                    node,
                    "ipipEnabled",
                    remedy="Set ipipEnabled instead.",
                    corrected=_WRONG_NAME,
                )
            )
    if not found:
        said = ", ".join(f"{each.field} is {shown(each.value)}" for each in values.values())
        wanted = [pool.name for pool in known if pool.overlay is not Overlay.NONE and pool.in_use]
        why = f"as the pools ask ({', '.join(wanted)})" if wanted else "and no pool has an overlay"
        found.append(Outcome(Verdict.OK, f"{said}, {why}.", evidence, node))
    yield from found


def _asking(known: Sequence[PoolUse], kind: Overlay) -> list[PoolUse]:
    return [pool for pool in known if pool.overlay is kind and pool.in_use]


def _needless(
    case: Case, known: Sequence[PoolUse], value: Effective, evidence: tuple[Shown, ...]
) -> Outcome:
    rule = flags.rule(value.field, case.release)
    kind, overhead = FLAGS[value.field]
    wanted = {
        name: bool(_asking(known, each)) for name, (each, _) in FLAGS.items() if name != value.field
    }
    # Without this flag the short-cut would be there, if pools ask for nothing that ends it.
    others = [name for name, on in wanted.items() if on]
    off_anyway = any(
        (other := flags.rule(name, case.release)) is not None and other.ends_shortcut
        for name in others
    )
    costs = []
    ends = rule is not None and rule.ends_shortcut
    if ends and not off_anyway:
        costs.append("the FIB short-cut is off, so the host's IP stack handles every packet")
    if case.minor >= AUTO_MTU_FROM:
        costs.append(f"new pods have {overhead} bytes of MTU less")
    costs.append("there is a tunnel device more")
    said = (
        f"{value.field} is true by {value.where}, though no pod needs {kind.value.upper()}: "
        f"{_and(costs)}."
    )
    verdict = Verdict.FAIL if ends and not off_anyway else Verdict.WARN
    return Outcome(
        verdict, said, evidence, value.node, value.field,
        remedy=_off(case, value), corrected=_corrected(case, value.field),
    )  # fmt: skip


def _off(case: Case, value: Effective) -> str:
    """How to switch a flag off where it is set, as this release wants it."""
    derived = case.minor >= DERIVES_ENCAPSULATION_FROM
    if value.origin is Origin.DERIVED:
        kind = FLAGS[value.field][0]
        named = ", ".join(pool.name for pool in pools(case) if pool.overlay is kind)
        said = (
            f"Delete pool {named}, which is disabled and of which no pod has an address, or set "
            f"its {MODES[kind]} to Never"
        )
    elif value.origin in (Origin.ENVIRONMENT, Origin.FILE):
        name = felix_fields.field(value.field)
        named = name.variable if value.origin is Origin.ENVIRONMENT else name.internal
        where = (
            "from calico-node's environment (its DaemonSet, or what makes it)"
            if value.origin is Origin.ENVIRONMENT
            else f"from {value.where} on the node"
        )
        said = f"Take {named} away {where}"
    else:
        resource = value.where.removeprefix("FelixConfiguration ")
        level = "null" if derived else "false"
        act = "Remove the field" if derived else "Set it to false"
        said = (
            f"{act}: kubectl patch felixconfiguration {resource} --type merge -p "
            f'\'{{"spec":{{"{value.field}":{level}}}}}\''
        )
    if lower := next((each for each in value.shadowed if each.value is True), None):
        said += f"; also in {lower.where}"
    if case.minor < AUTO_MTU_FROM:
        return f"{said}."  # Pods' MTU does not follow the flags there.
    return f"{said}; then make the pods anew, for their MTU."


def _corrected(case: Case, name: str) -> str:
    """What of the page's advice does not hold here."""
    said = [_WRONG_NAME] if name == "ipipEnabled" else []
    if case.minor >= NO_IPIP_SHORTCUT_BEFORE:
        said.append("The flags no longer switch the FIB short-cut off since v3.32: they cost MTU.")
    elif name == "vxlanEnabled" and case.minor >= (3, 18):
        said.append("Since v3.18 vxlanEnabled no longer switches the FIB short-cut off.")
    if case.minor >= DERIVES_ENCAPSULATION_FROM:
        said.append(
            "The page says to set it to false; since v3.23 leave it unset: it follows the pools."
        )
    return " ".join(said)


# ------------------------------------------------------------------------------------ E3


def overlay_without_flags(case: Case, node: str) -> Iterator[Outcome]:
    """Whether a pool asks for an overlay whose tunnel Felix does not keep."""
    known = [pool for pool in pools(case) if ":" not in str(pool.spec.get("cidr"))]
    asked = {
        name: [pool for pool in _asking(known, kind) if not pool.disabled or pool.pods]
        for name, (kind, _) in FLAGS.items()
    }
    if not any(asked.values()):
        yield Outcome(
            Verdict.OK,
            "No pool has an overlay that needs a flag.",
            (show_pools(case, known),),
            node,
        )
        return
    for name, wanting in asked.items():
        if not wanting:
            continue
        value = case.value(node, name)
        evidence = (show_pools(case, wanting), show_value(case, value))
        named = ", ".join(f"{pool.name} ({pool.mode})" for pool in wanting)
        if value.value is True:
            yield Outcome(Verdict.OK, f"{name} is true, as {named} needs it.", evidence, node)
        elif value.value is not False:
            yield Outcome(Verdict.UNKNOWN, f"{name} is {shown(value.value)}.", evidence, node)
        else:
            yield Outcome(
                Verdict.FAIL,
                f"{name} is false by {value.where}, but pool {named} needs it: the tunnel is not "
                "kept, and packets between nodes are lost.",
                evidence,
                node,
                name,
                remedy=_on(case, value),
            )


def _on(case: Case, value: Effective) -> str:
    if value.origin in (Origin.ENVIRONMENT, Origin.FILE):
        return f"Take {value.where} away there, or set it to true."
    resource = value.where.removeprefix("FelixConfiguration ")
    if value.origin is Origin.RELEASE:
        resource = "default"
    if case.minor >= DERIVES_ENCAPSULATION_FROM:
        act, level = "Remove the field, so that it follows the pools", "null"
    else:
        act, level = "Set it to true", "true"
    return (
        f"{act}: kubectl patch felixconfiguration {resource} --type merge -p "
        f'\'{{"spec":{{"{value.field}":{level}}}}}\'.'
    )


def _and(parts: Sequence[str]) -> str:
    return " and ".join([*([", ".join(parts[:-1])] if len(parts) > 1 else []), parts[-1]])


def shortcut_wanted(case: Case, node: str) -> bool:
    """Whether by flags, pools and release the FIB short-cut is to be active; Missing."""
    spec = {}
    for name in FLAGS:
        value = case.value(node, name)
        if not isinstance(value.value, bool):
            raise Missing(f"{name} is {shown(value.value)}", show_value(case, value))
        spec[name] = value.value
    return flags.fib_shortcut(spec, list(case.pools().values()), case.release)


def not_wanted(case: Case, node: str) -> Outcome:
    """What is said where the short-cut is off on purpose or by the flags."""
    on = [name for name in FLAGS if case.value(node, name).value is True]
    return not_applicable(
        f"In {case.release} the FIB short-cut is off while {_and(on)} is true (see E1, E2).",
        *(show_value(case, case.value(node, name)) for name in on),
    )
