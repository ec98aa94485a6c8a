"""Test whether a pretrained model has memorised the data set that it is to be evaluated on."""
