"""Regular expressions in filters, evaluated by RE2 in the gateway: in linear time, with limits on rows and work.

Patterns come from clients and may be hostile. They are not passed to SQL, because the engines of the two databases
differ, and PostgreSQL's does not bound the time that a pattern takes. The gateway fetches the texts, searches them, and
makes a condition on the ids of the rows that matched.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import re2

from gateway.access.caller import Caller
from gateway.reads.conditions import FALSE_SQL, TRUE_SQL, Condition, Frame
from gateway.reads.dialects import Dialect
from gateway.reads.entities import ENTITIES
from gateway.rest.errors import RestError, bad_request
from gateway.store.database import Transaction

MAX_PATTERNS = 20  # of one request; compiling one takes up to 5 ms, and usually 0.2 ms
MAX_PATTERN_LENGTH = 1_000  # characters of a pattern
MAX_ROWS = 10_000  # that one pattern searches
MAX_SEARCHES = 50_000  # rows that all patterns of a request search, together; each takes about 1 us
MAX_WORK = 20_000_000  # characters times instructions of the pattern, together; each takes 0.1 ns, 7 ns at worst
_SLICE = 500  # rows that are searched without a pause

_RUBY = re.compile(r"/(.*)/([a-z]*)", re.DOTALL)


def compile_pattern(text: str) -> Any:
    """Compiles `/re/i` or a bare text, as Ruby would read it. Raises RestError."""
    literal = _RUBY.fullmatch(text)
    source, flags = (literal[1], literal[2]) if literal else (text, "")
    if unknown := set(flags) - set("im"):
        raise bad_request(f"The regular expression option '{''.join(sorted(unknown))}' is not supported.")
    if len(source) > MAX_PATTERN_LENGTH:
        raise bad_request(f"A regular expression may have at most {MAX_PATTERN_LENGTH} characters.")
    options = re2.Options()
    options.max_mem = 1 << 20
    options.log_errors = False
    # In Ruby `^` and `$` always match at lines, and the option `m` means what RE2 calls `s`.
    prefix = "(?m" + ("i" if "i" in flags else "") + ("s" if "m" in flags else "") + ")"
    try:
        return re2.compile(prefix + source.replace(r"\Z", r"\n?\z"), options)
    except (re2.error, UnicodeEncodeError):
        raise bad_request(
            f"The regular expression '{source}' is not valid RE2 syntax. RE2 has no look-around and no back-references."
        ) from None


@dataclass(slots=True)
class SearchBudget:
    """What the patterns of one request may still search."""

    searches: int = MAX_SEARCHES
    work: int = MAX_WORK

    def spend(self, searches: int, work: int) -> None:
        """Counts rows, and characters times instructions. Raises RestError if that exceeds the budget."""
        self.searches -= searches
        self.work -= work
        if self.searches < 0:
            raise bad_request(
                f"The regular expressions would have to search more than {MAX_SEARCHES} rows in all. Narrow the list"
                " with other filters, or use fewer regular expressions."
            )
        if self.work < 0:
            raise _too_much_text()


def _too_much_text() -> RestError:
    return bad_request(
        "The regular expression would have to search too much text. Narrow the list with other filters,"
        " or use a wildcard."
    )


@dataclass(slots=True, eq=False)
class RegexCondition:
    """The condition that a column matches, or, if `negated`, does not match. Null does not match.

    `compile` and `search_rows` must be called before it becomes SQL.
    """

    noun: str
    column: str
    text: str
    negated: bool
    own_rows: bool  # the column belongs to the listed rows, not to associated ones
    pattern: Any = None
    matched_ids: Sequence[int] | None = None

    def compile(self) -> None:
        """Compiles the pattern, which takes up to 5 ms. Raises RestError."""
        self.pattern = compile_pattern(self.text)

    def __call__(self, frame: Frame) -> str:
        assert self.matched_ids is not None
        if not self.matched_ids:
            return TRUE_SQL if self.negated else FALSE_SQL
        matched = frame.dialect.in_list(f"{frame.alias}.id", self.matched_ids, "bigint", frame.parameters)
        return f"NOT ({matched})" if self.negated else matched

    async def search_rows(
        self, transaction: Transaction, dialect: Dialect, caller: Caller, bounds: Condition, budget: SearchBudget
    ) -> None:
        """Searches the rows that meet `bounds` and that the caller may see.

        Raises RestError if there are too many rows or too much text, for this pattern or for the budget of the request.
        """
        frame = Frame(dialect, dialect.parameters(), caller.readable_kinds)
        visible = ENTITIES[self.noun].visible(frame, caller.tenant)
        column, where = frame.expression(self.column), bounds(frame)
        rows = await transaction.rows(
            f"SELECT t.id, {column} FROM {self.noun} t{frame.joins()}"
            f" WHERE {visible} AND {where} AND {column} IS NOT NULL LIMIT {MAX_ROWS + 1}",
            frame.parameters.values,
        )
        if len(rows) > MAX_ROWS:
            raise _too_much_text()
        budget.spend(len(rows), sum(len(row[1]) for row in rows) * self.pattern.programsize)
        search, matched = self.pattern.search, []
        for start in range(0, len(rows), _SLICE):
            await transaction.pause()
            matched += [row[0] for row in rows[start : start + _SLICE] if search(row[1])]
        self.matched_ids = matched
