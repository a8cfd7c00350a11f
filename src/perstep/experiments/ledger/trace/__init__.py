"""`ledger --trace`: the same tables from a trace that somebody's torch profiler wrote. Measures nothing itself."""
