"""A run's README: what the numbers mean in words, from a template and the run's own figures."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from perstep.report import format as fmt
from perstep.report.table import to_markdown


def render(template: str, **values: Any) -> bytes:
    """The template of this name under `report/templates`, filled in; a value that is missing is an error."""
    environment = Environment(  # noqa: S701 - the output is Markdown; HTML pages escape by themselves
        loader=PackageLoader("perstep.report", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        duration=fmt.duration,
        percent=fmt.percent,
        signed_percent=fmt.signed_percent,
        significant=fmt.significant,
        plural=fmt.plural,
        markdown=to_markdown,
    )
    return environment.get_template(template).render(**values).encode()
