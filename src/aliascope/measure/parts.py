"""Parts of a run: rows of some batches as two Parquet files, known by their SHA-256.

```
RUN/images/part-NNNNN.parquet    a row an image
RUN/layers/part-NNNNN.parquet    a row an image and layer
```
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from aliascope.records import StridedLayer
from aliascope.results.files import Place, write_file

KINDS = ("layers", "images")
TYPES: dict[str, pa.DataType] = dict.fromkeys(
    ("image_id", "group", "note", "identity"), pa.string()
)
TYPES |= dict.fromkeys(("label", "prediction"), pa.int64()) | {"correct": pa.bool_()}
NULLABLE = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
_SMALL = 2**20  # bytes
DAMAGE = (OSError, pa.ArrowException)
"""What reading a damaged part raises."""

Digests = dict[str, str]
"""Kind → SHA-256 of that file."""


def file_of(path: Place, kind: str, part: str) -> Place:
    """Where a part's rows of that kind lie."""
    return path / kind / f"{part}.parquet"


def write_part(path: Place, part: str, tables: dict[str, pa.Table]) -> Digests:
    """Write both files, the images' last."""
    digests = {}
    for kind in KINDS:
        pq.write_table(tables[kind], stream := pa.BufferOutputStream())
        write_file(file_of(path, kind, part), data := stream.getvalue())
        digests[kind] = hashlib.sha256(data).hexdigest()
    return digests


def read_part(path: Place, kind: str, part: str, digest: str) -> pa.Table:
    """Its rows of that kind; raises one of `DAMAGE` unless they are what was written."""
    data = verified(path, kind, part, digest)
    # Of a small file the threads would cost more than the reading.
    return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=len(data) > _SMALL)


def verified(path: Place, kind: str, part: str, digest: str) -> bytes:
    """The bytes of a file; raises OSError unless they are those that were written."""
    # Parquet's own checksums cover its pages, not what it says of them.
    data = file_of(path, kind, part).read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise OSError("its bytes are not those that were written")
    return data


def array(name: str, values: Sequence[Any] | np.ndarray) -> pa.Array:
    """A column; what has no type here is a metric, whose NaN becomes null and is read as NaN."""
    return pa.array(values, TYPES.get(name, pa.float32()), from_pandas=True)


def image_table(columns: dict[str, Any]) -> pa.Table:
    """Rows of images."""
    return pa.table({name: array(name, values) for name, values in columns.items()})


def layer_table(ids: Any, layers: list[StridedLayer], columns: dict[str, np.ndarray]) -> pa.Table:
    """Rows of images and layers, of metrics (B, L)."""
    image, layer = (index.ravel() for index in np.indices((len(ids), len(layers)), np.int32))
    names = array("image_id", [layer.name for layer in layers])
    # Dictionary-encoded, so that a million rows do not hold a million strings.
    keys = {
        "image_id": pa.DictionaryArray.from_arrays(image, array("image_id", ids)),
        "layer": pa.DictionaryArray.from_arrays(layer, names),
        "order": np.array([layer.order for layer in layers], np.int32)[layer],
    }
    return pa.table(keys | {name: array(name, values.ravel()) for name, values in columns.items()})


def together(tables: list[pa.Table]) -> pa.Table:
    """All rows; a metric that only some tables have is null in the others."""
    return pa.concat_tables(tables, promote_options="default").unify_dictionaries()
