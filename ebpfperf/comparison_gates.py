"""The gates of comparisons: what treatments, flows and the campaign show as a whole. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import pandas as pd

from ebpfperf import gate_table as limits
from ebpfperf import metrics
from ebpfperf.calico.mtu import IPIP_OVERHEAD_BYTES, VXLAN_OVERHEAD_BYTES
from ebpfperf.gate_table import Severity
from ebpfperf.model import Campaign, Dataplane, Flow, Overlay, Role, Status, Treatment
from ebpfperf.units import UNKNOWN, bits_per_s, parse_bits_per_s

OVERHEAD_BYTES = {
    Overlay.NONE: 0,
    Overlay.IPIP: IPIP_OVERHEAD_BYTES,
    Overlay.VXLAN: VXLAN_OVERHEAD_BYTES,
}
VERSIONS = {
    "kernel": "kernel",
    "iperf3_version": "iperf3",
    "sockperf_version": "sockperf",
    "calico_release": "Calico",
}
# Bit/s at which single flows are known to be held, and where.
CAPS = (
    (5e9, "AWS gives one flow outside a cluster placement group"),
    (10e9, "AWS gives one flow inside a cluster placement group"),
)
_OFF = "Off"
_LEADING = {"tcp": "received_bits_per_s", "udp": "received_bits_per_s"}


@dataclass(frozen=True, slots=True)
class About:
    """Which comparisons a sentence is about; an empty field means all."""

    treatment: str = ""
    flow: str = ""
    metric: str = ""


Judged = tuple[About, str, Severity, str, int]
"""What about, gate, severity, sentence, how many."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What the gates judge by.

    Attributes
    ----------
    trials
        Those that are compared.
    good
        Of these, the ones with numbers that were not excluded.
    """

    trials: pd.DataFrame
    good: pd.DataFrame
    facts: pd.DataFrame
    campaign: Campaign

    def arm(self, treatment: str, flow: str) -> pd.DataFrame:
        """The trials of one arm that have numbers."""
        ours = self.good["treatment"].eq(treatment) & self.good["flow"].eq(flow)
        return self.good[ours]


def judge(
    trials: pd.DataFrame,
    facts: pd.DataFrame,
    campaign: Campaign,
    *,
    lost: Collection[str] = (),
    overhead: pd.DataFrame | None = None,
) -> Iterator[Judged]:
    """What trips, gate by gate; ``lost`` are ids of excluded trials."""
    compared = trials[trials["role"].eq(Role.COMPARED.value)] if "role" in trials else trials
    good = compared[compared["status"].eq(Status.OK.value)]
    ground = Ground(compared, good[~good["trial_id"].isin(list(lost))], facts, campaign)
    yield from _drift(ground)
    yield from _mtu_differs(ground)
    yield from _versions_differ(ground)
    yield from _bpf_log_level(ground)
    yield from _probe_overhead(ground, overhead)
    yield from _single_stream_cap(ground)
    yield from _failed_trials(ground)


def trend(values: pd.Series) -> tuple[float, float]:
    """Rank correlation of values with their index, and percent of the median from end to end.

    Spearman's correlation; the change is the median of all pairwise slopes (Theil and Sen) times
    the span.
    """
    ranks = values.rank()
    places = pd.Series(values.index, index=values.index, dtype="float64").rank()
    rank = ranks.corr(places) if ranks.nunique() > 1 else 0.0
    points = list(zip(map(float, values.index), map(float, values), strict=True))
    slopes = [
        (y2 - y1) / (x2 - x1) for i, (x1, y1) in enumerate(points) for x2, y2 in points[i + 1 :]
    ]
    slope = float(pd.Series(slopes).median())
    return float(rank), 100 * slope * (points[-1][0] - points[0][0]) / float(values.median())


def _drift(ground: Ground) -> Iterator[Judged]:
    campaign = ground.campaign
    for flow in campaign.flows:
        metric = _LEADING.get(flow.load, "rr_p50_ns")
        arm = ground.arm(campaign.baseline, flow.name)
        values = arm.set_index("block")[metric].dropna() if metric in arm else pd.Series()
        about = About("", flow.name)
        if len(values) < limits.FEWEST_BLOCKS:
            why = f"fewer than {limits.FEWEST_BLOCKS} blocks"
            yield about, "drift", Severity.UNCHECKED, f"not checked: {why}", 1
            continue
        rank, pct = trend(values.sort_index())
        if abs(rank) >= limits.DRIFT_RANK and abs(pct) > campaign.margin_pct:
            way = "rose" if pct > 0 else "fell"
            said = (
                f"{campaign.baseline} {way} by {abs(pct):.0f} % over {len(values)} blocks "
                f"({_label(metric)}, rank correlation {rank:.2f})."
            )
            yield about, "drift", Severity.DOUBT, said, 1


def _mtu_differs(ground: Ground) -> Iterator[Judged]:
    campaign = ground.campaign
    rules = _rules(ground.facts)
    for treatment in campaign.treatments:
        for flow in campaign.flows:
            about = About(treatment.name, flow.name)
            arm = ground.arm(treatment.name, flow.name)
            sizes = _mtus(arm)
            if not sizes:
                said = "not checked: the ends' MTU is not known"
                yield about, "mtu_differs", Severity.UNCHECKED, said, 1
                continue
            if len(sizes) > 1:
                said = f"The MTU of {treatment.name} was {_listed(sizes)} bytes."
                yield about, "mtu_differs", Severity.DOUBT, said, 1
                continue
            if treatment.name == campaign.baseline:
                continue
            base = _mtus(ground.arm(campaign.baseline, flow.name))
            if len(base) == 1 and base != sizes and not _explained(ground, treatment, flow, rules):
                said = (
                    f"MTU {sizes[0]} of {treatment.name} against {base[0]} of {campaign.baseline} "
                    "does not follow from the treatments."
                )
                yield about, "mtu_differs", Severity.DOUBT, said, 1


def _explained(
    ground: Ground, treatment: Treatment, flow: Flow, rules: dict[str, set[str]]
) -> bool:
    """Whether each arm has the MTU of Calico's rule, or they differ by their encapsulation."""
    campaign = ground.campaign
    base = campaign.treatment(campaign.baseline)
    arms = [ground.arm(name, flow.name) for name in (treatment.name, base.name)]
    told = [
        (rules.get(str(trial), set()), mtu)
        for arm in arms
        for trial, mtu in arm[["trial_id", "mtu_bytes"]].itertuples(index=False)
    ]
    if told and all(rule == {f"{mtu:.0f}"} for rule, mtu in told):
        return True
    if treatment.overlay is None or base.overlay is None:
        return False
    apart = OVERHEAD_BYTES[base.overlay] - OVERHEAD_BYTES[treatment.overlay]
    sizes = [_mtus(arm)[0] for arm in arms]
    return apart == sizes[0] - sizes[1]


