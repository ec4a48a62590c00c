"""What goes wrong with images that their user can put right."""


class ImageError(ValueError):
    """A name, a file, a package or a missing program; its message is one line with the remedy."""
