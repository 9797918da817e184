"""Alembic's entry point. Migrates the connection that `store.migrate` passes in `config.attributes`."""

from typing import Any, Literal

import sqlalchemy as sa
from alembic import context

from gateway import columns
from gateway.models import Machine


def render_item(kind: str, item: Any, _context: object) -> str | Literal[False]:
    """Renders the gateway's column types as names of `migrations.types`, so that no migration imports the models."""
    if kind != "type":
        return False
    if isinstance(item, columns.Text):
        return "TEXT"
    if isinstance(item, columns.UtcDateTime):
        return "MOMENT"
    if item is columns.Number:
        return "NUMBER"
    return f"sa.String({item.length})" if isinstance(item, sa.Enum) else False


def compare_type(_context: Any, _inspected: Any, column: Any, _inspected_type: Any, model_type: Any) -> bool | None:
    """Skips the gateway's own types, because the types that the databases report for them always differ."""
    return False if isinstance(model_type, columns.Text | columns.UtcDateTime | sa.Enum) else None


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Machine.metadata,  # shared by all tables
    render_as_batch=connection.dialect.name == "sqlite",
    compare_type=compare_type,
    render_item=render_item,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
