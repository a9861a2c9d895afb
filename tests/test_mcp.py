"""The app's tools for language models: its MCP server, asked over HTTP as the protocol has it."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from fake_recognizer import FakeRecognizer, drawn_street
from fake_server import Server, serving

from selavpr.report import to_dict

if importlib.util.find_spec("mcp") is None and "CI" not in os.environ:
    pytest.skip('needs `pip install "gradio[mcp]"`', allow_module_level=True)

TYPES = "application/json, text/event-stream"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), "--mcp") as running:
        yield running


@pytest.fixture(scope="module")
def photo() -> str:
    buffer = io.BytesIO()
    drawn_street(100, (640, 480)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def ask(server: Server, method: str, **params: Any) -> dict[str, Any]:
    """The result of a call, or its error."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    request = urllib.request.Request(
        f"{server.address}gradio_api/mcp/",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Accept": TYPES},
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        lines = [line for line in reply.read().decode().splitlines() if line.startswith("data:")]
    answer: dict[str, Any] = json.loads(lines[-1].removeprefix("data:"))
    return answer.get("result") or answer["error"]


def call(server: Server, tool: str, **arguments: Any) -> tuple[bool, str]:
    """Whether a tool failed, and what it said."""
    result = ask(server, "tools/call", name=tool, arguments=arguments)
    assert len(result["content"]) == 1
    return bool(result["isError"]), result["content"][0]["text"]


def test_it_introduces_itself_and_its_tools(server: Server) -> None:
    about = {"name": "test", "version": "1"}
    met = ask(server, "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=about)
    assert met["serverInfo"]["name"] == "SelaVPR Place Finder"
    tools = {tool["name"]: tool for tool in ask(server, "tools/list")["tools"]}
    assert set(tools) == {"locate", "matches"}
    assert "error radii" in tools["locate"]["description"]
    asked = tools["matches"]["inputSchema"]
    assert asked["required"] == ["photo"]
    assert set(asked["properties"]) == {
        "photo", "city", "top_k", "rerank", "rerank_depth", "rank"
    }  # fmt: skip
    assert asked["properties"]["top_k"]["description"].startswith("candidates to consider")
    assert asked["properties"]["city"]["enum"] == ["drawn-town", "other-town", "broken-town"]


def test_locate_answers_in_the_schema_of_the_command_line(server: Server, photo: str) -> None:
    failed, said = call(
        server, "locate", photo=photo, city="drawn-town", top_k=5, rerank=True, rerank_depth=3
    )
    assert not failed, said
    answer = json.loads(said)
    expected = to_dict(
        FakeRecognizer().recognize(drawn_street(100, (640, 480)), top_k=5, rerank_depth=3),
        answer["photo"],
    )
    answer["timings_ms"].pop("open")
    expected["timings_ms"].pop("open")
    assert answer == json.loads(json.dumps(expected))


def test_matches_of_a_candidate(server: Server, photo: str) -> None:
    failed, said = call(server, "matches", photo=photo, top_k=5, rank=2)
    assert not failed, said
    answer = json.loads(said)
    assert (answer["rank"], answer["photo_size"]) == (2, [640, 480])
    assert set(answer["matches"][0]) == {"query", "candidate", "similarity", "agrees"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"photo": "http://127.0.0.1:1/street.jpg"}, "none that anybody can reach"),
        ({"photo": "data:image/png;base64,AAAA"}, "is not a photo this app can read"),
        ({"photo": "", "city": "nowhere"}, "'nowhere' is not one of"),
        ({}, "'photo' is a required property"),
    ],
)
def test_mistakes_are_told(server: Server, arguments: dict[str, Any], said: str) -> None:
    failed, told = call(server, "locate", **arguments)
    assert failed and said in told


def test_other_failures_are_kept_from_the_caller(server: Server, photo: str) -> None:
    failed, told = call(server, "locate", photo=photo, city="broken-town")
    assert failed and "Something went wrong" in told
    assert "secret detail" not in told
