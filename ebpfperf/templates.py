"""The notebook templates: where they are, what they are called, and the parameters they take.

A template declares its parameters in one cell tagged ``parameters``, one annotated literal a line;
the comment behind it is its help. Papermill only warns of an unknown one; here it is an error.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import papermill

from ebpfperf.errors import ParameterError

Scalar = str | int | float | bool | list[Any] | None

CAMPAIGN = "campaign"

_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "list": (list,),
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a notebook: its type by annotation, its default and its help."""

    name: str
    type: str
    default: str
    help: str


def notebooks_dir() -> Path:
    """The directory of the templates: in the installed package, or in the repository."""
    package = Path(__file__).resolve().parent
    inside = package / "notebooks"
    return inside if inside.is_dir() else package.parent / "notebooks"


def all_reports() -> tuple[Path, ...]:
    """The templates that are reports, in order; what is numbered below 10 is to be worked in."""
    return tuple(sorted(notebooks_dir().glob("[1-9][0-9]-*.ipynb")))


def reports() -> tuple[Path, ...]:
    """The templates that are reports of a campaign; others are of a file."""
    return tuple(template for template in all_reports() if subject(template) == CAMPAIGN)


def subject(template: Path) -> str:
    """The name of a template's first parameter, which is what it is a report of; else empty."""
    notebook = json.loads(template.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if "parameters" in cell["metadata"].get("tags", ()):
            return "".join(cell["source"]).partition(":")[0].strip()
    return ""


def name_of(template: Path) -> str:
    """``overlay-comparison`` for ``10-overlay-comparison.ipynb``."""
    number, _, rest = template.stem.partition("-")
    return rest if number.isdigit() and rest else template.stem


def find(notebook: str | Path) -> Path:
    """The template of that name or path.

    Raises
    ------
    ParameterError
        There is none.
    """
    path = Path(notebook)
    if path.suffix == ".ipynb" and path.is_file():
        return path
    known = {name_of(template): template for template in all_reports()}
    known |= {template.stem: template for template in all_reports()}
    if str(notebook) in known:
        return known[str(notebook)]
    raise ParameterError(
        f"There is no notebook {str(notebook)!r}.{_nearest(str(notebook), known)}",
        f"Choose one of {', '.join(map(name_of, all_reports())) or 'none: no templates are here'}.",
        notebook=str(notebook),
    )


def parameters(notebook: str | Path) -> tuple[Parameter, ...]:
    """The parameters that a notebook declares in its one ``parameters`` cell, in order."""
    found = papermill.inspect_notebook(plain(find(notebook)))
    return tuple(
        Parameter(name, entry["inferred_type_name"], entry["default"], entry["help"])
        for name, entry in found.items()
    )


def check(notebook: str | Path, given: Mapping[str, Scalar]) -> None:
    """Nothing, if every given name is a parameter of the notebook and every value of its type.

    Raises
    ------
    ParameterError
        One is not; the nearest name is said.
    """
    declared = {parameter.name: parameter for parameter in parameters(notebook)}
    of = subject(find(notebook))
    for name, value in given.items():
        if name not in declared or name == of:
            known = [other for other in declared if other != of]
            raise ParameterError(
                f"{name_of(find(notebook))} has no parameter {name!r}.{_nearest(name, known)}",
                f"It has: {', '.join(known) or 'none'}.",
                name=name,
            )
        wanted = declared[name].type
        accepted = _TYPES.get(wanted.split("[")[0].lower())
        fits = accepted is None or isinstance(value, accepted)
        if not fits or (isinstance(value, bool) and wanted != "bool"):
            raise ParameterError(
                f"Parameter {name} is {value!r}, but must be of type {wanted}.",
                f"Its default is {declared[name].default}: {declared[name].help}",
                name=name,
            )


def typed(notebook: str | Path, texts: Sequence[str]) -> dict[str, Scalar]:
    """Parameters written as ``name=value``, each value read as the type its notebook declares.

    Raises
    ------
    ParameterError
        A text is not ``name=value``, the name is unknown, or the value is not of its type.
    """
    declared = {parameter.name: parameter for parameter in parameters(notebook)}
    found: dict[str, Scalar] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ParameterError(f"{text!r} is no parameter.", "Write name=value.", name=text)
        kind = declared[name].type if name in declared else "str"
        try:
            found[name] = value if kind == "str" else json.loads(value)
        except json.JSONDecodeError as error:
            raise ParameterError(
                f"Parameter {name} is {value!r}, but must be of type {kind}.",
                "Write numbers plainly (2.5), truth as true or false, lists as [1, 2].",
                name=name,
            ) from error
    check(notebook, found)
    return found


def plain(path: Path) -> str:
    """A path in which papermill, which formats its paths, finds no placeholder."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _nearest(name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" The nearest is {close[0]!r}." if close else ""
