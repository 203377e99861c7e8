"""A campaign file, checked: YAML 1.2 in, ``Campaign`` out, or the line and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from ebpfperf import factors, loads, metrics, model, probes, units
from ebpfperf.errors import PlanError

Place = tuple[str | int, ...]


def _named_overlay(value: object) -> object:
    """A bare overlay mode stands for the treatment of that name."""
    if value is None:
        raise ValueError("no overlay is the word none, not null or ~")
    return {"name": value, "overlay": value} if isinstance(value, str) else value


def _size(value: object) -> object:
    return units.parse_bytes(value) if isinstance(value, str) else value


def _percent(value: object) -> object:
    return units.parse_pct(value) if isinstance(value, str) else value


def _rate(value: object) -> object:
    return units.parse_bits_per_s(value) if isinstance(value, str) else value


Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)]
Bytes = Annotated[int, BeforeValidator(_size), Field(gt=0)]
BitsPerSecond = Annotated[float, BeforeValidator(_rate), Field(gt=0)]
Seconds = Annotated[int, Field(ge=1, le=3600)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TreatmentEntry(_Strict):
    """One entry of ``treatments``; a bare overlay mode is short for one of its name."""

    name: Name
    overlay: Annotated[model.Overlay, Field(strict=False)]
    scope: Annotated[model.Scope, Field(strict=False)] = model.Scope.ALWAYS
    felix: dict[str, bool | int | str | None] = Field(default_factory=dict)
    dataplane: Annotated[model.Dataplane | None, Field(strict=False)] = None


class FlowEntry(_Strict):
    """One entry of ``flows``."""

    name: Name
    path: Annotated[model.Path, Field(strict=False)] = model.Path.POD_POD
    load: str
    direction: Annotated[model.Direction, Field(strict=False)] = model.Direction.FORWARD
    streams: Annotated[int, Field(ge=1, le=128)] = 1
    duration_s: Seconds = 10
    omit_s: Annotated[int, Field(ge=0, le=60)] = 1
    message_bytes: Bytes | None = None
    rate_bits_per_s: BitsPerSecond | None = None
    transport: str = "tcp"
    congestion: str | None = None
    mss_bytes: Bytes | None = None


class ClusterEntry(_Strict):
    """The ``cluster`` section: every key may be left out."""

    kubeconfig: str | None = None
    context: str | None = None
    ssh_config: str | None = None
    client_node: str | None = None
    server_node: str | None = None
    namespace: Name = "ebpfperf"
    ippools: Annotated[list[str], Field(min_length=1)] = ["default-ipv4-ippool"]
    image: str = model.ClusterRef().image
    external_client: str | None = None


class QuietEntry(_Strict):
    """The ``quiet`` section: every key may be left out."""

    sample_s: Annotated[float, Field(ge=0.1, le=60, strict=False)] = model.Quiet().sample_s
    busy_pct: Annotated[float, Field(gt=0, le=100, strict=False)] = model.Quiet().busy_pct
    nic_bits_per_s: BitsPerSecond = model.Quiet().nic_bits_per_s
    wait_s: Annotated[float, Field(ge=0, le=3600, strict=False)] = model.Quiet().wait_s


class CampaignEntry(_Strict):
    """The whole file."""

    campaign: Name
    description: str = ""
    seed: Annotated[int, Field(ge=0)] = 1
    blocks: Annotated[int, Field(ge=1, le=1000)] = 8
    baseline: str | dict[str, Any]
    margin_pct: Annotated[float, Field(gt=0, lt=100, strict=False)] = 5.0
    level: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    cluster: ClusterEntry = ClusterEntry()
    treatments: (
        Annotated[
            list[Annotated[TreatmentEntry, BeforeValidator(_named_overlay)]], Field(min_length=2)
        ]
        | None
    ) = None
    factors: Any = None
    flows: Annotated[list[FlowEntry], Field(min_length=1)]
    probes: list[str] = []
    probes_off: bool = False
    probe_share_pct: Annotated[float, Field(gt=0, le=100, strict=False)] = model.PROBE_SHARE_PCT
    aa_test: bool = True
    quiet: QuietEntry | None = QuietEntry()
    until_pct: (
        Annotated[float, BeforeValidator(_percent), Field(gt=0, lt=100, strict=False)] | None
    ) = None
    until_metric: str = ""


_SECTIONS: dict[str, type[BaseModel]] = {
    "treatments": TreatmentEntry,
    "flows": FlowEntry,
    "cluster": ClusterEntry,
    "quiet": QuietEntry,
}


def load(path: str | Path) -> model.Campaign:
    """The campaign that a file describes.

    Raises
    ------
    PlanError
        Says file, line, what is wrong there and what to write instead.
    """
    text = _read(Path(path))
    root, data = _parse(text, path)
    source = _Source(str(path), root)
    if not isinstance(data, dict):
        raise source.error((), "holds no campaign", "Begin it with: campaign: NAME")
    try:
        entry = CampaignEntry.model_validate(data)
    except ValidationError as error:
        raise _explain(source, error) from None
    treatments, baseline = _treatments(source, entry)
    campaign = _campaign(entry, treatments, baseline=baseline)
    _check(source, campaign)
    return campaign


class _Source:
    """A file's lines, by place in it."""

    def __init__(self, file: str, root: Node | None) -> None:
        self.file = file
        self.root = root

    def line(self, place: Place) -> int:
        """Line (from 1) of the deepest part of ``place`` that the file has."""
        node, line = self.root, 1
        for step in place:
            if isinstance(node, MappingNode):
                pair = next(((k, v) for k, v in node.value if k.value == str(step)), None)
                if pair is None:
                    break
                line, node = pair[0].start_mark.line + 1, pair[1]
            elif isinstance(node, SequenceNode) and isinstance(step, int):
                node = node.value[step]
                line = node.start_mark.line + 1
            else:
                break
        return line

    def error(self, place: Place, what: str, remedy: str) -> PlanError:
        line = self.line(place)
        where = f"{self.file}, line {line}"
        said = f"{where}: {_spell(place)} {what}." if place else f"{where}: the file {what}."
        return PlanError(said, remedy, file=self.file, line=line, place=_spell(place))


