"""Digits of a row that may touch are cut where the network reads the pieces best."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mnist_cls import Predictor
from mnist_cls.data.datasets import load_dataset
from mnist_cls.data.scans import row_of_ink, scan_row
from mnist_cls.inference.cuts import choose_cuts
from mnist_cls.inference.decoding.decode import Decoded
from mnist_cls.inference.options import PredictOptions
from mnist_cls.inference.pipeline import predict_files
from mnist_cls.preprocessing import touching
from mnist_cls.preprocessing.components import Box, ink_box
from mnist_cls.preprocessing.pieces import log_likelihoods
from mnist_cls.preprocessing.touching import best_way, segments


def readings(folder: Path, pages: list[bytes], batch_size: int | None = None) -> list[dict[str, str]]:
    folder.mkdir()
    for number, page in enumerate(pages):
        (folder / f"{number:03}.png").write_bytes(page)
    predict_files(folder, folder.with_suffix(".csv"), PredictOptions("accurate", split=True, batch_size=batch_size))
    with folder.with_suffix(".csv").open(newline="") as file:
        return list(csv.DictReader(file))


def groups(start: int, count: int, digits: int) -> tuple[np.ndarray, list[str]]:
    """Return training images in groups, (count, digits, 28, 28), and their labels."""
    data = load_dataset()
    part = slice(start, start + count * digits)
    images = data.images[part].numpy().reshape(count, digits, 28, 28)
    return images, ["".join(map(str, row)) for row in data.labels[part].reshape(count, digits).tolist()]


def accuracy(rows: list[dict[str, str]], labels: list[str]) -> float:
    return float(np.mean([row["reading"] == label for row, label in zip(rows, labels, strict=True)]))


def test_pairs_of_touching_digits_are_cut_by_what_looks_like_whole_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = groups(50_000, 200, 2)
    pages = [scan_row(pair, -1, number) for number, pair in enumerate(images)]
    rows = readings(tmp_path / "pairs", pages)
    monkeypatch.setattr(touching, "log_likelihoods", lambda ink, pieces, height: np.full(len(pieces), -1, np.float32))
    by_ink = readings(tmp_path / "by_ink", pages)  # the decoders are forked
    assert accuracy(rows, labels) >= max(0.88, accuracy(by_ink, labels) + 0.02)


def test_the_network_has_a_say_in_the_cuts() -> None:
    """Two ways of cutting that are as likely by their pieces: the network's confidence decides."""
    images = np.stack([images_of(3)[0], images_of(8)[0], np.rot90(images_of(4)[0])])
    spans, priors = np.array([[0, 1], [1, 2], [0, 2]], np.int32), np.array([-1, -1, -2], np.float32)
    decoded = Decoded(images, [3], np.zeros((3, 4), np.int32), spans, priors, [None])
    predictions = Predictor("accurate", preprocess="none")(images)
    assert choose_cuts(decoded, predictions)[1].labels.tolist() == [3, 8]
    unsure = dataclasses.replace(predictions, confidences=np.array([0.4, 0.4, 0.9], np.float32))
    assert choose_cuts(decoded, unsure)[0].counts == [1]


def images_of(digit: int) -> np.ndarray:
    data = load_dataset()
    return data.images[data.labels == digit][:1].numpy()


def test_whole_digits_are_told_from_their_halves_and_from_pairs() -> None:
    images, _ = groups(50_500, 100, 2)
    likely: dict[str, list[float]] = {"whole": [], "half": [], "pair": []}
    for number, pair in enumerate(images):
        ink, (left, _) = row_of_ink(pair, -1, np.random.default_rng(number))
        both, one = ink_box(ink > 0.3), ink_box(left > 0.3)
        middle = (one.left + one.right) // 2
        page = ink[both.top : both.bottom, both.left : both.right]
        boxes = {"whole": one, "half": Box(one.left, one.top, middle, one.bottom), "pair": both}
        for kind, box in boxes.items():
            inner = Box(box.left - both.left, box.top - both.top, box.right - both.left, box.bottom - both.top)
            piece = (ink if kind == "pair" else left)[box.top : box.bottom, box.left : box.right]
            likely[kind].append(float(log_likelihoods(page, [(piece, inner)], 80)[0]))
    medians = {kind: np.exp(np.median(values)) for kind, values in likely.items()}
    assert medians["whole"] > 0.8
    assert max(medians["half"], medians["pair"]) < 0.3


def test_a_digit_that_stands_alone_is_not_cut(tmp_path: Path) -> None:
    images, labels = groups(51_000, 150, 1)
    rows = readings(tmp_path / "single", [scan_row(one, 4, number) for number, one in enumerate(images)])
    assert np.mean([len(row["reading"]) == 1 for row in rows]) >= 0.98
    assert accuracy(rows, labels) >= 0.95


def test_a_reading_does_not_depend_on_what_shares_its_batch(tmp_path: Path) -> None:
    images, _ = groups(52_000, 6, 3)
    pages = [scan_row(three, -1, number) for number, three in enumerate(images)]
    together = readings(tmp_path / "together", pages)
    alone = [readings(tmp_path / f"alone{number}", [page], batch_size=1)[0] for number, page in enumerate(pages)]
    for one, other in zip(together, alone, strict=True):
        assert one["reading"] == other["reading"]
        assert one["boxes"] == other["boxes"]
        assert float(one["confidence"]) == pytest.approx(float(other["confidence"]), abs=1e-5)
        assert len(one["reading"]) == one["boxes"].count("[") - 1


# Cuts 0, 1, 2, 3; the first of the segments is the next two together.
SPANS = np.array([[0, 2], [0, 1], [1, 2], [2, 3]])


def test_the_way_with_the_best_pieces_is_taken() -> None:
    assert best_way(SPANS, np.log([0.99, 0.6, 0.6, 0.9])) == [0, 3]
    assert best_way(SPANS, np.log([0.3, 0.99, 0.99, 0.9])) == [1, 2, 3]


def test_without_a_choice_all_segments_are_taken() -> None:
    assert best_way(np.array([[0, 1], [1, 2], [2, 3]]), np.log([0.5, 0.2, 0.9])) == [0, 1, 2]
    assert best_way(SPANS[:0], np.zeros(0)) == []


def test_without_a_network_wide_ink_is_cut_where_there_is_little() -> None:
    ink = np.zeros((100, 150), np.float32)
    ink[:, :60] = ink[:, 90:] = 1
    ink[48:54] = 1  # what joins the two
    found = segments(ink, 100)
    spans, priors = np.array([(one.start, one.end) for one in found]), np.array([one.prior for one in found])
    left, right = (found[index].box for index in best_way(spans, priors))
    assert 55 <= left.right <= right.left <= 95


def test_a_cut_runs_between_slanted_strokes() -> None:
    ink = np.zeros((100, 90), np.float32)
    for row in range(100):
        for left in (5, 45):
            ink[row, left + (99 - row) // 3 : left + (99 - row) // 3 + 8] = 1
    whole, *pieces = segments(ink, 100)
    assert (whole.start, whole.box) == (0, (0, 0, 90, 100))
    halves = [piece.ink.sum() for piece in pieces if 0.3 < piece.box.width / 90 < 0.5]
    assert 800 in halves  # all of a stroke, and nothing of the other
