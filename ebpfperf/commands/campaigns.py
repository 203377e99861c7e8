"""Commands about campaigns: plan, run, status, restore."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebpfperf import printing
from ebpfperf.commands.options import (
    Blocks,
    ClientNode,
    Context,
    File,
    Folder,
    Json,
    Kubeconfig,
    ServerNode,
    SshConfig,
    Until,
    UntilMetric,
)
from ebpfperf.errors import InputError

if TYPE_CHECKING:
    from ebpfperf.cluster import Cluster
    from ebpfperf.model import Campaign, ClusterRef, Trial
    from ebpfperf.store import Store


def plan(
    file: File,
    blocks: Blocks = None,
    until: Until = None,
    until_metric: UntilMetric = None,
    noise: Annotated[
        Path | None,
        typer.Option(
            help="Campaign directory whose noise tells how many blocks are needed; default "
            "runs/CAMPAIGN where that is one.",
            metavar="DIRECTORY",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show what a campaign file expands to: its trials in their order, and the time they take."""
    from ebpfperf import plan as planning
    from ebpfperf import units

    campaign = _campaign(file, blocks, until, until_metric)
    trials = planning.schedule(campaign)
    if json:
        printing.as_json(_order(trials))
        return
    _print_order(trials)
    estimate = units.duration_s(planning.estimate_s(trials, campaign.quiet))
    printing.sentence(f"{len(trials)} trials in {campaign.blocks} blocks, about {estimate}.")
    for note in (*planning.notes(campaign), *_needed(campaign, noise)):
        printing.sentence(note)


def run(
    file: File,
    out: Annotated[
        Path | None, typer.Option(help="Campaign directory; default runs/CAMPAIGN.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show order, changes and time; connect to nothing.")
    ] = False,
    blocks: Blocks = None,
    until: Until = None,
    until_metric: UntilMetric = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    ssh_config: SshConfig = None,
    client_node: ClientNode = None,
    server_node: ServerNode = None,
    no_preflight: Annotated[
        bool, typer.Option("--no-preflight", help="Do not check the cluster before.")
    ] = False,
    json: Json = False,
) -> None:
    """Run a campaign, or what is left of it; Ctrl-C stops after the trial in hand."""
    campaign = _campaign(file, blocks, until, until_metric)
    given = {
        "kubeconfig": kubeconfig,
        "context": context,
        "ssh_config": ssh_config,
        "client_node": client_node,
        "server_node": server_node,
    }
    if dry_run:
        _dry_run(replace(campaign, cluster=_reached(campaign.cluster, given)), json=json)
        return
    from ebpfperf import enough, interruption, preflight, progress, runner
    from ebpfperf.cluster import Cluster
    from ebpfperf.store import Store

    def look_before(store: Store, cluster: Cluster) -> None:
        if not no_preflight:
            preflight.before(store, cluster, say=bar.say)

    def connect(ref: ClusterRef, journal: Path) -> Cluster:
        return Cluster.connect(_reached(ref, given), journal=journal)

    store = Store.create(
        out or Path("runs") / campaign.name, campaign, source=file.read_text(encoding="utf-8")
    )
    left, before = runner.remaining(store), len(store.completed())
    if before and left:
        printing.remark(f"{before} trials are there already; {len(left)} are left.")
    counts: dict[str, int] = {}
    with (
        progress.auto(left, before=before) as bar,
        interruption.interruption(bar.say) as stop,
    ):
        ending = enough.Ending(store, stop=stop, say=bar.say)
        running = runner.run(
            store, connect=connect, stop=ending, on_start=bar.begin, on_wait=bar.say,
            preflight=look_before,
        )  # fmt: skip
        for result in running:
            bar.end(result)
            counts[str(result.status)] = counts.get(str(result.status), 0) + 1
    _print_outcome(store, counts, json=json)
    if stop.exit_status:
        raise typer.Exit(stop.exit_status)
    if counts and not counts.get("ok"):
        raise typer.Exit(1)


