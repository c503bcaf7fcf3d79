"""A planted error: a slip a developer could make, as a small edit of the syntax tree of one module of the package.

An edit is a pattern and what takes its place, both Python. It may begin with where it is, `in Class.method: pattern`;
a name such as `_A` in it stands for any expression, the same wherever it comes again. So it finds its place whatever
the layout, the comments and the names around it are. What is no whole expression or statement is edited as text.
"""

import ast
import contextlib
import copy
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "fisher_cli"
# The modules whose `check` looks at every trace as it is made.
CHECKS = ("curvature.gradient_norms.verification", "curvature.traces.coverage_ledger")
# Those that are planted in what checks and what is checked with them on.
OF_CHECKS = (*CHECKS, "curvature.problem.batch_independence")

_WHERE = re.compile(r"in ([\w.]+): (.*)", re.DOTALL)
_WILDCARD = re.compile(r"_[A-Z]")
_Found = dict[str, ast.AST]


class StaleMutationError(Exception):
    """What an edit replaces does not occur exactly once."""


@dataclass(frozen=True)
class Mutation:
    """A planted error: edits (original, replacement) of one module, and the file or test that is to catch it."""

    name: str
    place: str
    module: str
    edits: tuple[tuple[str, str], ...]
    tests: str

    @property
    def is_in_a_check(self) -> bool:
        """Whether the error is in one of the run-time checks, which must then be on."""
        return self.module in OF_CHECKS

    def planted(self, root: Path) -> tuple[str, ast.Module]:
        """The module of the package in this folder that has what is edited, and its syntax tree with the error.

        It is the mutation's own, or the only one beside it, where the code has moved.

        Raises:
            StaleMutationError: it is in none of them, or in several of those beside its own.
        """
        own = root.joinpath(*f"{PACKAGE}.{self.module}".split(".")).with_suffix(".py")
        try:
            return self.module, self.applied(own.read_text() if own.exists() else "")
        except StaleMutationError:
            found = dict[str, ast.Module]()
            for path in own.parent.glob("*.py"):
                with contextlib.suppress(StaleMutationError):
                    found[".".join([*self.module.split(".")[:-1], path.stem])] = self.applied(path.read_text())
            if len(found) != 1:
                raise
            return found.popitem()

    def applied(self, source: str) -> ast.Module:
        """The syntax tree of the source with the error in it.

        Raises:
            StaleMutationError: an original is gone, or there are several of it.
        """
        whole = ast.parse(source)
        in_tree = [edit for edit in self.edits if _places(whole, edit) == 1]
        for original, replacement in self.edits:
            if (original, replacement) in in_tree:
                continue
            if source.count(original) != 1:
                found = _places(whole, (original, replacement)) or source.count(original)
                msg = f"{self.name}: {found} times in {self.module}: {original!r}"
                raise StaleMutationError(msg)
            source = source.replace(original, replacement)
        tree = whole if len(in_tree) == len(self.edits) else ast.parse(source)
        for edit in in_tree:
            scope, pattern, replaced = _read(tree, edit)
            assert scope is not None
            _Edit(pattern, replaced).visit(scope)
        return ast.fix_missing_locations(tree)


def pairs(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Edits (original, replacement) of texts that take turns."""
    return tuple(zip(texts[::2], texts[1::2], strict=True))


class _Edit(ast.NodeTransformer):
    """Puts the replacement where the pattern is; without a pattern or a place it changes nothing."""

    def __init__(self, pattern: Sequence[ast.AST], replacement: Sequence[ast.AST] | None = None) -> None:
        self._pattern, self._replacement = pattern, replacement
        self.found = 0

    def visit(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        if isinstance(self._pattern[0], ast.expr):
            bound = _matched(self._pattern[0], node, {})
            if bound is not None:
                self.found += 1
                return node if self._replacement is None else self._filled(bound)[0]
            return node
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(node, name, None)
            if isinstance(statements, list):
                self._visit_statements(statements)
        return node

    def _visit_statements(self, statements: list[ast.AST]) -> None:
        length = len(self._pattern)
        for start in range(len(statements) - length, -1, -1):
            bound: _Found | None = {}
            for pattern, statement in zip(self._pattern, statements[start : start + length], strict=True):
                bound = bound if bound is None else _matched(pattern, statement, bound)
            if bound is not None:
                self.found += 1
                if self._replacement is not None:
                    statements[start : start + length] = self._filled(bound) or [ast.Pass()]

    def _filled(self, bound: _Found) -> list[ast.AST]:
        assert self._replacement is not None
        return [_Fill(bound).visit(copy.deepcopy(node)) for node in self._replacement]


class _Fill(ast.NodeTransformer):
    def __init__(self, bound: _Found) -> None:
        self._bound = bound

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._bound.get(node.id, node)


def _matched(pattern: object, node: object, bound: _Found) -> _Found | None:
    """What the wildcards of a pattern stand for where it is this node, or None; loading and storing are alike."""
    if isinstance(pattern, ast.Name) and _WILDCARD.fullmatch(pattern.id) and isinstance(node, ast.expr):
        if pattern.id in bound and ast.dump(bound[pattern.id]) != ast.dump(node):
            return None
        return bound | {pattern.id: node}
    if isinstance(pattern, list) and isinstance(node, list) and len(pattern) == len(node):
        found: _Found | None = bound
        for one, other in zip(pattern, node, strict=True):
            found = found if found is None else _matched(one, other, found)
        return found
    if isinstance(pattern, ast.AST) and type(pattern) is type(node):
        found = bound
        for name, part in ast.iter_fields(pattern):
            if name != "ctx":
                found = found if found is None else _matched(part, getattr(node, name), found)
        return found
    return bound if not isinstance(pattern, ast.AST | list) and pattern == node else None


def _places(tree: ast.Module, edit: tuple[str, str]) -> int:
    """How often an original is found in the tree; 0 also where it is no whole expression or statement."""
    try:
        scope, pattern, _ = _read(tree, edit)
    except SyntaxError:
        return 0
    if scope is None:
        return 0
    found = _Edit(pattern)
    found.visit(scope)
    return found.found


def _read(tree: ast.Module, edit: tuple[str, str]) -> tuple[ast.AST | None, Sequence[ast.AST], Sequence[ast.AST]]:
    """The part of the tree that an edit is for, None if there is none of its name, its pattern and its replacement.

    Two expressions, where both are, else statements.
    """
    told = _WHERE.fullmatch(edit[0])
    scope = tree if told is None else next((node for name, node in _named(tree, "") if name == told[1]), None)
    pattern, replaced = (
        ast.parse(textwrap.dedent(text)).body for text in (edit[0] if told is None else told[2], edit[1])
    )
    both = [each for each in (*pattern, *replaced) if isinstance(each, ast.Expr)]
    if len(pattern) == len(replaced) == 1 and len(both) == 2:
        return scope, [both[0].value], [both[1].value]
    return scope, pattern, replaced


def _named(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield prefix + child.name, child
            yield from _named(child, f"{prefix}{child.name}.")
        else:
            yield from _named(child, prefix)
