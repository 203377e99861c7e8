"""What else differed between the trials that are compared: facts per trial, arm against arm.

A treatment's trials and the baseline's are taken block by block, good ones of blocks with both.
A fact whose values are the same throughout says nothing. Of the others the kind is

- *confounded*: the values go with the arm, so that an effect may be theirs. Either no value occurs
  in both arms, or an exact permutation test within blocks finds it so at 5 %;
- *of the treatment*: they go with the arm because the treatment sets them (``calico.belongs``), or
  because Calico's MTU rule gives just these (``calico.mtu``);
- *perhaps confounded*: one arm had a single value throughout and the other had others too, in two
  trials or more, which are too few for that test;
- *drifted*: they changed during the campaign, and neither arm alone had what the other had not;
- *unknown*: one arm's could not be read, so that nobody knows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ebpfperf import compare
from ebpfperf.calico.belongs import Arm, belongs, devices_that_differ
from ebpfperf.calico.encapsulation import felix_fields, pool_modes
from ebpfperf.campaigns_apart import ABSENT, LEFT_OUT, between, json_object, pattern, roles
from ebpfperf.expectations import release_of
from ebpfperf.model import Campaign, Status
from ebpfperf.separation import goes_with_the_arm
from ebpfperf.units import UNKNOWN

__all__ = ["COLUMNS", "between", "differences", "marks", "roles"]

CONFOUNDED, PERHAPS = "confounded", "perhaps confounded"
OF_TREATMENT, DRIFTED, UNREAD = "of the treatment", "drifted", "unknown"
COLUMNS: dict[str, str] = dict.fromkeys(
    ("treatment", "flow", "node", "name", "baseline_values", "values", "kind", "sentence"), "str"
)
_ASSUMED_RELEASE = "v3.26.1"
_ANY_NIC_BYTES = 1500
_READ = "conditions"
_MSS, _MTU = "mss", "mtu"
# Values that are sets of words, of which only those that differ are said.
_WORDS = (
    "offloads",
    "devices",
    "kernel_cmdline",
    "queues",
    "channels",
    "rings",
    "coalesce",
    "link",
)


@dataclass(frozen=True, slots=True)
class _Arms:
    """One treatment against the baseline, for one flow: who they are, and what else is known."""

    treatment: str
    flow: str
    base: Arm
    other: Arm
    # Devices of neither arm: left by another treatment of the campaign.
    idle: frozenset[str]

    def row(
        self, kind: str, fact: tuple[str, str], shown: tuple[str, str], sentence: str
    ) -> dict[str, str]:
        """One row of ``COLUMNS``."""
        node, name = fact
        values = (self.treatment, self.flow, node, name, *shown, kind, sentence)
        return dict(zip(COLUMNS, values, strict=True))


def differences(facts: pd.DataFrame, trials: pd.DataFrame, campaign: Campaign) -> pd.DataFrame:
    """Every fact that differed between a treatment's trials and the baseline's: ``COLUMNS``.

    Parameters
    ----------
    facts, trials
        Frames of the store. Facts with a unit of their own other than bytes are measurements, and
        left out; so are those of ``LEFT_OUT``.

    Returns
    -------
    DataFrame
        One row a treatment, flow, node and fact; ``values`` are the treatment's, each with in how
        many trials of how many where there are several. Confounded ones first.
    """
    good = compare.watched(trials, campaign)
    good = good[good["status"].eq(Status.OK.value)].drop_duplicates(
        ["flow", "treatment", "block"], keep="last"
    )
    table = _table(facts, good)
    arms = {one.name: _arm(one.name, facts, campaign) for one in campaign.treatments}
    made = frozenset().union(*(arm.devices for arm in arms.values()))
    rows: list[dict[str, str]] = []
    for treatment in campaign.treatments:
        if treatment.name == campaign.baseline:
            continue
        base, other = arms[campaign.baseline], arms[treatment.name]
        idle = made - base.devices - other.devices - devices_that_differ(base, other)
        for flow in campaign.flows:
            pair = _Arms(treatment.name, flow.name, base, other, idle)
            rows += _of_pair(pair, table, good[good["flow"].eq(flow.name)], campaign)
    found = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    places = {CONFOUNDED: 0, PERHAPS: 1, UNREAD: 2, OF_TREATMENT: 3, DRIFTED: 4}
    order = found["kind"].map(places)
    return found.iloc[order.argsort(kind="stable")].reset_index(drop=True)


def recorded(facts: pd.DataFrame) -> bool:
    """Whether the conditions of any trial were read; older versions and imports have none."""
    return bool((facts["name"].eq(_READ) & facts["value"].eq("read")).any())


def marks(
    found: pd.DataFrame, *, kinds: Sequence[str] = (CONFOUNDED, PERHAPS)
) -> dict[tuple[str, str], tuple[str, ...]]:
    """(treatment, flow) → sentences of ``differences`` that mark the comparison; none where none.

    What several nodes show alike is one sentence: ``… on node-1, node-2``.
    """
    said: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in found[found["kind"].isin(kinds)].to_dict("records"):
        node = f" on {row['node']}" if row["node"] else ""
        text = str(row["sentence"]).removesuffix(node)
        nodes = said.setdefault((row["treatment"], row["flow"]), {}).setdefault(text, [])
        nodes += [row["node"]] if row["node"] else []
    return {
        key: tuple(t + (f" on {', '.join(nodes)}" if nodes else "") for t, nodes in texts.items())
        for key, texts in said.items()
    }


def _of_pair(
    arms: _Arms, table: pd.DataFrame, good: pd.DataFrame, campaign: Campaign
) -> list[dict[str, str]]:
    """The rows of one treatment and flow."""
    ids = good.pivot(index="block", columns="treatment", values="trial_id")
    ids = ids.reindex(columns=[campaign.baseline, arms.treatment]).dropna().sort_index()
    if not len(ids) or table.empty:
        return []
    both = [table.reindex(ids[name]) for name in ids]
    # Nearly all are equal throughout; only the others are looked at one by one.
    whole = np.vstack([side.to_numpy() for side in both])
    varied = table.columns[(whole != whole[0]).any(axis=0)]
    rows = []
    for node, name in varied.to_frame(index=False).itertuples(index=False, name=None):
        fact = str(node), str(name)
        sides = [side[fact].to_list() for side in both]
        if fact in (("", _MTU), (fact[0], _READ)):
            continue
        if row := _difference(arms, fact, sides, both):
            rows.append(row)
    return rows


def _difference(
    arms: _Arms, fact: tuple[str, str], sides: list[list[str]], both: list[pd.DataFrame]
) -> dict[str, str] | None:
    node, name = fact
    kind, _, role = name.partition(":")
    if role in arms.idle:
        return None
    if name == "devices":
        sides = [[_without(value, arms.idle) for value in side] for side in sides]
    filled = [_filled(side, fact, frame) for side, frame in zip(sides, both, strict=True)]
    pairs = [pair for pair in zip(*filled, strict=True) if not any(map(_unread, pair))]
    where = f" on {node}" if node else ""
    if not pairs:
        return _one_unread(arms, fact, filled, where)
    if len({value for pair in pairs for value in pair}) == 1:
        return None
    shown = [_counted([pair[side] for pair in pairs]) for side in (0, 1)]
    against = f"{_said(kind, pairs, 1)} against {_said(kind, pairs, 0)}{where}"
    cells = (shown[0], shown[1])
    if not goes_with_the_arm(pairs):
        if _one_sided(pairs) and not _is_the_treatments(arms, fact, pairs, both):
            return arms.row(PERHAPS, fact, cells, f"perhaps confounded by {name}: {against}")
        alike = len({frozenset(side) for side in zip(*pairs, strict=True)}) == 1
        how = ", under both alike" if alike else ", and not with the arm"
        text = f"{name} changed during the campaign{how}: {_in_turn(pairs)}{where}"
        return arms.row(DRIFTED, fact, cells, text)
    if _is_the_treatments(arms, fact, pairs, both):
        text = f"{name} belongs to the treatment: {against}"
        return arms.row(OF_TREATMENT, fact, cells, text)
    return arms.row(CONFOUNDED, fact, cells, f"confounded by {name}: {against}")


def _one_sided(pairs: Sequence[tuple[str, str]]) -> bool:
    """Whether one arm had a single value throughout, and the other had others twice or more."""
    steady = [len(set(side)) == 1 for side in zip(*pairs, strict=True)]
    return steady[0] is not steady[1] and sum(one != other for one, other in pairs) > 1


def _one_unread(
    arms: _Arms, fact: tuple[str, str], sides: list[list[str]], where: str
) -> dict[str, str] | None:
    """A fact that one arm alone could tell; None where no arm could, or the device is not there.

    Nor is it said of what may differ anyhow, because the treatments do.
    """
    if belongs(fact[1], arms.base, arms.other):
        return None
    known = [[value for value in side if value and not _unread(value)] for side in sides]
    unread = [[value for value in side if value.startswith(UNKNOWN)] for side in sides]
    for side, name in ((0, "the baseline"), (1, arms.treatment)):
        if unread[side] and not known[side] and known[1 - side]:
            reason = unread[side][0].removeprefix(f"{UNKNOWN}: ")
            text = f"{fact[1]}{where} is UNKNOWN under {name} ({reason}): it was not compared"
            shown = [_counted(one) for one in sides]
            return arms.row(UNREAD, fact, (shown[0], shown[1]), text)
    return None


def _is_the_treatments(
    arms: _Arms, fact: tuple[str, str], pairs: Sequence[tuple[str, str]], both: list[pd.DataFrame]
) -> bool:
    """Whether the treatment itself makes that difference."""
    node, name = fact
    kind, _, role = name.partition(":")
    if name == "devices":
        differ = devices_that_differ(arms.base, arms.other)
        return all(set(a.split()) ^ set(b.split()) <= differ for a, b in pairs)
    if kind == "mtu":
        return all(
            _follows(arm, role, [pair[side] for pair in pairs], node, both[side])
            for side, arm in ((0, arms.base), (1, arms.other))
        )
    if name == _MSS:
        # The headers take as much under both, and the rule gives their pods other MTUs.
        ruled = [arm.mtu_bytes("pod", _ANY_NIC_BYTES) for arm in (arms.base, arms.other)]
        return ruled[0] != ruled[1] and _headers(both[0]) == _headers(both[1])
    return belongs(name, arms.base, arms.other)


def _follows(arm: Arm, role: str, values: Iterable[str], node: str, frame: pd.DataFrame) -> bool:
    """Whether all those MTUs are what Calico's rule gives on that node."""
    column = (node, "mtu:nic")
    nics = set() if column not in frame else set(frame[column])
    if len(nics) != 1 or not (nic := nics.pop()).isdigit():
        return False
    return set(values) == {str(arm.mtu_bytes(role, int(nic)))}


