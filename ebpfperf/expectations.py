"""Effects beside what was to be expected of them: frames in, a frame out.

What Calico's source promises is in ``calico.expectation``; here it is asked for each treatment and
flow of a campaign, with the release and the settings that its facts name, and held against what
was measured:

- *as expected*, *contradicts*: the interval decides it, given the margin;
- *undecided*: it does not, or the effect may be too small for the margin;
- *no expectation*: none is known, or the nodes forwarded otherwise than Felix was told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from ebpfperf import compare, metrics
from ebpfperf.calico.encapsulation import felix_fields, pool_modes
from ebpfperf.calico.expectation import Effective, Expectation, Kind, expected_effect
from ebpfperf.calico.mtu import IPV4_TCP_HEADERS_BYTES, TCP_TIMESTAMPS_BYTES, VXLAN_OVERHEAD_BYTES
from ebpfperf.calico.nodelog import LoggedDataplane
from ebpfperf.calico.releases import minor
from ebpfperf.metrics import Better
from ebpfperf.model import Campaign, Flow, Path, Status, Treatment
from ebpfperf.units import UNKNOWN

AS_EXPECTED, CONTRADICTS = "as expected", "contradicts"
UNDECIDED, NO_EXPECTATION = "undecided", "no expectation"

COLUMNS: dict[str, str] = {
    "metric": "str", "flow": "str", "path": "str", "treatment": "str", "baseline": "str",
    "expected": "str", "why": "str", "source": "str", "small": "bool",
    "ratio": "float64", "low": "float64", "high": "float64",
    "verdict": "str", "size": "str", "reason": "str", "agreement": "str",
}  # fmt: skip

_DEFAULT_NIC_MTU_BYTES = 1500
# What a paced flow carries is what it was told to.
_RATES = ("received_bits_per_s", "requests_per_s")


def judged(
    effects: pd.DataFrame, trials: pd.DataFrame, *, facts: pd.DataFrame, campaign: Campaign
) -> pd.DataFrame:
    """Every effect with what was expected of it and whether it agrees, in the order of ``effects``.

    Parameters
    ----------
    effects, trials, facts
        The effects frame of ``compare``, and the store's frames.

    Returns
    -------
    DataFrame
        ``COLUMNS``: ``expected`` is a ``Kind``, ``why`` and ``source`` its ground, ``small``
        whether it may be too small for any margin; ``ratio`` to ``reason`` are those of
        ``effects``; ``agreement`` is one of the four words above.
    """
    cluster, trials = _Cluster.of(facts), compare.watched(trials, campaign)
    found: dict[tuple[str, str], Expectation] = {}
    rows = []
    for row in effects.to_dict("records"):
        key = (str(row["treatment"]), str(row["flow"]))
        if key not in found:
            found[key] = _expectation(*key, cluster=cluster, trials=trials, campaign=campaign)
        rows.append(_row(row, _of_metric(found[key], row, campaign), campaign))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def agreement(
    expected: Expectation, *, low: float, high: float, margin_pct: float, better: Better
) -> str:
    """Whether an interval of a ratio to the baseline agrees with what was expected of it.

    No effect agrees with an interval inside the margin, and is contradicted by one outside. An
    effect agrees with any change in its direction. Any other interval inside the margin contradicts
    it, unless the effect may be that small; outside, a change in the other direction does.
    """
    if expected.kind in (Kind.UNKNOWN, Kind.VOID):
        return NO_EXPECTATION
    if pd.isna(low) or pd.isna(high):
        return UNDECIDED
    margin = 1 + margin_pct / 100
    inside = 1 / margin <= low and high <= margin
    if expected.kind is Kind.NONE:
        outside = low > margin or high < 1 / margin
        return AS_EXPECTED if inside else CONTRADICTS if outside else UNDECIDED
    changed = not low <= 1 <= high
    shown = Kind.FASTER if (low > 1) is (better is Better.HIGHER) else Kind.SLOWER
    if changed and expected.kind in (Kind.SOME, shown):
        return AS_EXPECTED
    if inside:
        return UNDECIDED if expected.small else CONTRADICTS
    return CONTRADICTS if changed else UNDECIDED


def release_of(facts: pd.DataFrame) -> str | None:
    """Calico's release as the facts name it; None where they name none, or several."""
    named = set(_known(facts, "calico_release")["value"])
    if len(named) != 1:
        return None
    (release,) = named
    try:
        minor(release)
    except ValueError:
        return None
    return str(release)


