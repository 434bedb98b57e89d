"""Tasks: real data sets and users' own, split, scaled, encoded and made noisy in a reproducible way."""

from genjax.tasks.files import load_image_set, read_cifar_batch, read_idx, read_npz
from genjax.tasks.load import SCALINGS, SOURCES, load_task
from genjax.tasks.sources import Raw, load_bundled
from genjax.tasks.tables import read_table
from genjax.tasks.task import (
    ENCODINGS,
    KINDS,
    Task,
    add_label_noise,
    add_noise_dimensions,
    decode_labels,
    encode_labels,
    make_task,
    subset,
)

__all__ = [
    "ENCODINGS",
    "KINDS",
    "SCALINGS",
    "SOURCES",
    "Raw",
    "Task",
    "add_label_noise",
    "add_noise_dimensions",
    "decode_labels",
    "encode_labels",
    "load_bundled",
    "load_image_set",
    "load_task",
    "make_task",
    "read_cifar_batch",
    "read_idx",
    "read_npz",
    "read_table",
    "subset",
]
