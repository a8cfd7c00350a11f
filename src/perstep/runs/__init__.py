"""A run's folder: written a round at a time, locked, resumed, read. Knows no experiment."""

from perstep.runs.baselines import BASELINES, check_baseline_name, list_baselines, require_baseline, save_baseline
from perstep.runs.catalog import StoredRun, list_runs, open_run
from perstep.runs.columns import Column, refuse_unlike
from perstep.runs.files import encode_json, replace_file
from perstep.runs.manifest import MANIFEST, SCHEMA_VERSION, Manifest, Status, read_manifest
from perstep.runs.reader import SAMPLES, Cut, iter_samples, read_samples
from perstep.runs.writer import RUNS, RunWriter, check_out, is_being_written, locked, next_folder

__all__ = [
    "BASELINES",
    "MANIFEST",
    "RUNS",
    "SAMPLES",
    "SCHEMA_VERSION",
    "Column",
    "Cut",
    "Manifest",
    "RunWriter",
    "Status",
    "StoredRun",
    "check_baseline_name",
    "check_out",
    "encode_json",
    "is_being_written",
    "iter_samples",
    "list_baselines",
    "list_runs",
    "locked",
    "next_folder",
    "open_run",
    "read_manifest",
    "read_samples",
    "refuse_unlike",
    "replace_file",
    "require_baseline",
    "save_baseline",
]
