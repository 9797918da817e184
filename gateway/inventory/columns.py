"""Assignments for update statements, with parameters that are named like their columns."""

from typing import Any

import sqlalchemy as sa
from sqlmodel import SQLModel

from gateway.columns import FOLDED


def assignments(table: type[SQLModel], *names: str) -> dict[str, Any]:
    """What `values()` of an update takes: the named columns, and the folded twins that they have."""
    columns = table.__table__.c  # type: ignore[attr-defined]
    all_names = [*names, *(name + FOLDED for name in names if name + FOLDED in columns)]
    return {name: sa.bindparam(name, type_=columns[name].type) for name in all_names}
