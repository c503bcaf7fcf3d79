"""What can be asked of the process that reads tables of images, by name."""

from typing import Final

from fisher_cli.inputs.data import arrow_images, parquet_images
from fisher_cli.storage.decoding import Decoder

DECODERS: Final[dict[str, Decoder]] = {
    "parquet": parquet_images.describe,
    "parquet rows": parquet_images.rows,
    "arrow": arrow_images.describe,
    "arrow rows": arrow_images.rows,
}
