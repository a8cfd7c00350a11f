"""The operators of one decoder layer, one by one: what `ops` times."""
