"""Well-formed files to start from, all of them drawn or written by code."""

from __future__ import annotations

import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

from selavpr import ModelConfig, SelaVPR, building, weights, writing
from selavpr.checkpoint import Checkpoint, write_checkpoint
from selavpr.confidence import FEATURES
from selavpr.images import register_heif
from selavpr.indexfiles import Manifest
from selavpr.judgement import Calibration
from selavpr.mining import Batch
from selavpr.searchers import Search
from selavpr.sources import read_folder
from tools.fuzz.mutation import Files

ROOT = Path(__file__).resolve().parents[2]
TINY = ModelConfig(width=32, depth=1, heads=4, local_hidden=16, local_dim=8, input_size=28)
SIZE = (64, 48)

TABLES = {
    "places.csv": "image,lat,lon,id,heading,street,captured_at,role\n"
    'images/0.png,48.0,11.0,p0,0,"Way, ""0""",2026-01-02,database\n'
    "images/1.png,48.0004,11.0,p1,30.5,Weg 1,2026-01-02T10:00:00Z,database\n"
    "images/2.png,48.0008,11.0,p2,,Улица,,queries\nimages/3.png,,,p3,,,,queries\n",
    "photos.tsv": "file\tx\ty\n0.png\t11\t48\n1.png\t11.1\t48.2\n",
    "half.csv": "photo;latitude;longitude;azimut\n0.png;48,25;11,5;90\n",
    "city.geojson": json.dumps(
        {
            "type": "FeatureCollection",
            "features": [
                {
                    "type": "Feature",
                    "geometry": {"type": "Point", "coordinates": [11.0 + i / 100, 48.0, 520.0]},
                    "properties": {"image": f"{i}.png", "heading": 90 * i, "name": "Way", "a": []},
                }
                for i in range(3)
            ],
        }
    ),
}
TRACK = """<?xml version="1.0" encoding="UTF-8"?>
<gpx version="1.1" xmlns="http://www.topografix.com/GPX/1/1"><trk><trkseg>
<trkpt lat="48.0000" lon="11.0000"><ele>520</ele><time>2026-05-01T12:00:00Z</time></trkpt>
<trkpt lat="48.0003" lon="11.0001"><time>2026-05-01T12:00:05.250Z</time></trkpt>
<trkpt lat="48.0005" lon="11.0004"><time>2026-05-01T14:00:11+02:00</time></trkpt>
</trkseg></trk></gpx>
"""


def model() -> SelaVPR:
    """A tiny network in which every tensor has an effect."""
    torch.manual_seed(0)
    network = SelaVPR(TINY)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name != "pool.p":
                parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    return network.eval()


def picture(number: int = 0, mode: str = "RGB") -> Image.Image:
    """Coarse random blocks."""
    blocks = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(SIZE, Image.Resampling.BICUBIC).convert(mode)


