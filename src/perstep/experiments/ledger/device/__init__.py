"""What a device does in each part of a step: kernels by part, their bounds, and the tables."""
