"""Facade styles: what a building looks like, drawn from a seed and its OSM tags."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .osm import Building

Colour = tuple[float, float, float]


def linear(hex_colour: str) -> Colour:
    """An sRGB hex colour such as "#d9b36c" as linear RGB."""
    rgb = [int(hex_colour[i : i + 2], 16) / 255.0 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb)
    return r, g, b


PLASTER = (
    "#d9b36c",
    "#e8dcc0",
    "#e9cf8f",
    "#d8b09a",
    "#b8714f",
    "#b9bf9c",
    "#b5b3ab",
    "#e6e3da",
    "#9aa6ad",
    "#c98d6a",
    "#e3c9a0",
    "#cfc6b4",
    "#d4a65a",
    "#efe6cf",
    "#a9b5a0",
    "#dccbb0",
)
STONE = ("#8b8580", "#8f6a5c", "#a59c8e", "#77706a", "#b4ab9c", "#6d5b52", "#999c9e", "#c6bda9")
BRICK = ("#8a4634", "#6b3a2e", "#b08a58", "#a0573c", "#7a4a40", "#94604a", "#5c4238")
PANEL = ("#c9c9c5", "#9fa3a5", "#5f6468", "#dcdad2", "#7d8a90", "#a8a295", "#3f4549", "#b8aa90")
ROOFS = ("#4c5254", "#3f4a45", "#6f3f33", "#7d8587", "#5d7a6c", "#33383b", "#8a8f90", "#5a3a33")
FRAMES = ("#eeeae0", "#e6e0d0", "#5a4632", "#2f3a36", "#7a3d2c", "#3b3f44", "#d8d4c8", "#6d7a6a")
_NAMED = {
    "white": "#e6e3da",
    "yellow": "#e3c477",
    "red": "#94503c",
    "brown": "#80604c",
    "grey": "#9c9a95",
    "gray": "#9c9a95",
    "beige": "#dccbb0",
    "green": "#a9b5a0",
    "black": "#3a3a3c",
    "pink": "#d8b09a",
    "orange": "#c98d5a",
    "blue": "#8fa0b0",
}


@dataclass(frozen=True)
class Style:
    """All the choices that make one facade; lengths in metres, colours linear RGB."""

    family: str
    wall: str  # material of the upper floors
    wall_tint: Colour
    base: str  # material of the ground floor
    base_tint: Colour
    trim_tint: Colour
    frame_tint: Colour
    floors: int
    ground_height: float
    floor_height: float
    pitch: float  # distance between window axes
    window_width: float
    window_height: float
    sill: float  # height of the window above its floor
    mullions: str
    surround: float  # width of the moulding round each window, 0 for none
    pediments: bool
    hood_floor: int  # the floor whose windows carry the pediments
    courses: bool
    cornice: float
    dentils: bool
    pilasters: int  # a pilaster after so many bays, 0 for none
    balconies: float  # share of bays with a balcony
    bays: bool  # projecting oriels
    arches: bool  # round heads over the windows of the top floor
    shops: bool
    roof: str
    roof_tint: Colour
    roof_height: float
    awning_tint: Colour
    pattern: int  # rhythm: 0 even, 1 paired windows, 2 wide-narrow
    reveal: float

    @property
    def height(self) -> float:
        """Height of the eaves above the pavement."""
        return self.ground_height + self.floor_height * (self.floors - 1) + 0.5


def _vary(rng: np.random.Generator, colour: Colour, amount: float = 0.10) -> Colour:
    k = rng.uniform(1 - amount, 1 + amount, 3) * rng.uniform(0.9, 1.08)
    r, g, b = np.clip(np.array(colour) * k, 0.01, 0.85)
    return float(r), float(g), float(b)


def _pick(rng: np.random.Generator, palette: tuple[str, ...]) -> Colour:
    return _vary(rng, linear(palette[rng.integers(len(palette))]))


def _floors(rng: np.random.Generator, b: Building) -> int:
    for key, per in (("building:levels", 1.0), ("height", 3.6)):
        try:
            return int(np.clip(round(float(b.tags[key].split()[0]) / per), 1, 14))
        except (KeyError, ValueError):
            continue
    area = b.footprint.area
    if area < 60:
        return 1
    if area < 180:
        return int(rng.integers(1, 4))
    return int(rng.choice([4, 5, 5, 6, 6, 6, 7, 7, 8]))


def _year(b: Building) -> int | None:
    digits = "".join(c for c in b.tags.get("start_date", "") if c.isdigit())[:4]
    return int(digits) if len(digits) == 4 else None


def _family(rng: np.random.Generator, b: Building, floors: int) -> str:
    year = _year(b)
    use = b.tags.get("building", "yes")
    if use in ("church", "cathedral", "chapel", "museum", "public", "train_station"):
        return "classic"
    if floors <= 1:
        return "pavilion"
    if year is not None:
        if year < 1895:
            return str(rng.choice(["classic", "classic", "renaissance"]))
        if year < 1918:
            return str(rng.choice(["jugend", "granite", "renaissance"]))
        if year < 1945:
            return str(rng.choice(["brick", "plain", "granite"]))
        if year < 1985:
            return str(rng.choice(["ribbon", "grid", "brick"]))
        return str(rng.choice(["glass", "grid", "ribbon"]))
    families = ["classic", "renaissance", "jugend", "granite", "brick", "plain", "ribbon", "grid"]
    return str(
        rng.choice([*families, "glass"], p=[0.14, 0.20, 0.16, 0.12, 0.12, 0.10, 0.07, 0.05, 0.04])
    )


def draw_style(b: Building, seed: int) -> Style:
    """The style of a building: the same for the same seed and OSM id."""
    rng = np.random.default_rng([seed, b.osm_id])
    floors = _floors(rng, b)
    family = _family(rng, b, floors)
    old = family in ("classic", "renaissance", "jugend", "granite")
    wall, tint = "plaster", _pick(rng, PLASTER)
    if family == "granite":
        wall, tint = str(rng.choice(["ashlar", "cladding"])), _pick(rng, STONE)
    elif family == "brick":
        wall, tint = "brick", _pick(rng, BRICK)
    elif family in ("ribbon", "grid", "glass", "pavilion"):
        wall = str(rng.choice(["concrete", "cladding", "plaster"]))
        tint = _pick(rng, PANEL if rng.random() < 0.7 else STONE)
    named = b.tags.get("building:colour", "").lower()
    if named in _NAMED or (named.startswith("#") and len(named) == 7):
        tint = _vary(rng, linear(_NAMED.get(named, named)), 0.04)
    base, base_tint = wall, _vary(rng, tint, 0.06)
    roll = rng.random()
    if old and roll < 0.45:
        base, base_tint = "ashlar", _pick(rng, STONE)
    elif old and roll < 0.75:
        base, base_tint = "ashlar", _vary(rng, (tint[0] * 0.85, tint[1] * 0.85, tint[2] * 0.85))
    elif roll < 0.6:
        base, base_tint = "cladding", _pick(rng, STONE)
    trim_palette = ("#e9e4d6", "#d9d2c2", "#cbbfa8", "#f0ece2")
    trim = _pick(rng, trim_palette) if rng.random() < 0.65 else _vary(rng, tint, 0.15)
    floor_height = float(rng.uniform(3.4, 4.0) if old else rng.uniform(3.0, 3.5))
    width, high, pitch = rng.uniform(1.1, 1.5), rng.uniform(1.8, 2.25), rng.uniform(2.3, 3.4)
    sill = rng.uniform(0.75, 0.95)
    if family == "brick" or family == "plain":
        width, high = rng.uniform(1.3, 2.0), rng.uniform(1.4, 1.75)
    if family == "ribbon":
        pitch = rng.uniform(1.4, 2.0)
        width, high = pitch - 0.12, rng.uniform(1.5, 1.9)
    elif family == "grid":
        pitch = rng.uniform(1.8, 3.2)
        width, high, sill = pitch - rng.uniform(0.3, 0.7), floor_height - 1.0, 0.5
    elif family == "glass":
        pitch = rng.uniform(1.5, 2.2)
        width, high, sill = pitch - 0.08, floor_height - 0.55, 0.25
    high = min(high, floor_height - sill - 0.3)
    roofs = ["hip", "mansard", "hip", "flat"] if old or family == "plain" else ["flat"]
    if family == "brick":
        roofs = ["flat", "hip"]
    roof = str(rng.choice(roofs))
    if b.tags.get("roof:shape") in ("flat", "hipped", "gabled", "mansard"):
        shape = b.tags["roof:shape"]
        roof = {"hipped": "hip", "gabled": "hip"}.get(shape, shape)
    mullions = {
        "ribbon": ["single", "single", "low"],
        "grid": ["single", "two"],
        "glass": ["single"],
    }.get(family, ["cross", "cross", "tee", "six", "two", "three"])
    return Style(
        family=family,
        wall=wall,
        wall_tint=tint,
        base=base,
        base_tint=base_tint,
        trim_tint=trim,
        frame_tint=_pick(rng, FRAMES),
        floors=floors,
        ground_height=float(
            rng.uniform(3.2, 3.6) if family == "pavilion" else rng.uniform(4.1, 5.0)
        ),
        floor_height=floor_height,
        pitch=float(max(pitch, width + 0.05)),
        window_width=float(width),
        window_height=float(high),
        sill=float(sill),
        mullions=str(rng.choice(mullions)),
        surround=float(rng.uniform(0.12, 0.24)) if old and rng.random() < 0.8 else 0.0,
        pediments=family in ("classic", "renaissance") and rng.random() < 0.7,
        hood_floor=int(rng.integers(1, 4)),
        courses=bool(old and rng.random() < 0.8) or rng.random() < 0.2,
        cornice=float(rng.uniform(0.4, 0.8)) if old else float(rng.uniform(0.08, 0.3)),
        dentils=bool(family in ("classic", "renaissance") and rng.random() < 0.7),
        pilasters=int(rng.choice([0, 1, 2, 3])) if old and rng.random() < 0.5 else 0,
        balconies=float(rng.choice([0, 0.1, 0.25]))
        if family in ("brick", "plain", "jugend")
        else (0.06 if old and rng.random() < 0.4 else 0.0),
        bays=bool(family in ("jugend", "granite", "plain") and rng.random() < 0.6),
        arches=bool(family in ("jugend", "granite", "renaissance") and rng.random() < 0.5),
        shops=bool(rng.random() < 0.8 and family != "classic") or rng.random() < 0.35,
        roof=roof,
        roof_tint=_pick(rng, ROOFS),
        roof_height=float(rng.uniform(2.2, 4.2)),
        awning_tint=_pick(rng, ("#8c2f2a", "#2f5a46", "#27426b", "#c9a44a", "#d8d2c4", "#5a2c4a")),
        pattern=int(rng.choice([0, 0, 0, 1, 2])) if family not in ("ribbon", "glass") else 0,
        reveal=float(rng.uniform(0.14, 0.26) if family != "glass" else 0.05),
    )