def images() -> list[Files]:
    """Photos of every format and of many kinds within the formats."""
    register_heif()
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    exif[IFD.GPSInfo] = {
        GPS.GPSLatitudeRef: "N", GPS.GPSLatitude: (48.0, 8.0, 14.25),
        GPS.GPSLongitudeRef: "E", GPS.GPSLongitude: (11.0, 34.0, 31.5),
        GPS.GPSImgDirectionRef: "T", GPS.GPSImgDirection: 123.5,
    }  # fmt: skip
    exif[IFD.Exif] = {
        Base.DateTimeOriginal: "2026:05:01 12:00:00", Base.OffsetTimeOriginal: "+02:00"
    }  # fmt: skip
    about = {"exif": exif.tobytes()}
    icc = b"\0" * 128 + b"\0\0\0\0"
    kinds: list[tuple[str, str, str, dict[str, Any]]] = [
        ("jpg", "JPEG", "RGB", about), ("jpg", "JPEG", "RGB", {"progressive": True}),
        ("jpg", "JPEG", "CMYK", {}), ("jpg", "JPEG", "L", {"icc_profile": icc}),
        ("jpg", "MPO", "RGB", {"save_all": True, "append_images": [picture(1)]}),
        ("png", "PNG", "RGB", about), ("png", "PNG", "P", {"transparency": 3}),
        ("png", "PNG", "I;16", {}), ("png", "PNG", "LA", {"icc_profile": icc}),
        ("png", "PNG", "RGB", {"save_all": True, "append_images": [picture(1)]}),
        ("webp", "WEBP", "RGB", about), ("webp", "WEBP", "RGBA", {"lossless": True}),
        ("webp", "WEBP", "RGB", {"save_all": True, "append_images": [picture(1)]}),
        ("tif", "TIFF", "RGB", about), ("tif", "TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("tif", "TIFF", "RGB", {"compression": "jpeg"}),
        ("tif", "TIFF", "I;16", {"compression": "tiff_deflate"}),
        ("tif", "TIFF", "1", {"compression": "group4"}), ("tif", "TIFF", "P", {}),
        ("tif", "TIFF", "RGB", {"save_all": True, "append_images": [picture(1)]}),
        ("heic", "HEIF", "RGB", about), ("heic", "HEIF", "RGBA", {}),
        ("avif", "AVIF", "RGB", about), ("avif", "AVIF", "RGBA", {}),
        ("gif", "GIF", "P", {}), ("gif", "GIF", "P", {"save_all": True,
                                                      "append_images": [picture(1, "P")]}),
        ("bmp", "BMP", "RGB", {}), ("bmp", "BMP", "P", {}), ("ppm", "PPM", "RGB", {}),
        ("jp2", "JPEG2000", "RGB", {}),
    ]  # fmt: skip
    made = []
    for ending, form, mode, options in kinds:
        file = io.BytesIO()
        picture(0, mode).save(file, form, **options)
        made.append({f"photo.{ending}": file.getvalue()})
    return made


def calibration() -> dict[str, Any]:
    """A calibration as an index keeps it."""
    width = len(FEATURES)
    return Calibration(
        mean=(0.1,) * width, scale=(0.5,) * width, here=(0.3,) * (width + 1),
        right=(0.2,) * (width + 1), not_here_below=0.2, probably_from=0.5, sure_from=0.9,
        steps=(0.4, 0.7), radius50_m=(60.0, 20.0, 8.0), radius90_m=(400.0, 80.0, 20.0), top_k=20,
        photos=200, outside=100,
    ).to_dict()  # fmt: skip


def indexes(network: SelaVPR) -> list[Files]:
    """Small indexes, one of each kind of local features, one searched by inverted lists."""
    made = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        rows = ["image,lat,lon,id,heading,street"]
        for i in range(8):
            picture(i).save(folder / "images" / f"{i}.png")
            rows.append(f"images/{i}.png,{48 + i / 2500},{11 + i % 3 / 2500},p{i},{40 * i},Way {i}")
        (folder / "places.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        line = {"type": "LineString", "coordinates": [[11, 48], [11.1, 48.1]]}
        feature = {"type": "Feature", "properties": {"kind": "street", "name": "Way"}}
        basemap = {"type": "FeatureCollection", "features": [{**feature, "geometry": line}]}
        (folder / "map.geojson").write_text(json.dumps(basemap), encoding="utf-8")
        photos = read_folder(folder)
        manifest = Manifest("town", "Town", "tiny", "", 0, (0, 0, 0, 0), calibration=calibration())
        kinds: list[tuple[str, int | None, Search]] = [
            ("tokens", 8, "flat"), ("tokens", 8, "ivf"), ("dense", None, "flat"),
            ("keypoint", 6, "flat"), ("product", 2, "flat"), ("none", None, "flat"),
        ]  # fmt: skip
        for local, rank, search in kinds:
            listed, writing.LISTED = writing.LISTED, 0 if search == "ivf" else writing.LISTED
            index, _ = building.build(
                folder / f"{local}-{search}", photos, network, manifest,
                local=local, rank=rank, search=search, basemap=folder / "map.geojson",
            )  # fmt: skip
            writing.LISTED = listed
            made.append(_files(index.folder))
    return made


def models(network: SelaVPR) -> list[Files]:
    """A model folder, in both precisions."""
    made = []
    with TemporaryDirectory() as folder:
        for dtype in (torch.float32, torch.float16):
            weights.save(network.to_weights(), Path(folder, "m"), with_backbone=True, dtype=dtype)
            made.append(_files(Path(folder, "m")))
    return made


def checkpoints() -> list[Files]:
    """A checkpoint of the reference implementation, as archive and in the older form."""
    path = ROOT / "tests" / "fixtures" / "parity" / "tiny_reg4_official.pth"
    # The file is ours; its NumPy arrays need the full unpickler.
    state = torch.load(path, weights_only=False)["model_state_dict"]
    files = [{"model.pth": path.read_bytes()}]
    small = {
        name: x for name, x in state.items() if "blocks.1" not in name and "blocks.2" not in name
    }
    for archive in (True, False):
        buffer = io.BytesIO()
        content = {"epoch_num": 7, "model_state_dict": small, "best_r5": 96.4}
        torch.save(content, buffer, _use_new_zipfile_serialization=archive)
        files.append({"model.pth": buffer.getvalue()})
    return files


def runs() -> list[Files]:
    """The state of a training run."""
    batches = [
        Batch(np.arange(4) + i, np.eye(4, dtype=bool), ~np.eye(4, dtype=bool)) for i in range(2)
    ]
    tensors = {"a.weight": torch.ones(2, 3)}
    moments = {"a.weight.exp_avg": torch.ones(2, 3)}
    memory = {"descriptors": torch.ones(2, 3), "rows": torch.arange(2)}
    about = {"epoch": 1, "step": 2, "history": [0.5, 0.25]}
    with TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.safetensors")
        write_checkpoint(path, Checkpoint(tensors, moments, tuple(batches), memory, about))
        return [{path.name: path.read_bytes()}]


def recipes() -> list[Files]:
    """The recipes of this repository."""
    paths = sorted((ROOT / "recipes").glob("*.toml"))
    return [{"recipe.toml": path.read_bytes()} for path in paths]


def _files(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
