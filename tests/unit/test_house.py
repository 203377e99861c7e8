"""What holds the house together: import directions, words, public names, pinned packages."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ebpfperf"

SHARED = {
    "model",
    "units",
    "errors",
    "calico",
    "histograms",
    "frames",
    "metrics",
    "store",
    "records",
    "ceilings",
    "tracelog",
    "mapdump",
    "map_checks",
    "map_wanted",
    "felix_values",
    "felix_selected",
    "felix_explained",
    "drop_counts",
    "drop_differences",
    "drop_causes",
    "map_answers",
    "kube_objects",
    "network_view",
    "evidence",
    "evidence_sources",
    "evidence_secrets",
    "diagnosis",
    "diagnosis_groups",
    "doctor",
    "pseudonyms",
    "pod_gap",
    "bundle",
}
MEASURE = {
    "plan", "campaign_file", "factors", "remote", "remote_session", "remote_stream", "recorder",
    "replay", "ssh_config", "ssh_connection", "kube",
    "kube_errors", "mutations", "restoration", "restore", "journal", "cluster",
    "services", "fronts", "settling", "placement", "pods", "routing", "verify",
    "facts", "loads", "probes", "runner", "watching", "progress", "interruption", "node_list",
    "looking", "quiet", "wire", "importing", "conditions", "conditions_text",
    "trace_capture", "trace_nodes",
    "map_reading", "gathering", "gathering_api", "underlay_probe", "traffic_probe", "diagnosing",
    "preflight",
    "felix_reading", "reach", "drop_reading", "drop_log", "log_level",
}  # fmt: skip
ANALYSE = {
    "stats", "student", "rank_sum", "bootstrap", "intervals", "power", "sequential",
    "estimates", "judging", "percentiles", "verdicts", "validity", "validity_tables", "enough",
    "compare", "expectations", "capacity", "chart", "charts", "distributions", "tables",
    "diagnosis_tables",
    "findings", "report", "page", "export", "templates", "headroom_chart", "live_view",
    "confounders", "campaigns_apart", "separation",
    "anatomy", "anatomy_chart", "anatomy_findings", "kernel_chart",
    "gates", "gate_table", "gate_cases", "trial_gates", "comparison_gates",
    "limits", "limits_reading", "limits_rules", "limits_seen",
    "packets_view", "packets_chart", "maps_view", "maps_chart", "stacked_bars",
    "between", "between_findings", "comparable", "verdict_formats", "verdict_rows",
}  # fmt: skip
TOP = {"__init__", "cli", "commands", "printing", "lab", "live"}

NEVER_IN_MEASURE = {"matplotlib", "papermill", "scipy", "nbconvert"}
NEVER_IN_ANALYSE = {"paramiko", "pyroute2", "lightkube"}


@cache
def modules() -> dict[str, list[Path]]:
    """Top-level module or subpackage of ebpfperf → its files (node scripts left out)."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        if relative.parts[:2] == ("probes", "node"):
            continue
        found.setdefault(relative.parts[0].removesuffix(".py"), []).append(path)
    return found


@cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names that a file imports at run time, anywhere in it."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; the house writes them in full"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return frozenset(names)


@cache
def internal(name: str) -> frozenset[str]:
    """Top-level modules of ebpfperf that a module imports, itself left out."""
    found: set[str] = set()
    for path in modules()[name]:
        for dotted in imports(path):
            parts = dotted.split(".")
            if parts[0] == "ebpfperf" and len(parts) > 1 and parts[1] in modules():
                found.add(parts[1])
    return frozenset(found - {name})


def external(name: str) -> set[str]:
    return {d.split(".")[0] for path in modules()[name] for d in imports(path)} - {"ebpfperf"}


@cache
def closure(name: str) -> frozenset[str]:
    seen, todo = {name}, [name]
    while todo:
        for other in internal(todo.pop()) - seen:
            seen.add(other)
            todo.append(other)
    return frozenset(seen)


def test_every_module_has_a_side() -> None:
    sides = [SHARED, MEASURE, ANALYSE, TOP]
    unplaced = [name for name in modules() if not any(name in side for side in sides)]
    assert unplaced == [], "say in test_house.py (and docs/architecture.md) which side it is on"


@pytest.mark.parametrize("name", sorted(MEASURE & set(modules())))
def test_measure_side_imports_no_drawing(name: str) -> None:
    reached = set().union(*(external(other) for other in closure(name)))
    assert reached & NEVER_IN_MEASURE == set()
    assert closure(name) & ANALYSE == set()


@pytest.mark.parametrize("name", sorted(ANALYSE & set(modules())))
def test_analyse_side_opens_no_connection(name: str) -> None:
    reached = set().union(*(external(other) for other in closure(name)))
    assert reached & NEVER_IN_ANALYSE == set()
    assert closure(name) & MEASURE == set()


def test_shared_modules_know_neither_side() -> None:
    for name in SHARED & set(modules()):
        assert closure(name) & (MEASURE | ANALYSE | TOP) == set(), name


def test_only_the_cli_knows_the_lab() -> None:
    users = {name for name in modules() if "lab" in internal(name)}
    assert users <= {"cli"}


def test_the_lab_knows_only_shared_knowledge() -> None:
    assert internal("lab") <= {"model", "units", "errors", "calico"}


def test_calico_knowledge_is_pure() -> None:
    assert internal("calico") <= {"model", "units", "errors"}
    assert (
        external("calico") & {"subprocess", "socket", "paramiko", "lightkube", "pyroute2"} == set()
    )