def status(directory: Folder, json: Json = False) -> None:
    """Show how far a campaign is, what failed and why, and whether the cluster was put back."""
    from ebpfperf.journal import Journal
    from ebpfperf.runner import remaining
    from ebpfperf.store import Store

    store = Store.open(directory)
    results = list(store.results())
    bad = [result for result in results if result.status != "ok"]
    journal = Journal.load(store.journal)
    document = {
        "campaign": store.campaign.name,
        "done": len(results),
        "left": len(remaining(store)),
        "failed": [
            {"trial": r.trial.trial_id, "status": str(r.status), "reason": r.reason} for r in bad
        ],
        "cluster_to_be_restored": journal is not None and journal.is_open,
    }
    if json:
        printing.as_json(document)
        return
    total = document["done"] + document["left"]  # type: ignore[operator]
    printing.sentence(
        f"Campaign {store.campaign.name}: {len(results)} of {total} trials, {len(bad)} not usable."
    )
    if bad:
        rows = [(r.trial.trial_id, r.status, r.reason) for r in bad]
        printing.table(["trial", "status", "reason"], rows)
    if document["cluster_to_be_restored"]:
        printing.sentence(
            f"The cluster is not as it was: ebpfperf restore {directory} puts it back, "
            "unless a run is at work."
        )


def restore(
    directory: Annotated[
        Path | None,
        typer.Argument(help="Campaign directory; default: all below runs/.", metavar="DIRECTORY"),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite what somebody else changed meanwhile.")
    ] = False,
    json: Json = False,
) -> None:
    """Put a cluster back as it was before a run that was killed."""
    from ebpfperf.cluster import restore_from_journal
    from ebpfperf.store import Store

    found = [directory] if directory else [p.parent for p in Path("runs").glob("*/journal.json")]
    said: dict[str, list[str]] = {}
    for folder in sorted(found):
        if _is_log_level(folder):
            from ebpfperf.log_level import restored

            said[str(folder)] = list(restored(folder, overwrite=force))
            continue
        store = Store.open(folder)
        with store.exclusive():
            said[str(folder)] = list(restore_from_journal(store.journal, overwrite=force))
    if json:
        printing.as_json(said)
        return
    if not said:
        printing.sentence("Nothing to restore: no journal below runs/.")
    for name, sentences in said.items():
        for text in sentences:
            printing.sentence(f"{name}: {text}")


def _is_log_level(folder: Path) -> bool:
    """Whether a directory is no campaign's, but where drops --log-for keeps what it changed."""
    return (folder / "journal.json").exists() and not (folder / "manifest.json").exists()


def _campaign(
    file: Path, blocks: int | None, until: str | None, until_metric: str | None
) -> Campaign:
    """The file's campaign with what the command line says instead."""
    from ebpfperf import metrics, units
    from ebpfperf import plan as planning

    campaign = planning.load(file)
    if blocks is not None:
        if not 1 <= blocks <= 999:
            raise InputError(f"{blocks} blocks cannot be run.", "Give --blocks 1 to 999.")
        campaign = replace(campaign, blocks=blocks)
    if until is not None:
        try:
            campaign = replace(campaign, until_pct=units.parse_pct(until))
        except ValueError as error:
            raise InputError(f"--until cannot be read: {error}.", "Write --until 3%.") from None
    if until_metric is not None:
        if campaign.until_pct is None:
            raise InputError("--until-metric needs --until.", "Add --until 3%.")
        known = [metric.name for metric in metrics.CATALOGUE]
        if until_metric not in known:
            raise InputError(
                f"--until-metric {until_metric} is not known.", f"Known: {', '.join(known)}."
            )
        campaign = replace(campaign, until_metric=until_metric)
    return campaign


