"""Which part of town serves for what; every split follows these borders."""

from __future__ import annotations

from shapely.geometry import Point, Polygon, box

# Mannerheimintie and Erottajankatu part the training streets from the indexed ones. Cameras keep
# well back from the border on the training side.
INDEX = Polygon(
    [
        (-330, -10),
        (-165, -215),
        (-30, -405),
        (8, -495),
        (12, -720),
        (560, -720),
        (560, 330),
        (-100, 330),
        (-100, 150),
        (-250, 150),
    ]
)
TRAIN = Polygon(
    [(-520, 60), (-345, -75), (-215, -250), (-85, -445), (-50, -520), (-30, -720), (-520, -720)]
)
OUTSIDE_NORTH = box(0, 600, 560, 980)
OUTSIDE_WEST = box(-520, 300, -170, 980)
_VALIDATION_BELOW = -400.0  # metres north of the origin
_TEST_ABOVE = -370.0

ZONES = ("index", "train", "outside")


def zone_of(x: float, y: float) -> str:
    """The zone of a camera position: "index", "train", "outside", or "" where none is."""
    at = Point(x, y)
    if INDEX.contains(at):
        return "index"
    if TRAIN.contains(at):
        return "train"
    if OUTSIDE_NORTH.contains(at) or OUTSIDE_WEST.contains(at):
        return "outside"
    return ""


def split_of(x: float, y: float) -> str:
    """The split of a camera position, decided by area alone.

    Between the validation and the test area lies a strip whose pictures serve as references
    only ("none"), so that no street corner is in both.
    """
    zone = zone_of(x, y)
    if zone == "train":
        return "train"
    if zone == "outside":
        return "validation" if OUTSIDE_WEST.contains(Point(x, y)) else "test"
    if y < _VALIDATION_BELOW:
        return "validation"
    return "test" if y > _TEST_ABOVE else "none"
