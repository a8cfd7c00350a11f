"""`ledger --loop`: decode loops for the same calls as arms of one run, cold and warm apart."""
