"""Metrics as pure update, merge and compute: sums over images, so that batches and ranks merge by adding.

masks.py        masks that are what they should be; the label that nothing counts under
confusion.py    IoU, recall and accuracies from a confusion matrix; the same pixels for each image
contours.py     the boundary F-score of one image, by the protocol of GALD's Table V
bands.py        boundary IoU of one image
boundaries.py   both over a set
"""

from rayseg.metrics.boundaries import PAPERS, BoundaryScores, ImageBoundaries, threshold_name
from rayseg.metrics.confusion import ConfusionMatrix, PerImage
from rayseg.metrics.contours import boundary, boundary_f1, radius_px

__all__ = [
    "PAPERS",
    "BoundaryScores",
    "ConfusionMatrix",
    "ImageBoundaries",
    "PerImage",
    "boundary",
    "boundary_f1",
    "radius_px",
    "threshold_name",
]
