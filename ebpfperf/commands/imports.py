"""Commands that make campaigns of what other programs measured: import iperf3."""

from __future__ import annotations

import glob as globbing
import json as jsonlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebpfperf import printing
from ebpfperf.commands.options import Json
from ebpfperf.errors import InputError

if TYPE_CHECKING:
    from ebpfperf import model
    from ebpfperf.importing import Plan
    from ebpfperf.loads.iperf3_document import Outcome
    from ebpfperf.model import Overlay
    from ebpfperf.store import Store

app = typer.Typer(
    help="Make a campaign of what was measured without ebpfperf.", no_args_is_help=True
)


@app.callback()
def _imports() -> None:
    """Make a campaign of what was measured without ebpfperf."""


@app.command()
def iperf3(
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Documents (-J, --json-stream), or folders of them.", metavar="FILE…"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Campaign directory; default runs/NAME.")] = None,
    name: Annotated[str, typer.Option(help="Name of the campaign.")] = "iperf3",
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=GLOB: the files of an arm; else each folder is one.", metavar="ARM"
        ),
    ] = None,
    overlay: Annotated[
        list[str] | None,
        typer.Option(help="ARM=none, ipip or vxlan; else it is unknown.", metavar="OVERLAY"),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Arm that the others are compared to; else the first.")
    ] = None,
    margin: Annotated[str, typer.Option(help="Difference that does not matter.")] = "5%",
    link: Annotated[str | None, typer.Option(help="Speed of the NICs, such as 40G.")] = None,
    mtu: Annotated[int | None, typer.Option(help="MTU of the path, bytes.")] = None,
    path: Annotated[str, typer.Option(help="Which way the traffic went.")] = "pod-pod",
    exit_code: Annotated[int, typer.Option(help="Exit status of iperf3, of every file.")] = 0,
    stderr: Annotated[str, typer.Option(help="Standard error of iperf3, of every file.")] = "",
    json: Json = False,
) -> None:
    """Make a campaign of iperf3's documents, or judge each of them (--json).

    docs/iperf3.md says what the keys of --json and the reasons mean.
    """
    from ebpfperf import importing
    from ebpfperf.loads import iperf3_document

    patterns = [_pair(text, "--arm", "NAME=GLOB") for text in arm or []]
    listed = list(_listed(files or [], patterns))

    def read(file: str) -> tuple[bytes, Outcome]:
        try:
            document = Path(file).read_bytes()
        except OSError as error:
            raise InputError(
                f"{file} cannot be read: {error.strerror}.", "Name a file that iperf3 printed."
            ) from error
        return document, iperf3_document.read(document, stderr=stderr, status=exit_code)

    if json:
        for file in listed:
            print(jsonlib.dumps(importing.summary(file, read(file)[1]), allow_nan=False))
        return
    from ebpfperf.store import Store

    planned = importing.plan(
        (
            importing.entry(file, of, read(file)[1])
            for file, of in zip(listed, importing.arms(_absolute(listed), patterns), strict=True)
        ),
        name=name,
        overlays=dict(_overlay(text) for text in overlay or []),
        baseline=baseline,
        margin_pct=_percent(margin),
        path=_path(path),
    )
    facts = _link(link)
    to = out or Path("runs") / name
    reasons = _there(to, planned)
    store = Store.create(to, planned.campaign)
    store.add_facts(facts)
    for one, trial in planned.trials:
        if trial.trial_id in reasons:
            continue
        document, outcome = read(one.file)
        raw = importing.raw_files(document, stderr=stderr, status=exit_code)
        result = importing.result(trial, outcome, file=one.file, raw=raw, mtu_bytes=mtu)
        store.append(result)
        reasons[trial.trial_id] = result.reason
    _report(store, planned, reasons)


