"""User → the documents that exist for them: the only source of what may be searched, shown, suggested or cited."""

from __future__ import annotations

from typing import TYPE_CHECKING

from errors import UnknownUser

if TYPE_CHECKING:
    from ingest.open import Index

LOCAL = "local"  # the only user until accounts exist: sees everything


def visible(user: str, index: Index) -> frozenset[int]:
    """Ids of the documents with passages that `user` may see. Raises UnknownUser."""
    check_user(user)
    return frozenset(each.id for each in index.catalog.documents() if each.passages)


def check_user(user: str) -> None:
    """Raises UnknownUser for a name that nobody has."""
    if user != LOCAL:
        raise UnknownUser(f"There is no user named {user!r}.", f"Leave --as out, or use --as {LOCAL}.")
