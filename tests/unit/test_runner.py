"""The runner with fakes at the seams: what is a row, what ends a campaign, what is put back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic

from ebpfperf import loads, plan, probes, runner, watching
from ebpfperf.cluster import Settled
from ebpfperf.errors import (
    CommandTimeout,
    ConnectError,
    EbpfperfError,
    HostKeyError,
    LoadError,
    ProbeError,
    SettleError,
    StoreError,
)
from ebpfperf.model import (
    Endpoint,
    Fact,
    Flow,
    Quiet,
    Reading,
    Status,
    Trial,
    Workload,
    WorkloadKind,
)
from ebpfperf.store import Store

CAMPAIGN = replace(synthetic.CAMPAIGN, blocks=2, probes=("tcp_rtt",))
CALM = Quiet(busy_pct=7)


TOLD = Fact("node-1", "sysctl:net.core.rmem_max", "212992")


@pytest.fixture(autouse=True)
def conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake nodes tell one condition."""
    monkeypatch.setattr(runner.conditions, "read", lambda *ends, addresses: (TOLD,))


class FakeNode:
    alive = True


class FakeCluster:
    """Shows every treatment at once; says what was done to it."""

    def __init__(self) -> None:
        self.nodes = {"node-1": FakeNode(), "node-2": FakeNode()}
        self.addresses = {"node-1": "198.18.0.1", "node-2": "198.18.0.2"}
        self.settled: list[str] = []
        self.restored = 0
        self.refuse: dict[int, EbpfperfError] = {}

    def __enter__(self) -> FakeCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.restored += 1

    def facts(self) -> tuple[Fact, ...]:
        return (Fact("node-1", "kernel", "6.1"),)

    def reconnect(self, name: str) -> None:
        self.nodes[name] = FakeNode()

    def settle(self, treatment: Any, flows: Any) -> Settled:
        self.settled.append(treatment.name)
        if error := self.refuse.get(len(self.settled)):
            raise error
        ends = {
            (str(flow.path), role): Endpoint(
                Workload(role, node, WorkloadKind.POD, "ebpfperf"),
                "198.19.0.1",
                1,
                "eth0",
                "c",
                1480,
            )
            for flow in flows
            for role, node in (("client", "node-1"), ("server", "node-2"))
        }
        return Settled(treatment, ends, (), {"settle.txt": b"seen"}, 0.1, True)


class FakeLoad:
    name, binaries = "tcp", ("true",)

    def __init__(self, outcome: Callable[[Flow], dict[str, bytes]]) -> None:
        self.outcome = outcome

    def traffic_s(self, flow: Flow) -> float:
        return 0.0

    def check(self, flow: Flow) -> str | None:
        return None

    def drive(self, flow: Flow, client: Any, server: Any, nodes: Any) -> dict[str, bytes]:
        return self.outcome(flow)

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        return Reading(metrics={"received_bits_per_s": float(raw["out"])})


class FakeCounters:
    """The counters that are always on; ``log`` says what was done."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def attach(self, nodes: Any) -> tuple[Fact, ...]:
        return ()

    def arm(self, flow: Flow, client: Any, server: Any, *, nics: Any) -> None:
        self.log.append("arm")

    def collect(self) -> dict[str, bytes]:
        self.log.append("collect")
        return {"counters.txt": b""}

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        return Reading()

    def detach(self) -> None:
        pass


class FakeObservers:
    """The nodes' observers with one probe; a step called ``fail`` fails."""

    def __init__(self, log: list[str], *, fail: str = "") -> None:
        self.log, self.fail = log, fail

    def _step(self, step: str) -> None:
        self.log.append(step)
        if step == self.fail:
            raise ProbeError(f"no {step}.", "Look.", reason="no_bcc")

    def attach(self, nodes: Any) -> tuple[Fact, ...]:
        self._step("attach")
        return (Fact("node-1", "probes_headers", "6.1"),)

    def refused(self) -> dict[str, str]:
        return {"tcp_rtt": "no variant."} if self.fail == "variant" else {}

    def arm(self, names: Any, flow: Flow, client: Any, server: Any) -> dict[str, str]:
        self._step("arm")
        return {"tcp_rtt": "no half."} if self.fail == "half" else {}

    def collect(self, *, last: bool = True) -> dict[str, dict[str, bytes]]:
        self._step("collect" if last else "look")
        return {"tcp_rtt": {"tcp_rtt.json": b"{}"}}

    def rest(self) -> None:
        self._step("rest")

    def detach(self) -> None:
        self.log.append("detach")


