"""llama.cpp answers: a server of its own in a child process (`engine`), and a model in GGUF that answers through it (`model`)."""
