"""Networks for images [N, H, W, C]: functions that return a Layer for logits.

`impl` selects the convolution algorithm, as for `jcnn.conv`.
"""

from .blocks import conv_norm_relu as conv_norm_relu
from .plain import lenet5 as lenet5
from .plain import small_cnn as small_cnn
from .plain import vgg as vgg
from .resnet import imagenet_resnet as imagenet_resnet
from .resnet import resnet18 as resnet18
from .resnet import resnet20 as resnet20
from .unet import unet as unet
