"""Inspection of functions and networks: shapes, feature maps, attribution, times."""

from .attribution import grad_cam as grad_cam
from .attribution import input_gradient as input_gradient
from .attribution import integrated_gradients as integrated_gradients
from .parts import part_outputs as part_outputs
from .profiling import profile as profile
from .summary import receptive_field as receptive_field
from .table import print_table as print_table
