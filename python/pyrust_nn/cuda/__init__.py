"""What training on a GPU replaces in the libraries' models, and puts back."""
