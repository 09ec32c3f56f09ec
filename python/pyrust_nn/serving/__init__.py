"""What runs behind `serve`: llama.cpp with files in GGUF (`gguf_models`), or the server of another project (`programs`)."""
