"""Parse the records of prepared data sets: tf.train.Example, without TensorFlow."""

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf.message_factory import GetMessageClass

# The fields of TensorFlow's example.proto and feature.proto that are read here. On the
# wire, a map is a repeated message of key and value.
_SCHEMA = """
name: "example.proto" syntax: "proto3"
message_type { name: "Example"
  field { name: "features" number: 1 type: TYPE_MESSAGE type_name: "Features" } }
message_type { name: "Features"
  field { name: "feature" number: 1 label: LABEL_REPEATED
          type: TYPE_MESSAGE type_name: "Entry" } }
message_type { name: "Entry"
  field { name: "key" number: 1 type: TYPE_STRING }
  field { name: "value" number: 2 type: TYPE_MESSAGE type_name: "Feature" } }
message_type { name: "Feature"
  field { name: "bytes_list" number: 1 type: TYPE_MESSAGE type_name: "BytesList" }
  field { name: "int64_list" number: 3 type: TYPE_MESSAGE type_name: "Int64List" } }
message_type { name: "BytesList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "Int64List"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
"""


def parse_example(record: bytes, image: str, label: str) -> tuple[bytes, int]:
    """Return the values of the features called `image` and `label`.

    Raises:
        ValueError: If there is not one value of each.
        google.protobuf.message.DecodeError: If the record is damaged.

    >>> parse_example(b"", "image", "label")
    Traceback (most recent call last):
    ValueError: an example must have one image and one label, got 0 and 0
    """
    entries = _message_class().FromString(record).features.feature
    images = [v for e in entries if e.key == image for v in e.value.bytes_list.value]
    labels = [v for e in entries if e.key == label for v in e.value.int64_list.value]
    if not len(images) == len(labels) == 1:
        counts = f"{len(images)} and {len(labels)}"
        raise ValueError(f"an example must have one image and one label, got {counts}")
    return images[0], labels[0]


@cache
def _message_class() -> Any:
    pool = descriptor_pool.DescriptorPool()  # its own: no name clashes with TensorFlow
    pool.Add(text_format.Parse(_SCHEMA, descriptor_pb2.FileDescriptorProto()))
    return GetMessageClass(pool.FindMessageTypeByName("Example"))
