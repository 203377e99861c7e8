"""How often verdicts are right: false alarms, coverage, power, beside what people do now.

    .venv/bin/python benchmarks/verdicts.py                     # all tables, some minutes
    .venv/bin/python benchmarks/verdicts.py --quick             # the same with 100 campaigns each
    .venv/bin/python benchmarks/verdicts.py --frames            # campaigns through compare as well
    .venv/bin/python benchmarks/verdicts.py --calibrate         # what power.factor has to be
    .venv/bin/python benchmarks/verdicts.py --from runs/DIR     # noise of real trials, to noise/

Nothing is measured but arithmetic: campaigns are simulated (``simulated``), judged by the functions
that judge real ones (``calibration``), and by what is customary (``customary``).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import calibration
import customary
import framed
import numpy as np
import simulated
from calibration import SHIFT_SIZES, SIZES, UNTIL_BLOCKS, Rate
from simulated import KINDS

from ebpfperf import power
from ebpfperf.store import Store

Table = Mapping[str, Mapping[str, Rate]]
Line = tuple[str, dict[str, Rate]]

MET, NOT_MET, UNDECIDED = "met", "not met", "undecided"
RULE_KINDS = ("normal", "skewed", "bimodal", "lopsided")
RULE_SIZES = (10, 14, 20)
LEVELS = (0.95, 1 - 0.05 / 3, 0.995)
# Undecided aims are listed up to so many; with few campaigns nearly all are.
_LISTED = 12
RECORDED_METRICS = ("received_bits_per_s", "requests_per_s", "rr_p50_ns", "cpu_s_per_gbit")

# What is promised: outcome → (percent, whether it is the most that may be).
AIMS: dict[str, tuple[float, bool]] = {
    "false alarms": (5.0, True),
    "coverage": (94.0, False),
    "power": (80.0, False),
    "false equivalent": (5.0, True),
    "any look": (5.0, True),
}


def verdict(rate: Rate, *, limit_pct: float, at_most: bool) -> str:
    """Whether a rate keeps its limit, as far as so many campaigns tell."""
    low, high = rate.wilson_pct()
    if low <= limit_pct <= high:
        return UNDECIDED
    return MET if (high < limit_pct) == at_most else NOT_MET


def aims(name: str, tables: Mapping[str, Table]) -> list[str]:
    """Each promise of a set of tables, and in which rows it is not kept, or may not be."""
    lines = []
    for outcome, table in tables.items():
        if outcome not in AIMS:
            continue
        limit_pct, at_most = AIMS[outcome]
        said = {
            f"{row}, {kind}: {rate.shown()}": verdict(rate, limit_pct=limit_pct, at_most=at_most)
            for row, rates in table.items()
            for kind, rate in rates.items()
        }
        broken = [what for what, how in said.items() if how == NOT_MET]
        open_ = [what for what, how in said.items() if how == UNDECIDED]
        promise = f"{name}: {outcome} {'at most' if at_most else 'at least'} {limit_pct:g} %"
        met = len(said) - len(broken) - len(open_)
        lines.append(f"- {promise}: {met} of {len(said)} {MET}, {len(open_)} {UNDECIDED}")
        lines += [f"  - {NOT_MET}: {what}" for what in broken]
        lines += [f"  - {UNDECIDED}: {what}" for what in open_ if len(open_) <= _LISTED]
    return lines


def markdown(title: str, table: Table, *, head: str) -> str:
    """A table: a row a size or a way, a column a kind of noise; percent with 95 % interval."""
    columns = list(dict.fromkeys(kind for rates in table.values() for kind in rates))
    lines = [f"**{title}**", "", f"| {head} | {' | '.join(columns)} |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for row, rates in table.items():
        cells = (rates[kind].shown() if kind in rates else "" for kind in columns)
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def by_outcome(found: Iterable[tuple[str, str, dict[str, Rate]]]) -> dict[str, Table]:
    """(row, kind, rates) → outcome → table."""
    tables: dict[str, dict[str, dict[str, Rate]]] = {}
    for row, kind, rates in found:
        for outcome, rate in rates.items():
            tables.setdefault(outcome, {}).setdefault(row, {})[kind] = rate
    return dict(tables)


def of_verdicts(kind: str, *, campaigns: int) -> list[Line]:
    """Rows of one kind of noise: paired by block."""
    return [(f"{n} blocks", calibration.verdict_rates(kind, n, campaigns=campaigns)) for n in SIZES]


def of_looks(kind: str, *, campaigns: int) -> list[Line]:
    """The row of one kind of noise: campaigns that may stop early."""
    rates = calibration.sequential_rates(kind, campaigns=campaigns)
    return [(f"up to {UNTIL_BLOCKS} blocks", rates)]


def of_costs(kind: str, *, campaigns: int) -> list[Line]:
    """Rows of one kind of noise: what a treatment costs, in two campaigns."""
    return [
        (f"{n}+{m} blocks", calibration.cost_rates(kind, (n, m), campaigns=campaigns))
        for n, m in SHIFT_SIZES
    ]


def of_levels(kind: str, *, campaigns: int) -> list[Line]:
    """Rows of one kind of noise: trials of one arm, in two campaigns."""
    return [
        (f"{n}+{m} trials", calibration.level_rates(kind, (n, m), campaigns=campaigns))
        for n, m in SHIFT_SIZES
    ]


def of_rules(kind: str, *, campaigns: int) -> list[Line]:
    """Rows of one kind of noise: other rules, as outcomes."""
    return [
        (f"{n} blocks", calibration.rule_rates(kind, n, campaigns=campaigns)) for n in RULE_SIZES
    ]


def of_customs(kind: str, *, campaigns: int) -> list[Line]:
    """Rows of one kind of noise: what people do now, and eight blocks of the kit's."""
    rows = []
    for name, way in customary.WAYS.items():
        random = np.random.default_rng(zlib.crc32(f"{kind} {name}".encode()))
        rows.append((name, {"false alarms": Rate.of(way(kind, random, campaigns=campaigns))}))
    ours = calibration.verdict_rates(kind, 8, campaigns=campaigns)["false alarms"]
    return [*rows, ("**eight blocks, paired, exact (this kit)**", {"false alarms": ours})]