def test_no_import_cycles() -> None:
    for name in modules():
        for other in internal(name):
            assert name not in closure(other), f"{name} and {other} import each other"


def test_node_scripts_use_the_standard_library_and_bcc_alone() -> None:
    scripts = sorted((PACKAGE / "probes" / "node").glob("*.py"))
    # They travel together, so they may import each other.
    allowed = set(sys.stdlib_module_names) | {"bcc"} | {path.stem for path in scripts}
    for path in scripts:
        tops = {dotted.split(".")[0] for dotted in imports(path)}
        assert tops <= allowed, path.name
        ast.parse(path.read_text(), feature_version=(3, 6))


def test_no_module_says_nothing_by_its_name() -> None:
    empty = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
    assert [p for p in PACKAGE.rglob("*.py") if p.stem in empty] == []


def test_public_names_are_what_is_exported() -> None:
    import ebpfperf

    assert sorted(ebpfperf.__all__) == ebpfperf.__all__
    for name in ebpfperf.__all__:
        value = getattr(ebpfperf, name)
        assert value.__doc__, f"ebpfperf.{name} has no docstring"
    visible = {name for name in dir(ebpfperf) if not name.startswith("_")}
    assert visible - set(ebpfperf.__all__) - set(modules()) == {"annotations"} - {"annotations"}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nimport ebpfperf.cli as c\n"
        "from typer.main import get_command\n"
        "import click\n"
        "try:\n    get_command(c.app).main(['--help'], standalone_mode=False)\n"
        "except SystemExit:\n    pass\n"
        "heavy={'pandas','numpy','paramiko','lightkube','pyroute2','matplotlib','scipy','papermill'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "HEAVY []" in done.stdout, done.stdout[-500:] + done.stderr[-2000:]


def glossary() -> dict[str, list[str]]:
    rows = re.findall(
        r"^\| ([^|]+) \| [^|]+ \| ?([^|]*) ?\|$", (ROOT / "docs/glossary.md").read_text(), re.M
    )
    return {word.strip(): [w for w in other.strip().split(", ") if w] for word, other in rows}


def test_glossary_knows_every_enumerated_word() -> None:
    from ebpfperf import model

    text = (ROOT / "docs/glossary.md").read_text()
    for enum in (model.Overlay, model.Scope, model.Dataplane, model.Path, model.WorkloadKind,
                 model.Direction, model.Status):  # fmt: skip
        for member in enum:
            assert f"`{member.value}`" in text, f"{member!r} is not in docs/glossary.md"


def test_glossary_knows_every_load_and_probe() -> None:
    from ebpfperf import loads, probes

    text = (ROOT / "docs/glossary.md").read_text()
    for name in (*loads.NAMES, *probes.NAMES):
        assert f"`{name}`" in text, f"{name} is not in docs/glossary.md"


def test_words_the_glossary_rejects_are_not_used() -> None:
    words = {word for others in glossary().values() for word in others} - {"not"}
    assert "fabric" in words
    # These have other, honest meanings in code: a NAT backend, a round trip, a pod's metadata.
    rejected = words - {
        "backend",
        "variant",
        "metadata",
        "iteration",
        "delta",
        "generator",
        "collector",
        "round",
    }
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, sorted(rejected))) + r")\b", re.I)
    texts = [*PACKAGE.rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb"), ROOT / "README.md"]
    for path in texts:
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if match := pattern.search(line):
                word = match[0].lower()
                # Python's own round() is arithmetic, not a block.
                if word == "round" and "round(" in line:
                    continue
                raise AssertionError(f"{path.relative_to(ROOT)}:{number}: {match[0]!r}")


def test_conda_environment_names_the_card_and_real_extras() -> None:
    conda = YAML(typ="safe", pure=True).load((ROOT / "environment.yml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    plain = [item for item in conda["dependencies"] if isinstance(item, str)]
    names = {re.split(r"[<>=]", item)[0] for item in plain}
    assert {"jupyterlab", "pandas", "matplotlib", "paramiko", "papermill"} <= names
    required = {re.split(r"[<>=\[]", r)[0] for r in project["dependencies"]}
    extras = project["optional-dependencies"]
    for extra in extras.values():
        required |= {re.split(r"[<>=\[]", r)[0] for r in extra}
    assert names - {"python", "pip"} <= required
    (pip,) = [item["pip"] for item in conda["dependencies"] if isinstance(item, dict)]
    (editable,) = pip
    named = re.fullmatch(r"-e \.\[(.+)\]", editable)
    assert named is not None
    assert set(named[1].split(",")) <= set(extras)


def test_constraints_hold_names_versions_and_hashes_only() -> None:
    line = re.compile(
        r"[A-Za-z0-9._-]+==[0-9][^ ]*( ; [^\\]+)?( \\)?|    --hash=sha256:[0-9a-f]{64}( \\)?"
    )
    for number, text in enumerate((ROOT / "constraints.txt").read_text().splitlines(), start=1):
        assert line.fullmatch(text), f"constraints.txt:{number}: {text}"


def test_bpf_programs_carry_their_licence() -> None:
    sources = sorted(PACKAGE.rglob("*.bpf.c"))
    assert sources
    for path in sources:
        text = path.read_text()
        assert "Dual BSD/GPL" in text, path.name
        assert len(text.splitlines()) < 200, path.name
