"""Thin pens, white made transparent, and files of formats that phones and editors write."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from mnist_cls.errors import InputError
from mnist_cls.images import in_mnist_form
from mnist_cls.preprocessing import to_mnist_form
from mnist_cls.preprocessing.prepare import prepare


def four(side: int, size: float, pen: int) -> Image.Image:
    """Draw an open 4, dark on white, `size` of the page high."""
    page = Image.new("L", (side, side), 255)
    points = np.array([[0.6, 0.05], [0.15, 0.6], [0.85, 0.6]]), np.array([[0.62, 0.3], [0.62, 0.95]])
    for line in points:
        corners = [tuple(point) for point in (line - 0.5) * size * side + side / 2]
        ImageDraw.Draw(page).line(corners, fill=0, width=pen)
    return page


@pytest.mark.parametrize(
    ("side", "size", "pen"), [(600, 0.8, 1), (1000, 0.8, 1), (2000, 0.8, 2), (4000, 0.7, 1), (4000, 0.7, 4)]
)
def test_a_pen_much_thinner_than_a_pixel_of_the_result_is_thickened(side: int, size: float, pen: int) -> None:
    thin, usual = to_mnist_form(four(side, size, pen)), to_mnist_form(four(side, size, side // 14))
    assert 0.6 < thin.sum() / usual.sum() < 1.2
    # Each stroke is there: hardly any ink of the usual pen is far from ink of the thin one.
    near = ndimage.maximum_filter(thin > 128, 5)
    assert near[usual > 128].mean() > 0.95


@pytest.mark.parametrize("pen", [12, 18, 20, 22, 25, 30])
@pytest.mark.parametrize("length", [3, 4.5])
def test_a_thick_stroke_is_no_picture_pasted_onto_the_page(pen: int, length: float) -> None:
    for left, top in ((3, 3), (60, 40), (300 - 4 - pen, 296 - int(pen * length))):
        page = Image.new("L", (1200, 1200), 255)  # with soft edges, when it has been reduced
        box = [4 * left, 4 * top, 4 * (left + pen), 4 * int(top + pen * length)]
        ImageDraw.Draw(page).rounded_rectangle(box, 2 * pen, fill=0)
        one = to_mnist_form(page.resize((300, 300), Image.Resampling.BOX))
        assert (one[4:24, 12:16] > 200).mean() > 0.7
        assert not one[:, :9].any()
        assert not one[:, 19:].any()


def test_lines_one_pixel_wide_in_28x28_are_thickened() -> None:
    image = np.zeros((28, 28), np.uint8)
    image[4:24, 9] = image[14, 9:19] = image[4:24, 18] = 255
    assert not in_mnist_form(image[None])[0]
    assert to_mnist_form(image).sum() > 1.3 * image.sum()
    np.testing.assert_array_equal(prepare(image, preprocess="none").images[0], image)


@pytest.mark.parametrize("pen", [20, 120])
@pytest.mark.parametrize("form", ["GIF", "PNG", "LA", "WEBP"])
def test_white_made_transparent_reads_as_it_did_when_opaque(digits: np.ndarray, pen: int, form: str) -> None:
    for digit in digits[:8]:
        ink = np.asarray(Image.fromarray(digit).resize((112, 112), Image.Resampling.BICUBIC)) / 255
        page = Image.fromarray((255 - ink * (255 - pen)).round().astype(np.uint8))
        file = io.BytesIO()
        if form in ("GIF", "PNG"):
            page.save(file, form, transparency=255)
        else:
            alpha = page.point(lambda grey: 0 if grey > 250 else 255)
            Image.merge("LA", (page, alpha)).save(file, "PNG" if form == "LA" else form, lossless=True)
        difference = prepare(file.getvalue()).images[0].astype(int) - to_mnist_form(page)
        assert np.abs(difference).mean() < 2


def test_heic_is_read() -> None:
    heif = pytest.importorskip("pillow_heif")
    page, file = four(600, 0.6, 40), io.BytesIO()
    heif.from_pillow(page.convert("RGB")).save(file, quality=90)
    difference = prepare(file.getvalue()).images[0].astype(int) - to_mnist_form(page)
    assert np.abs(difference).mean() < 5


def test_broken_heic_and_pdf_are_named() -> None:
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(four(600, 0.6, 40).convert("RGB")).save(file, quality=90)
    for content, reason in (
        (file.getvalue()[:200], "broken image"),
        (b"%PDF-1.7\n1 0 obj", "a PDF: convert its pages"),
    ):
        with pytest.raises(InputError, match=reason):
            prepare(content)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_of_108_megapixels_is_decoded_smaller(progressive: bool) -> None:
    file = io.BytesIO()
    four(3000, 0.6, 200).resize((12_000, 9_000)).save(file, "JPEG", progressive=progressive)
    assert prepare(file.getvalue()).images.any()