def everything(campaigns: int, workers: int) -> dict[str, dict[str, Table]]:
    """All tables: part → outcome → table."""
    parts: dict[str, tuple[Callable[..., list[Line]], Sequence[str]]] = {
        "paired by block": (of_verdicts, KINDS),
        "stopping early": (of_looks, KINDS),
        "costs in two campaigns": (of_costs, KINDS),
        "trials of two campaigns": (of_levels, KINDS),
        "other rules": (of_rules, RULE_KINDS),
        "what people do": (of_customs, KINDS),
    }
    # Made once, and inherited by the workers: the orders take longer than the noise.
    simulated.orders(campaigns)
    with ProcessPoolExecutor(workers) as pool:
        running = {
            (part, kind): pool.submit(measure, kind, campaigns=campaigns)
            for part, (measure, kinds) in parts.items()
            for kind in kinds
        }
        return {
            part: by_outcome(
                (row, kind, rates) for kind in kinds for row, rates in running[part, kind].result()
            )
            for part, (_, kinds) in parts.items()
        }


def report(found: Mapping[str, Mapping[str, Table]]) -> str:
    """All tables as Markdown, and the aims."""
    lines = []
    for part, tables in found.items():
        for outcome, table in tables.items():
            lines.append(markdown(f"{part}: {outcome}, percent", table, head=""))
    lines.append("Aims")
    for part in ("paired by block", "stopping early", "costs in two campaigns"):
        lines += aims(part, found[part])
    return "\n".join(lines)


