"""The embedded photographs: real ones that scikit-image and scikit-learn ship in their wheels."""

import hashlib
from collections.abc import Iterator
from functools import cache, partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import PIL.Image

from aliascope.errors import ImageError
from aliascope.images.decoding import Decoded, decode, explained
from aliascope.images.source import Entry, ImageSource

CROP = 256
"""Side of the squares that the photographs are cut into, in pixels.

The usual evaluation transform (short side to 256, centre 224 × 224) then hands the network a
224 × 224 crop of the photograph's own pixels; 224-pixel squares would first be enlarged to 256,
which takes away the very frequencies that alias.
"""

PHOTOS = {
    "skimage/data": [
        "astronaut.png",
        "brick.png",
        "camera.png",
        "chelsea.png",
        "clock_motion.png",
        "coffee.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "moon.png",
        "motorcycle_left.png",
        "retina.jpg",
        "rocket.jpg",
    ],
    "sklearn/datasets/images": ["china.jpg", "flower.jpg"],
}
"""The photographs, by the folder of the package that ships them.

What a camera saw, be it through a telescope, a microscope or an ophthalmoscope. Left out: text
(page, text), drawings (chessboard, color, horse, logo, phantom), a reconstruction (cell), what is
smaller than a crop (microaneurysms), and a second view of the same scene (motorcycle_right).
"""


def from_photos() -> ImageSource:
    """Crops of the embedded photographs; `group` is the photograph, for crops are not independent.

    Raises:
        ImageError: a package that ships them is missing.
    """
    crops = [crop for path in _paths() for crop in _crops(path)]
    return ImageSource(lambda: crops, ids=[crop.id for crop in crops])


def whole_photos() -> ImageSource:
    """The same photographs, uncut.

    Raises:
        ImageError: a package that ships them is missing.
    """
    whole = [
        Entry(path.name, None, path.name, partial(decode, path), partial(_stamp, path))
        for path in _paths()
    ]
    return ImageSource(lambda: whole, ids=[entry.id for entry in whole])


def _paths() -> Iterator[Path]:
    for folder, names in PHOTOS.items():
        package, *below = folder.split("/")
        spec = find_spec(package)  # not imported, for only its files are wanted
        if spec is None or not spec.submodule_search_locations:
            raise ImageError(f"the photographs of the package {package} are missing; install it")
        for name in names:
            yield Path(spec.submodule_search_locations[0], *below, name)


def _crops(path: Path) -> Iterator[Entry]:
    """At most 2 × 3 squares around the centre, so that no large photograph dominates."""
    missing = f"the photograph {path} is missing; install its package again"
    with explained(missing, OSError), PIL.Image.open(path) as photograph:
        width, height = photograph.size
    rows, columns = min(height // CROP, 2), min(width // CROP, 3)
    top, left = (height - rows * CROP) // 2, (width - columns * CROP) // 2
    for row, column in product(range(rows), range(columns)):
        load = partial(_crop, path, top + row * CROP, left + column * CROP)
        stamp = partial(_stamp, path)
        yield Entry(f"{path.name}#{row}-{column}", None, path.name, load, stamp)


def _crop(path: Path, top: int, left: int) -> Decoded:
    pixels, note = decode(path)
    return pixels[:, top : top + CROP, left : left + CROP].contiguous(), note


@cache
def _stamp(path: Path) -> str:
    # By content: the same photograph is installed at another time everywhere.
    return f"{CROP} pixels of {hashlib.sha256(path.read_bytes()).hexdigest()}"
