"""Prompts that stand for labels: banks of them, ways to make them, rules to combine them."""
