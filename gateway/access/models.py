"""The tables of API tokens and of sessions created by `/api/auth`. Pure: no queries, no I/O."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import Identity, Index, text
from sqlmodel import Field, SQLModel

from gateway.columns import Number, Text, UtcDateTime
from gateway.models import Machine

_METADATA = Machine.metadata  # all tables share one, with its naming conventions


class ApiToken(SQLModel, table=True):
    """An API token. Its row is kept after it is revoked or expires, as a record of who had access."""

    __tablename__: ClassVar[Any] = "api_token"
    metadata: ClassVar[Any] = _METADATA

    id: int = Field(default=None, primary_key=True, sa_type=Number, sa_column_args=(Identity(always=False),))
    name: str = Field(sa_type=Text)
    secret_hash: str = Field(sa_type=Text)  # SHA-256 in hex; the secret is not stored
    roles: str = Field(sa_type=Text)  # JSON list of role names
    tenant: str = Field(sa_type=Text)
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime | None = Field(default=None, nullable=True, sa_type=UtcDateTime)
    last_used_at: datetime | None = Field(
        default=None, nullable=True, sa_type=UtcDateTime
    )  # recorded at most every 5 minutes
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
    """A session created by `/api/auth`: a token that replaces the caller's credentials for a limited time.

    Its row is deleted after the session ends.
    """

    __tablename__: ClassVar[Any] = "api_session"
    metadata: ClassVar[Any] = _METADATA

    id: int = Field(default=None, primary_key=True, sa_type=Number, sa_column_args=(Identity(always=False),))
    secret_hash: str = Field(sa_type=Text)  # as in ApiToken
    token_id: int | None = Field(
        default=None, sa_type=Number, foreign_key="api_token.id"
    )  # the API token that created it; revoking that ends the session
    caller: str = Field(sa_type=Text, index=True)  # the key of the caller
    name: str = Field(sa_type=Text)
    roles: str = Field(sa_type=Text)  # JSON list of role names
    tenant: str = Field(sa_type=Text)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    last_used_at: datetime = Field(sa_type=UtcDateTime)  # recorded at most every minute

    __table_args__ = ({"sqlite_autoincrement": True},)