class FakeProbe:
    name, per_node = "tcp_rtt", False

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        assert raw == {"tcp_rtt.json": b"{}"}
        return Reading(metrics={"srtt_events": 7.0})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "c", CAMPAIGN)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeCluster]:
    def build(
        outcome: Callable[[Flow], dict[str, bytes]] = lambda flow: {"out": b"11"},
        *,
        probe_fails: str = "",
        log: list[str] | None = None,
        counters: FakeCounters | None = None,
    ) -> FakeCluster:
        steps = [] if log is None else log
        monkeypatch.setattr(loads, "load", lambda name: FakeLoad(outcome))
        monkeypatch.setattr(probes, "probe", lambda name: FakeProbe())
        monkeypatch.setattr(watching, "HostCounters", lambda: counters or FakeCounters())
        made = FakeObservers(steps, fail=probe_fails)
        monkeypatch.setattr(watching, "Observers", lambda probes, **options: made)
        return FakeCluster()

    return build


def results(store: Store, cluster: FakeCluster, **options: Any) -> list[Any]:
    return list(runner.run(store, connect=lambda ref, journal: cluster, **options))


def test_every_trial_is_a_record_in_the_order_of_the_plan(store: Store, world: Any) -> None:
    cluster = world()
    found = results(store, cluster)
    assert [r.trial for r in found] == list(plan.schedule(CAMPAIGN))
    assert {r.status for r in found} == {Status.OK}
    assert all(r.metrics["received_bits_per_s"] == 11 for r in found)
    assert all(r.metrics["mtu_bytes"] == 1480 and r.metrics["srtt_events"] == 7 for r in found)
    assert list(store.results()) == [replace(r, raw={}) for r in found]
    assert {f.name for f in store.facts()} == {"kernel", "probes_headers"}
    assert cluster.restored == 1
    assert results(store, world()) == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LoadError("The server refused.", "x", reason="refused"), "refused"),
        (ConnectError("gone.", "x"), "unreachable"),
        (HostKeyError("changed.", "x"), "host_key"),
        (CommandTimeout("hangs.", "x"), "timeout"),
    ],
)
def test_a_failed_trial_is_a_row_and_the_campaign_goes_on(
    store: Store, world: Any, error: EbpfperfError, code: str
) -> None:
    calls = 0

    def outcome(flow: Flow) -> dict[str, bytes]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise error
        return {"out": b"11"}

    found = results(store, world(outcome))
    assert [r.status for r in found].count(Status.FAILED) == 1
    assert found[2].reason.startswith(f"{code}: ")
    assert len(found) == len(plan.schedule(CAMPAIGN))
    assert store.frame("trials").loc[2, "reason"].startswith(code)


def test_a_treatment_that_cannot_be_shown_fails_its_block_only(store: Store, world: Any) -> None:
    cluster = world()
    cluster.refuse = {1: SettleError("node-1 shows no vxlan.calico.", "Look.")}
    found = results(store, cluster)
    bad = [r.trial for r in found if r.status is Status.FAILED]
    assert {(t.block, t.treatment.name) for t in bad} == {(0, found[0].trial.treatment.name)}
    assert len(bad) == len(CAMPAIGN.flows)
    # It was tried once, not once a flow.
    assert len(cluster.settled) == len(found) - len(CAMPAIGN.flows) + 1
    assert cluster.restored == 1


@pytest.mark.parametrize("step", ["attach", "variant", "arm", "collect"])
def test_a_probe_that_cannot_run_is_a_warning(store: Store, world: Any, step: str) -> None:
    log: list[str] = []
    found = results(store, world(probe_fails=step, log=log))
    assert {r.status for r in found} == {Status.OK}
    assert all(any(f"no {step}" in w for w in r.warnings) for r in found)
    assert all("srtt_events" not in r.metrics for r in found)
    assert log[-1] == "detach"


