"""Holds the probes of a campaign on one node, under the node's own Python (3.6 and up), as root.

Speaks JSON, one object a line. First line out: ``here``. Then ``load`` -> ``loaded``, ``arm`` ->
``armed``, ``look`` -> ``seen`` (as often as wanted), ``rest`` -> ``resting``; ``quit`` or the end
of input ends it. All programs are compiled together, once.

Probes whose tracepoints run for every packet (``hot``) are attached for slices of the steady window
that take turns, so that no two of them are on at a time and traffic is free of them for most of it.
"""

import ctypes
import importlib
import json
import os
import struct
import sys
import threading

from counting import ALWAYS, ENDS, MOMENT_LAYOUT, OPENINGS, pack_end, put, rows_of
from ground import Ground, Unavailable, say
from opening import Opening, clock_ns
from programs import Programs

PERIOD_S = 1.0


class Observer:
    """The probes on this node, from loading to reading."""

    def __init__(self):
        self.probes = []
        self.used = []
        self.programs = None
        self.turns = None
        self.ending = threading.Event()
        self.watched_ns = {}
        self.before = {}
        self.since_ns = 0
        self.opened = False

    def load(self, names, options):
        """Probe name -> its facts, or why it cannot run."""
        answers = {}
        try:
            ground = Ground()
        except Unavailable as failure:
            return {name: refusal(failure) for name in names}, {}
        facts = ground.facts()
        wanted = []
        for name in names:
            try:
                wanted.append(importlib.import_module(name).Probe(ground, options.get(name, {})))
            except Unavailable as failure:
                answers[name] = refusal(failure)
        traced = [probe for probe in wanted if probe.source]
        if traced:
            try:
                import bcc

                facts["bcc"] = getattr(bcc, "__version__", "unknown")
            except ImportError:
                missing = Unavailable("no_bcc", "Its Python has no module bcc.")
                for probe in traced:
                    answers[probe.name] = refusal(missing)
                traced = []
        traced = self.compile(traced, answers)
        for probe in wanted:
            if probe.name in answers:
                continue
            self.probes.append(probe)
            answers[probe.name] = {"facts": probe.facts()}
        return answers, facts

    def compile(self, traced, answers):
        """Those of the probes that the kernel took; ``answers`` gets why it refused the others."""
        while traced:
            try:
                self.programs = Programs(traced)
            except Unavailable as failure:
                culprits = [probe for probe in traced if not compiles(probe, failure, answers)]
                if not culprits:
                    # Each alone is fine, together they are not: nobody in particular is to blame.
                    answers.update({probe.name: refusal(failure) for probe in traced})
                    culprits = traced
                traced = [probe for probe in traced if probe not in culprits]
                continue
            refused = []
            for probe in traced:
                try:
                    self.programs.attach(probe.hooks)
                except Unavailable as failure:
                    answers[probe.name] = refusal(failure)
                    refused.append(probe)
                self.programs.detach(probe.hooks)
            return [probe for probe in traced if probe not in refused]
        return []

    def arm(self, asked):
        """Forget what was counted and watch from now on; probe name -> why it cannot."""
        self.stop()
        refused = {}
        used = [probe for probe in self.probes if probe.name in asked["probes"]]
        unused = [probe for probe in self.probes if probe not in used]
        if self.programs:
            self.prepare(asked["ends"], asked["window"])
            for probe in unused:
                self.programs.detach(probe.hooks)
        always = asked["window"]["share"] >= 1
        hot = []
        for probe in used:
            try:
                probe.arm(self.programs.bpf if self.programs else None, asked["ends"])
                if probe.hot and not always:
                    self.detach(probe)
                    hot.append(probe)
                else:
                    self.attach(probe)
            except (Unavailable, OSError, KeyError, ValueError, struct.error) as failure:
                self.detach(probe)
                refused[probe.name] = refusal(failure)
        self.used = [probe for probe in used if probe.name not in refused]
        self.watched_ns = {probe.name: 0 for probe in hot}
        self.since_ns = clock_ns()
        self.opened = False
        if self.programs:
            self.before = {p.name: self.programs.statistics(p.hooks) for p in used}
        if hot or asked["window"]["opens"] in ("data", "traffic"):
            opening = Opening(self.programs, asked["window"], asked["ends"], self.since_ns)
            self.turns = threading.Thread(target=self.rotate, args=(hot, asked["window"], opening))
            self.turns.daemon = True
            self.turns.start()
        return refused

    def prepare(self, ends, window):
        """Empty the shared maps, and say which flow and which seconds count."""
        bpf = self.programs.bpf
        none = pack_end(None)
        for place in range(ENDS):
            put(bpf["flow_ends"], place, none)
        until = ALWAYS if window["share"] >= 1 else 0
        omit, length = window["omit_ns"], window["length_ns"]
        bpf["cells"].clear()  # before the window opens: hooks may be there already
        opened = clock_ns() if window["opens"] == "now" else 0
        put(bpf["moments"], 0, struct.pack(MOMENT_LAYOUT, opened, omit, length, 0, until))
        for place, end in enumerate(ends[:ENDS]):
            put(bpf["flow_ends"], place, pack_end(end))
        for opens, hook in OPENINGS.items():
            if opens == window["opens"]:
                self.programs.attach([hook])
            else:
                self.programs.detach([hook])

    def look(self):
        """What each armed probe saw until now."""
        rows = rows_of(self.programs.bpf) if self.programs else {}
        found = {}
        for probe in self.used:
            first = self.programs.first_row.get(probe.name, 0) if self.programs else 0
            own = [rows.get(first + place) for place in range(probe.rows)]
            answer = probe.read(self.programs.bpf if self.programs else None, own)
            if self.programs and probe.source:
                now = self.programs.statistics(probe.hooks)
                before = self.before.get(probe.name, {})
                answer["program"] = {name: now[name] - before.get(name, 0) for name in now}
            if self.programs:
                answer["opened"] = bool(self.programs.bpf["moments"][ctypes.c_int(0)].opened)
            elif probe.name in self.watched_ns:
                answer["opened"] = self.opened
            if probe.name in self.watched_ns:
                answer["watched_ns"] = self.watched_ns[probe.name]
            found[probe.name] = answer
        return found

    def rest(self):
        """Detach everything: nothing of this process runs in the kernel."""
        self.stop()
        for probe in self.probes:
            self.detach(probe)
        if self.programs:
            self.programs.detach(OPENINGS.values())

    def stop(self):
        """End the turns of the hot probes and count no more: what is read then belongs together."""
        if self.turns is not None:
            self.ending.set()
            self.turns.join()
            self.turns = None
        self.ending.clear()
        if self.programs:
            moments = self.programs.bpf["moments"]
            fields = moments[ctypes.c_int(0)]
            fields.length = 0
            moments[ctypes.c_int(0)] = fields

    def attach(self, probe):
        """Let a probe see events."""
        if probe.source:
            self.programs.attach(probe.hooks)
        probe.begin()

    def detach(self, probe):
        """Let a probe see no more."""
        probe.end()
        if probe.source and self.programs:
            self.programs.detach(probe.hooks)

    def rotate(self, hot, window, opening):
        """Give each hot probe its slice of every period of the window, one after the other."""
        opened = opening.wait(self.ending)
        self.opened = bool(opened)
        if opened and self.programs:
            self.programs.detach([OPENINGS["data"]])  # it runs for every segment
        begin = opened + window["omit_ns"]
        end = begin + window["length_ns"]
        slice_s = window["share"] * PERIOD_S
        self.pause(begin)
        while hot and opened and clock_ns() < end and not self.ending.is_set():
            started = clock_ns()
            for probe in hot:
                if self.ending.is_set() or clock_ns() >= end:
                    break
                self.turn(probe, slice_s, end)
            self.pause(min(end, started + int(PERIOD_S * 1e9)))

    def turn(self, probe, slice_s, end):
        """One slice of one probe."""
        try:
            self.attach(probe)
            began = clock_ns()
            until = min(end, began + int(slice_s * 1e9))
            self.slice(began, until)
            self.pause(until)
            until = min(until, clock_ns())
            self.slice(began, until)
        except Unavailable:
            return  # it attached when it was loaded; what it saw until now stands
        finally:
            self.detach(probe)
        self.watched_ns[probe.name] += max(0, until - began)

    def slice(self, began, until):
        """Say which time is the turn of the hot probe whose hooks are attached."""
        if self.programs:
            moments = self.programs.bpf["moments"]
            fields = moments[ctypes.c_int(0)]
            fields.slice, fields.until = began, until
            moments[ctypes.c_int(0)] = fields

    def pause(self, until_ns):
        """Wait until then, or until the end is called for."""
        self.ending.wait(max(0.0, (until_ns - clock_ns()) / 1e9))


