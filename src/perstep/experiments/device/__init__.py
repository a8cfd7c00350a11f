"""What a device does in each part of a step: samples, findings, bounds and tables that `ledger` and `watch` share."""