def _spell(place: Place) -> str:
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PlanError(
            f"{path}: byte {error.start} is not UTF-8.", "Save the file as UTF-8.", file=str(path)
        ) from None
    except IsADirectoryError:
        raise PlanError(
            f"{path} is a directory.", "Name a campaign file (YAML).", file=str(path)
        ) from None
    except OSError as error:
        raise PlanError(
            f"{path} cannot be read: {error.strerror}.", "Name a campaign file.", file=str(path)
        ) from None


def _parse(text: str, path: str | Path) -> tuple[Node | None, Any]:
    try:
        # Twice: once for the places of things, once for their values.
        return YAML(typ="safe", pure=True).compose(text), YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = (error.problem or "it is no YAML").split("\n")[0]
        remedy = "See the YAML syntax of this line."
        if "\\t" in problem:
            remedy = "Indent with spaces, never with tabs."
        if "duplicate key" in problem:
            remedy = "Keep one of the two."
        raise PlanError(
            f"{path}, line {line}: {problem}.", remedy, file=str(path), line=line, place=""
        ) from None
    except RecursionError:
        raise PlanError(
            f"{path}, line 1: it is nested too deeply.",
            "Write a campaign as in benchmarks/campaigns/demo.yaml.",
            file=str(path),
            line=1,
            place="",
        ) from None
    except (YAMLError, ValueError) as error:
        raise PlanError(
            f"{path}, line 1: it is no YAML: {str(error).splitlines()[0]}.",
            "Remove what is no text.",
            file=str(path),
            line=1,
            place="",
        ) from None


def _explain(source: _Source, error: ValidationError) -> PlanError:
    """The first thing wrong, in the order of the file's lines."""
    problems = error.errors(include_url=False)
    first = min(problems, key=lambda problem: source.line(tuple(problem["loc"])))
    place: Place = tuple(step for step in first["loc"] if not _is_branch(step))
    kind, context, given = first["type"], first.get("ctx") or {}, first.get("input")
    section = _SECTIONS.get(str(place[0]), CampaignEntry) if place else CampaignEntry
    fields = list((section if len(place) > 1 else CampaignEntry).model_fields)
    if kind == "extra_forbidden":
        return source.error(place, "is not a key that is known here", _nearest(place[-1], fields))
    if kind == "missing":
        return source.error(place[:-1], f"lacks the key {place[-1]}", f"Add: {place[-1]}: …")
    if kind == "enum":
        choices = str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        return source.error(place, f"is {given!r}, which is not known", _nearest(given, choices))
    if kind == "value_error":
        return source.error(place, f"cannot be read: {context['error']}", "Write it so.")
    if kind == "string_pattern_mismatch":
        what = f"is {given!r}, which cannot be a name"
        return source.error(place, what, "Use a-z, 0-9 and -, beginning with a letter or digit.")
    message = str(first["msg"]).removeprefix("Input ")
    return source.error(
        place, f"is {_shorten(given)}, but {message}", f"Give {_wanted(kind, context)}."
    )


