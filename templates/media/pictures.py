"""Make thumbnails with libvips, and look at pictures with OpenCV.

Runs in a worker process. A thumbnail is upright and has sRGB colours; nothing else
of the picture's metadata is kept: no place, no camera, no comment.
"""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .plan import Settings

# Each worker process has one core. libvips reads this when it is imported.
os.environ.setdefault("VIPS_CONCURRENCY", "1")

import pyvips  # type: ignore[import-untyped]

# What libvips cannot decode. Pillow can, HEIC with the help of pillow-heif.
PILLOW_SUFFIXES = {".bmp", ".heic", ".heif"}
HEIC_SUFFIXES = {".heic", ".heif"}

# Pictures are made this small, in pixels, before sharpness and QR codes are looked for.
# Sharpness can only be compared at the same size.
VISION_SIZE = 720

# A file that was cut short is an error. The argument `fail_on` would mean the same, but
# `thumbnail_buffer` of libvips 8.18 ignores it.
STRICT = "[fail_on=error]"

# No decoder that libvips itself calls unsafe for files from outside.
pyvips.block_untrusted_set(True)
# libvips would keep the last results in memory, but each file is read only once.
pyvips.cache_set_max(0)
# This program has its own limit for the number of pixels.
Image.MAX_IMAGE_PIXELS = None


@dataclass
class Picture:
    """A picture that is not decoded yet: a file's content, or pixels by Pillow.

    `has_profile` says whether the colours have to be converted by a colour profile.
    """

    content: bytes
    has_profile: bool
    pixels: Any = None

    def shrink(self, size: int) -> Any:
        """Return the picture in sRGB, at most `size` pixels wide and high.

        It is upright and has 8 bits per channel. Raises pyvips.Error if the file is
        broken.
        """
        options: dict[str, Any] = {"height": size, "size": "down"}
        if self.has_profile:
            # Only then: this takes as long as all the rest.
            options["output_profile"] = "srgb"
        if self.pixels is not None:
            small = self.pixels.thumbnail_image(size, **options)
        else:
            # A JPEG is decoded directly to a smaller size, which is much faster.
            small = pyvips.Image.thumbnail_buffer(
                self.content, size, option_string=STRICT, **options
            )
        return small.colourspace("srgb").copy_memory()


def convert(source: Path, drafts: list[Path], settings: Settings) -> dict[str, Any]:
    """Write the thumbnail of a picture and, if there is a second draft, its edges.

    Returns what is known about the picture. Raises ValueError if the picture has too
    many pixels, and the errors of the decoders and of the file system.
    """
    picture = open_picture(source, settings.max_megapixels)
    thumbnail = picture.shrink(settings.size)
    write_checked(drafts[0], thumbnail.write_to_buffer(".webp", keep="none"))
    details: dict[str, Any] = {"width": thumbnail.width, "height": thumbnail.height}
    if settings.vision:
        details |= look_at(picture, thumbnail, drafts[1])
    return details


def look_at(picture: Picture, thumbnail: Any, draft: Path) -> dict[str, Any]:
    """Write the edges of the thumbnail; return sharpness and QR codes."""
    # OpenCV takes a quarter of a second to import.
    from . import vision

    edges = pyvips.Image.new_from_array(vision.find_edges(to_grey(thumbnail)))
    write_checked(draft, edges.write_to_buffer(".png", keep="none"))
    grey = to_grey(picture.shrink(VISION_SIZE))
    return {
        "sharpness": round(vision.measure_sharpness(grey), 1),
        "qr_codes": vision.read_qr_codes(grey),
    }


def to_grey(image: Any) -> Any:
    """Return the brightness of the pixels, on a white background."""
    if image.hasalpha():
        image = image.flatten(background=255)
    return image.colourspace("b-w")[0].numpy()


def open_picture(source: Path, max_megapixels: float) -> Picture:
    """Return the picture in a file. Raises ValueError if it has too many pixels."""
    content = source.read_bytes()
    if source.suffix.lower() in PILLOW_SUFFIXES:
        return open_with_pillow(source, content, max_megapixels)
    header = pyvips.Image.new_from_buffer(content, "")
    check_size(header.width, header.height, max_megapixels)
    has_profile = "icc-profile-data" in header.get_fields()
    return Picture(content, has_profile)


def open_with_pillow(source: Path, content: bytes, max_megapixels: float) -> Picture:
    """Return a picture that Pillow decodes."""
    if source.suffix.lower() in HEIC_SUFFIXES:
        register_heic()
    with Image.open(io.BytesIO(content)) as image:
        check_size(image.width, image.height, max_megapixels)
        mode = "RGBA" if image.has_transparency_data else "RGB"
        pixels = pyvips.Image.new_from_array(np.asarray(image.convert(mode)))
        profile = image.info.get("icc_profile")
    if profile:
        pixels = pixels.copy()
        pixels.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    return Picture(content, has_profile=bool(profile), pixels=pixels)


def register_heic() -> None:
    """Let Pillow read HEIC. Raises ValueError if the extra is not installed."""
    try:
        import pillow_heif  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise ValueError("to read HEIC, install the extra `heic`") from None
    pillow_heif.register_heif_opener()


def check_size(width: int, height: int, max_megapixels: float) -> None:
    """Raise ValueError if a picture has more pixels than are allowed.

    A file of a few bytes can claim to have billions of pixels.
    """
    megapixels = width * height / 1_000_000
    if megapixels > max_megapixels:
        raise ValueError(
            f"{width} x {height} pixels are {megapixels:.1f} megapixels, "
            f"more than the limit of {max_megapixels:g}"
        )


def write_checked(draft: Path, content: bytes) -> None:
    """Write a file and read it back. Raises OSError if it is not what was written."""
    draft.write_bytes(content)
    if draft.read_bytes() != content:
        raise OSError("the output was not written completely")
