"""Models and adapters as plans for GGUF files, which the native core writes."""
