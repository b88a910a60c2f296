"""What aliascope raises when the input, not the program, is at fault.

Every message is one sentence that names the offending value and the remedy; the command line
prints it without a traceback.
"""


class AliascopeError(Exception):
    """Base of every error that a user can mend."""


class ImageError(AliascopeError):
    """An image or a source of images that cannot be used."""


class ModelError(AliascopeError):
    """A model that cannot be found, loaded, run or changed."""


class RunError(AliascopeError):
    """A run directory that cannot be written, read, resumed or compared."""