def _rules(facts: pd.DataFrame) -> dict[str, set[str]]:
    """Trial → what Calico's rule gives its pods."""
    if "trial_id" not in facts:
        return {}
    ours = facts[facts["name"].eq("pod_mtu_rule") & facts["trial_id"].notna()]
    found: dict[str, set[str]] = {}
    for trial, value in ours[["trial_id", "value"]].itertuples(index=False):
        found.setdefault(str(trial), set()).add(str(value))
    return found


def _versions_differ(ground: Ground) -> Iterator[Judged]:
    facts = ground.facts
    known = facts[facts["name"].isin(list(VERSIONS)) & ~facts["value"].str.startswith(UNKNOWN)]
    if known.empty:
        every = len(ground.campaign.treatments)
        said = "not checked: no version is known"
        yield About(), "versions_differ", Severity.UNCHECKED, said, every
        return
    for name, word in VERSIONS.items():
        named = known[known["name"].eq(name)]
        by_trial = named["trial_id"].notna() if "trial_id" in named else named["name"].isna()
        by_node = named[~by_trial].groupby("node")["value"].last()
        if by_node.nunique() > 1:
            words = ", ".join(f"{value} on {node}" for node, value in by_node.items())
            said = f"{word} is not the same everywhere: {words}."
            yield About(), "versions_differ", Severity.DOUBT, said, 1
        yield from _versions_of_arms(ground, named[by_trial], word)