def _headers(frame: pd.DataFrame) -> set[int]:
    """Bytes of an MTU that are not payload; empty where the trials do not say."""
    sizes = zip(frame["", _MTU], frame["", _MSS], strict=True)
    return {int(mtu) - int(mss) for mtu, mss in sizes if mtu and mss}


def _table(facts: pd.DataFrame, good: pd.DataFrame) -> pd.DataFrame:
    """Values by trial (rows) and (node, name); empty where the trial has no such fact."""
    if "trial_id" not in facts:
        return pd.DataFrame()
    ours = facts[facts["trial_id"].isin(good["trial_id"]) & facts["unit"].isin(["", "bytes"])]
    left_out = pattern(name for name in LEFT_OUT if name != _READ)
    kept = [name for name in ours["name"].unique() if not left_out.fullmatch(name)]
    ours = ours[ours["name"].isin(kept)]
    table = ours.pivot_table(
        index="trial_id", columns=["node", "name"], values="value", aggfunc="last"
    )
    sizes = good.set_index("trial_id")
    for column, name in (("mss_bytes", _MSS), ("mtu_bytes", _MTU)):
        if column in sizes and sizes[column].notna().any():
            table[("", name)] = sizes[column].map(lambda size: f"{size:.0f}", na_action="ignore")
    # As objects: a column of text a fact would make each of the selections slow.
    return table.reindex(good["trial_id"]).astype(object).fillna("")


