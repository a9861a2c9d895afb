"""The conditions of capture: date, hour, weather, crowd, exposure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

SUMMER_TIME = timezone(timedelta(hours=3))
WINTER_TIME = timezone(timedelta(hours=2))


@dataclass(frozen=True)
class Condition:
    """One way the city may look. Moments are local time, with their UTC offset."""

    name: str
    moments: tuple[datetime, ...]
    cover: float  # clouds, 0 to 1
    wet: float = 0.0
    snow: float = 0.0
    night: float = 0.0
    haze: float = 0.10  # how much the far end of a street fades
    crowd: float = 0.3  # people and cars, 1 = a full street
    leaves: bool = True
    sun: float = 10.0  # strength of the direct light
    exposure: float = -0.45  # stops
    air: tuple[float, float, float] = (0.62, 0.70, 0.82)  # linear colour of the haze
    clutter: str = ""  # what falls through the air: "rain" or "snow"


def _summer(day: int, *hours: float) -> tuple[datetime, ...]:
    start = datetime(2025, 6, day, tzinfo=SUMMER_TIME)
    return tuple(start + timedelta(hours=h) for h in hours)


def _winter(day: int, *hours: float) -> tuple[datetime, ...]:
    start = datetime(2025, 1, day, tzinfo=WINTER_TIME)
    return tuple(start + timedelta(hours=h) for h in hours)


CONDITIONS: dict[str, Condition] = {
    c.name: c
    for c in (
        Condition("summer_day", _summer(14, 10.0, 11.5, 13.5, 15.0, 16.5), 0.38),
        Condition(
            "evening",
            _summer(16, 19.6, 20.4, 21.0),
            0.42,
            crowd=0.35,
            air=(0.75, 0.55, 0.42),
            sun=9.0,
            exposure=0.35,
        ),
        Condition(
            "night",
            _winter(28, 20.0, 21.5, 22.5),
            0.3,
            night=1.0,
            crowd=0.2,
            leaves=False,
            sun=0.0,
            exposure=1.5,
            haze=0.25,
            air=(0.045, 0.034, 0.028),
        ),
        Condition(
            "rain",
            tuple(datetime(2025, 9, 18, h, tzinfo=SUMMER_TIME) for h in (11, 13, 15)),
            1.0,
            wet=1.0,
            night=0.12,
            haze=0.55,
            air=(0.52, 0.55, 0.60),
            crowd=0.2,
            sun=0.0,
            exposure=0.95,
            clutter="rain",
        ),
        Condition(
            "snow",
            _winter(21, 10.5, 12.0, 13.5),
            1.0,
            snow=1.0,
            night=0.12,
            haze=0.6,
            air=(0.66, 0.69, 0.74),
            crowd=0.2,
            leaves=False,
            sun=0.0,
            exposure=0.55,
            clutter="snow",
        ),
        Condition("crowded", _summer(21, 12.5, 14.5, 16.0), 0.55, crowd=1.0),
    )
}
REFERENCE = "summer_day"
