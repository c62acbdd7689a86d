"""One file a metric: from a subject and its chains to evidence, one measurement a step and chain."""
