"""Thumbnails and computer vision, on real pictures."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import pyvips  # type: ignore[import-untyped]
from PIL import Image, ImageCms, ImageFilter

from media.pictures import convert
from media.plan import Settings
from media.vision import (
    find_edges,
    measure_sharpness,
    read_qr_codes,
)

Make = Callable[..., Path]


def convert_picture(path: Path, **settings: Any) -> tuple[Image.Image, dict[str, Any]]:
    """Return the thumbnail of a picture, and the details."""
    drafts = [path.with_name("draft.webp"), path.with_name("draft.png")]
    details = convert(path, drafts, Settings(**{"size": 40, **settings}))
    with Image.open(drafts[0]) as thumbnail:
        thumbnail.load()
    return thumbnail, details


def colour(image: Image.Image, x: int, y: int) -> str:
    """Return the name of a pixel's colour if it is nearly pure, or its values."""
    pixel = np.asarray(image.convert("RGB"), int)[y, x]
    for name, pure in {"red": (255, 0, 0), "blue": (0, 0, 255)}.items():
        if abs(pixel - pure).max() < 15:
            return name
    return str(pixel)


def scene() -> Image.Image:
    """Return a picture with many edges."""
    image = Image.new("L", (400, 300), 255)
    for x in range(0, 400, 40):
        image.paste(x // 2, (x, 0, x + 20, 300))
    return image


def qr_code(text: str) -> Any:
    """Return the pixels of a QR code on a white background."""
    code = cv2.QRCodeEncoder.create().encode(text)
    large = cv2.resize(code, None, fx=8, fy=8, interpolation=cv2.INTER_NEAREST)
    return np.pad(large, 40, constant_values=255)


# --- Thumbnails


@pytest.mark.parametrize(
    "suffix", ["avif", "bmp", "gif", "jpg", "png", "tif", "webp", "heic"]
)
def test_a_picture_is_shrunk_and_keeps_its_shape_and_colours(
    draw: Make, suffix: str
) -> None:
    if suffix == "heic":
        heif = pytest.importorskip("pillow_heif", reason="needs the extra `heic`")
        heif.register_heif_opener()
    thumbnail, details = convert_picture(draw(f"cat.{suffix}", size=(800, 600)))
    assert thumbnail.size == (40, 30)
    assert (details["width"], details["height"]) == (40, 30)
    assert colour(thumbnail, 3, 15) == "red"
    assert colour(thumbnail, 36, 15) == "blue"


@pytest.mark.parametrize("suffix", ["bmp", "jpg", "png"])
def test_a_small_picture_is_not_enlarged(draw: Make, suffix: str) -> None:
    thumbnail, _ = convert_picture(draw(f"cat.{suffix}"), size=512)
    assert thumbnail.size == (80, 60)


def test_a_thumbnail_is_upright_and_without_metadata(draw: Make) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it to the right
    exif[0x010F] = "a camera"
    path = draw("cat.jpg", exif=exif, comment=b"at home")
    thumbnail, _ = convert_picture(path)
    assert thumbnail.size == (30, 40)
    assert colour(thumbnail, 15, 3) == "red"
    assert colour(thumbnail, 15, 36) == "blue"
    assert not thumbnail.getexif()
    assert not {"exif", "xmp", "comment", "icc_profile"} & set(thumbnail.info)
    assert b"camera" not in path.with_name("draft.webp").read_bytes()


def swapped_profile() -> bytes:
    """Return a colour profile in which red and blue have changed places."""
    content = bytearray(
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    red = content.index(b"rXYZ")
    blue = content.index(b"bXYZ")
    content[red : red + 4] = b"bXYZ"
    content[blue : blue + 4] = b"rXYZ"
    return bytes(content)


@pytest.mark.parametrize("suffix", ["bmp", "jpg", "png"])
def test_colours_are_converted_from_the_profile_to_srgb(
    source: Path, draw: Make, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = swapped_profile()
    path = draw(f"cat.{suffix}", icc_profile=profile)
    if suffix == "bmp":
        # Pillow writes no profile into a BMP; what it reads from HEIC goes this way.
        open_picture = Image.open

        def open_with_profile(file: io.BytesIO) -> Image.Image:
            image = open_picture(file)
            image.info["icc_profile"] = profile
            return image

        monkeypatch.setattr("PIL.Image.open", open_with_profile)
    drafts = [source / "draft.webp"]
    convert(path, drafts, Settings(size=40, vision=False))
    monkeypatch.undo()
    with Image.open(drafts[0]) as thumbnail:
        assert colour(thumbnail, 3, 15) == "blue"
        assert colour(thumbnail, 36, 15) == "red"


def test_cmyk_becomes_srgb(draw: Make) -> None:
    thumbnail, _ = convert_picture(draw("cat.jpg", "CMYK"))
    assert thumbnail.mode == "RGB"
    red, green, blue = np.asarray(thumbnail, int)[15, 3]
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_a_transparent_picture_stays_transparent(source: Path, mode: str) -> None:
    path = source / "ghost.png"
    image = Image.new(mode, (80, 60))
    image.save(path, transparency=0 if mode == "P" else None)
    thumbnail, _ = convert_picture(path)
    assert thumbnail.getchannel("A").getextrema() == (0, 0)


def test_a_grey_picture_of_16_bits_keeps_its_greys(source: Path) -> None:
    path = source / "depth.png"
    Image.fromarray(np.full((60, 80), 0x8000, np.uint16)).save(path)
    thumbnail, _ = convert_picture(path)
    assert np.allclose(np.asarray(thumbnail), 128, atol=3)


def test_a_transparent_grey_of_16_bits_stays_transparent(source: Path) -> None:
    path = source / "depth.png"
    pixels = np.full((60, 80), 0x8000, np.uint16)
    pixels[:, 40:] = 0x2000
    Image.fromarray(pixels).save(path, transparency=0x8000)
    thumbnail, _ = convert_picture(path)
    alpha = np.asarray(thumbnail.getchannel("A"))
    assert alpha[15, 3] == 0
    assert alpha[15, 36] == 255


def test_an_animation_gives_its_first_frame(source: Path) -> None:
    frames = [Image.new("RGB", (80, 60), name) for name in ("red", "blue")]
    path = source / "cat.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    thumbnail, _ = convert_picture(path)
    assert colour(thumbnail, 20, 15) == "red"


@pytest.mark.parametrize("suffix", ["avif", "gif", "jpg", "png", "tif", "webp", "bmp"])
def test_a_picture_that_was_cut_short_is_an_error(source: Path, suffix: str) -> None:
    path = source / f"noise.{suffix}"
    Image.effect_noise((400, 300), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:-2_000])
    with pytest.raises((pyvips.Error, OSError)):
        convert_picture(path)


# --- The limit for pixels


def test_a_bomb_is_refused_before_it_is_decoded(bomb: Path) -> None:
    with pytest.raises(ValueError, match=r"1000\.0 megapixels, more than the limit"):
        convert_picture(bomb)


@pytest.mark.parametrize("suffix", ["bmp", "jpg", "png"])
def test_the_limit_for_pixels_is_a_setting(draw: Make, suffix: str) -> None:
    path = draw(f"cat.{suffix}", size=(1_000, 1_000))
    convert_picture(path, max_megapixels=1.0)
    with pytest.raises(ValueError, match="1000 x 1000 pixels"):
        convert_picture(path, max_megapixels=0.99)


def test_a_photo_of_200_megapixels_is_within_the_default_limit() -> None:
    assert Settings().max_megapixels >= 16_384 * 12_288 / 1_000_000


# --- Computer vision


def test_the_edge_map_has_the_size_of_the_thumbnail(draw: Make) -> None:
    path = draw("cat.png", size=(800, 600))
    convert_picture(path)
    with Image.open(path.with_name("draft.png")) as edges:
        assert edges.size == (40, 30)
        assert edges.mode == "L"
        pixels = np.asarray(edges)
    # Only the columns around the middle, where red and blue meet, are bright.
    assert pixels[:, 18:22].any()
    assert not pixels[:, :18].any()
    assert not pixels[:, 22:].any()


def test_edges_are_where_the_brightness_changes() -> None:
    grey = np.zeros((60, 80), np.uint8)
    grey[30:, 40:] = 255
    edges = find_edges(grey)
    assert edges.shape == grey.shape
    assert set(np.unique(edges)) == {0, 255}
    assert edges[35:, 38:42].max(axis=1).all()
    assert edges[28:32, 45:].max(axis=0).all()
    for flat in (edges[:25], edges[:, :35], edges[35:, 45:]):
        assert not flat.any()


def test_a_blurred_picture_is_less_sharp(source: Path) -> None:
    sharp = scene()
    blurred = sharp.filter(ImageFilter.GaussianBlur(3))
    sharp.save(source / "sharp.png")
    blurred.save(source / "blurred.png")
    _, of_sharp = convert_picture(source / "sharp.png")
    _, of_blurred = convert_picture(source / "blurred.png")
    assert of_sharp["sharpness"] > 5 * of_blurred["sharpness"]


def test_sharpness_does_not_depend_on_the_size_of_the_thumbnail(draw: Make) -> None:
    path = draw("cat.png")
    _, small = convert_picture(path, size=10)
    _, large = convert_picture(path, size=512)
    assert small["sharpness"] == large["sharpness"]


def test_a_flat_picture_has_no_sharpness() -> None:
    assert measure_sharpness(np.full((60, 80), 7, np.uint8)) == 0


def test_qr_codes_are_read(source: Path) -> None:
    codes = [qr_code("https://example.com/a"), qr_code("https://example.com/b")]
    Image.fromarray(np.hstack(codes)).save(source / "codes.png")
    _, details = convert_picture(source / "codes.png")
    assert details["qr_codes"] == ["https://example.com/a", "https://example.com/b"]


def test_a_picture_without_qr_codes_has_none() -> None:
    assert read_qr_codes(np.asarray(scene())) == []


def test_transparent_parts_are_white_for_computer_vision(source: Path) -> None:
    image = Image.new("RGBA", (80, 60), (0, 0, 0, 0))
    image.paste((255, 255, 255, 255), (0, 0, 40, 60))
    image.save(source / "half.png")
    _, details = convert_picture(source / "half.png")
    assert details["sharpness"] == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 2_000), (2_000, 1)])
def test_very_thin_pictures_can_be_converted(draw: Make, size: tuple[int, int]) -> None:
    _, details = convert_picture(draw("dot.png", size=size))
    assert min(details["width"], details["height"]) == 1
    assert math.isfinite(details["sharpness"])


# --- Writing


def test_a_thumbnail_that_was_not_written_completely_is_an_error(
    draw: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes = Path.write_bytes

    def write_short(path: Path, content: bytes) -> int:
        return write_bytes(path, content[:-1])

    cat = draw("cat.png")
    monkeypatch.setattr(Path, "write_bytes", write_short)
    with pytest.raises(OSError, match="not written completely"):
        convert_picture(cat)
