"""The tables of who may come in: API tokens, and the sessions of `/api/auth`. Pure: no queries, no I/O."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import Identity, Index, text
from sqlmodel import Field, SQLModel

from gateway.columns import Number, Text, UtcDateTime
from gateway.models import Machine

_METADATA = Machine.metadata  # one for all tables, with its rules for names


class ApiToken(SQLModel, table=True):
    """A token that an administrator gave out. Kept when it is revoked or expired, so nobody's access is forgotten."""

    __tablename__: ClassVar[Any] = "api_token"
    metadata: ClassVar[Any] = _METADATA

    id: int = Field(default=None, primary_key=True, sa_type=Number, sa_column_args=(Identity(always=False),))
    name: str = Field(sa_type=Text)
    secret_hash: str = Field(sa_type=Text)  # SHA-256, in hex; the secret itself is nowhere
    roles: str = Field(sa_type=Text)  # JSON: a list of names
    tenant: str = Field(sa_type=Text)
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime | None = Field(default=None, nullable=True, sa_type=UtcDateTime)
    last_used_at: datetime | None = Field(default=None, nullable=True, sa_type=UtcDateTime)  # to some minutes
    revoked_at: datetime | None = Field(default=None, nullable=True, sa_type=UtcDateTime)

    __table_args__ = (
        Index(
            "one_token_per_name",
            "name",
            unique=True,
            sqlite_where=text("revoked_at IS NULL"),
            postgresql_where=text("revoked_at IS NULL"),
        ),
        {"sqlite_autoincrement": True},
    )


class ApiSession(SQLModel, table=True):
    """What `/api/auth` gave to a caller, to use instead of their credentials for a while. Deleted when it is over."""

    __tablename__: ClassVar[Any] = "api_session"
    metadata: ClassVar[Any] = _METADATA

    id: int = Field(default=None, primary_key=True, sa_type=Number, sa_column_args=(Identity(always=False),))
    secret_hash: str = Field(sa_type=Text)  # as a token's
    token_id: int | None = Field(default=None, sa_type=Number, foreign_key="api_token.id")  # it ends with this one
    caller: str = Field(sa_type=Text, index=True)  # the caller's key
    name: str = Field(sa_type=Text)
    roles: str = Field(sa_type=Text)  # JSON: a list of names
    tenant: str = Field(sa_type=Text)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    last_used_at: datetime = Field(sa_type=UtcDateTime)  # to a minute

    __table_args__ = ({"sqlite_autoincrement": True},)
