"""Models as files: reading, checking, writing and replacing them."""