def _needed(campaign: Campaign, noise: Path | None) -> tuple[str, ...]:
    """When a campaign may end, and how many blocks the last one's noise asks for, in sentences."""
    from ebpfperf import enough, verdicts
    from ebpfperf.store import Store

    said = []
    if campaign.until_pct is not None:
        after = ", ".join(map(str, enough.looks(campaign)))
        said.append(
            f"Ends after block {after}: the first of these at which every interval is within "
            f"±{campaign.until_pct:g} %."
        )
    place = noise or Path("runs") / campaign.name
    if noise is None and not (place / "manifest.json").exists():
        return (*said, f"No earlier campaign in {place}: its noise cannot tell the blocks needed.")
    store = Store.open(place)
    needed = enough.asked_for(verdicts.trials_of_store(store), store.campaign, campaign)
    if not needed:
        return (*said, f"{place} has no two blocks of these flows and treatments to tell noise by.")
    return (*said, f"At the noise of {place}:", *(f"  {text}" for text in needed))


def _reached(ref: ClusterRef, given: dict[str, str | None]) -> ClusterRef:
    """The cluster's reference with what the command line says instead."""
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return replace(ref, **changes)


def _order(trials: tuple[Trial, ...]) -> list[dict[str, object]]:
    return [
        {
            "order": trial.order,
            "trial": trial.trial_id,
            "block": trial.block,
            "treatment": trial.treatment.name,
            "flow": trial.flow.name,
            "probes": ", ".join(trial.optional_probes) or "none",
        }
        for trial in trials
    ]


def _print_order(trials: tuple[Trial, ...]) -> None:
    rows = [list(row.values()) for row in _order(trials)]
    columns = ["order", "trial", "block", "treatment", "flow", "probes"]
    printing.table(columns, rows, numeric=("order", "block"))


def _treatments(campaign: Campaign) -> list[dict[str, object]]:
    """What each treatment sets: the fields that it does not name stay as they are found."""
    return [
        {
            "treatment": treatment.name,
            "baseline": treatment.name == campaign.baseline,
            "overlay": str(treatment.overlay),
            "scope": str(treatment.scope),
            "dataplane": str(treatment.dataplane) if treatment.dataplane else None,
            "felix": dict(treatment.felix),
        }
        for treatment in campaign.treatments
    ]


def _print_treatments(campaign: Campaign) -> None:
    from ebpfperf.factors import spell

    rows = [
        [
            f"{one.name} (baseline)" if one.name == campaign.baseline else one.name,
            one.overlay,
            one.scope,
            one.dataplane or "as found",
            ", ".join(f"{field}: {spell(value)}" for field, value in one.felix) or "as found",
        ]
        for one in campaign.treatments
    ]
    columns = ["treatment", "overlay", "scope", "dataplane", "Felix fields"]
    printing.table(columns, rows)


def _dry_run(campaign: Campaign, *, json: bool) -> None:
    from ebpfperf import mutations, units
    from ebpfperf import plan as planning

    trials = planning.schedule(campaign)
    planned = mutations.plan_mutations(campaign, trials)
    restoring = [mutations.describe(call) for call in mutations.plan_restore(campaign)]
    estimate_s = planning.estimate_s(trials, campaign.quiet)
    if json:
        changes = [
            {**row, "changes": [mutations.describe(call) for call in calls]}
            for row, (_, calls) in zip(_order(trials), planned, strict=True)
        ]
        printing.as_json(
            {
                "treatments": _treatments(campaign),
                "trials": changes,
                "restore": restoring,
                "estimate_s": estimate_s,
            }
        )
        return
    _print_treatments(campaign)
    for trial, calls in planned:
        for call in calls:
            printing.sentence(f"          {mutations.describe(call)}")
        printing.sentence(f"{trial.order:5}     {trial.trial_id}")
    printing.sentence("at the end, in any case:")
    for line in restoring:
        printing.sentence(f"          {line}")
    estimate = units.duration_s(estimate_s)
    printing.sentence(f"{len(trials)} trials, about {estimate}. Nothing was connected or changed.")
    for note in (*planning.notes(campaign), *_needed(campaign, None)):
        printing.sentence(note)


def _print_outcome(store: Store, counts: dict[str, int], *, json: bool) -> None:
    done = len(store.completed())
    if json:
        printing.as_json({"directory": str(store.path), "done": done, "this_run": counts})
        return
    this_run = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    printing.sentence(f"{store.path}: {done} trials ({this_run or 'nothing was left to do'}).")
