"""What the reference pages say, from the code: `make docs` writes it into them, `make check` sees that it is there."""

import enum
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from fisher_cli.cli.app import app
from fisher_cli.storage.formats import SCHEMA_VERSION, Format
from fisher_cli.tables.registry import TABLES, Table


def glossary() -> str:
    """Every table with its columns: kind, unit, meaning."""
    parts = []
    for each in TABLES.values():
        rows = [
            (f"`{column.name}`", str(column.kind), column.unit, column.description)
            for column in each.with_eigenvalues(1).columns
        ]
        commands = ", ".join(f"`fisher {command}`" for command in each.commands)
        numbered = " Eigenvalues are numbered 1 … K of `--eigenvalues K`." if each.has_eigenvalues else ""
        python = f'; from Python `analysis.frame("{each.name}")`' if each.is_of_run else ""
        head = f"## {each.title}\n\nA row per {each.row}. Made by {commands}, in {_file(each)}{python}.{numbered}\n\n"
        parts.append(head + table(("column", "kind", "unit", "meaning"), rows))
    return "\n" + "\n".join(parts)


def _file(each: Table) -> str:
    return f"`NAME{f'.{each.word}' if each.word else ''}.csv`"


def files() -> str:
    """Every table's file, who writes it, and what it has a row per."""
    rows = [
        (_file(each), ", ".join(f"`{command}`" for command in each.commands), f"{each.title}: a row per {each.row}")
        for each in TABLES.values()
    ]
    rows += [
        ("`NAME.fisher/`, `NAME.compare.fisher/`, …", "all of them", "a folder: the record and the journal, below"),
    ]
    return "\n" + table(("file", "made by", "what it holds"), rows)


def formats() -> str:
    """The forms of a file, from the code, and the version of the record."""
    named = ", ".join(f"`.{each}`" for each in Format if each is not Format.TABLE)
    return f"\nThe suffix says the form: {named}. The record's `schema_version` is {SCHEMA_VERSION}.\n"


def commands() -> str:
    """Every command with its arguments and options."""
    return "\n" + "\n".join(_command(words, command) for words, command in walk(typer.main.get_command(app), "fisher"))


def walk(command: Any, words: str) -> Iterator[tuple[str, Any]]:
    """A command and those below it, with the words that call them."""
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(below, f"{words} {name}")


def _command(words: str, command: Any) -> str:
    context = typer.Context(command, info_name=words)
    usage = " ".join([words, *command.collect_usage_pieces(context)])
    text = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    text = text.replace("Example: fisher", "Example:\n\n```text\n$ fisher") + (
        "\n```" if "Example: fisher" in text else ""
    )
    parts = [f"## `{words}`\n\n{text}\n", f"```text\n{usage}\n```\n"]
    below = getattr(command, "commands", {})
    if below:
        rows = [(f"`{words} {name}`", _first(each.help)) for name, each in below.items()]
        parts.append(table(("command", "what it does"), rows))
    panels: dict[str, list[Any]] = {}
    for each in command.get_params(context):
        if not getattr(each, "hidden", False) and "--help" not in each.opts:
            panels.setdefault(getattr(each, "rich_help_panel", None) or "General", []).append(each)
    for name, found in panels.items():
        rows = [(_spelling(each), _help(each), _default(each, context)) for each in found]
        parts.append(table((name, "", "default"), rows))
    return "\n".join(parts)


def _first(text: str | None) -> str:
    return " ".join((text or "").partition("\n\n")[0].split())


def _spelling(parameter: Any) -> str:
    """`-o, --output FILE`."""
    if parameter.param_type_name == "argument":
        return f"`{parameter.display_name_raw}`"
    value = parameter.metavar or ""
    names = ", ".join(sorted(parameter.opts, key=len))
    off = f" / {', '.join(parameter.secondary_opts)}" if parameter.secondary_opts else ""
    return f"`{names}{f' {value}' if value else ''}{off}`"


def _help(parameter: Any) -> str:
    text = " ".join((parameter.help or "").split())
    variable = getattr(parameter, "envvar", None)
    return f"{text} Environment: `{variable}`." if variable else text


def _default(parameter: Any, context: Any) -> str:
    shown = getattr(parameter, "show_default", None)
    if isinstance(shown, str):
        return shown
    value = parameter.get_default(context, call=False)
    if parameter.required:
        return "required"
    if shown is False or value is None or value in ([], ()) or callable(value):
        return ""
    if isinstance(value, bool):
        on, off = parameter.opts, parameter.secondary_opts
        return f"`{max(on, key=len)}`" if value and off else f"`{max(off, key=len)}`" if off else ""
    if isinstance(value, enum.Enum):
        value = value.value
    return ", ".join(f"`{each}`" for each in value) if isinstance(value, list | tuple) else f"`{value}`"


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; a bar within a cell is escaped."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
