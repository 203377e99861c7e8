"""Runs, and the time of them, of the BPF programs on the path's devices, by hook.

By the statistics that the kernel keeps of every program while somebody asks it to. Each slice asks,
and takes what the counters grew by meanwhile; a program that was replaced is told, not guessed.
"""

import os
import threading

import attached
import bpf_call
from ground import Probe as Base
from ground import Unavailable, inside


class Probe(Base):
    """The ``bpf_programs`` probe."""

    name = "bpf_programs"
    hot = True

    def __init__(self, ground, options):
        try:
            os.close(bpf_call.enable_statistics())
        except OSError as failure:
            message = "The kernel does not count runs of programs (Linux 5.8 does): %s." % failure
            raise Unavailable("no_statistics", message) from None
        self.ends = []
        # Hook -> ids of its programs when armed.
        self.hooks_then = {}
        # Id -> (name, nanoseconds, runs) since armed; the same of when the present slice began.
        self.grown = {}
        self.before = {}
        self.handle = None
        self.lock = threading.Lock()

    def facts(self):
        """How it is done."""
        return {"variant": "bpf(2) BPF_ENABLE_STATS"}

    def arm(self, maps, ends):
        """Find the programs on this node's devices and in the pods of its ends."""
        self.end()
        self.ends = [end for end in ends if end["here"]]
        self.hooks_then = self.hooks_now()
        self.grown = {number: ("", 0, 0) for number in self.ids()}

    def begin(self):
        """Have the kernel count."""
        with self.lock:
            if self.handle is not None:
                return
            self.before = self.counters()
            try:
                self.handle = bpf_call.enable_statistics()
            except OSError as failure:
                message = "The kernel does not count any more: %s." % failure
                raise Unavailable("no_statistics", message) from None

    def end(self):
        """Have it stop, unless somebody else wants it to count."""
        with self.lock:
            if self.handle is not None:
                os.close(self.handle)
                self.handle = None
                self.settle()

    def read(self, maps, rows):
        """Per hook and program: nanoseconds and runs; hooks that changed since it was armed."""
        with self.lock:
            if self.handle is not None:
                self.settle()
            try:
                now = self.hooks_now()
            except OSError:  # a pod that is gone
                now = {}
            programs = [
                {"hook": hook, "id": number, "name": name, "ns": ns, "runs": runs}
                for hook, ids in sorted(self.hooks_then.items())
                for number in ids
                for name, ns, runs in [self.grown[number]]
            ]
            changed = [hook for hook in self.hooks_then if now.get(hook) != self.hooks_then[hook]]
            return {
                "ends": [end["end"] for end in self.ends],
                "programs": programs,
                "changed": sorted(changed + [hook for hook in now if hook not in self.hooks_then]),
            }

    def hooks_now(self):
        """Hook -> ids: of the node, and of the pods under ``client: eth0 ingress tcx``."""
        found = attached.hooks()
        for end in self.ends:
            if end["netns_pid"]:
                pod = inside(end["netns_pid"], attached.hooks)
                found.update({"%s: %s" % (end["end"], hook): ids for hook, ids in pod.items()})
        return found

    def ids(self):
        """Ids of all programs that are watched."""
        return {number for ids in self.hooks_then.values() for number in ids}

    def counters(self):
        """Id -> (name, nanoseconds, runs) of the programs that are still there."""
        found = {number: bpf_call.statistics(number) for number in self.ids()}
        return {number: seen for number, seen in found.items() if seen is not None}

    def settle(self):
        """Add what the counters grew by since they were last looked at."""
        now = self.counters()
        for number, (name, ns, runs) in now.items():
            if number in self.before:
                _, ns_before, runs_before = self.before[number]
                _, ns_until, runs_until = self.grown[number]
                total_ns = ns_until + ns - ns_before
                self.grown[number] = (name, total_ns, runs_until + runs - runs_before)
        self.before = now
