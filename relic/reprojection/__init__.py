"""What earlier views already show of a new one: depth, warping and remembered views as a guide to the network."""
