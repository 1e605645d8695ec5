import io

import numpy as np
import pytest
from PIL import Image

from relic_app.uploads import MAX_BYTES, MAX_STORED, STORED_SHORT_SIDE, UploadStore, decode_picture, preview_jpeg


def picture(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "GIF", "JPEG"])
def test_pictures_of_many_formats_are_read(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode_picture(saved(picture(64, 64), kind, **options))
    assert (decoded.mode, decoded.size) == ("RGB", (64, 64))
    if kind not in ("GIF", "JPEG"):
        np.testing.assert_array_equal(np.asarray(decoded), np.asarray(picture(64, 64)))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "RGBA", "LA", "I;16"])
def test_every_mode_becomes_rgb(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    source = picture().convert("L").convert("I;16") if mode == "I;16" else picture(mode=mode)
    assert decode_picture(saved(source, kind)).mode == "RGB"


def test_sixteen_bits_are_scaled_not_clipped():
    deep = Image.fromarray(np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16))
    values = np.asarray(decode_picture(saved(deep, "PNG")))[..., 0].ravel()
    assert (values[0], values[-1]) == (0, 255)
    assert values[600] == pytest.approx(128, abs=1)


def test_a_phones_picture_is_turned_upright():
    upright = Image.new("RGB", (60, 40), "red")
    upright.paste("blue", (0, 0, 60, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    decoded = decode_picture(saved(upright.rotate(90, expand=True), "PNG", exif=exif))
    assert decoded.size == (60, 40)
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(upright))


def test_transparency_is_laid_over_white():
    layer = Image.new("RGBA", (32, 32), (200, 0, 0, 0))
    layer.putpixel((3, 4), (10, 20, 30, 255))
    decoded = decode_picture(saved(layer, "PNG"))
    assert decoded.getpixel((0, 0)) == (255, 255, 255)
    assert decoded.getpixel((3, 4)) == (10, 20, 30)


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)
    assert decode_picture(data).getpixel((5, 5)) == (255, 0, 0)


def test_a_large_picture_is_kept_small_with_its_aspect():
    decoded = decode_picture(saved(Image.new("RGB", (3000, 2000), "green"), "JPEG"))
    assert decoded.size == (1080, STORED_SHORT_SIDE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x.jpg is empty"),
        (b"this is only text", "x.jpg is not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not a picture"),
        (saved(picture(), "PNG")[:-40], "is a damaged picture"),
        (saved(picture(), "JPEG")[:300], "is a damaged picture|is not a picture"),
        (saved(picture(8, 30), "PNG"), "is 8x30 pixels: at least 16x16"),
        (bytes(MAX_BYTES + 1), "is larger than 20 MB"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "is not a picture"),
    ],
)
def test_what_is_no_good_picture_is_refused_with_a_clear_word(data, message):
    with pytest.raises(ValueError, match=message):
        decode_picture(data, "x.jpg")


def test_a_small_file_of_very_many_pixels_is_refused_by_its_header():
    with pytest.raises(ValueError, match="the file is 9000x9000 pixels: at most 64 megapixels"):
        decode_picture(saved(Image.new("1", (9000, 9000)), "PNG"))


def test_a_decompression_bomb_is_refused():
    with pytest.raises(ValueError, match="the file has far too many pixels: at most 64 megapixels"):
        decode_picture(b"P4 60000 60000\n" + bytes(100))


def test_the_store_forgets_the_oldest():
    store = UploadStore()
    names = [store.add(picture()) for _ in range(MAX_STORED + 1)]
    assert len(set(names)) == MAX_STORED + 1
    assert store.get(names[-1]).size == (40, 30)
    with pytest.raises(ValueError, match="upload the picture again"):
        store.get(names[0])


def test_a_preview_is_cropped_at_the_centre():
    wide = Image.new("RGB", (300, 60), "red")
    wide.paste("blue", (100, 0, 200, 60))
    preview = Image.open(io.BytesIO(preview_jpeg(wide, 50, 30)))
    assert preview.size == (50, 30)
    red, _, blue = preview.getpixel((25, 15))
    assert blue > 200 > 50 > red
