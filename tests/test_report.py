"""Answers as data: the schema of ``--json``, and GeoJSON that says the same."""

from __future__ import annotations

import json

import pytest
import torch

from selavpr.geo import Location
from selavpr.report import to_dict, to_geojson
from selavpr.structs import Candidate, Estimate, Features, Place, Recognition


@pytest.fixture
def recognition() -> Recognition:
    places = [Place(f"p{i}", f"images/{i}.jpg", Location(50 + i, 8.123456789)) for i in range(2)]
    return Recognition(
        photo_size=(640, 480),
        candidates=(
            Candidate(places[1], 1, global_rank=2, rank=1, similarity=0.87654321, matches=2000),
            Candidate(places[0], 0, global_rank=1, rank=2, similarity=0.9, matches=None),
        ),
        location=Estimate(Location(51, 8), 12.5, 40.0, 0.75, "sure", "Main Street", 0.5),
        global_location=Location(50, 8.123456789),
        features=Features(torch.zeros(1, 4), torch.zeros(1, 2, 2, 4)),
        timings_ms={"open": 1.26, "extract": 20.0},
    )


def test_dict(recognition: Recognition) -> None:
    assert to_dict(recognition, "a.jpg") == {
        "photo": "a.jpg",
        "verdict": "sure",
        "confidence": 0.75,
        "right": 0.5,
        "location": {
            "lat": 51, "lon": 8, "radius50_m": 12.5, "radius90_m": 40.0, "street": "Main Street"
        },
        "global_location": {"lat": 50, "lon": 8.1234568},
        "candidates": [
            {"rank": 1, "global_rank": 2, "place_id": "p1", "lat": 51, "lon": 8.1234568,
             "street": "", "similarity": 0.876543, "matches": 2000},
            {"rank": 2, "global_rank": 1, "place_id": "p0", "lat": 50, "lon": 8.1234568,
             "street": "", "similarity": 0.9, "matches": None},
        ],
        "timings_ms": {"open": 1.3, "extract": 20.0},
    }  # fmt: skip


def test_geojson(recognition: Recognition) -> None:
    found = to_geojson(recognition, "a.jpg")
    assert found["type"] == "FeatureCollection"
    points = [feature["geometry"]["coordinates"] for feature in found["features"]]
    # Longitude first (RFC 7946).
    assert points == [[8, 51], [8.1234568, 50], [8.1234568, 51], [8.1234568, 50]]
    kinds = [feature["properties"]["kind"] for feature in found["features"]]
    assert kinds == ["predicted", "global", "candidate", "candidate"]
    assert found["features"][0]["properties"] == {
        "photo": "a.jpg", "verdict": "sure", "confidence": 0.75, "right": 0.5,
        "radius50_m": 12.5, "radius90_m": 40.0, "street": "Main Street", "kind": "predicted",
    }  # fmt: skip
    assert found["features"][2]["properties"]["place_id"] == "p1"
    assert "lat" not in found["features"][2]["properties"]


def test_both_are_json(recognition: Recognition) -> None:
    for answer in (to_dict(recognition, "ä\n"), to_geojson(recognition, "ä\n")):
        text = json.dumps(answer, allow_nan=False)
        assert "\n" not in text and json.loads(text) == answer
