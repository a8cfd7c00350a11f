"""Exit codes that are answers; those of errors are the errors' own (docs/exit-codes.md)."""

REGRESSION = 1
NOT_RESOLVED = 3