def _versions_of_arms(ground: Ground, named: pd.DataFrame, word: str) -> Iterator[Judged]:
    if named.empty:
        return
    arms = ground.good.set_index("trial_id")["treatment"]
    treatment = named["trial_id"].map(arms)
    found = {str(name): set(group) for name, group in named.groupby(treatment)["value"]}
    base = found.get(ground.campaign.baseline)
    for name, versions in found.items():
        if name == ground.campaign.baseline and len(versions) > 1:
            said = f"{word} changed during the campaign: {_listed(versions)}."
            yield About(), "versions_differ", Severity.DOUBT, said, 1
        elif base is not None and versions != base:
            said = f"{word} {_listed(versions)} against {_listed(base)} of the baseline."
            yield About(name), "versions_differ", Severity.DOUBT, said, 1


def _bpf_log_level(ground: Ground) -> Iterator[Judged]:
    spec = _felix_spec(ground.facts)
    shown = _log_levels(ground)
    for treatment in ground.campaign.treatments:
        about = About(treatment.name)
        asked = dict(treatment.felix)
        if asked.get("bpfLogLevel") is not None or treatment.dataplane is Dataplane.STANDARD:
            continue
        # What programs are beats what the resource says: an environment or a node's own may differ.
        if seen := shown.get(treatment.name, set()) - {_OFF}:
            said = (
                f"Programs log ({_listed(seen)}) under {treatment.name}, which does not ask for it."
            )
            yield about, "bpf_log_level", Severity.DOUBT, said, 1
            continue
        if spec is None:
            said = "not checked: FelixConfiguration was not read"
            yield about, "bpf_log_level", Severity.UNCHECKED, said, 1
            continue
        ebpf = treatment.dataplane is Dataplane.EBPF or spec.get("bpfEnabled") is True
        unset = "bpfLogLevel" in asked
        # Felix takes it in any case.
        level = _OFF if unset else str(spec.get("bpfLogLevel") or _OFF).capitalize()
        if ebpf and level != _OFF:
            said = f"bpfLogLevel is {level} under {treatment.name}, which does not ask for it."
            yield about, "bpf_log_level", Severity.DOUBT, said, 1


def _log_levels(ground: Ground) -> dict[str, set[str]]:
    """Treatment → the levels that names of programs showed in its trials, where they show it."""
    facts = ground.facts
    if "trial_id" not in facts:
        return {}
    ours = facts[facts["name"].eq("bpf_log_level") & ~facts["value"].str.startswith(UNKNOWN)]
    treatments = ours["trial_id"].map(ground.good.set_index("trial_id")["treatment"])
    found: dict[str, set[str]] = {}
    for treatment, value in zip(treatments, ours["value"], strict=True):
        if isinstance(treatment, str):
            found.setdefault(treatment, set()).update(value.split(", "))
    return found


def _felix_spec(facts: pd.DataFrame) -> dict[str, object] | None:
    values = facts.loc[facts["name"].eq("felix_spec"), "value"]
    if values.empty:
        return None
    if values.iloc[-1] == "absent":
        return {}
    try:
        spec = json.loads(values.iloc[-1])
    except ValueError:
        return None
    return spec if isinstance(spec, dict) else None


def _probe_overhead(ground: Ground, overhead: pd.DataFrame | None) -> Iterator[Judged]:
    if overhead is None or overhead.empty:
        every = len(ground.campaign.flows)
        said = "not checked: the campaign has no bare trials"
        yield About(), "probe_overhead", Severity.UNCHECKED, said, every
        return
    margin = 1 + ground.campaign.margin_pct / 100
    for row in overhead.to_dict("records"):
        low, high = float(row["low"]), float(row["high"])
        about = About("", str(row["flow"]), str(row["metric"]))
        if math.isnan(low) or math.isnan(high):
            said = f"not checked: {row.get('reason') or 'the interval is not known'}"
            yield about, "probe_overhead", Severity.UNCHECKED, said, 0
        elif low > margin or high < 1 / margin:
            said = (
                f"With the probes, {_label(about.metric)} is {row['ratio']:.3f} times "
                f"what it is without ({low:.3f} to {high:.3f})."
            )
            yield about, "probe_overhead", Severity.DOUBT, said, 1


