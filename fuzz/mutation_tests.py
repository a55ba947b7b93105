"""The areas that mutants.py draws from, and the test files that belong to a source."""

AREAS = {
    "training": ["reclap/training/*.py"],
    "checks": ["reclap/checks/*.py"],
    "review": ["reclap/review/*.py"],
    "prompts": ["reclap/prompts/*.py", "reclap/model/prompt_cache.py"],
    "score": ["csrc/score/*.c"],
    "store": ["reclap/store/*.py"],
}

# Quick ones first: the first failure ends a run. A file has its own row or that of its folder.
TESTS = {
    "reclap/training": "recipe data run_folder continue_model train",
    "reclap/training/augment.py": "augment settings recipe data training_front",
    "reclap/training/captions.py": "caption_features data train",
    "reclap/training/data.py": "data augment recipe caption_features train",
    "reclap/training/rng.py": "augment settings data recipe",
    "reclap/training/best.py": "validation",
    "reclap/training/callbacks.py": "callbacks",
    "reclap/training/evaluate.py": "evaluate validation recipe",
    "reclap/training/ranking.py": "validation",
    "reclap/training/folder.py": "run_folder continue_model run_folder_states",
    "reclap/training/identity.py": "recipe run_folder continue_model",
    "reclap/training/initial.py": "initial run_folder continue_model",
    "reclap/training/loop.py": "recipe run_folder initial continue_model train run_folder_states",
    "reclap/training/running.py": "callbacks run_folder validation train run_folder_states",
    "reclap/training/recipe.py": "recipe settings evaluate initial run_folder train",
    "reclap/training/sections.py": "recipe data settings evaluate initial run_folder train",
    "reclap/training/spectra.py": "augment data training_front audio",
    "reclap/checks": "checks_scene checks_labels checks_form checks_bank checks_rewrites"
    " prompt_bank review_answers cli",
    "reclap/checks/bank.py": "checks_bank checks_labels review_answers cli",
    "reclap/checks/compare.py": "checks_scene checks_rewrites checks_form checks_bank",
    "reclap/checks/connectives.py": "checks_scene checks_rewrites checks_form checks_bank",
    "reclap/checks/rewrites.py": "checks_rewrites llm_rewrite cli",
    "reclap/checks/scene.py": "checks_scene checks_rewrites checks_form checks_bank",
    "reclap/checks/lexicon.py": "checks_scene checks_rewrites checks_form checks_bank",
    "reclap/review": "review_documents review_session review_answers review_journal review_server",
    "reclap/review/checking.py": "checks_labels review_session review_answers cli",
    "reclap/review/example_sounds.py": "review_answers review_session",
    "reclap/review/history.py": "review_session review_journal review_states",
    "reclap/review/journal.py": "review_journal review_session review_states",
    "reclap/review/neighbours.py": "review_answers review_terminal review_session",
    "reclap/review/regenerate.py": "review_regenerate review_session",
    "reclap/review/server.py": "review_server review_answers review_page",
    "reclap/review/session.py": "review_session review_answers review_journal review_server"
    " review_states review_regenerate",
    "reclap/review/terminal.py": "review_terminal review_answers",
    "reclap/prompts": "prompt_bank banks strategies combine zero_shot eval_prompts",
    "reclap/model/prompt_cache.py": "zero_shot strategies store",
    "reclap/prompts/bank.py": "prompt_bank banks checks_bank review_session zero_shot",
    "reclap/prompts/entries.py": "prompt_bank banks checks_bank review_session zero_shot",
    "reclap/prompts/sampling.py": "prompt_bank banks zero_shot",
    "reclap/prompts/strategies.py": "strategies eval_prompts banks cli",
    "reclap/store": "store caption_features embeddings",
    "csrc/score": "score combine zero_shot eval_prompts",
}


def tests_of(path: str) -> list[str]:
    """Return the test files that belong to a source, by their paths below the checkout."""
    row = TESTS.get(path) or TESTS[path.rpartition("/")[0]]
    return [f"tests/test_{name}.py" for name in row.split()]
