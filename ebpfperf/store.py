"""One directory per campaign: append-only, atomic, resumable.

::

    manifest.json         schema version and its history, the campaign
    campaign.yaml         the file it was read from, where there was one (for people)
    facts.json            facts of the campaign as a whole
    preflight.json        what was found before the first trial; preflight-2.json before a later run
    journal.json          what the cluster was before the run touched it (kept by ``journal``)
    trials/<id>/          record.json and raw/: whole or not there
    frames/*.parquet      rebuilt from the records when they no longer match
    reports/
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ebpfperf import frames, records
from ebpfperf.errors import InputError, StoreError
from ebpfperf.model import Campaign, Fact, TrialResult

# 2: the campaign says whether it has bare trials (``probes_off``), which none of schema 1 has, and
# for how much of the time its probes are on (``probe_share_pct``).
# 3: a trial says what it is for (``role``); the campaign has an A/A test, says how quiet the nodes
# must be, when it may end early, and whether it was imported.
SCHEMA = 3
_READABLE = (1, 2, 3)
_FINGERPRINT = "records.sha256"


class Store:
    """A campaign on disk.

    Attributes
    ----------
    path
        The campaign's directory.
    campaign
        What the directory was created for.
    """

    def __init__(self, path: Path, campaign: Campaign) -> None:
        self.path = path
        self.campaign = campaign

    @classmethod
    def create(cls, path: str | Path, campaign: Campaign, *, source: str | None = None) -> Store:
        """The store at ``path``: a new one, or the one of the same campaign that is there.

        A campaign that differs in nothing but more blocks lengthens the one that is there.

        Parameters
        ----------
        source
            The text of the campaign file, kept for people.

        Raises
        ------
        InputError
            The directory holds another campaign or something else.
        StoreError
            It cannot be written.
        """
        path = Path(path)
        if (path / "manifest.json").exists():
            store = cls.open(path)
            # Where it ended is known to the directory alone.
            campaign = replace(campaign, ended_after=store.campaign.ended_after)
            longer = replace(store.campaign, blocks=max(store.campaign.blocks, campaign.blocks))
            if campaign == longer != store.campaign:
                store._lengthen(campaign)
            if store.campaign != campaign:
                raise InputError(
                    f"{path} holds a campaign that differs from this one.",
                    "Choose another --out, or give the file it was begun with: only its blocks "
                    "may change, and only grow.",
                    path=str(path),
                )
            return store
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(
                f"{path} exists and is no campaign.", "Choose another --out.", path=str(path)
            )
        manifest = {
            "schema": SCHEMA,
            "history": [_event("created")],
            "campaign": records.campaign_record(campaign),
        }
        with _explained(path):
            (path / "trials").mkdir(parents=True, exist_ok=True)
            if source is not None:
                _write(path / "campaign.yaml", source.encode())
            _write(path / "manifest.json", records.dump(manifest))
        return cls(path, campaign)

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """The store that is at ``path``; nothing is written.

        Raises
        ------
        InputError
            There is no campaign at ``path``, or one of another schema version.
        """
        path = Path(path)
        try:
            manifest = json.loads((path / "manifest.json").read_bytes())
            schema = manifest["schema"]
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"{path} is no campaign directory: it has no manifest.json.",
                "Give a directory that ebpfperf run has written, such as runs/demo.",
                path=str(path),
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}/manifest.json cannot be read: {error}.", "Restore it.", path=str(path)
            ) from error
        if schema not in _READABLE:
            raise InputError(
                f"{path} has schema {schema}; this version of ebpfperf reads schema 1 to {SCHEMA}.",
                "Use the version of ebpfperf that wrote it.",
                path=str(path),
            )
        return cls(path, records.campaign_from(manifest["campaign"]))

    @property
    def reports_dir(self) -> Path:
        """Where reports of this campaign go."""
        return self.path / "reports"

    @property
    def journal(self) -> Path:
        """Where the run keeps what the cluster was."""
        return self.path / "journal.json"

    def completed(self) -> set[str]:
        """Ids of the trials that exist, whatever their status."""
        return {record.parent.name for record in self._record_files()}

    def append(self, result: TrialResult) -> None:
        """Add a trial: afterwards it is there whole, or not at all.

        Raises
        ------
        StoreError
            It exists already, or cannot be written (a full disk says so).
        """
        trial_id = result.trial.trial_id
        target = self.path / "trials" / trial_id
        if target.exists():
            raise StoreError(
                f"{target} exists already.", "A trial is never rewritten.", path=str(target)
            )
        partial = self.path / "trials" / f".{trial_id}.{os.getpid()}"
        with _explained(target):
            try:
                shutil.rmtree(partial, ignore_errors=True)
                (partial / "raw").mkdir(parents=True)
                files = {f"raw/{name.replace('/', '_')}": data for name, data in result.raw.items()}
                files["record.json"] = records.dump_result(result)
                for name, data in files.items():
                    (partial / name).write_bytes(data)
                # All written first: the disk then takes them together.
                for name in files:
                    _sync(partial / name)
                partial.rename(target)
                _sync(target.parent)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise

    def add_facts(self, facts: Sequence[Fact]) -> None:
        """Add facts of the campaign as a whole; of the same node and name the newest counts."""
        known = {(fact.node, fact.name): fact for fact in self.facts()}
        known |= {(fact.node, fact.name): fact for fact in facts}
        with _explained(self.path):
            document = {"facts": [asdict(known[key]) for key in sorted(known)]}
            _write(self.path / "facts.json", records.dump(document))

    def facts(self) -> tuple[Fact, ...]:
        """Facts of the campaign as a whole."""
        try:
            document = json.loads((self.path / "facts.json").read_bytes())
        except FileNotFoundError:
            return ()
        return tuple(Fact(**fact) for fact in document["facts"])

    def add_preflight(self, document: Mapping[str, Any]) -> None:
        """Keep what was found before the trials of this run: ``diagnosis``'s JSON."""
        number = len(self._preflight_files()) + 1
        name = "preflight.json" if number == 1 else f"preflight-{number}.json"
        with _explained(self.path):
            _write(self.path / name, records.dump(document))

    def preflights(self) -> tuple[dict[str, Any], ...]:
        """What was found before each run, in order.

        Raises
        ------
        StoreError
            A file of it is damaged.
        """
        found = []
        for file in self._preflight_files():
            try:
                found.append(json.loads(file.read_bytes()))
            except (OSError, ValueError) as error:
                raise StoreError(
                    f"{file} cannot be read: {error}.", "Move it away.", path=str(file)
                ) from error
        return tuple(found)

    def results(self) -> Iterator[TrialResult]:
        """The trials in their order, without raw files.

        Raises
        ------
        StoreError
            A record is damaged.
        """
        found = []
        for file in self._record_files():
            try:
                found.append(records.result_from(json.loads(file.read_bytes())))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise StoreError(
                    f"{file} cannot be read: {error!r}.",
                    "Move its directory away; run again to repeat the trial.",
                    path=str(file),
                ) from error
        yield from sorted(found, key=lambda result: result.trial.order)

    def frame(self, name: str) -> pd.DataFrame:
        """``trials``, ``samples``, ``histograms`` or ``facts``; columns in ``frames``.

        Read from Parquet while that matches the records, rebuilt from them otherwise.
        """
        folder = self.path / "frames"
        fingerprint = self._fingerprint()
        try:
            if (folder / _FINGERPRINT).read_text() == fingerprint:
                return pd.read_parquet(folder / f"{name}.parquet")
        except (OSError, ValueError):
            pass
        built = self._build()
        # A store may lie where nothing can be written; the frames are then made each time.
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            (folder / _FINGERPRINT).unlink(missing_ok=True)
            for each, frame in built.items():
                frame.to_parquet(folder / f"{each}.parquet", index=False)
            _write(folder / _FINGERPRINT, fingerprint.encode())
        return built[name]

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Inside the block this process alone works on the campaign.

        Raises
        ------
        InputError
            Another run is at work here.
        """
        with _explained(self.path):
            lock = open(self.path / ".lock", "a+")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise InputError(
                    f"Another run (pid {lock.read().strip() or 'unknown'}) is at work in "
                    f"{self.path}.",
                    "Wait for it, or stop it with Ctrl-C.",
                    path=str(self.path),
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def end_after(self, blocks: int) -> None:
        """Plan no more than the first ``blocks``: they are enough. Only while ``exclusive``."""
        self._replan(replace(self.campaign, ended_after=blocks), f"ended after block {blocks}")

    def _lengthen(self, campaign: Campaign) -> None:
        """Plan more blocks: the order of those that are there does not change by it."""
        if campaign.until_pct is not None:
            raise InputError(
                f"{self.path} ends when its intervals are narrow, within the "
                f"{self.campaign.blocks} blocks planned: more of them would change what its looks "
                "may say.",
                "Choose another --out for a longer campaign.",
                path=str(self.path),
            )
        with self.exclusive():
            self._replan(campaign, f"blocks {campaign.blocks}")

    def _replan(self, campaign: Campaign, what: str) -> None:
        file = self.path / "manifest.json"
        with _explained(self.path):
            manifest = json.loads(file.read_bytes())
            manifest["history"].append(_event(what))
            manifest["campaign"] = records.campaign_record(campaign)
            manifest["schema"] = SCHEMA
            _write(file, records.dump(manifest))
        self.campaign = campaign

    def _preflight_files(self) -> list[Path]:
        return sorted(
            self.path.glob("preflight*.json"), key=lambda file: (len(file.name), file.name)
        )

    def _record_files(self) -> list[Path]:
        return sorted(
            file
            for file in (self.path / "trials").glob("*/record.json")
            if not file.parent.name.startswith(".")
        )

    def _fingerprint(self) -> str:
        """Of columns and records: a trial's record never changes, so its size is enough."""
        files = [*self._record_files(), self.path / "facts.json"]
        seen = [(str(f.relative_to(self.path)), f.stat().st_size) for f in files if f.exists()]
        return hashlib.sha256(repr((frames.COLUMNS, seen)).encode()).hexdigest()

    def _build(self) -> Mapping[str, pd.DataFrame]:
        rows: dict[str, list[Mapping[str, Any]]] = {name: [] for name in frames.COLUMNS}
        campaign = self.campaign.name
        for fact in self.facts():
            rows["facts"].append({"campaign": campaign, "trial_id": None, **asdict(fact)})
        for result in self.results():
            for name, more in records.rows(campaign, result).items():
                rows[name].extend(more)
        return {name: frames.build(name, found) for name, found in rows.items()}


def _event(what: str) -> dict[str, object]:
    """An entry of the manifest's history."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return {"schema": SCHEMA, "utc": now, "what": what}


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """A failed write as one sentence."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StoreError(
            f"{path} cannot be written: {error.strerror}.",
            "Free space; what was measured so far is kept, and run again resumes."
            if full
            else "Choose a directory that can be written.",
            path=str(path),
        ) from error


def _write(path: Path, data: bytes) -> None:
    """Write a file durably and whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    """Wait until a file or directory is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
