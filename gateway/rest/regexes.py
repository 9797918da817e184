"""Regular expressions, which are the client's and may be hostile: RE2 in the gateway, in linear time, on bounded work.

SQL never sees a pattern: the two databases have different engines, and PostgreSQL's can be made to take for ever. The
texts are fetched and looked at here, and what matched becomes a condition on the id, like any other.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import re2

from gateway.access.caller import Caller
from gateway.reads.conditions import EVERYTHING_SQL, NOTHING_SQL, Condition, Frame
from gateway.reads.dialects import Dialect
from gateway.reads.entities import ENTITIES
from gateway.rest.errors import bad_request
from gateway.store.database import Transaction

LONGEST = 1_000  # characters of a pattern
MOST_ROWS = 10_000  # that one expression looks at
MOST_WORK = 20_000_000  # characters, times instructions of the pattern: 7 ns for each at worst, 0.1 ns as a rule

_RUBY = re.compile(r"/(.*)/([a-z]*)", re.DOTALL)


def compiled(text: str) -> Any:
    """The pattern that `/re/i`, or a bare text, means in Ruby. Raises RestError."""
    literal = _RUBY.fullmatch(text)
    source, flags = (literal[1], literal[2]) if literal else (text, "")
    if unknown := set(flags) - set("im"):
        raise bad_request(f"Unsupported regular expression option: {''.join(sorted(unknown))}")
    if len(source) > LONGEST:
        raise bad_request(f"A regular expression may have at most {LONGEST} characters")
    options = re2.Options()
    options.max_mem = 1 << 20
    options.log_errors = False
    # In Ruby `^` and `$` are about lines always, and `m` is what others call `s`.
    prefix = "(?m" + ("i" if "i" in flags else "") + ("s" if "m" in flags else "") + ")"
    try:
        return re2.compile(prefix + source.replace(r"\Z", r"\n?\z"), options)
    except (re2.error, UnicodeEncodeError):
        raise bad_request(
            f"Unsupported regular expression: {source} (RE2 syntax; no look-around and no back-references)"
        ) from None


@dataclass(slots=True, eq=False)
class Matching:
    """The condition that a column matches, or does not, which no null does. `look` comes before it is made SQL."""

    noun: str
    column: str
    pattern: Any
    negated: bool
    own: bool  # whether it is about the rows that are listed, or about associated ones
    found: Sequence[int] | None = None

    def __call__(self, frame: Frame) -> str:
        assert self.found is not None
        if not self.found:
            return EVERYTHING_SQL if self.negated else NOTHING_SQL
        matched = frame.dialect.among(f"{frame.alias}.id", self.found, "bigint", frame.parameters)
        return f"NOT ({matched})" if self.negated else matched

    async def look(self, transaction: Transaction, dialect: Dialect, caller: Caller, bounds: Condition) -> None:
        """Finds the rows that match, of those within `bounds` that the caller may see.

        Raises RestError when that is too much work.
        """
        frame = Frame(dialect, dialect.parameters(), caller.kinds)
        visible = ENTITIES[self.noun].visible(frame, caller.tenant)
        column, where = frame.expression(self.column), bounds(frame)
        rows = await transaction.rows(
            f"SELECT t.id, {column} FROM {self.noun} t{frame.joins()}"
            f" WHERE {visible} AND {where} AND {column} IS NOT NULL LIMIT {MOST_ROWS + 1}",
            frame.parameters.values,
        )
        work = sum(len(row[1]) for row in rows) * self.pattern.programsize
        if len(rows) > MOST_ROWS or work > MOST_WORK:
            raise bad_request(
                "The regular expression would have to look at too much text: narrow the list with other filters,"
                " or use a wildcard"
            )
        search = self.pattern.search
        self.found = [row[0] for row in rows if search(row[1])]
