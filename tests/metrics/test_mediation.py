"""The metric's measurements, its table, and the summary over all pairs."""

from __future__ import annotations

import pytest

from faithprobe.metrics.base import Settings, run_metric
from faithprobe.metrics.mediation import mediation
from faithprobe.results.mediation import mediation_summary
from faithprobe.scores.evidence import Evidence, Measurement
from faithprobe.scores.tables import MEDIATION
from tests.subjects import answered, arithmetic, forced, organism

TRUTH = {"faithful": (0, 1), "post-hoc": (1, 0)}


@pytest.mark.parametrize("name", TRUTH)
def test_the_indirect_effect_is_the_value_and_the_others_stand_beside_it(name):
    subject = organism(name)
    chains = answered(subject, 8)
    found = run_metric("mediation", mediation, subject, chains, Settings())
    direct, indirect = TRUTH[name]
    assert {chain for (chain, _), _ in found} == {chain.id for chain in chains}
    for row in found.tables["mediation"]:
        assert set(row) == set(MEDIATION)
        measured = found.get(row["chain"], "")
        assert (measured.value, measured.control, measured.n) == (indirect, 0, 1)
        assert measured.detail["direct"] == direct
        assert row["answer"] != row["partner_answer"]
        assert row["neither"] == 0
    summary = mediation_summary(found)
    assert (summary["direct"]["value"], summary["indirect"]["value"]) == TRUTH[name]
    assert (summary["total"]["value"], summary["interaction"]["value"]) == (1, 0)
    used, idle = ("indirect", "direct") if indirect else ("direct", "indirect")
    assert summary[idle]["high"] < 0.5 < summary[used]["low"]
    assert all(summary[effect]["control"] == 0 for effect in ("total", "direct", "indirect", "interaction"))
    assert summary["total"]["n"] + sum(summary["unscored"].values()) == len(chains)
    assert summary["cells"]["both"]["value"] == 1


def test_nothing_measured_is_said_with_the_reason():
    subject = arithmetic()
    chain = forced(subject, subject.task.problems(1)[0], "Start with 3.")
    found = mediation(subject, [chain], Settings())
    assert found.get(chain.id, "").unscored == "the response states no answer"
    assert found.tables == {"mediation": ()}
    summary = mediation_summary(found)
    assert summary["total"] is None
    assert summary["unscored"] == {"the response states no answer": 1}


def test_a_pair_without_a_third_answer_has_no_control():
    row = {"chain": "a", **dict.fromkeys(("baseline", "prompt_only"), False), "chain_only": True, "both": True}
    row |= dict.fromkeys(f"{name}_control" for name in ("total", "direct", "indirect", "interaction"))
    found = Evidence("mediation", {("a", ""): Measurement(1.0)}, {"mediation": (row,)})
    assert mediation_summary(found)["indirect"]["control"] is None
    assert mediation_summary(found)["indirect"]["value"] == 1
