"""Calico's debug log switched on for some seconds, and bpfLogLevel put back as it was.

The journal has what the cluster was on disk before the change, so that ``ebpfperf restore`` puts it
back also after ``kill -9``; the next time somebody asks for the log, it is put back first.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ebpfperf.calico.felix_fields import field
from ebpfperf.drop_counts import NodeCounts
from ebpfperf.errors import InputError
from ebpfperf.felix_values import Evidence, Origin, shown, value_of
from ebpfperf.interruption import ENDING
from ebpfperf.journal import FILE_NAME, Journal
from ebpfperf.kube import Kube
from ebpfperf.model import ClusterRef
from ebpfperf.mutations import FELIX, set_log_level
from ebpfperf.remote import Node
from ebpfperf.restore import put_back, restore_from_journal
from ebpfperf.settling import FelixSeen, Observer

DEBUG = "Debug"
DIRECTORY = Path("runs/log-level")
COST = (
    "bpfLogLevel becomes Debug: Felix restarts, and every packet is logged at every hook that it "
    "passes, which costs much of the nodes' forwarding until it is put back."
)
RESTARTED_S, LOADED_S, POLL_S = 90.0, 20.0, 0.3
# What is above a node's own resource, and what is above ``default`` as well.
_ABOVE_OWN = (Origin.ENVIRONMENT, Origin.FILE)
_ABOVE_DEFAULT = (*_ABOVE_OWN, Origin.NODE, Origin.SELECTOR)
Say = Callable[[str], None]


@contextmanager
def raised(
    ref: ClusterRef,
    nodes: Mapping[str, Node],
    evidence: Sequence[Evidence],
    *,
    everywhere: bool,
    programs: Callable[[], Mapping[str, NodeCounts]],
    say: Say,
    directory: Path = DIRECTORY,
) -> Iterator[None]:
    """Inside the block the nodes' programs log every packet; then bpfLogLevel is as it was.

    Parameters
    ----------
    ref
        How the cluster is reached; its pools are not changed.
    evidence
        Of these nodes: what decides on their bpfLogLevel.
    everywhere
        Whether to set it in ``default``, for all nodes of the cluster, and not in ``node.NAME``.
    programs
        Reads the nodes' programs now: they are awaited anew.

    Raises
    ------
    InputError
        A node does not forward by eBPF, or something beats the resource there; somebody else is at
        it from here.
    KubeError, RestoreError
        The API refused; the journal cannot be written, or it cannot be put back.
    """
    _refuse(evidence, _ABOVE_DEFAULT if everywhere else _ABOVE_OWN)
    with _alone(directory):
        for text in _restored(directory):
            say(text)
        kube = Kube.connect(ref.kubeconfig, ref.context)
        try:
            journal = Journal(directory / FILE_NAME, ref, cluster_uid=kube.cluster_uid())
            observer = Observer(kube, nodes, {})
            before, loaded = observer.felix(), programs()
            with _signals(_interrupt):
                try:
                    if _change(kube, journal, _names(nodes, everywhere=everywhere)):
                        say(COST)
                        _await(observer, before, loaded, programs=programs, say=say)
                    yield
                finally:
                    with _signals(signal.SIG_IGN, signal.SIGINT):
                        for text in put_back(kube, journal):
                            say(text)
        finally:
            kube.close()


def restored(directory: Path, *, overwrite: bool = False) -> tuple[str, ...]:
    """Sentences on what was put back of what a killed process left there. Idempotent."""
    with _alone(directory):
        return _restored(directory, overwrite=overwrite)


def _restored(directory: Path, *, overwrite: bool = False) -> tuple[str, ...]:
    book = Journal.load(directory / FILE_NAME)
    if book is None or not book.is_open:
        return ()
    return restore_from_journal(directory / FILE_NAME, overwrite=overwrite)


def _refuse(evidence: Sequence[Evidence], beating: Collection[Origin]) -> None:
    for each in evidence:
        if value_of(each, field("bpfEnabled")).value is not True:
            raise InputError(
                f"{each.node} does not forward by eBPF: it has no debug log.",
                "Name nodes that do: --node.",
            )
        level = value_of(each, field("bpfLogLevel"))
        if level.value != DEBUG and level.origin in beating:
            raise InputError(
                f"On {each.node} bpfLogLevel is {shown(level.value)} by {level.where}, which beats "
                "what would be set.",
                "Take it away there, or name other nodes: --node.",
                node=each.node,
            )


def _names(nodes: Mapping[str, Node], *, everywhere: bool) -> list[str]:
    """The FelixConfigurations to change."""
    return [FELIX[1]] if everywhere else [f"node.{name}" for name in nodes]


def _change(kube: Kube, journal: Journal, names: Sequence[str]) -> bool:
    """Whether anything had to be changed: remembered, intended, and only then sent."""
    live = {name: kube.felix_configuration(name) for name in names}
    calls = [call for name in names if (call := set_log_level(name, live[name], DEBUG))]
    for call in calls:
        journal.remember(call.kind, call.name, original=live[call.name])
    if calls:
        journal.intend(*calls)
    for call in calls:
        kube.apply(call)
    return bool(calls)


def _await(
    observer: Observer,
    before: Mapping[str, FelixSeen],
    loaded: Mapping[str, NodeCounts],
    *,
    programs: Callable[[], Mapping[str, NodeCounts]],
    say: Say,
) -> None:
    """Until every Felix has restarted and no program of before is on a device; says who has not."""
    pids = {name: seen.state.pid for name, seen in before.items()}
    begun = time.monotonic()
    waiting = sorted(pids)
    while waiting and time.monotonic() - begun < RESTARTED_S:
        time.sleep(POLL_S)
        now = observer.felix()
        waiting = [
            n for n in waiting if now[n].state.pid in (None, pids[n]) or now[n].state.leaving
        ]
    if waiting:
        say(f"Felix on {', '.join(waiting)} has not restarted: its programs may not log.")
    begun, old = time.monotonic(), loaded
    while old and time.monotonic() - begun < LOADED_S:
        now_loaded = programs()
        old = {
            name: counts
            for name, counts in old.items()
            if name in now_loaded
            and (counts.program_ids & now_loaded[name].program_ids
                 or not now_loaded[name].program_ids)
        }  # fmt: skip
        if old:
            time.sleep(POLL_S)
    if old:
        say(f"On {', '.join(sorted(old))} programs of before are still on devices: not all log.")


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Inside the block no other process changes the log level from this directory."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / ".lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise InputError(
                f"Another process (pid {lock.read().strip() or 'unknown'}) has the debug log on.",
                "Wait for it, or stop it with Ctrl-C.",
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _signals(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers, *further: signal.Signals
) -> Iterator[None]:
    """SIGTERM and SIGHUP (and ``further``) handled so inside the block, where they can be."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (*ENDING, *further)}
    try:
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was)
