"""Models, adapters and tokenizers: where they come from, and how they are loaded, combined and saved."""