def _filled(side: list[str], fact: tuple[str, str], frame: pd.DataFrame) -> list[str]:
    """Values with a word for what a trial does not have: not there, or not read; or none at all.

    It stays empty where the trial says nothing of that node, or has no device of that role: that
    device's own facts are then no difference beside ``devices``.
    """
    node, name = fact
    read = _column(frame, node, _READ)
    devices = [text.split() for text in _column(frame, node, "devices")]
    kind, _, role = name.partition(":")
    of_device = role and kind != "placement" and not kind.endswith("sysctl")
    filled = []
    for value, state, present in zip(side, read, devices, strict=True):
        if value or (of_device and role not in present) or (node and not state):
            filled.append(value)
        elif state.startswith(UNKNOWN):
            filled.append(state)
        else:
            filled.append(ABSENT)
    return filled


def _column(frame: pd.DataFrame, node: str, name: str) -> list[str]:
    return frame[node, name].to_list() if (node, name) in frame else [""] * len(frame)


def _unread(value: str) -> bool:
    return not value or value.startswith(UNKNOWN)


def _without(value: str, words: frozenset[str]) -> str:
    return " ".join(word for word in value.split() if word not in words)


def _counted(values: Sequence[str]) -> str:
    """The one value, or each with in how many of the trials."""
    counts = Counter(value or ABSENT for value in values)
    if len(counts) == 1:
        return next(iter(counts))
    return " | ".join(f"{value} ({n} of {len(values)})" for value, n in sorted(counts.items()))


