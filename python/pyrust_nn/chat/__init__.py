"""Conversations: the prompts that a model answers, and their rendering by the model's chat template."""
