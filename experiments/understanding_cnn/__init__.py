"""The claims of "Understanding Convolution Neural Networks, Part I", made exact.

`python -m experiments.understanding_cnn` computes each claim with jcnn, checks the
numbers, and draws one page of pictures.
"""