def _single_stream_cap(ground: Ground) -> Iterator[Judged]:
    link = _link_bits_per_s(ground.facts)
    for treatment in ground.campaign.treatments:
        for flow in ground.campaign.flows:
            about = About(treatment.name, flow.name)
            if flow.load != "tcp" or flow.streams != 1 or flow.rate_bits_per_s is not None:
                said = "not checked: it is asked of one stream of TCP without a pace"
                yield about, "single_stream_cap", Severity.UNCHECKED, said, 1
                continue
            arm = ground.arm(treatment.name, flow.name)
            columns = ["client_busiest_core_pct", "server_busiest_core_pct"]
            rates = arm.get("received_bits_per_s", pd.Series(dtype="float64")).dropna()
            cores = arm.reindex(columns=columns)
            if len(rates) < 2 or bool(cores.isna().to_numpy().any()):
                said = "not checked: rates of two blocks and busy processors are not known"
                yield about, "single_stream_cap", Severity.UNCHECKED, said, 1
                continue
            ordered = sorted(map(float, rates))
            middle = ordered[len(ordered) // 2]
            spread_pct = 100 * (ordered[-1] - ordered[0]) / middle
            idle = float(cores.to_numpy().max()) < limits.IDLE_CORE_PCT
            for cap, whose in CAPS:
                near = cap * (1 - limits.CAP_BELOW_PCT / 100) <= middle <= cap
                ends_there = link is not None and link <= cap
                # 10 Gbit/s is also a common link: only a faster one tells.
                certain = link is not None or cap != CAPS[1][0]
                if near and certain and not ends_there and idle and spread_pct <= limits.STEADY_PCT:
                    said = (
                        f"One stream carried {bits_per_s(middle)} in every block with idle "
                        f"processors: {bits_per_s(cap)} is what {whose}."
                    )
                    yield about, "single_stream_cap", Severity.DOUBT, said, 1


def _link_bits_per_s(facts: pd.DataFrame) -> float | None:
    """The slowest NIC whose driver names a speed; the fact is in Mbit/s."""
    speeds = facts.loc[facts["name"].eq("nic_speed"), "value"]
    known = [parse_bits_per_s(f"{speed}M") for speed in speeds if speed.isdigit()]
    return min(known, default=None)


def _failed_trials(ground: Ground) -> Iterator[Judged]:
    base = ground.campaign.baseline
    for flow in ground.campaign.flows:
        losses = {}
        for treatment in ground.campaign.treatments:
            ours = ground.trials["treatment"].eq(treatment.name)
            tried = int((ours & ground.trials["flow"].eq(flow.name)).sum())
            losses[treatment.name] = (tried - len(ground.arm(treatment.name, flow.name)), tried)
        for name, (lost, tried) in losses.items():
            about = About("" if name == base else name, flow.name)
            if tried == 0:
                said = "not checked: no trial was run"
                yield about, "failed_trials", Severity.UNCHECKED, said, 1
                continue
            pct = 100 * lost / tried
            base_lost, base_tried = losses[base]
            apart = pct - (100 * base_lost / base_tried if base_tried else 0.0)
            many = abs(lost - base_lost) >= 2
            if pct >= limits.LOST_PCT or (many and abs(apart) >= limits.LOST_PCT):
                said = f"{lost} of {tried} trials of {name} have no numbers that may be used"
                so = "" if name == base else f"; of {base}, {base_lost} of {base_tried}"
                yield about, "failed_trials", Severity.DOUBT, f"{said}{so}.", 1


def _mtus(arm: pd.DataFrame) -> list[int]:
    if "mtu_bytes" not in arm:
        return []
    return sorted({int(size) for size in arm["mtu_bytes"].dropna()})


def _listed(values: Collection[object]) -> str:
    return ", ".join(sorted(map(str, values)))


def _label(metric: str) -> str:
    return metrics.metric(metric).label.lower()
