"""Who was dropped and why, as the debug log tells. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO

from ebpfperf.tracelog.flows import side
from ebpfperf.tracelog.packets import packets_of
from ebpfperf.tracelog.reading import Reading
from ebpfperf.tracelog.summaries import Summary
from ebpfperf.units import UNKNOWN

COLUMNS = ("node", "device", "direction", "reason", "source", "destination", "protocol", "packets")
DIRECTION = (
    "The log's direction is policy's: what comes from a pod is egress there, and ingress of its "
    "device above."
)
_KEY = ("iface", "iface_truncated", "direction", "code_name", "why", "source", "destination",
        "destination_port", "protocol")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Causes:
    """What one log says of drops.

    Attributes
    ----------
    rows
        (as ``COLUMNS`` without the last, packets): most packets first.
    seen
        Packets of any fate that the log has of the nodes' devices and of others.
    sentences
        What must be known before the rows are believed.
    """

    rows: tuple[tuple[tuple[str, ...], int], ...]
    seen: int
    sentences: tuple[str, ...]


def causes(
    log: bytes, devices: Mapping[str, Iterable[str]], *, release: tuple[int, int] | None
) -> Causes:
    """The packets that the log says were dropped on these nodes' devices.

    The trace buffer is the kernel's: lines of devices that none of the nodes has are left out.

    Parameters
    ----------
    devices
        Node → names of its devices.
    release
        Calico's (major, minor): up to v3.23 silence after policy was asked is a drop.
    """
    reading, summary = Reading(release=release), Summary()
    found: Counter[tuple[object, ...]] = Counter()
    for packets in packets_of(reading, BytesIO(log), lines=summary.add_lines):
        summary.add_packets(packets)
        denied = packets.loc[packets["verdict"] == "DENY", list(_KEY)] if len(packets) else packets
        if len(denied):
            plain = denied.astype(object).where(denied.notna(), None)
            found.update(map(tuple, plain.itertuples(index=False)))
    rows: Counter[tuple[str, ...]] = Counter()
    strange = 0
    for key, count in found.items():
        row = _row(dict(zip(_KEY, key, strict=True)), devices)
        if row is None:
            strange += count
        else:
            rows[row] += count
    said = [DIRECTION] if rows else []
    if strange:
        said.append(
            f"{strange} dropped packets were on devices that none of these nodes has: they share "
            "the kernel with others, and are left out."
        )
    said += summary.sentences(reading)
    return Causes(tuple(rows.most_common()), summary.packets, tuple(said))


def _row(key: Mapping[str, object], devices: Mapping[str, Iterable[str]]) -> tuple[str, ...] | None:
    iface = str(key["iface"] or "")
    places = {
        (node, device)
        for node, names in devices.items()
        for device in names
        if device == iface or (key["iface_truncated"] is True and device.startswith(iface))
    }
    if not places:
        return None
    nodes = " or ".join(sorted({node for node, _ in places}))
    named = " or ".join(sorted({device for _, device in places}))
    port = key["destination_port"]
    target = UNKNOWN
    if key["destination"] is not None:
        target = side(str(key["destination"]), None if port is None else int(str(port)))
    return (
        nodes,
        named,
        str(key["direction"] or UNKNOWN),
        str(key["why"] or key["code_name"] or UNKNOWN),
        str(key["source"] or UNKNOWN),
        target,
        str(key["protocol"] or UNKNOWN),
    )
