"""What a screen reader says of the page, in the language that the page shows."""

from __future__ import annotations

import re

import pytest
from fake_recognizer import STREETS
from test_browser import PATIENCE, Visitor, expect
from test_browser import browser as browser  # fixtures, for pytest to find
from test_browser import server as server
from test_browser import visit as visit

pytestmark = pytest.mark.browser

NAMED = (
    "button",
    "checkbox",
    "combobox",
    "group",
    "Iframe",
    "image",
    "link",
    "listbox",
    "RootWebArea",
    "slider",
    "spinbutton",
    "textbox",
)
"""Roles whose names are told to somebody who does not see them."""


def spoken(visitor: Visitor) -> list[tuple[str, str]]:
    """Role and accessible name of what has one, in the page and in the map."""
    session = visitor.context.new_cdp_session(visitor.page)
    frames = session.send("Page.getFrameTree")["frameTree"]
    told = []
    for frame in (frames, *frames.get("childFrames", ())):
        tree = session.send("Accessibility.getFullAXTree", {"frameId": frame["frame"]["id"]})
        told += [
            (node["role"]["value"], node["name"]["value"])
            for node in tree["nodes"]
            if not node["ignored"] and node.get("name", {}).get("value")
        ]
    session.detach()
    return [(role, name) for role, name in told if role in NAMED]


OWN = ("English", "中文", "GeoJSON", "JSON", "Leaflet", "OpenStreetMap", "Rain", "Night")
"""Names that are what they are in any language, beside streets and numbers."""


def foreign(told: list[tuple[str, str]], chinese: bool) -> list[tuple[str, str]]:
    """What is not told in the language of the page."""
    wrong = []
    for role, name in told:
        rest = name
        for own in (*STREETS, *OWN):
            rest = rest.replace(own, "")
        found = re.search(r"[A-Za-z]{2,}" if chinese else r"[\u4e00-\u9fff]", rest)
        if found and not (chinese and re.search(r"[\u4e00-\u9fff]", rest)):
            wrong.append((role, name))
    return wrong


def test_names_of_everything_follow_the_language(visit) -> None:  # type: ignore[no-untyped-def]
    """Chinese may quote a word of English, such as GPS; a name without any Chinese is English."""
    visitor = visit(locale="zh-CN")
    page = visitor.page
    expect(page.get_by_role("button", name="开始定位")).to_be_visible(timeout=PATIENCE)
    frame = page.locator("iframe.sv-map")
    expect(frame).to_have_attribute("title", "这座城市参考照片的拍摄位置", timeout=PATIENCE)
    assert foreign(spoken(visitor), chinese=True) == []
    visitor.try_example()
    page.get_by_role("button", name="选项").click()
    page.locator(".sv-column.sv-rerank .sv-card").nth(2).click()
    expect(visitor.map.locator(".leaflet-popup-content")).to_contain_text("→ #3", timeout=PATIENCE)
    told = spoken(visitor)
    assert foreign(told, chinese=True) == []
    assert {
        ("Iframe", "结果地图"),
        ("RootWebArea", "结果地图"),
        ("RootWebArea", "SelaVPR 地点识别"),
        ("button", "放大"),
        ("button", "上传文件"),
        ("button", "关闭"),
        ("spinbutton", "连线数量 (数值)"),
        ("image", "照片 DINOv2 + 适配器 一个指纹 全城 → 前 k 名 细节网格 互相匹配 地点"),
    } <= set(told)
    assert any(name.endswith(", 重排后, 1") for _, name in told), "a pin"
    page.get_by_role("button", name="English").click()
    expect(frame).to_have_attribute("title", "Map of the answer", timeout=PATIENCE)
    expect(page.get_by_role("spinbutton", name="number input for Lines")).to_be_visible()
    told = spoken(visitor)
    assert foreign(told, chinese=False) == []
    assert {
        ("Iframe", "Map of the answer"),
        ("RootWebArea", "SelaVPR Place Finder"),
        ("button", "Zoom in"),
        ("button", "Upload file"),
    } < set(told)
    assert any(name.endswith(", Re-ranked, 1") for _, name in told), "the same pin"
