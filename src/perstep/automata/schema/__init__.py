"""JSON schemas as byte automata."""

from perstep.automata.schema.compiler import json_schema
from perstep.automata.schema.formats import FORMATS

__all__ = ["FORMATS", "json_schema"]
