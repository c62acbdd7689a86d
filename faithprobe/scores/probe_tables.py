"""The tables of a probe run: columns and units. Whoever writes or draws one looks here.

Every `low`/`high` is a 95% interval clustered by operand combination, of items that no probe was fitted on.
"""

from __future__ import annotations

SOURCES: dict[str, str] = {
    "step": "name of the step in the reference graph",
    "position": "before, ahead, predicting",
    "target": "what is read: class, last digit, parity, mod 3 (classes); value (a number)",
    "measure": "bits of usable information (classes) or R2 (value)",
    "layer": "index of the block whose residual output is read",
    "source": "activations; controls of equal rank: text, text-linear, embedding, random twin, shuffled; control task "
    "(accuracy alone); beyond control: activations minus the largest control",
    "score": "in the unit of `measure`; missing for control task",
    "low": "of score; for shuffled, the 2.5% quantile of the shuffles",
    "high": "of score; for shuffled, the 97.5% quantile of the shuffles",
    "accuracy": "held-out accuracy; missing for value; for beyond control: selectivity, activations - control task",
    "accuracy_low": "of accuracy",
    "accuracy_high": "of accuracy",
    "control": "for beyond control: which control is the largest, or none; else empty",
    "entropy": "bits of the target, given training label frequencies; missing for value",
    "chance": "accuracy of the most frequent class; missing for value",
    "n": "held-out operand combinations",
    "items": "held-out items",
    "n_train": "training items",
    "chosen": "the layer of the smallest cross-validated error on training items, for this step, position and target",
}

POINTWISE: dict[str, str] = {
    "chain": "id of the chain",
    "step": "name of the step in the reference graph",
    "position": "before, ahead, predicting",
    "target": "a class target",
    "layer": "the chosen layer",
    "bits": "pointwise usable information of the activations, held out",
    "control_bits": "of the largest control",
    "surprisal": "-log2 of the label's training frequency: the most that bits can be",
    "computed": "D: (bits - control_bits) / entropy, in [0, 1]",
}
