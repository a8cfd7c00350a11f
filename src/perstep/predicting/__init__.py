"""What a decode step would take that was not measured, with an interval whose coverage was; or a refusal."""
