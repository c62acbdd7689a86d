"""What the text alone tells: a classifier of character n-grams, the control for every metric that is validated.

Within a text-matched stratum it must be at chance. Where it is not, a metric may read the text instead of the network.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

FOLDS = 5


def with_text_only(items: pd.DataFrame, targets: Sequence[str], *, seed: int = 0) -> pd.DataFrame:
    """The items with a column `t:TARGET` each: the label's probability by the text, from problems that the classifier
    was not fitted on. Steps and chains of one stratum are fitted together; a step is told by its name and place."""
    found = items.copy()
    for target in targets:
        found[f"t:{target}"] = np.nan
        if target in items:
            for _, part in items[items[target].notna()].groupby("stratum", sort=False):
                found.loc[part.index, f"t:{target}"] = _predicted(part, target, seed)
    return found


def _predicted(part: pd.DataFrame, target: str, seed: int) -> np.ndarray:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline

    texts = (part["problem"] + " | " + part["text"] + " | " + part["step"]).to_numpy(dtype=object)
    labels = part[target].to_numpy(dtype=int)
    groups = part["problem"].to_numpy(dtype=object)
    n_groups = len(set(groups.tolist()))
    predicted = np.full(len(part), np.nan)
    if n_groups < 2:
        return predicted
    folds = GroupKFold(min(FOLDS, n_groups), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for train, test in folds.split(texts, labels, groups):
            if len(set(labels[train].tolist())) < 2:
                predicted[test] = labels[train][0]
                continue
            model = make_pipeline(TfidfVectorizer(analyzer="char", ngram_range=(1, 4)), LogisticRegression(C=10.0))
            predicted[test] = model.fit(texts[train], labels[train]).predict_proba(texts[test])[:, 1]
    return predicted
