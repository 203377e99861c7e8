"""What a log says altogether: packets by hook and fate, who talks most, what is missing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ebpfperf.tracelog.columns import Table
from ebpfperf.tracelog.flows import side
from ebpfperf.tracelog.grammar import ALL_KINDS
from ebpfperf.tracelog.reading import Reading
from ebpfperf.units import UNKNOWN

BY = ("iface", "direction", "verdict", "path", "why")
DISTORTED = (
    "Times in this log are distorted: most of the time between two lines, and in every program "
    "time, went into writing the log."
)
# As many pairs are counted exactly; beyond that the rarest are forgotten.
_MOST_PAIRS = 200_000


@dataclass(slots=True)
class Summary:
    """Counts that grow with each table of lines and each frame of packets."""

    kinds: Counter[str] = field(default_factory=Counter)
    lost_events: int = 0
    lost_unnumbered: int = 0
    packets: int = 0
    silent: int = 0
    by_fate: Counter[tuple[str, ...]] = field(default_factory=Counter)
    near_loss: Counter[tuple[str, ...]] = field(default_factory=Counter)
    program_ns: Counter[tuple[str, ...]] = field(default_factory=Counter)
    timed: Counter[tuple[str, ...]] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    denied: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    pairs_forgotten: bool = False
    protocols: dict[tuple[object, ...], str | None] = field(default_factory=dict)

    def add_lines(self, table: Table) -> None:
        """Count a table's lines."""
        counts = np.bincount(table.kind, minlength=len(ALL_KINDS))
        self.kinds.update({ALL_KINDS[i]: int(n) for i, n in enumerate(counts) if n})
        lost = table.lost[table.lost >= 0]
        self.lost_events += int(lost.sum())
        self.lost_unnumbered += int((lost == 0).sum())

    def add_packets(self, packets: pd.DataFrame) -> None:
        """Count a frame's packets; columns as ``packets`` says."""
        if packets.empty:
            return
        self.packets += len(packets)
        self.silent += int(packets["by_silence"].sum())
        said = packets[[*BY, "lost_events", "duration_ns"]].copy()
        said[list(BY)] = said[list(BY)].astype(object).where(said[list(BY)].notna(), "")
        said["near"] = said["lost_events"] > 0
        said["timed"] = said["duration_ns"].notna()
        groups = said.groupby(list(BY), sort=False).agg(
            packets=("near", "size"),
            near=("near", "sum"),
            ns=("duration_ns", "sum"),
            timed=("timed", "sum"),
        )
        for row in groups.reset_index().to_dict("records"):
            key = tuple(str(row[name]) for name in BY)
            self.by_fate[key] += row["packets"]
            self.near_loss[key] += row["near"]
            self.program_ns[key] += row["ns"]
            self.timed[key] += row["timed"]
        self._add_pairs(packets)

    def _add_pairs(self, packets: pd.DataFrame) -> None:
        names = ("source", "source_port", "destination", "destination_port", "protocol", "verdict")
        some = packets.loc[packets["source"].notna(), [*names, "to", "to_port"]]
        self._learn(some)
        # Not grouped by pandas: where one port is missing, that makes fractions of all others.
        counts = Counter(zip(*(some[name].astype(object) for name in names), strict=True))
        for (*flow, protocol, verdict), count in counts.items():
            source, _, destination, port = flow
            known = protocol if isinstance(protocol, str) else self._protocol_of(*flow)
            pair = (str(source), side(destination, port), known or UNKNOWN)
            self.pairs[pair] += count
            if isinstance(verdict, str) and verdict == "DENY":
                self.denied[pair] += count
        if len(self.pairs) > _MOST_PAIRS:
            self.pairs = Counter(dict(self.pairs.most_common(_MOST_PAIRS // 2)))
            self.pairs_forgotten = True

    def _learn(self, packets: pd.DataFrame) -> None:
        """Note the protocols of flows: from v3.30 on only a connection's first packet says it."""
        if len(self.protocols) > _MOST_PAIRS:
            self.protocols.clear()
        saying = packets.loc[packets["protocol"].notna()].astype(object)
        for end in ("destination", "to"):
            names = ("source", "source_port", end, f"{end}_port", "protocol")
            for *flow, protocol in set(zip(*(saying[name] for name in names), strict=True)):
                if all(isinstance(one, (str, int)) for one in flow):
                    known = self.protocols.setdefault(tuple(flow), protocol)
                    if known != protocol:
                        self.protocols[tuple(flow)] = None

    def _protocol_of(self, *flow: object) -> str | None:
        """The protocol of a flow, or of the one that it answers; None where that is not known."""
        source, source_port, destination, port = flow
        back = (destination, port, source, source_port)
        return self.protocols.get(flow) or self.protocols.get(back)

    def fates(self) -> pd.DataFrame:
        """Packets by hook and fate: columns ``iface direction verdict path why packets …``.

        ``mean_program_ns`` is distorted by the logging; ``near_loss`` counts packets beside lost
        events, of which lines may be missing.
        """
        rows = [
            {
                **{name: value or None for name, value in zip(BY, fate, strict=True)},
                "packets": count,
                "near_loss": self.near_loss[fate],
                "mean_program_ns": self.program_ns[fate] / self.timed[fate]
                if self.timed[fate]
                else None,
            }
            for fate, count in sorted(self.by_fate.items(), key=lambda one: (one[0][:2], -one[1]))
        ]
        return pd.DataFrame(rows, columns=[*BY, "packets", "near_loss", "mean_program_ns"])

    def talkers(self, *, most: int = 10) -> pd.DataFrame:
        """Who was seen most: columns ``source destination protocol sights denied``.

        A packet is seen at every hook that it passes, so that sights are more than packets. Of a
        sight that does not say its protocol it is that of its flow, where another says it.
        """
        rows = [
            {
                "source": pair[0],
                "destination": pair[1],
                "protocol": pair[2],
                "sights": count,
                "denied": self.denied[pair],
            }
            for pair, count in self.pairs.most_common(most)
        ]
        return pd.DataFrame(rows, columns=["source", "destination", "protocol", "sights", "denied"])

    def sentences(self, reading: Reading) -> list[str]:
        """What must be known of the log before its numbers are believed."""
        said = [DISTORTED] if self.packets else []
        if self.lost_events or self.lost_unnumbered:
            count = f"{self.lost_events}" if self.lost_events else "An unknown number of"
            more = " or more" if self.lost_events and self.lost_unnumbered else ""
            said.append(
                f"{count}{more} events were lost by the kernel's buffer: counts are too low, and "
                "packets near the losses may lack lines."
            )
        if self.silent:
            said.append(
                f"{self.silent} packets have no result after policy (or IPv6) was asked about: up "
                "to v3.23 that silence is how a drop looks."
            )
        unknown = sum(n for fate, n in self.by_fate.items() if fate[3] == UNKNOWN)
        if unknown:
            said.append(
                f"Of {unknown} packets the log does not say what became of them: it begins, ends "
                "or has a gap there, or they were no IP packets."
            )
        if self.kinds["unparsed"]:
            said.append(
                f"{self.kinds['unparsed']} of {sum(self.kinds.values())} lines are no lines of a "
                "trace; they are kept as they are, with the kind unparsed."
            )
        if self.kinds["other"]:
            said.append(
                f"{self.kinds['other']} lines have no tag of Calico's: they are of other programs."
            )
        if reading.cut_lines:
            said.append(f"{reading.cut_lines} lines were longer than a MiB and were cut.")
        if self.pairs_forgotten:
            said.append("There were too many pairs of addresses to count the rare ones exactly.")
        return said
