"""What experiments share of a device: time on its stream, and its ceilings."""
