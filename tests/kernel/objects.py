"""The lab's dataplane programs as files to load, and what a kernel said to each."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from ebpfperf.lab.programs import Kind, Option, Settings, configured

# Between them the others differ from these in constants and text alone.
RELEASES = ("v3.16", "v3.26", "v3.30", "v3.32")
LOADER = Path(__file__).with_name("load_programs.py")
# Reads far beyond its context, which no verifier may let pass.
REFUSED = "refused"
_REFUSED_SOURCE = """\
__attribute__((section("tc"), used)) int refused(char *context) { return context[4096]; }
char _license[] __attribute__((section("license"), used)) = "GPL";
"""
_DEVICES = {
    "cali12345678901": Kind.WORKLOAD,
    "ens192": Kind.HOST,
    "vxlan.calico": Kind.TUNNEL,
    "tunl0": Kind.TUNNEL | Kind.L3,
}
NONE, ALL = Option(0), Option.FIB | Option.DSR | Option.DENY | Option.PEER


@dataclass(frozen=True, slots=True)
class Program:
    """One program as a node would load it."""

    release: str
    device: str
    to_host: bool
    log_level: str
    options: Option

    def __str__(self) -> str:
        way = "from" if self.to_host else "to"
        options = "all" if self.options == ALL else "none"
        return f"{self.release}-{way}-{self.device}-{self.log_level}-{options}"

    def object(self) -> bytes:
        settings = Settings(
            release=self.release,
            options=self.options,
            log_level=self.log_level,
            host_ip="198.18.0.1",
            tunnel_mtu=1450,
            vxlan_port=4789,
            vxlan_vni=4096,
            vxlan_ifindex=7,
            tunl_ifindex=8,
        )
        kind = _DEVICES[self.device] | (Kind.TO_HOST if self.to_host else Kind(0))
        return configured(self.device, kind, settings, options=NONE)


def programs(*settings: tuple[str, Option]) -> list[Program]:
    """Those releases × every kind of hook × those log levels with those options."""
    hooks = product(RELEASES, _DEVICES, (True, False))
    return [Program(*hook, *each) for hook, each in product(hooks, settings)]


def between() -> list[Program]:
    """A program or two of the releases between those, where constants or text change."""
    hooks = [("ens192", True), ("ens192", False)]
    chosen = [("v3.18", hooks), ("v3.22", hooks), ("v3.29", hooks), ("v3.31", hooks)]
    return [Program(name, *hook, "debug", ALL) for name, each in chosen for hook in each]


def write(wanted: Iterable[Program], directory: Path) -> None:
    """One object for each program, the one that must be refused, and what loads them."""
    for program in wanted:
        (directory / f"{program}.o").write_bytes(program.object())
    clang = ["clang", "-O2", "-target", "bpf", "-x", "c", "-c", "-", "-o"]
    target = directory / f"{REFUSED}.o"
    subprocess.run([*clang, str(target)], input=_REFUSED_SOURCE, text=True, check=True)
    (directory / LOADER.name).write_bytes(LOADER.read_bytes())


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What a kernel said.

    Attributes
    ----------
    kernel
        Its release; empty where it did not get that far.
    refusals
        Object → why it is refused; empty where it loads.
    output
        All that came.
    """

    kernel: str
    refusals: Mapping[str, str]
    output: str

    @classmethod
    def parse(cls, output: str) -> Verdicts:
        """Of what the loader printed; other lines are let pass."""
        lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        kernel = next((line["kernel"] for line in lines if "kernel" in line), "")
        refusals = {line["object"]: line["refusal"] for line in lines if "object" in line}
        return cls(kernel, refusals, output)

    def of(self, name: str) -> str:
        """Empty where it loads, else why not."""
        return self.refusals.get(name, f"never tried; the last that came: {self.output[-1500:]}")
