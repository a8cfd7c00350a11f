"""A run's folder: written a round at a time, locked, resumed, read. Knows no experiment."""

from perstep.runs.baselines import BASELINES, check_baseline_name, list_baselines, require_baseline, save_baseline
from perstep.runs.catalog import StoredRun, list_runs, open_run, read_runs
from perstep.runs.columns import Column, refuse_unlike
from perstep.runs.files import (
    cannot_write,
    children,
    encode_json,
    is_leftover,
    open_regular,
    read_regular,
    replace_file,
    write_to,
    write_whole,
)
from perstep.runs.lock import is_being_written, locked, take_lock
from perstep.runs.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    Manifest,
    Status,
    changed_manifest,
    read_manifest,
    write_manifest,
)
from perstep.runs.privacy import with_short_paths
from perstep.runs.reader import SAMPLES, Changed, Cut, iter_samples, read_samples
from perstep.runs.writer import RUNS, RunWriter, check_out, next_folder, remove_derived

__all__ = [
    "BASELINES",
    "MANIFEST",
    "RUNS",
    "SAMPLES",
    "SCHEMA_VERSION",
    "Changed",
    "Column",
    "Cut",
    "Manifest",
    "RunWriter",
    "Status",
    "StoredRun",
    "cannot_write",
    "changed_manifest",
    "check_baseline_name",
    "check_out",
    "children",
    "encode_json",
    "is_being_written",
    "is_leftover",
    "iter_samples",
    "list_baselines",
    "list_runs",
    "locked",
    "next_folder",
    "open_regular",
    "open_run",
    "read_manifest",
    "read_regular",
    "read_runs",
    "read_samples",
    "refuse_unlike",
    "remove_derived",
    "replace_file",
    "require_baseline",
    "save_baseline",
    "take_lock",
    "with_short_paths",
    "write_manifest",
    "write_to",
    "write_whole",
]
