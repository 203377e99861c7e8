"""Run a campaign: the main path from trials to records. The same in a terminal and a notebook."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ebpfperf import conditions, loads, plan, quiet
from ebpfperf.cluster import Cluster, Settled, restore_from_journal
from ebpfperf.errors import (
    CommandTimeout,
    ConnectError,
    EbpfperfError,
    HostKeyError,
    KubeError,
    LoadError,
    NodeError,
    OutputLimitError,
    ProbeError,
    SettleError,
)
from ebpfperf.looking import EVERY_S, Looks, OnLook
from ebpfperf.model import ALWAYS_ON, Campaign, ClusterRef, Reading, Status, Trial, TrialResult
from ebpfperf.store import Store
from ebpfperf.watching import Watch

Connect = Callable[[ClusterRef, Path], Cluster]
Preflight = Callable[[Store, Cluster], None]

NOBODY_LOOKS = Looks()


def connect(ref: ClusterRef, journal: Path) -> Cluster:
    """The cluster of a campaign; EBPFPERF_SSH_CONFIG counts where the file names no SSH config."""
    if ref.ssh_config is None:
        ref = replace(ref, ssh_config=os.environ.get("EBPFPERF_SSH_CONFIG"))
    return Cluster.connect(ref, journal=journal)


def remaining(store: Store) -> tuple[Trial, ...]:
    """The trials that have no record yet, in their order."""
    done = store.completed()
    if store.campaign.source:
        # Imported: there is nothing to run.
        return ()
    return tuple(trial for trial in plan.schedule(store.campaign) if trial.trial_id not in done)


def run(
    store: Store,
    *,
    connect: Connect = connect,
    stop: Callable[[], bool] = lambda: False,
    on_start: Callable[[Trial], None] = lambda trial: None,
    on_wait: Callable[[str], None] = lambda text: None,
    on_look: OnLook | None = None,
    look_every_s: float = EVERY_S,
    preflight: Preflight = lambda store, cluster: None,
) -> Generator[TrialResult, None, None]:
    """Each trial's result, in order, once it is on disk; trials that have a record are skipped.

    The cluster is put back when the iteration ends, however it ends: exhausted, closed early, by
    ``stop`` (asked before each trial), an error or Ctrl-C. A trial that fails is a result with
    status ``failed`` and its reason, and the campaign goes on.

    Parameters
    ----------
    on_wait
        Told, in a sentence, that the nodes are not quiet and are waited for.
    on_look
        Told, in a thread of its own, what the probes of the trial in hand see while its traffic
        runs. The nodes feel each look: the trial has the fact ``live_view``.
    preflight
        Called once before the first trial, such as ``preflight.before``.

    Raises
    ------
    InputError
        The cluster or the campaign's directory is not as the campaign needs it.
    StoreError, RestoreError
        A record could not be written; the cluster could not be put back.
    KubeError, ConnectError
        The cluster could not be reached when the run began.
    """
    with store.exclusive():
        trials = remaining(store)
        if not trials:
            restore_from_journal(store.journal)
            return
        with connect(store.campaign.cluster, store.journal) as cluster:
            store.add_facts(cluster.facts())
            preflight(store, cluster)
            names = dict.fromkeys((*ALWAYS_ON, *store.campaign.probes))
            with Watch(names, cluster.nodes, share_pct=store.campaign.probe_share_pct) as watch:
                store.add_facts(watch.facts)
                stage = Stage(cluster, store.campaign, on_wait=on_wait)
                looks = Looks(on_look, every_s=look_every_s)
                for trial in trials:
                    if stop():
                        return
                    on_start(trial)
                    result = execute(trial, stage, watch, looks=looks)
                    store.append(result)
                    yield result


class Stage:
    """The cluster as the trial in hand needs it: settled once per treatment of a block."""

    def __init__(
        self,
        cluster: Cluster,
        campaign: Campaign,
        *,
        on_wait: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.cluster = cluster
        self._on_wait = on_wait
        self._campaign = campaign
        self._refused: tuple[tuple[int, str], EbpfperfError] | None = None
        # Whether the last trial has waited in vain: nodes that are never quiet are not waited for
        # before every trial anew.
        self._in_vain = False

    def settle(self, trial: Trial) -> Settled:
        """The treatment, shown on the nodes. What failed for a block is not tried again in it."""
        key = (trial.block, trial.treatment.name)
        if self._refused is not None and self._refused[0] == key:
            raise self._refused[1]
        try:
            return self.cluster.settle(trial.treatment, self._campaign.flows)
        except (SettleError, KubeError) as error:
            self._refused = (key, error)
            raise

    def before(self, trial: Trial, settled: Settled) -> Reading:
        """What is so on the nodes, and how quiet they are or have been waited for to become."""
        client, server = (settled.endpoints[trial.flow.path, end] for end in ("client", "server"))
        nodes, nics = self.cluster.nodes, settled.nics
        told = conditions.read(nodes, client, server, addresses=self.cluster.addresses)
        asked = self._campaign.quiet
        if asked is not None and self._in_vain:
            asked = replace(asked, wait_s=0)
        ends = (client.node, server.node)
        calm = quiet.wait(nodes, ends, asked, nics=nics, say=self._on_wait)
        self._in_vain = quiet.in_vain(calm, asked)
        return replace(calm, facts=(*told, *calm.facts))


def execute(
    trial: Trial, stage: Stage, watch: Watch, *, looks: Looks = NOBODY_LOOKS
) -> TrialResult:
    """One trial: settle, arm, drive, collect, read. A failure is a result, not an exception."""
    start = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    begun = time.monotonic()
    blank = TrialResult(trial, Status.FAILED, "", start, 0.0, 0.0)
    try:
        watch.renew(stage.cluster)
        settled = stage.settle(trial)
        before = stage.before(trial, settled)
        begun = time.monotonic()
        return _drive(blank, settled, stage.cluster, watch, looks, before, begun)
    except (NodeError, LoadError, SettleError, KubeError) as error:
        reason = f"{code(error)}: {error}"
        return replace(blank, reason=reason, duration_s=time.monotonic() - begun)


def _drive(
    blank: TrialResult,
    settled: Settled,
    cluster: Cluster,
    watch: Watch,
    looks: Looks,
    before: Reading,
    begun: float,
) -> TrialResult:
    trial = blank.trial
    load = loads.load(trial.flow.load)
    client = settled.endpoints[trial.flow.path, "client"]
    server = settled.endpoints[trial.flow.path, "server"]
    raw: dict[str, bytes] = dict(settled.raw) if settled.changed else {}
    with (
        watch.armed(trial, client, server, views=settled.views) as seen,
        looks.during(trial, watch.look) as looked,
    ):
        output = load.drive(trial.flow, client, server, cluster.nodes)
    raw |= output | seen.raw
    main = load.parse(trial.flow, output)
    readings: Mapping[str, Reading] = {"load": main, "before": before, **seen.read(trial)}
    metrics = {"mtu_bytes": float(client.mtu_bytes)}
    for reading in readings.values():
        metrics |= reading.metrics
    duration = time.monotonic() - begun
    return replace(
        blank,
        status=main.status,
        reason=main.reason,
        duration_s=duration,
        overhead_s=duration - load.traffic_s(trial.flow),
        metrics=metrics,
        samples=tuple(s for reading in readings.values() for s in reading.samples),
        histograms=tuple(h for reading in readings.values() for h in reading.histograms),
        facts=(
            *settled.facts,
            *looked.facts,
            *seen.facts,
            *(f for reading in readings.values() for f in reading.facts),
        ),
        warnings=(*seen.warnings, *looked.warnings, *((before.reason,) if before.reason else ())),
        raw=raw,
    )


_CODES: tuple[tuple[type[EbpfperfError], str], ...] = (
    (HostKeyError, "host_key"),
    (ConnectError, "unreachable"),
    (CommandTimeout, "timeout"),
    (OutputLimitError, "output_limit"),
    (NodeError, "command_failed"),
    (SettleError, "not_settled"),
    (KubeError, "api"),
)


def code(error: EbpfperfError) -> str:
    """The short code of a failure: the error's own reason, or one for its kind."""
    own = error.fields.get("reason")
    if isinstance(error, LoadError | ProbeError) and own:
        return str(own)
    return next((code for kind, code in _CODES if isinstance(error, kind)), "failed")