def refusal(failure):
    """An error as an answer."""
    reason = getattr(failure, "reason", "not_read")
    return {"reason": reason, "message": getattr(failure, "message", "%r" % failure)}


def compiles(probe, failure, answers):
    """Whether a probe compiles alone; ``answers`` gets why not."""
    try:
        Programs([probe])
    except Unavailable as own:
        answers[probe.name] = refusal(own)
        return False
    return True


def identity():
    """Which kernel this is, and which process: equal kernels need a program once."""
    with open("/proc/sys/kernel/random/boot_id") as stream:
        boot_id = stream.read().strip()
    pids = os.readlink("/proc/self/ns/pid")
    return {"kernel": "%s %s" % (boot_id, pids), "pid": os.getpid()}


def main():
    """Answer until the input ends."""
    observer = Observer()
    say(event="here", **identity())
    for line in iter(sys.stdin.readline, ""):
        asked = json.loads(line) if line.strip() else {"do": "quit"}
        try:
            if asked["do"] == "load":
                answers, facts = observer.load(asked["probes"], asked.get("options", {}))
                say(event="loaded", probes=answers, facts=facts)
            elif asked["do"] == "arm":
                say(event="armed", refused=observer.arm(asked))
            elif asked["do"] == "look":
                if asked.get("last"):
                    observer.stop()
                say(event="seen", probes=observer.look())
            elif asked["do"] == "rest":
                observer.rest()
                say(event="resting")
            else:
                return
        except Exception as failure:  # whatever it is, the asker must get an answer
            say(event="failed", **refusal(failure))


if __name__ == "__main__":
    main()