def _is_branch(step: str | int) -> bool:
    """Whether a step names a branch of a union rather than a place in the file."""
    return isinstance(step, str) and (
        step in {"bool", "int", "str"} or step.startswith("function-")
    )


def _wanted(kind: str, context: dict[str, Any]) -> str:
    bounds = {
        "greater_than_equal": "at least {ge}",
        "greater_than": "more than {gt}",
        "less_than_equal": "at most {le}",
        "less_than": "less than {lt}",
        "too_short": "at least {min_length}",
    }
    if kind in bounds:
        return bounds[kind].format(**context)
    names = {
        "int_type": "a whole number",
        "float_type": "a number",
        "string_type": "text (quote it if it looks like a number)",
        "list_type": "a list: lines beginning with -",
        "dict_type": "keys and values",
        "model_type": "keys and values",
        "bool_type": "true or false",
    }
    return names.get(kind, "a value of the kind the message names")


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _nearest(given: object, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(given), known, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {close[0]}?"
    return f"Known: {', '.join(known)}."


def _treatments(source: _Source, entry: CampaignEntry) -> tuple[tuple[model.Treatment, ...], str]:
    """The treatments, however they are written, and the baseline's name."""
    if (entry.treatments is None) is (entry.factors is None):
        if entry.factors is not None:
            what = "stand beside treatments, which say the same in another way"
            raise source.error(("factors",), what, "Keep one of the two sections.")
        raise source.error((), "lacks the key treatments", "Add: treatments: … or factors: …")
    if entry.treatments is not None:
        if not isinstance(entry.baseline, str):
            what = "names levels, and this campaign has no factors"
            raise source.error(("baseline",), what, "Give a treatment's name.")
        return tuple(
            model.Treatment(t.name, t.overlay, t.scope, tuple(sorted(t.felix.items())), t.dataplane)
            for t in entry.treatments
        ), entry.baseline
    section = "factors"
    try:
        made = factors.treatments(entry.factors)
        section, name = "baseline", entry.baseline
        if not isinstance(name, str):
            name = factors.baseline(name, made)
    except factors.Misfit as misfit:
        raise source.error((section, *misfit.place), misfit.what, misfit.remedy) from None
    return tuple(treatment for _, treatment in made.values()), name


def _campaign(
    entry: CampaignEntry, treatments: tuple[model.Treatment, ...], *, baseline: str
) -> model.Campaign:
    cluster = entry.cluster.model_dump()
    return model.Campaign(
        name=entry.campaign,
        seed=entry.seed,
        blocks=entry.blocks,
        baseline=baseline,
        treatments=treatments,
        flows=tuple(model.Flow(**flow.model_dump()) for flow in entry.flows),
        probes=tuple(entry.probes),
        margin_pct=entry.margin_pct,
        level=entry.level,
        cluster=model.ClusterRef(**{**cluster, "ippools": tuple(cluster["ippools"])}),
        description=entry.description,
        probes_off=entry.probes_off,
        probe_share_pct=entry.probe_share_pct,
        aa_test=entry.aa_test,
        until_pct=entry.until_pct,
        until_metric=entry.until_metric,
        quiet=None if entry.quiet is None else model.Quiet(**entry.quiet.model_dump()),
    )


def _check(source: _Source, campaign: model.Campaign) -> None:
    """What no single value shows: names that must be unique or known, flows a load refuses."""
    for section in ("treatments", "flows"):
        names: set[str] = set()
        for index, item in enumerate(getattr(campaign, section)):
            if item.name in names:
                raise source.error(
                    (section, index, "name"), f"{item.name} is used twice", "Rename one of them."
                )
            names.add(item.name)
    treatments = [treatment.name for treatment in campaign.treatments]
    if campaign.baseline not in treatments:
        raise source.error(
            ("baseline",),
            f"is {campaign.baseline!r}, which is not a treatment",
            _nearest(campaign.baseline, treatments),
        )
    for index, treatment in enumerate(campaign.treatments):
        _check_felix(source, index, treatment)
    _check_ids(source, campaign)
    nodes = campaign.cluster
    if nodes.client_node is not None and nodes.client_node == nodes.server_node:
        raise source.error(
            ("cluster", "server_node"),
            f"is {nodes.server_node!r}, the client's node too",
            "Name two nodes: nothing is encapsulated within one.",
        )
    if nodes.external_client in {nodes.client_node, nodes.server_node} - {None}:
        raise source.error(
            ("cluster", "external_client"),
            f"is {nodes.external_client!r}, a node of the cluster",
            "Name an SSH host that is no Kubernetes node.",
        )
    for index, flow in enumerate(campaign.flows):
        if flow.path.by_node_port and nodes.external_client is None:
            raise source.error(
                ("flows", index, "path"),
                f"is {flow.path}, which is dialled from outside the cluster",
                "Name an SSH host that is no Kubernetes node: cluster.external_client.",
            )
        if flow.load not in loads.NAMES:
            raise source.error(
                ("flows", index, "load"),
                f"is {flow.load!r}, which is not known",
                _nearest(flow.load, loads.NAMES),
            )
        if flow.transport not in ("tcp", "udp"):
            raise source.error(
                ("flows", index, "transport"),
                f"is {flow.transport!r}, which is not known",
                _nearest(flow.transport, ("tcp", "udp")),
            )
        refusal = loads.load(flow.load).check(flow)
        if refusal is not None:
            raise source.error(("flows", index), "cannot be driven", refusal)
    for index, name in enumerate(campaign.probes):
        if name not in probes.NAMES:
            raise source.error(
                ("probes", index), f"is {name!r}, which is not known", _nearest(name, probes.NAMES)
            )
        if name in campaign.probes[:index]:
            raise source.error(("probes", index), f"{name} is listed twice", "Keep one of them.")
    _check_until(source, campaign)
    if campaign.probes_off and not campaign.optional_probes:
        raise source.error(
            ("probes_off",),
            f"is true, but no probe is named besides {', '.join(model.ALWAYS_ON)}, always on",
            "Name the probes that are to be off under probes, or leave probes_off out.",
        )


def _check_until(source: _Source, campaign: model.Campaign) -> None:
    if not campaign.until_metric:
        return
    if campaign.until_pct is None:
        raise source.error(
            ("until_metric",), "says of what, but not how narrow", "Add until_pct, such as 3%."
        )
    known = [metric.name for metric in metrics.CATALOGUE]
    if campaign.until_metric not in known:
        raise source.error(
            ("until_metric",),
            f"is {campaign.until_metric!r}, which is not known",
            _nearest(campaign.until_metric, known),
        )


def _check_felix(source: _Source, index: int, treatment: model.Treatment) -> None:
    """Fields and levels that could be Calico's, and no field that ``dataplane`` sets already."""
    for name, value in treatment.felix:
        place: Place = ("treatments", index, "felix", name)
        problem = factors.field_problem(name) or factors.level_problem(name, value)
        if problem is not None:
            raise source.error(place, *problem)
        if name == "bpfEnabled" and treatment.dataplane is not None:
            raise source.error(place, "is what dataplane sets", "Keep one of the two.")


def _check_ids(source: _Source, campaign: model.Campaign) -> None:
    """Names that run together: treatment a-b with flow c, and treatment a with flow b-c."""
    seen: dict[str, str] = {}
    for treatment in campaign.treatments:
        for index, flow in enumerate(campaign.flows):
            words = f"treatment {treatment.name} with flow {flow.name}"
            made = {model.trial_name(treatment, flow): words}
            if treatment.name == campaign.baseline:
                for asked, role, so in (
                    (campaign.aa_test, model.Role.AGAIN, "once more"),
                    (campaign.probes_off, model.Role.BARE, "without probes"),
                ):
                    if asked:
                        made[model.trial_name(treatment, flow, role=role)] = f"{words} {so}"
            for name, ours in made.items():
                other = seen.setdefault(name, ours)
                if other != ours:
                    raise source.error(
                        ("flows", index, "name"),
                        f"makes one trial id of {ours} and {other}",
                        "Rename the flow.",
                    )
