"""Generate docs/reference/ from the sources: configuration.md, jobs.md, api.md.

python scripts/make_reference.py
"""

import ast
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import mfspark
from mfspark import errors, evaluation
from mfspark.cli.commands import help_text
from mfspark.config import rules, sections
from mfspark.config.sections import PipelineConfig
from mfspark.config.study import StudyConfig

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = PROJECT / "docs/reference"
NOTE = "<!-- Made by scripts/make_reference.py from the sources; change it there. -->"


def main() -> None:
    """Run as a command."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Text of each generated page."""
    made = {"configuration.md": configuration_page(), "jobs.md": jobs_page(), "api.md": api_page()}
    return {name: "\n".join([NOTE, *lines]) + "\n" for name, lines in made.items()}


def configuration_page() -> Iterator[str]:
    """Sections and keys, from the dataclasses of mfspark/config."""
    yield from ("# Configuration", "")
    yield (
        "A TOML file, a table for each section; `--set section.key=value` overrides one key. An unknown key or a value "
        "that is not allowed ends a job with exit code 2, before Spark starts. Samples of each kind are in `conf/`."
    )
    by_name = inspect.get_annotations(PipelineConfig) | inspect.get_annotations(StudyConfig)
    for section, owner in by_name.items():
        yield from ("", f"## [{section}]", "", inspect.cleandoc(owner.__doc__), "")
        yield from ("| key | default | values | |", "|---|---|---|---|")
        types, docs = attribute_types(owner), attribute_docs(owner)
        for field in fields(owner):
            doc = docs.get(field.name, "")
            yield f"| `{field.name}` | {shown_default(field)} | {cell(types[field.name])} | {cell(doc)} |"


