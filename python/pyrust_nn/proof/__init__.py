"""The proof that a file is the model that it was made from: `scripts/verify.py` asks these layers, in order of what they find."""
