"""The comparison of strategies and rules runs and covers all of them."""

import json
import sys
from pathlib import Path

import pytest

from reclap.prompts.combine import RULES
from reclap.prompts.strategies import STRATEGIES

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.usefixtures("shared")
def test_all_strategies_and_rules_are_compared(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    sys.modules.pop("eval_prompts", None)
    import eval_prompts

    assert eval_prompts.main(["--seeds", "2", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["prompts"].split(",")[0] for row in rows} == set(STRATEGIES)
    assert {row["combine"] for row in rows} == set(RULES)
    assert len(rows) == 3 + 7 * len(RULES)
    for row in rows:
        assert 0.9 < row["low"] <= row["accuracy"] <= row["high"] <= 1
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]
