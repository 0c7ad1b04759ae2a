"""One file a family of forms; ``registry.py`` lists them."""
