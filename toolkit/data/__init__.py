"""Calibration and validation data, streamed: arrays, .npz, .npy, folders of .npy or of images, .wav,
`module:factory`.

Nothing is read as a pickle, and no more than a few samples are in memory at once. The samples of a data set are made
anew on every walk over it, in the same order.
"""

from toolkit.data.factory import load_factory
from toolkit.data.labels import LABELS
from toolkit.data.loading import check_preprocess_used, first_sample, load_data
from toolkit.data.preprocessing import PRESETS, Preprocessing

__all__ = ["LABELS", "PRESETS", "Preprocessing", "check_preprocess_used", "first_sample", "load_data", "load_factory"]
