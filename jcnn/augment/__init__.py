"""Augmentation of a batch of images on the device, as pure functions of a key.

They run inside the jitted training step, on uint8 as well as on floats:
`random_crop(jax.random.fold_in(key, 1), batch["image"], padding=4)`. The same key moves
masks [N, H, W, 1] as it moves their images; what moves images moves boxes too.
"""

from .affine import random_affine as random_affine
from .geometry import alternating_flip as alternating_flip
from .geometry import random_crop as random_crop
from .geometry import random_flip as random_flip
from .mixing import cutmix as cutmix
from .mixing import mixup as mixup
from .mixing import random_erase as random_erase
from .views import average_views as average_views
