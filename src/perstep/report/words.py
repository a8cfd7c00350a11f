"""A run's README: what the numbers mean in words, from a template and the run's own figures."""

from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from perstep._json import Json
from perstep.report import format as fmt
from perstep.report.table import to_markdown


def render(package: str, **values: Json) -> bytes:
    """The `template.md` of a package, filled in; a value that is missing is an error.

    Args:
        package: that of the experiment. Blocks that templates share are under `report/templates`.
        values: what the template names.
    """
    return _template(package).render(**values).encode()


@cache
def _template(package: str) -> Template:
    text = files(package).joinpath("template.md").read_text(encoding="utf-8")
    return _environment().from_string(text)


@cache
def _environment() -> Environment:
    environment = Environment(  # noqa: S701 - the output is Markdown; HTML pages escape by themselves
        loader=PackageLoader("perstep.report", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )
    environment.filters.update(
        duration=fmt.duration,
        percent=fmt.percent,
        signed_percent=fmt.signed_percent,
        significant=fmt.significant,
        plural=fmt.plural,
        markdown=to_markdown,
    )
    return environment


def _shown(value: Json) -> Json:
    """A name from elsewhere is text, not markup."""
    return fmt.as_markdown(value) if isinstance(value, str) else value
