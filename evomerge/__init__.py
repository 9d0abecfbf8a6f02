"""Search for the recipe that merges fine-tuned language models and breaks no skill."""