def _listed(files: Sequence[str], patterns: Sequence[tuple[str, str]]) -> Iterator[str]:
    """The files named, those below the folders named or, if none is, those the patterns find."""
    if not files and not patterns:
        raise InputError("There is no file to import.", "Name the files that iperf3 printed.")
    if not files:
        for _, pattern in patterns:
            found = sorted(globbing.glob(pattern, recursive=True))
            if not found:
                raise InputError(f"No file matches {pattern}.", "Write another --arm NAME=GLOB.")
            yield from (one for one in found if Path(one).is_file())
        return
    for file in files:
        if not Path(file).exists():
            raise InputError(
                f"{file} does not exist.", "Name files that iperf3 printed.", file=file
            )
        if Path(file).is_dir():
            yield from sorted(str(below) for below in Path(file).rglob("*") if below.is_file())
        else:
            yield file


def _absolute(files: Sequence[str]) -> list[str]:
    return [str(Path(file).absolute()) for file in files]


def _there(path: Path, planned: Plan) -> dict[str, str]:
    """Trials that were imported to ``path`` before, each with why it failed or empty text.

    Raises
    ------
    InputError
        One of them is of another file.
    """
    from ebpfperf.importing import FROM
    from ebpfperf.store import Store

    if not (path / "manifest.json").exists():
        return {}
    files = {trial.trial_id: one.file for one, trial in planned.trials}
    reasons = {}
    for result in Store.open(path).results():
        was = next((fact.value for fact in result.facts if fact.name == FROM), "")
        if files.get(result.trial.trial_id) != was:
            raise InputError(
                f"{path} was made of other files: {result.trial.trial_id} is {was or 'none'}.",
                "Choose another --out.",
                path=str(path),
            )
        reasons[result.trial.trial_id] = result.reason
    return reasons


def _report(store: Store, planned: Plan, reasons: Mapping[str, str]) -> None:
    rows: dict[tuple[str, str], list[int]] = {}
    for _, trial in planned.trials:
        counts = rows.setdefault((trial.treatment.name, trial.flow.name), [0, 0])
        counts[1 if reasons[trial.trial_id] else 0] += 1
    failed = [(trial, reason) for trial, reason in reasons.items() if reason]
    printing.table(
        ["arm", "flow", "usable", "not usable"],
        [(arm, flow, *counts) for (arm, flow), counts in rows.items()],
        title=f"Campaign {store.campaign.name}, baseline {store.campaign.baseline}",
        numeric=["usable", "not usable"],
    )
    if failed:
        printing.table(["trial", "reason"], failed)
    for file in planned.doubles:
        printing.sentence(f"{file} is left out: another file is of the same test (its cookie).")
    printing.sentence(f"ebpfperf compare {store.path} compares the arms.")


def _pair(text: str, option: str, shape: str) -> tuple[str, str]:
    left, equals, right = text.partition("=")
    if not (left and equals and right):
        raise InputError(f"{text!r} is no {option}.", f"Write {shape}.")
    return left, right


def _overlay(text: str) -> tuple[str, Overlay]:
    from ebpfperf.model import Overlay

    arm, mode = _pair(text, "--overlay", "ARM=none, ARM=ipip or ARM=vxlan")
    if mode not in {str(one) for one in Overlay}:
        raise InputError(f"{mode!r} is no overlay mode.", "Write none, ipip or vxlan.")
    return arm, Overlay(mode)


def _percent(text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 < value < 100:
        raise InputError(f"{text!r} is no margin.", "Write for example 5%.")
    return value


def _path(text: str) -> model.Path:
    from ebpfperf.model import Path as FlowPath

    if text not in {str(one) for one in FlowPath}:
        raise InputError(f"{text!r} is no path.", f"Write one of {', '.join(FlowPath)}.")
    return FlowPath(text)


def _link(text: str | None) -> list[model.Fact]:
    from ebpfperf import units
    from ebpfperf.model import Fact

    if text is None:
        return []
    try:
        mbit = units.parse_bits_per_s(text) / units.parse_bits_per_s("1M")
    except ValueError as error:
        raise InputError(f"--link: {error}.", "Write for example 40G.") from error
    return [Fact("", "nic_speed", f"{mbit:.0f}", "Mbit/s")]