@dataclass(frozen=True, slots=True)
class _Cluster:
    """What the facts say of the cluster before the campaign changed it."""

    facts: pd.DataFrame
    release: str | None
    felix: Mapping[str, Any] | None
    pools: Mapping[str, Mapping[str, Any]]
    nic_mtu_bytes: int

    @classmethod
    def of(cls, facts: pd.DataFrame) -> _Cluster:
        told = _known(facts, "felix_spec")["value"].to_list()
        felix = None
        if told:
            felix = {} if told[-1] == "absent" else json.loads(told[-1])
        pools = facts[facts["name"].str.startswith("ippool_")]
        mtus = [int(value) for value in _known(facts, "nic_mtu")["value"] if value.isdigit()]
        return cls(
            facts,
            release_of(facts),
            felix,
            {row["name"]: json.loads(row["value"]) for row in pools.to_dict("records")},
            min(mtus, default=_DEFAULT_NIC_MTU_BYTES),
        )

    def effective(self, treatment: Treatment, campaign: Campaign) -> Effective:
        """What Felix acts on under a treatment: fields that it does not name are as found."""
        overlay = treatment.applied_overlay
        modes = pool_modes(overlay, treatment.scope)
        ours = ["ippool_" + re.sub(r"\W", "_", name) for name in campaign.cluster.ippools]
        pools = {name: {**self.pools.get(name, {}), **modes} for name in ours}
        felix = {**(self.felix or {}), **felix_fields(treatment, release=self.release)}
        return Effective(overlay, treatment.scope, felix, tuple({**self.pools, **pools}.values()))

    def of_trials(self, name: str, trials: pd.DataFrame) -> pd.DataFrame:
        """Known facts of that name which were found under those trials."""
        known = _known(self.facts, name)
        if "trial_id" not in known:
            return known.iloc[:0]
        return known[known["trial_id"].isin(trials["trial_id"])]


def _expectation(
    treatment: str, flow: str, *, cluster: _Cluster, trials: pd.DataFrame, campaign: Campaign
) -> Expectation:
    driven = next(one for one in campaign.flows if one.name == flow)
    sides = [campaign.treatment(name) for name in (campaign.baseline, treatment)]
    if any(side.overlay is None for side in sides):
        return Expectation(Kind.UNKNOWN, "the imported results do not say their overlay mode")
    if cluster.release is None:
        return Expectation(Kind.UNKNOWN, "the facts do not say which release of Calico it was")
    if cluster.felix is None and any(_dataplane_open(side) for side in sides):
        return Expectation(Kind.UNKNOWN, "the facts do not say which dataplane Felix was told")
    before, after = (cluster.effective(side, campaign) for side in sides)
    if driven.path is not Path.HOST_HOST:
        for side, effective in zip(sides, (before, after), strict=True):
            otherwise = _forwarded_otherwise(side, effective, cluster=cluster, trials=trials)
            if otherwise:
                return Expectation(Kind.VOID, otherwise)
    return expected_effect(
        before,
        after,
        release=cluster.release,
        path=driven.path.value,
        fills_mtu=_fills_mtu(driven, cluster.nic_mtu_bytes),
        host_mtu_bytes=cluster.nic_mtu_bytes,
    )


def _dataplane_open(treatment: Treatment) -> bool:
    return treatment.dataplane is None and "bpfEnabled" not in dict(treatment.felix)


def _forwarded_otherwise(
    treatment: Treatment, effective: Effective, *, cluster: _Cluster, trials: pd.DataFrame
) -> str:
    """Why nodes that were told to forward by eBPF did not; empty where nothing says so."""
    if not effective.ebpf:
        return ""
    ran = trials[trials["treatment"].eq(treatment.name) & trials["status"].eq(Status.OK.value)]
    said = cluster.of_trials("felix_dataplane", ran)
    refused = sorted(set(said.loc[said["value"].eq(LoggedDataplane.UNSUPPORTED.value), "node"]))
    if refused:
        return (
            f"under {treatment.name} Felix on {', '.join(refused)} was told to use eBPF, and says "
            "that its kernel does not support it"
        )
    emulated = cluster.of_trials("lab_forwarding", ran)
    if emulated.empty:
        emulated = _known(cluster.facts, "lab_forwarding")
    plain = sorted({value for value in emulated["value"] if "bpf" not in value.lower()})
    if plain:
        return (
            f"under {treatment.name} Felix was told to use eBPF, but the nodes forward by "
            f"{', '.join(plain)}"
        )
    return ""


def _fills_mtu(flow: Flow, nic_mtu_bytes: int) -> bool:
    """Whether some packet of the flow is larger than the smallest MTU that a treatment may give."""
    headers = IPV4_TCP_HEADERS_BYTES + TCP_TIMESTAMPS_BYTES
    fits = nic_mtu_bytes - VXLAN_OVERHEAD_BYTES - headers
    if flow.load == "request-response":
        return (flow.message_bytes or 0) > fits
    size = flow.mss_bytes if flow.load == "tcp" else flow.message_bytes
    return size is None or size > fits


def _of_metric(
    expected: Expectation, row: Mapping[Hashable, Any], campaign: Campaign
) -> Expectation:
    flow = next(one for one in campaign.flows if one.name == row["flow"])
    paced = flow.rate_bits_per_s is not None and row["metric"] in _RATES
    if not paced or expected.kind in (Kind.NONE, Kind.UNKNOWN, Kind.VOID):
        return expected
    why = f"the flow is paced, so its rate shows nothing of this: {expected.why}"
    return replace(expected, kind=Kind.UNKNOWN, why=why)


def _row(
    row: Mapping[Hashable, Any], expected: Expectation, campaign: Campaign
) -> dict[Hashable, object]:
    agreed = agreement(
        expected,
        low=row["low"],
        high=row["high"],
        margin_pct=campaign.margin_pct,
        better=metrics.metric(str(row["metric"])).better,
    )
    return {
        **row,
        "expected": expected.kind.value,
        "why": expected.why,
        "source": expected.source,
        "small": expected.small,
        "agreement": agreed,
    }


def _known(facts: pd.DataFrame, name: str) -> pd.DataFrame:
    return facts[facts["name"].eq(name) & ~facts["value"].str.startswith(UNKNOWN)]