def test_a_node_that_lacks_a_probe_costs_its_part_alone(store: Store, world: Any) -> None:
    found = results(store, world(probe_fails="half"))
    assert all("probe tcp_rtt: no half." in r.warnings for r in found)
    assert all(r.metrics["srtt_events"] == 7 for r in found)


def test_a_bare_trial_has_no_optional_probe_on_the_nodes(
    tmp_path: Path, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    counters = FakeCounters()
    cluster = world(log=log, counters=counters)
    made = Store.create(tmp_path / "bare", replace(CAMPAIGN, probes_off=True))
    ran = {}
    for result in runner.run(made, connect=lambda ref, journal: cluster):
        ran[result.trial.trial_id] = tuple(log)
        log.clear()
    assert len(ran) == CAMPAIGN.blocks * (len(CAMPAIGN.treatments) + 1) * len(CAMPAIGN.flows)
    for name, steps in ran.items():
        assert [s for s in steps if s != "attach"] == (
            ["rest"] if name.endswith("-bare") else ["arm", "collect"]
        )
    # The counters that are always on watched all of them.
    assert counters.log == ["arm", "collect"] * len(ran)


def test_a_probe_that_cannot_run_is_no_warning_of_a_bare_trial(tmp_path: Path, world: Any) -> None:
    made = Store.create(tmp_path / "bare", replace(CAMPAIGN, probes_off=True))
    found = results(made, world(probe_fails="attach"))
    named = {r.trial.trial_id: any("probe tcp_rtt" in w for w in r.warnings) for r in found}
    assert all(warned is not name.endswith("-bare") for name, warned in named.items())


def test_a_full_disk_ends_the_run_and_the_cluster_is_put_back(
    store: Store, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = world()

    def append(self: Store, result: object) -> None:
        raise StoreError("full.", "Free space.")

    monkeypatch.setattr(Store, "append", append)
    with pytest.raises(StoreError, match="full"):
        results(store, cluster)
    assert cluster.restored == 1


def test_stop_is_asked_before_each_trial_and_the_rest_comes_later(store: Store, world: Any) -> None:
    cluster = world()
    first = results(store, cluster, stop=lambda: len(store.completed()) >= 4)
    assert (len(first), cluster.restored) == (4, 1)
    rest = results(store, world())
    assert [r.trial for r in (*first, *rest)] == list(plan.schedule(CAMPAIGN))


def test_a_closed_iteration_puts_the_cluster_back(store: Store, world: Any) -> None:
    cluster = world()
    run = runner.run(store, connect=lambda ref, journal: cluster)
    next(run)
    run.close()
    assert cluster.restored == 1


def test_a_lost_connection_is_made_anew_for_the_next_trial(store: Store, world: Any) -> None:
    cluster = world()
    started: list[Trial] = []

    def on_start(trial: Trial) -> None:
        started.append(trial)
        if len(started) == 3:
            cluster.nodes["node-2"].alive = False

    found = results(store, cluster, on_start=on_start)
    assert {r.status for r in found} == {Status.OK}
    assert cluster.nodes["node-2"].alive


def test_a_trial_is_looked_at_while_its_traffic_runs_and_its_probes_are_read_after(
    store: Store, world: Any
) -> None:
    log: list[str] = []
    looked = threading.Event()
    told: list[tuple[str, dict[str, Reading]]] = []

    def outcome(flow: Flow) -> dict[str, bytes]:
        assert looked.wait(10)
        return {"out": b"11"}

    def on_start(trial: Trial) -> None:
        looked.clear()
        log.clear()

    def on_look(trial: Trial, readings: Mapping[str, Reading]) -> None:
        told.append((trial.trial_id, dict(readings)))
        looked.set()

    cluster = world(outcome, log=log)
    run = runner.run(
        store,
        connect=lambda ref, journal: cluster,
        on_start=on_start,
        on_look=on_look,
        look_every_s=0.001,
    )
    for result in run:
        looks = [readings for trial_id, readings in told if trial_id == result.trial.trial_id]
        assert looks[0]["tcp_rtt"].metrics == {"srtt_events": 7.0}
        assert "host_counters" in looks[0]
        assert log == ["arm", *["look"] * len(looks), "collect"]
        facts = {fact.name: fact.value for fact in result.facts}
        assert facts["live_view"] == "yes: looked every 0.001 s"
        assert facts["live_looks"] == str(len(looks))
        assert result.metrics["srtt_events"] == 7
    assert {trial_id for trial_id, _ in told} == store.completed()


def test_a_look_that_fails_is_one_warning_of_its_trial(store: Store, world: Any) -> None:
    looked = threading.Event()

    def outcome(flow: Flow) -> dict[str, bytes]:
        assert looked.wait(10)
        return {"out": b"11"}

    def on_look(trial: Trial, readings: Mapping[str, Reading]) -> None:
        looked.set()
        raise ValueError("no room to draw")

    found = results(store, world(outcome), on_look=on_look, look_every_s=0.001)
    assert {r.status for r in found} == {Status.OK}
    assert found[0].warnings == ("live view: no room to draw",)


def test_a_bare_trial_is_looked_at_by_its_counters_alone(tmp_path: Path, world: Any) -> None:
    told: dict[str, set[str]] = {}
    looked = threading.Event()

    def outcome(flow: Flow) -> dict[str, bytes]:
        looked.clear()
        assert looked.wait(10)
        return {"out": b"11"}

    def on_look(trial: Trial, readings: Mapping[str, Reading]) -> None:
        told.setdefault(trial.trial_id, set()).update(readings)
        looked.set()

    made = Store.create(tmp_path / "bare", replace(CAMPAIGN, probes_off=True, blocks=1))
    results(made, world(outcome), on_look=on_look, look_every_s=0.001)
    for name, seen in told.items():
        assert seen == {"host_counters"} | (set() if name.endswith("-bare") else {"tcp_rtt"})


def test_nobody_looks_unless_asked(store: Store, world: Any) -> None:
    log: list[str] = []
    found = results(store, world(log=log))
    assert "look" not in log
    assert all(not fact.name.startswith("live_") for r in found for fact in r.facts)


def test_nodes_are_waited_for_before_each_trial_and_that_is_told(
    store: Store, world: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, ...]] = []

    def wait(nodes: Any, names: Any, quiet: Any, *, nics: Any, say: Any) -> Reading:
        asked.append(tuple(names))
        assert quiet == CALM
        return Reading(metrics={"waited_s": 3.0, "idle_busy_pct": 6.0})

    monkeypatch.setattr(runner.quiet, "wait", wait)
    store = Store.create(tmp_path / "quiet", replace(CAMPAIGN, quiet=CALM))
    found = results(store, world())
    assert asked == [("node-1", "node-2")] * len(found)
    assert all(r.metrics["waited_s"] == 3 and r.metrics["idle_busy_pct"] == 6 for r in found)


def test_every_trial_says_what_was_so_on_the_nodes_before_it(store: Store, world: Any) -> None:
    found = results(store, world())
    assert found
    assert all(TOLD in result.facts for result in found)


def test_nodes_that_are_never_quiet_are_not_waited_for_anew_before_every_trial(
    world: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    busy = iter([90.0, 90.0, 90.0, 3.0, 90.0, *[3.0] * 100])
    waits: list[float] = []

    def wait(nodes: Any, names: Any, quiet: Any, *, nics: Any, say: Any) -> Reading:
        waits.append(quiet.wait_s)
        return Reading(metrics={"idle_busy_pct": next(busy)})

    monkeypatch.setattr(runner.quiet, "wait", wait)
    store = Store.create(tmp_path / "loud", replace(CAMPAIGN, quiet=CALM))
    results(store, world())
    # Waited for at first, only sampled while that was in vain, and waited for again after it.
    assert waits[:7] == [30, 0, 0, 0, 30, 0, 30]
    assert set(waits[7:]) == {30}