def attribute_docs(owner: type) -> dict[str, str]:
    """The string after each attribute of a class."""
    return {
        before.target.id: inspect.cleandoc(after.value.value)
        for before, after in pairwise(_body(owner))
        if isinstance(before, ast.AnnAssign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and isinstance(after.value.value, str)
    }


def attribute_types(owner: type) -> dict[str, str]:
    """The type of each attribute as its source says it, in words."""
    return {node.target.id: in_words(node.annotation) for node in _body(owner) if isinstance(node, ast.AnnAssign)}


def _body(owner: type) -> list[ast.stmt]:
    """The statements of a class, those of the classes that it extends first."""
    classes = [base for base in reversed(owner.__mro__) if base is not object]
    return [statement for base in classes for statement in ast.parse(inspect.getsource(base)).body[0].body]


def in_words(annotation: ast.expr) -> str:
    """The values that an annotation allows, in words."""
    if isinstance(annotation, ast.BinOp):
        return f"{in_words(annotation.left)} or {in_words(annotation.right)}"
    if isinstance(annotation, ast.Constant):
        return "not set"
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        choices = ast.literal_eval(annotation.slice)
        return listed(choices if isinstance(choices, tuple) else (choices,))
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        return in_words(annotation.slice.elts[0])
    name = ast.unparse(annotation)
    if name in ("DuplicatePolicy", "ListLayout", "SplitMethod", "Metric"):
        return listed(getattr(rules if name == "Metric" else sections, name).__args__)
    return WORDS.get(name, f"`{name}`")


def listed(choices: tuple[Any, ...]) -> str:
    """Values as TOML."""
    return ", ".join(f"`{json.dumps(choice)}`" for choice in choices)


WORDS = {
    "Name": "text",
    "Paths": "a list of texts",
    "list[Name]": "a list of texts",
    "Rules": "a rule or a list of rules",
    "Fold": "whole number or text",
    "Bounds": "a list of two numbers",
    "dict[Name, Choice]": "a table of texts, numbers and booleans",
    "dict[Name, SourceConfig]": "tables with the keys `path` to `recursive` of this one",
    "ItemColumnsConfig": "a table: `path` to `recursive` as in `[input]`, `id` and `columns`",
    "ItemNamesConfig": "a table: `path` to `recursive` as in `[input]`, `id` and `name`",
    "Annotated[str, Field(strict=True)]": "text",
    "Flag": "true, false",
    "Share": "0 to 1",
    "SplitShare": "0 up to 1",
    "PositiveInt": "whole number ≥ 1",
    "AtLeastTwo": "whole number ≥ 2",
    "Folds": "1 to 100",
    "TuneSeed": "whole number ≥ 0",
    "NonNegativeInt": "whole number ≥ 0",
    "Rank": "1 to 16384",
    "Bytes": "bytes ≥ 0",
    "PositiveFloat": "> 0",
    "NonNegativeFloat": "≥ 0",
    "Seed": "whole number",
    "Space": "a list or a range for each setting",
}
"""The types of mfspark/config."""


def shown_default(field: Any) -> str:
    """The default, as TOML has it."""
    default = field.default if field.default_factory is MISSING else field.default_factory()
    if default is MISSING:
        return "required"
    return "not set" if default is None else f"`{json.dumps(default)}`"


def cell(text: str) -> str:
    """Text on one line, escaped for a table cell."""
    return " ".join(text.split()).replace("|", "\\|")


def jobs_page() -> Iterator[str]:
    """Jobs, flags and exit codes: the jobs' docstrings, --help, and the tree of errors."""
    yield from ("# Jobs", "", "| job | |", "|---|---|")
    jobs = sorted((PROJECT / "jobs").glob("*.py"))
    for job in jobs:
        yield f"| `jobs/{job.name}` | {cell(ast.get_docstring(ast.parse(job.read_text(encoding='utf-8'))))} |"
    yield from ("", "Start jobs with `spark-submit`; put its own flags before the job's file.", "")
    usage = subprocess.run(
        [sys.executable, PROJECT / "jobs/run_pipeline.py", "--help"],
        env={"PYTHONPATH": str(PROJECT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    yield from (
        "```text",
        usage.stdout.rstrip(),
        "```",
        "",
        "## The command mfspark",
        "",
        "```text",
        help_text(),
        "```",
    )
    yield from ("", "## Exit codes", "", "```text")
    _, _, tree = (errors.__doc__ or "").partition("::\n\n")
    yield from ("    0  done", "    1  unexpected error: a defect", "", tree.partition("\n\n")[0], "```", "")
    yield "One line on stderr says what is wrong, what was found, what is expected and what to do; the traceback is in"
    yield "the log file that it names. [Recover](../howto/recover.md) says what to do for each code."


def api_page() -> Iterator[str]:
    """Public classes and methods with their signatures and docstrings."""
    yield from ("# Python", "", "Members inherited from pyspark.ml are listed only if mfspark documents them.")
    for name in mfspark.__all__:
        owner = getattr(mfspark, name)
        if callable(owner):
            yield from documented(f"## mfspark.{name}", name, owner)
        if inspect.isclass(owner):
            for method, member in vars(owner).items():
                if not method.startswith("_") and (callable(member) or isinstance(member, property | classmethod)):
                    yield from documented(f"### {name}.{method}", method, unwrapped(member))
    yield from ("", "## mfspark.evaluation", "", str(inspect.getdoc(evaluation)))
    for name, member in vars(evaluation).items():
        if inspect.isfunction(member) and member.__module__ == evaluation.__name__ and not name.startswith("_"):
            yield from documented(f"### evaluation.{name}", name, member)


def unwrapped(member: Any) -> Any:
    """The function of a property or class method."""
    if isinstance(member, property):
        return member.fget
    return member.__func__ if isinstance(member, classmethod) else member


def documented(heading: str, name: str, member: Any) -> Iterator[str]:
    """Heading, signature and unchanged docstring."""
    doc = inspect.getdoc(member)
    if doc:
        yield from ("", heading, "", "```text", f"{name}{signature(member)}", "", doc, "```")


def signature(member: Any) -> str:
    """Parameters with their defaults; types are in the docstring."""
    found = inspect.signature(member)
    kept = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in found.parameters.values()
        if parameter.name != "self"
    ]
    return str(found.replace(parameters=kept, return_annotation=inspect.Signature.empty))


if __name__ == "__main__":
    main()
