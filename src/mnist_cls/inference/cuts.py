"""Choose, for each row of digits, the cuts whose pieces the network reads best."""

import numpy as np

from ..preprocessing.touching import best_way
from .decoding.decode import Decoded
from .predictions import Predictions


def choose_cuts(decoded: Decoded, predictions: Predictions) -> tuple[Decoded, Predictions]:
    """Keep only the pieces of each row's best cuts, and their predictions; the arguments have all likely pieces."""
    scores = decoded.priors + np.log(np.maximum(predictions.confidences, 1e-9))
    kept, counts = list[int](), list[int]()
    first = 0
    for count in decoded.counts:
        chosen = best_way(decoded.spans[first : first + count], scores[first : first + count])
        kept += [first + index for index in chosen]
        counts.append(len(chosen))
        first += count
    index = np.array(kept, int)
    digits = Decoded(
        decoded.images[index], counts, decoded.boxes[index], decoded.spans[index], decoded.priors[index], decoded.errors
    )
    return digits, predictions[index]
