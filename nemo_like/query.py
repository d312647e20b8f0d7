"""The small language that selects rollouts: `reward < 0.5 and tool == "search"`.

    query = Query.parse('not success and "timeout" in answer')
    query.matches({"success": False, "answer": "a timeout", …})      # True
    where, arguments = query.sql({"success": "e.success", "answer": "t.answer"})

Fields, numbers, text in either kind of quotes, true, false and null; `== != < <= > >=`, `in` and `not in`
(a part of a text, an element of a list), `and`, `or`, `not`, brackets. A field may be a path, such as
`metadata.total_s` or `usage/output_tokens`. What a rollout does not have is null: equal to null alone, and
neither less nor more than anything.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from nemo_like.errors import UsageError, did_you_mean

MAX_CHARACTERS = 2000
MAX_DEPTH = 50
"""How deep `not` and brackets may be nested: SQL has a limit of its own."""
LITERALS = {"true": True, "false": False, "null": None, "none": None}
ORDER: dict[type[ast.cmpop], str] = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
Sql = tuple[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query; without a text it selects everything."""

    text: str
    _tree: ast.expr | None

    @classmethod
    def parse(cls, text: str) -> Query:
        """Read a query.

        Raises:
            UsageError: what can't be read, and where.
        """
        text = text.strip()
        if not text:
            return cls("", None)
        if len(text) > MAX_CHARACTERS:
            raise UsageError(f"the query is longer than {MAX_CHARACTERS} characters")
        try:
            tree = ast.parse(_as_python(text), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            at = f" at character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
            raise UsageError(f"the query can't be read{at}: {text}") from error
        _check(tree, text, MAX_DEPTH)
        return cls(text, tree)

    @property
    def fields(self) -> set[str]:
        """The fields that it asks about."""
        if self._tree is None:
            return set()
        nodes = [*ast.walk(self._tree)]
        inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
        return {path for node in nodes if id(node) not in inner and (path := _path(node)) is not None}

    def matches(self, values: Mapping[str, Any]) -> bool:
        """Whether a rollout with these values (by field, or nested) is selected."""
        return self._tree is None or bool(_evaluate(self._tree, lambda path: _lookup(values, path)))

    def sql(self, columns: Mapping[str, str], other: Callable[[str], str] | None = None) -> Sql:
        """The condition in SQL, and its arguments; `columns`: field → SQL expression, `other` makes one of
        any other field.

        Raises:
            UsageError: it asks about a field that is not known.
        """
        if self._tree is None:
            return "1", []

        def column(path: str) -> str:
            if path in columns:
                return columns[path]
            if other is not None and path not in columns:
                return other(path)
            raise UsageError(f"there is no field '{path}'{did_you_mean(path, [*columns])}")

        return _to_sql(self._tree, column)


def _as_python(text: str) -> str:
    """`usage/output_tokens` as an attribute path; quoted text stays as it is."""
    parts = re.split(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""", text)
    for at in range(0, len(parts), 2):
        parts[at] = re.sub(r"(?<=[A-Za-z_0-9])[/.@](?=[A-Za-z_])", ".", parts[at])
        parts[at] = re.sub(r"(?<![=<>!])=(?!=)", "==", parts[at])
        parts[at] = re.sub(r"\bAND\b|&&", " and ", parts[at])
        parts[at] = re.sub(r"\bOR\b|\|\|", " or ", parts[at])
    return "".join(parts).replace("\n", " ")


def _check(node: ast.expr, text: str, depth: int) -> None:
    """Refuse whatever is not of this language."""
    if not depth:
        raise UsageError(f"the query is nested more than {MAX_DEPTH} deep: {text}")
    match node:
        case ast.BoolOp(values=values):
            parts = values
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            parts = [operand]
        case ast.Compare(left=left, ops=ops, comparators=right):
            known = (ast.Eq, ast.NotEq, ast.In, ast.NotIn, *ORDER)
            if len(ops) != 1 or not isinstance(ops[0], known):
                raise UsageError(f"the query compares more than two things at once: {ast.unparse(node)}")
            parts = [left, *right]
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            pass
        case ast.Constant(value=int(value)) if value.bit_length() > 63:
            raise UsageError(f"the query holds too large a number: {text}")
        case ast.Constant(value=str() | int() | float() | bool() | None):
            return
        case ast.Name() | ast.Attribute() if _path(node) is not None or isinstance(node, ast.Name):
            return
        case _:
            raise UsageError(f"'{ast.unparse(node)}' is not part of a query: {text}")
    for part in parts:
        _check(part, text, depth - 1)


def _path(node: ast.AST) -> str | None:
    """The field that a node names."""
    if isinstance(node, ast.Name):
        return None if node.id.lower() in LITERALS else node.id
    if isinstance(node, ast.Attribute):
        before = _path(node.value)
        return None if before is None else f"{before}/{node.attr}"
    return None


def _lookup(values: Mapping[str, Any], path: str) -> Any:
    if path in values:
        return values[path]
    value: Any = values
    for name in path.split("/"):
        value = cast(Mapping[str, Any], value).get(name) if isinstance(value, Mapping) else None
    return value


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return LITERALS[node.id.lower()]
    if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
        value = node.operand.value
        return -value if isinstance(value, int | float) else None
    return node.value if isinstance(node, ast.Constant) else None


def _evaluate(node: ast.expr, field: Callable[[str], Any]) -> Any:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            return all(_evaluate(value, field) for value in values)
        case ast.BoolOp(values=values):
            return any(_evaluate(value, field) for value in values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _evaluate(operand, field)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _compare(op, _evaluate(left, field), _evaluate(right, field))
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_evaluate(item, field) for item in items]
        case _:
            path = _path(node)
            return _literal(node) if path is None else field(path)


def _compare(op: ast.cmpop, left: Any, right: Any) -> bool:
    match op:
        case ast.Eq():
            return _equal(left, right)
        case ast.NotEq():
            return not _equal(left, right)
        case ast.In() | ast.NotIn():
            return _is_in(left, right) == isinstance(op, ast.In)
        case _:
            if not any(isinstance(left, kind) and isinstance(right, kind) for kind in (str, int | float)):
                return False
            sign = ORDER[type(op)]
            return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[sign]


def _equal(left: Any, right: Any) -> bool:
    for some, other in ((left, right), (right, left)):
        # A field of several values, such as the tools that were used, equals each of them.
        if isinstance(some, list | tuple | set) and not isinstance(other, list | tuple | set):
            return other in cast(list[Any], some)
    return left == right


def _is_in(left: Any, right: Any) -> bool:
    if isinstance(right, str):
        return isinstance(left, str) and left.casefold() in right.casefold()
    return isinstance(right, list | tuple | set) and left in cast(list[Any], right)


def _to_sql(node: ast.expr, column: Callable[[str], str]) -> Sql:
    match node:
        case ast.BoolOp(op=op, values=values):
            parts = [_to_sql(value, column) for value in values]
            word = " AND " if isinstance(op, ast.And) else " OR "
            return f"({word.join(sql for sql, _ in parts)})", [a for _, some in parts for a in some]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            sql, arguments = _to_sql(operand, column)
            return f"(NOT coalesce({sql}, 0))", arguments
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _compare_sql(op, left, right, column)
        case _:
            path = _path(node)
            if path is not None:
                return f"coalesce({column(path)}, 0)", []
            return "?", [_literal(node)]


def _operand(node: ast.expr, column: Callable[[str], str]) -> Sql:
    path = _path(node)
    return ("?", [_literal(node)]) if path is None else (column(path), [])


def _compare_sql(op: ast.cmpop, left: ast.expr, right: ast.expr, column: Callable[[str], str]) -> Sql:
    if isinstance(op, ast.In | ast.NotIn):
        sql, arguments = _in_sql(left, right, column)
        return (sql, arguments) if isinstance(op, ast.In) else (f"(NOT {sql})", arguments)
    (a, some), (b, more) = _operand(left, column), _operand(right, column)
    arguments = some + more
    if "tool" in (_path(left), _path(right)) and isinstance(op, ast.Eq | ast.NotEq):
        text, name = (a, more) if _path(left) == "tool" else (b, some)
        sql = f"(instr(coalesce({text}, ''), char(10) || ? || char(10)) > 0)"
        return (sql if isinstance(op, ast.Eq) else f"(NOT {sql})"), name
    if isinstance(op, ast.Eq | ast.NotEq):
        return f"({a} {'IS' if isinstance(op, ast.Eq) else 'IS NOT'} {b})", arguments
    # Text and numbers have no order between them.
    kinds = f"(typeof({a}) = 'text') = (typeof({b}) = 'text')"
    return f"({kinds} AND {a} {ORDER[type(op)]} {b})", arguments + arguments


def _in_sql(left: ast.expr, right: ast.expr, column: Callable[[str], str]) -> Sql:
    sql, arguments = _operand(left, column)
    if isinstance(right, ast.List | ast.Tuple):
        marks = ", ".join("?" for _ in right.elts)
        return f"coalesce({sql} IN ({marks}), 0)", arguments + [_literal(item) for item in right.elts]
    path = _path(right)
    if path is None:
        return f"coalesce(instr(lower(?), lower({sql})) > 0, 0)", [_literal(right), *arguments]
    if path == "tool":
        return f"(instr(coalesce({column(path)}, ''), char(10) || {sql} || char(10)) > 0)", arguments
    return f"coalesce(instr(lower({column(path)}), lower({sql})) > 0, 0)", arguments
