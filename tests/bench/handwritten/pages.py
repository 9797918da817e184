"""Keyset pages: the order, the cursor, and the statement that reads one more row than asked for."""

import base64
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import tuple_
from sqlmodel import col

from gateway.models import Machine, Snapshot

T = TypeVar("T")

MAX_PAGE = 1_000


@dataclass(frozen=True)
class Order:
    """A column and a direction; the id comes last."""

    column: str
    descending: bool


@dataclass(frozen=True)
class Page:
    """The arguments of a connection, in a form that a DataLoader can group by."""

    first: int
    after: str | None
    order: Order
    prefix: str | None = None


@dataclass
class Rows(Generic[T]):
    """One page."""

    items: list[T]
    has_next: bool
    has_previous: bool


def limited(first: int) -> int:
    if not 0 <= first <= MAX_PAGE:
        raise ValueError(f"first must be between 0 and {MAX_PAGE}")
    return first


def encode(order: Order, row: Any) -> str:
    value = getattr(row, order.column)
    text = value.isoformat() if isinstance(value, datetime) else value
    return base64.urlsafe_b64encode(json.dumps([text, row.id]).encode()).decode()


def decode(order: Order, cursor: str) -> tuple[Any, int]:
    value, number = json.loads(base64.urlsafe_b64decode(cursor))
    return (datetime.fromisoformat(value) if order.column == "created_at" else value), number


def ordering(model: type[Machine | Snapshot], order: Order) -> list[Any]:
    columns = [col(getattr(model, order.column)), col(model.id)]
    return [column.desc() if order.descending else column.asc() for column in columns]


def conditions(model: type[Machine | Snapshot], page: Page) -> list[Any]:
    found: list[Any] = []
    if page.prefix is not None:
        found.append(col(model.name).startswith(page.prefix, autoescape=True))
    if page.after is not None:
        key = tuple_(col(getattr(model, page.order.column)), col(model.id))
        place = decode(page.order, page.after)
        found.append(key < place if page.order.descending else key > place)
    return found


def rows(found: list[T], page: Page) -> Rows[T]:
    return Rows(found[: page.first], len(found) > page.first, page.after is not None)
