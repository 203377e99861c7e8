"""A notebook and a campaign to a report: the executed notebook, and one offline HTML page.

``render`` is the whole story: find, check the parameters, execute, export. An artefact is saved
first and an error raised second. What has been rendered from the same numbers is left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path

import nbformat
import papermill
import zmq
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets import default

from ebpfperf import export, findings, page, templates, verdicts
from ebpfperf.errors import EbpfperfError, ParameterError, ReportError
from ebpfperf.store import Store

_EXECUTION_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Report:
    """What a rendering left behind.

    Attributes
    ----------
    notebook
        Name by which it was asked for, without its number: ``overlay-comparison``.
    html, executed
        The page and the executed notebook.
    rendered
        False when the report of the same numbers and parameters was there already.
    error
        Empty, or why it is incomplete (only ``render_all`` returns such a report).
    """

    notebook: str
    title: str
    html: Path
    executed: Path
    rendered: bool
    error: str = ""


def render(
    notebook: str | Path,
    *,
    campaign: Path | str,
    params: Mapping[str, templates.Scalar] | None = None,
    out_dir: Path | str | None = None,
    force: bool = False,
) -> Report:
    """The report of one notebook over one campaign; rendered only when something changed.

    Parameters
    ----------
    notebook
        Name (``overlay-comparison``) or path of a template.
    campaign
        Campaign directory.
    params
        Parameters besides ``campaign``; names and types must be those of the notebook.
    out_dir
        Default: ``reports`` in the campaign directory.
    force
        Render even what is there already.

    Raises
    ------
    ParameterError
        No such notebook, no such parameter, or a value of the wrong type; or it is no
        notebook of campaigns.
    InputError
        ``campaign`` is no campaign directory.
    StoreError
        A record in it is damaged.
    ReportError
        The notebook failed, or nothing can be written. What was made of it is kept, the page marked
        incomplete; field ``path`` is the page.
    """
    template, given = templates.find(notebook), dict(params or {})
    templates.check(template, given)
    if templates.subject(template) != templates.CAMPAIGN:
        raise ParameterError(
            f"{templates.name_of(template)} is no report of a campaign.",
            f"It is of a file: its {templates.subject(template)}.",
        )
    store = Store.open(Path(campaign))
    folder = _folder(Path(out_dir) if out_dir is not None else store.reports_dir)
    stem = templates.name_of(template) + (f"--{_short(given)}" if given else "")
    executed, html = folder / f"{stem}.ipynb", folder / f"{stem}.html"
    fingerprint = _fingerprint(template, given, store)
    if not force and html.is_file() and _fingerprint_in(executed) == fingerprint:
        return Report(templates.name_of(template), _title(executed), html, executed, rendered=False)
    given["campaign"] = os.path.relpath(store.path, folder)
    with _writing(folder):
        error = _execute(template, executed, given)
        _write_page(
            executed,
            html,
            _stamp(store),
            incomplete=error,
            fingerprint="" if error else fingerprint,
        )
    return _report(template, executed, html, error)


def render_file(
    notebook: str | Path,
    file: Path | None,
    html: Path,
    *,
    stamp: str,
    params: Mapping[str, templates.Scalar] | None = None,
) -> Report:
    """The report of one notebook over one file, at ``html``; the notebook beside it.

    Parameters
    ----------
    file
        Goes to the notebook's first parameter; None: the notebook does without.
    stamp
        What it is a report of, for the page's top.

    Raises
    ------
    ParameterError, ReportError
        As ``render``.
    """
    template, given = templates.find(notebook), dict(params or {})
    templates.check(template, given)
    folder, executed = _folder(html.absolute().parent), html.with_suffix(".ipynb")
    given[templates.subject(template)] = "" if file is None else os.path.relpath(file, folder)
    with _writing(folder):
        error = _execute(template, executed, given)
        _write_page(executed, html, stamp, incomplete=error, fingerprint="")
    return _report(template, executed, html, error)


def _report(template: Path, executed: Path, html: Path, error: str) -> Report:
    if error:
        raise ReportError(
            f"{templates.name_of(template)} did not run to its end: {error}",
            f"Open {html} to see how far it came and what failed.",
            path=str(html),
        )
    return Report(templates.name_of(template), _title(executed), html, executed, rendered=True)


def render_all(
    campaign: Path | str,
    *,
    out_dir: Path | str | None = None,
    executor: Executor | None = None,
    force: bool = False,
) -> tuple[Report, ...]:
    """Every report notebook over one campaign, and ``index.html`` with the headlines.

    One that fails does not stop the others: its ``error`` says why. ``executor`` may be any
    ``concurrent.futures`` executor of processes, on this machine or on many.

    Raises
    ------
    InputError
        ``campaign`` is no campaign directory.
    ReportError
        The directory of the reports cannot be written.
    """
    store = Store.open(Path(campaign))
    folder = _folder(Path(out_dir) if out_dir is not None else store.reports_dir)
    jobs = [(template, store.path, folder, force) for template in templates.reports()]
    if executor is None:
        reports = tuple(_render_job(*job) for job in jobs)
    else:
        reports = tuple(executor.map(_render_job, *zip(*jobs, strict=True)))
    with _writing(folder):
        (folder / "index.html").write_text(_index(store, reports), encoding="utf-8")
    return reports


class _PrivateKernelManager(AsyncKernelManager):
    """Starts kernels whose messages other users of this machine cannot read on loopback."""

    @default("transport_encryption")
    def _encrypted(self) -> str:
        return "auto" if zmq.has("curve") else "disabled"


def _execute(template: Path, executed: Path, given: Mapping[str, templates.Scalar]) -> str:
    """Empty, or the sentence of the cell that failed; ``executed`` is written in both cases."""
    try:
        papermill.execute_notebook(
            templates.plain(template),
            templates.plain(executed),
            parameters=dict(given),
            kernel_name="python3",
            progress_bar=False,
            cwd=str(executed.parent),
            execution_timeout=_EXECUTION_TIMEOUT_S,
            kernel_manager_class=_PrivateKernelManager,
        )
    except PapermillExecutionError as error:
        first_line = error.source.strip().partition("\n")[0]
        return f"{error.ename}: {error.evalue} (in the cell that begins with {first_line!r})"
    except (DeadKernelError, CellTimeoutError) as error:
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    except NoSuchKernel as error:
        raise ReportError(
            f"Jupyter has no kernel {error.name!r} to run a notebook with.",
            "Run scripts/setup, which installs ipykernel.",
        ) from error
    return ""


def _write_page(
    executed: Path, html: Path, stamp: str, *, incomplete: str, fingerprint: str
) -> None:
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata["ebpfperf"] = {"fingerprint": fingerprint}
    # Papermill notes absolute paths, which say nothing on another machine.
    for name in ("input_path", "output_path"):
        notebook.metadata["papermill"][name] = Path(notebook.metadata["papermill"][name]).name
    nbformat.write(notebook, executed)
    text = page.shell(
        title=export.title(notebook),
        body=export.body(notebook),
        stamp=stamp,
        footer=f"ebpfperf {version('ebpfperf')}. The executed notebook is {executed.name}.",
        incomplete=incomplete,
    )
    html.write_text(text, encoding="utf-8")


def _stamp(store: Store) -> str:
    trials = store.frame("trials")
    when = "not run yet"
    if len(trials):
        first, last = trials["start_utc"].min(), trials["start_utc"].max()
        when = f"{first:%Y-%m-%d %H:%M} to {last:%H:%M} UTC"
    return f"Campaign {store.campaign.name}, {len(trials)} trials, {when}"


def _render_job(template: Path, campaign: Path, folder: Path, force: bool) -> Report:
    try:
        return render(template, campaign=campaign, out_dir=folder, force=force)
    except EbpfperfError as error:
        stem = templates.name_of(template)
        html, executed = folder / f"{stem}.html", folder / f"{stem}.ipynb"
        return Report(stem, stem, html, executed, rendered=True, error=str(error))


def _index(store: Store, reports: Sequence[Report]) -> str:
    facts, effects = store.frame("facts"), verdicts.of_store(store).effects
    links = "".join(
        f'<li><a href="{escape(report.html.name)}">{escape(report.title)}</a>'
        f"{' (incomplete: ' + escape(report.error) + ')' if report.error else ''}</li>"
        for report in reports
    )
    body = (
        f"{findings.notice(facts)._repr_html_()}<h2>Headline</h2>"
        f"{findings.headlines(effects, store.campaign)._repr_html_()}"
        f"<h2>Reports</h2><ul>{links}</ul>"
    )
    return page.shell(
        title=f"Reports of {store.campaign.name}",
        body=body,
        stamp=_stamp(store),
        footer=f"ebpfperf {version('ebpfperf')}.",
    )


def _folder(path: Path) -> Path:
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ReportError(
            f"{folder} cannot be written: {error.strerror or error}.",
            "Make room or rights there, or name another directory for the reports.",
            path=str(folder),
        ) from error


def _fingerprint(template: Path, given: Mapping[str, templates.Scalar], store: Store) -> str:
    """Hash of all a report is made from: template, parameters, records, the analysing code."""
    digest = hashlib.sha256(json.dumps(dict(given), sort_keys=True).encode())
    records = sorted(store.path.glob("trials/*/record.json"))
    plan = [store.path / name for name in ("manifest.json", "facts.json")]
    plan += sorted(store.path.glob("preflight*.json"))
    code = sorted(Path(__file__).parent.glob("*.py"))
    for path in [template, *(path for path in plan if path.is_file()), *records, *code]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _fingerprint_in(executed: Path) -> str:
    try:
        notebook = json.loads(executed.read_text(encoding="utf-8"))
        return str(notebook["metadata"]["ebpfperf"]["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _title(executed: Path) -> str:
    return export.title(nbformat.read(executed, as_version=4))


def _short(given: Mapping[str, templates.Scalar]) -> str:
    text = json.dumps(dict(given), sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()[:8]
