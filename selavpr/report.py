"""Answers as plain data: the JSON and GeoJSON that the page, the API and the shell all give out."""

from __future__ import annotations

from typing import Any

from selavpr.structs import Recognition


def to_dict(recognition: Recognition, photo: str) -> dict[str, Any]:
    """The answer as JSON-able data.

    Args:
        recognition: the answer.
        photo: the photo's name, as the user knows it.

    Returns:
        ``{"photo", "verdict", "confidence", "right", "location": {"lat", "lon", "radius50_m",
        "radius90_m", "street"}, "global_location": {"lat", "lon"}, "candidates": [{"rank",
        "global_rank", "place_id", "lat", "lon", "street", "similarity", "matches"}],
        "timings_ms"}``; distances in metres, angles in degrees, unknown values null.
        "confidence" is the probability that the photo shows the city, "right" that the location is
        within 25 m of the truth. A candidate of rank 1 may have fewer matches than others, see
        ``locating.foremost``.
    """
    estimate = recognition.location
    return {
        "photo": photo,
        "verdict": estimate.verdict,
        "confidence": estimate.confidence,
        "right": estimate.right,
        "location": {
            "lat": round(estimate.location.latitude, 7),
            "lon": round(estimate.location.longitude, 7),
            "radius50_m": estimate.radius50_m,
            "radius90_m": estimate.radius90_m,
            "street": estimate.street,
        },
        "global_location": {
            "lat": round(recognition.global_location.latitude, 7),
            "lon": round(recognition.global_location.longitude, 7),
        },
        "candidates": [
            {
                "rank": c.rank,
                "global_rank": c.global_rank,
                "place_id": c.place.place_id,
                "lat": round(c.place.location.latitude, 7),
                "lon": round(c.place.location.longitude, 7),
                "street": c.place.street,
                "similarity": round(c.similarity, 6),
                "matches": None if c.matches is None else round(c.matches, 2),
            }
            for c in recognition.candidates
        ],
        "timings_ms": {stage: round(ms, 1) for stage, ms in recognition.timings_ms.items()},
    }


def to_geojson(recognition: Recognition, photo: str) -> dict[str, Any]:
    """The answer as a GeoJSON FeatureCollection.

    First the predicted point, then that of the first stage alone, then the candidates; ``kind``
    says which is which (``"predicted"``, ``"global"``, ``"candidate"``).
    """
    answer = to_dict(recognition, photo)
    predicted = {k: answer[k] for k in ("photo", "verdict", "confidence", "right")}
    points = [
        (answer["location"], {**predicted, **answer["location"], "kind": "predicted"}),
        (answer["global_location"], {"kind": "global"}),
    ]
    points += [(c, {**c, "kind": "candidate"}) for c in answer["candidates"]]
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {"type": "Point", "coordinates": [at["lon"], at["lat"]]},
                "properties": {k: v for k, v in about.items() if k not in ("lat", "lon")},
            }
            for at, about in points
        ],
    }
