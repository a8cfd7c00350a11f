"""A run's folder: written a round at a time, locked, resumed, read. Knows no experiment."""

from perstep.runs.catalog import StoredRun, list_runs, open_run
from perstep.runs.files import encode_json, replace_file
from perstep.runs.manifest import MANIFEST, SCHEMA_VERSION, Manifest, Status, read_manifest
from perstep.runs.reader import SAMPLES, Cut, iter_samples, read_samples
from perstep.runs.writer import RUNS, RunWriter, choose_folder, is_being_written

__all__ = [
    "MANIFEST",
    "RUNS",
    "SAMPLES",
    "SCHEMA_VERSION",
    "Cut",
    "Manifest",
    "RunWriter",
    "Status",
    "StoredRun",
    "choose_folder",
    "encode_json",
    "is_being_written",
    "iter_samples",
    "list_runs",
    "open_run",
    "read_manifest",
    "read_samples",
    "replace_file",
]
