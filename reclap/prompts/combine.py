"""Aggregation rules: one score of a label from the cosines with its several prompts.

Let c_kj be the cosine of a sound with prompt j of label k, of n_k unit embeddings t_kj, and s the
model's factor from cosines to logits. A score is in the scale of cosines, so that the logit is s
times the score whatever the rule. Formulas and sources: ``docs/prompts.md``.
"""

from typing import Literal, TypeAlias, get_args

__all__ = ["RULES", "Rule", "rule_index"]

# In the order of rc_rule in csrc/score/combine.h.
Rule: TypeAlias = Literal[
    "mean_embedding",
    "mean_logit",
    "max",
    "logsumexp",
    "entropy",
    "entropy_batch",
    "relevance",
]
RULES: tuple[Rule, ...] = get_args(Rule)


def rule_index(rule: Rule) -> int:
    """Return the index of a rule in the core; ValueError naming all if there is no such rule."""
    if rule not in RULES:
        raise ValueError(f"combine is {rule!r}, expected one of {', '.join(RULES)}")
    return RULES.index(rule)
