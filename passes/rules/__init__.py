"""One file a family of forms; ``registry.py`` finds them."""
