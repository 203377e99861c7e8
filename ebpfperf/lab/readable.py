"""What reads the lab's objects needs: its store has it, and who asks its API."""

from __future__ import annotations

from typing import Any, Protocol


class Readable(Protocol):
    """Where objects are read, by resource (plural) and name."""

    def get(self, resource: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        """The object of that name; StatusError."""

    def list(self, resource: str, namespace: str | None = None) -> list[dict[str, Any]]:
        """The objects; all namespaces for None."""