def _said(kind: str, pairs: Sequence[tuple[str, str]], side: int) -> str:
    """One side's values in a sentence; of sets of words only what the other has not."""
    ours, theirs = ({pair[at] for pair in pairs} for at in (side, 1 - side))
    if kind in _WORDS and len(ours) == len(theirs) == 1:
        here, there = set(ours.pop().split()), set(theirs.pop().split())
        own = " ".join(sorted(here - there))
        return own or f"without {' '.join(sorted(there - here))}"
    return _counted([pair[side] for pair in pairs])


def _in_turn(pairs: Sequence[tuple[str, str]]) -> str:
    """The values in the order in which they came, at most four."""
    values = list(dict.fromkeys(value for pair in pairs for value in pair))
    return ", ".join(values[:4]) + (f" and {len(values) - 4} more" if len(values) > 4 else "")


def _arm(name: str, facts: pd.DataFrame, campaign: Campaign) -> Arm:
    """What Felix acts on under a treatment: what was found, and on top of it what is set."""
    treatment = campaign.treatment(name)
    release = release_of(facts) or _ASSUMED_RELEASE
    found = facts[facts["trial_id"].isna()] if "trial_id" in facts else facts
    objects = {row["name"]: json_object(row["value"]) for row in found.to_dict("records")}
    pools = {key: value for key, value in objects.items() if key.startswith("ippool_")}
    if treatment.overlay is not None:
        modes = pool_modes(treatment.overlay, treatment.scope)
        for pool in campaign.cluster.ippools:
            key = "ippool_" + re.sub(r"\W", "_", pool)
            pools[key] = {**pools.get(key, {}), **modes}
    felix = {**objects.get("felix_spec", {}), **felix_fields(treatment, release=release)}
    return Arm(felix, tuple(pools.values()), release)
