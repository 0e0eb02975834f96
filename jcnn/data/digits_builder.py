"""The tensorflow-datasets builder of scikit-learn's handwritten digits."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits

from .digits import VERSION as DIGITS_VERSION

# scikit-learn keeps each writer's digits together, so the 360 after these are by
# other people, but for the 108 up to 1545, whose writer has the last 22 of these.
_NUM_TRAIN = 1437
_SPLITS = {"train": slice(_NUM_TRAIN), "test": slice(_NUM_TRAIN, None)}


def arrays() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of each split the images, uint8 [N, 8, 8, 1], and the labels.

    >>> arrays()["test"][0].shape
    (360, 8, 8, 1)
    """
    values, labels = load_digits(return_X_y=True)
    images = (values.astype(np.int32) * 255 // 16).astype(np.uint8)
    images = images.reshape(-1, 8, 8, 1)
    return {split: (images[part], labels[part]) for split, part in _SPLITS.items()}


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """1,797 handwritten digits, [8, 8, 1], in scikit-learn's order.

    scikit-learn has values v from 0 to 16; the pixels are v * 255 // 16.
    """

    name = "digits"
    VERSION = tfds.core.Version(DIGITS_VERSION)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="https://doi.org/10.24432/C50P49",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {
            split: self._generate_examples(zip(*both, strict=True))
            for split, both in arrays().items()
        }

    def _generate_examples(self, examples: Any) -> Iterator[tuple[int, dict]]:
        for index, (image, label) in enumerate(examples):
            file = io.BytesIO()
            Image.fromarray(image[:, :, 0]).save(file, "PNG")
            file.seek(0)
            yield index, {"image": file, "label": int(label)}
