"""What a pretrained model already remembers of the data set that it is to be tested on."""
