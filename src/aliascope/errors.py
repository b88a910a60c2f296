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


def extra_missing(error: ModuleNotFoundError, package: str, extra: str) -> Exception:
    """What to raise where the package of an extra cannot be imported; another's error is its own.

    >>> print(extra_missing(ModuleNotFoundError(name="gradio"), "gradio", "explorer"))
    gradio is missing, which is in an extra: pip install 'aliascope[explorer]'
    """
    if (error.name or "").partition(".")[0] != package:
        return error
    return AliascopeError(
        f"{package} is missing, which is in an extra: pip install 'aliascope[{extra}]'"
    )