def calibrate(campaigns: int) -> str:
    """What ``power.factor`` must be at least, by size, level and kind; and what it is."""
    lines = ["| size | level | " + " | ".join(KINDS) + " | most | power.factor |"]
    lines.append("|---" * (len(KINDS) + 4) + "|")
    for sizes in (*((n,) for n in SIZES), *SHIFT_SIZES):
        for level in LEVELS:
            needed = [
                calibration.needed_factor(kind, sizes, level=level, campaigns=campaigns)
                for kind in KINDS
            ]
            if not math.isnan(needed[0]):
                cells = " | ".join(f"{one:.2f}" for one in needed)
                lines.append(
                    f"| {'+'.join(map(str, sizes))} | {level:.4f} | {cells} | {max(needed):.2f} "
                    f"| {power.factor(min(sizes), paired=len(sizes) == 1):.2f} |"
                )
    return "\n".join(lines)


def through_frames(campaigns: int) -> str:
    """Campaigns through the trials frame and ``compare``: how many alarms, and how many differ."""
    lines = []
    for kind in KINDS:
        alarms, differing = framed.alarms_of_compare(kind, campaigns=campaigns, blocks=12)
        lines.append(
            f"- {kind}: {Rate.of(alarms).shown()} % of A/A tests established by compare; "
            f"{differing} of {campaigns} differ from the same rule applied to the logs"
        )
    return "\n".join(lines)


def record(run: Path, to: Path, *, note: str = "") -> int:
    """Write the log residuals of a campaign's ok trials within their arms; how many rows.

    They are scaled by sqrt(n / (n - 1)), because an arm's own mean takes some of their spread.
    """
    frame = Store.open(run).frame("trials")
    frame = frame[frame["status"].eq("ok")].sort_values("order")
    rows = []
    for metric in RECORDED_METRICS:
        for flow, trials in frame[frame[metric].gt(0)].groupby("flow"):
            logs = np.log(trials[metric])
            arm = logs.groupby([trials["treatment"], trials["role"]])
            scale = np.sqrt(arm.transform("size") / (arm.transform("size") - 1))
            residuals = (logs - arm.transform("mean")) * scale
            rows += [
                (flow, metric, order, f"{value:.5f}")
                for order, value in zip(trials["order"], residuals, strict=True)
                if math.isfinite(value)
            ]
    with to.open("w", newline="") as out:
        out.write("# Logs of trials less the mean of their arm, times sqrt(n / (n - 1)),\n")
        out.write(f"# by benchmarks/verdicts.py --from{f'. {note}' if note else ''}\n")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("flow", "metric", "order", "residual"))
        writer.writerows(rows)
    return len(rows)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--campaigns", type=int, default=4000, help="of each kind (default 4000)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--quick", action="store_true", help="100 campaigns of each kind")
    parser.add_argument("--frames", action="store_true", help="through compare, 100 of each kind")
    parser.add_argument("--calibrate", action="store_true", help="what power.factor has to be")
    parser.add_argument("--from", type=Path, dest="run", help="a campaign to take noise from")
    parser.add_argument("--to", type=Path, help="CSV for --from (default noise/NAME.csv)")
    parser.add_argument("--note", default="", help="for --from: what was recorded where")
    parser.add_argument("--json", type=Path, help="write every rate here")
    arguments = parser.parse_args()
    if arguments.run:
        to = arguments.to or simulated.RECORDED / f"{arguments.run.resolve().name}.csv"
        print(f"{record(arguments.run, to, note=arguments.note)} residuals in {to}")
        return
    campaigns = 100 if arguments.quick else arguments.campaigns
    began = time.monotonic()
    if arguments.calibrate:
        print(calibrate(campaigns))
    elif arguments.frames:
        campaigns = min(campaigns, 100)
        print(through_frames(campaigns))
    else:
        found = everything(campaigns, arguments.workers)
        print(report(found))
        if arguments.json:
            plain = {
                part: {
                    outcome: {
                        row: {kind: [rate.hits, rate.campaigns] for kind, rate in rates.items()}
                        for row, rates in table.items()
                    }
                    for outcome, table in tables.items()
                }
                for part, tables in found.items()
            }
            arguments.json.write_text(json.dumps(plain, indent=1))
    print(
        f"\n{campaigns} campaigns of each kind, {time.monotonic() - began:.0f} s", file=sys.stderr
    )


if __name__ == "__main__":
    main()
