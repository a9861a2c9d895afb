"""What the page says, in English and Chinese.

A page shows both languages at once, each text in a ``<span>`` of its own, and a style rule hides
the one that is not the document's: switching needs no server, and answers on screen switch too.
Labels of Gradio's own components come from the same table through ``gradio_table``.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence

LANGUAGES = ("en", "zh")

_TEXT: dict[str, tuple[str, str]] = {
    # the frame
    "title": ("SelaVPR Place Finder", "SelaVPR 地点识别"),
    "tagline": (
        "Upload a street photo. See where it was taken, and why.",
        "上传一张街景照片，看看它拍摄于何处，以及判断的依据。",
    ),
    "skip": ("Skip to the answer", "跳到结果"),
    "theme_switch": ("Dark mode", "深色模式"),
    "language_switch": ("中文", "English"),
    "photo": ("Your photo", "你的照片"),
    "photo_hint": (
        "Drop, paste or take\na street photo\nor click to choose one",
        "拖放、粘贴或拍摄\n一张街景照片\n或点击选择",
    ),
    "city": ("Where to search", "搜索范围"),
    "city_info": ("Only places in this index can be found", "只能找到此索引中的地点"),
    "locate": ("Locate", "开始定位"),
    "options": ("Options", "选项"),
    "top_k": ("Candidates", "候选数量"),
    "top_k_info": ("How many places the first stage hands on", "第一阶段保留多少个地点"),
    "rerank": ("Re-rank by matched details", "用局部细节重新排序"),
    "rerank_info": ("Off: the first stage alone decides", "关闭后只由第一阶段决定"),
    "depth": ("Re-rank the best", "重排前几名"),
    "depth_info": ("The rest keep the order of the first stage", "其余保持第一阶段的顺序"),
    "compare": ("Compare with the photo's own GPS position", "与照片自带的 GPS 位置比较"),
    "compare_info": (
        "Read only after the answer is made; never used for it, never kept",
        "只在得出结果之后读取，不参与判断，也不保存",
    ),
    "examples": ("Or try one of these", "或试试这些例子"),
    # stages
    "now_open": ("Reading the photo", "读取照片"),
    "now_extract": ("Looking at it", "提取特征"),
    "now_search": ("Searching the city", "全城搜索"),
    "now_rerank": ("Comparing details", "比对细节"),
    "now_locate": ("Placing it on the map", "确定位置"),
    "now_done": ("Done", "完成"),
    # the verdict
    "sure": ("This is {street}", "这里是{street}"),
    "probably": ("This is probably {street}", "这里很可能是{street}"),
    "unsure": ("This may be {street}", "这里也许是{street}"),
    "not here": ("This does not look like {city}", "看起来不像 {city}"),
    "sure_note": ("The evidence is strong.", "证据充分。"),
    "probably_note": (
        "The evidence points here. Compare the pictures below.",
        "证据指向这里，请对照下面的图片。",
    ),
    "unsure_note": (
        "The evidence is weak. Compare the pictures below before you trust it.",
        "证据较弱，采信之前请对照下面的图片。",
    ),
    "not here_note": (
        "Nothing in the index stands out. The best guess is {street}, and it is only a guess.",
        "索引中没有突出的匹配。最接近的是{street}，仅供参考。",
    ),
    "metres": ("{number} m", "{number} 米"),
    "kilometres": ("{number} km", "{number} 公里"),
    "within": ("off by about {distance}", "误差约 {distance}"),
    "percent": (
        "{percent} % sure it is within {right}",
        "有 {percent} % 的把握误差不超过 {right}",
    ),
    "percent_not": ("{percent} % likely to be in {city}", "位于{city}的可能性为 {percent} %"),
    "uncalibrated": (
        "Not calibrated for this city and these settings: no probability, no error circle",
        "此城市和设置尚未校准：不给出概率和误差圈",
    ),
    "error": ("{distance} from the true position", "距真实位置 {distance}"),
    "error_own": (
        "{distance} from the photo's own GPS position",
        "距照片自带的 GPS 位置 {distance}",
    ),
    "no_position": (
        "The photo carries no GPS position to compare with",
        "照片不含 GPS 位置，无法比较",
    ),
    "open_map": ("open in OpenStreetMap", "在 OpenStreetMap 中打开"),
    # the map
    "map": ("Map of the answer", "结果地图"),
    "answer": ("Answer", "结果"),
    "guess": ("Best guess", "最接近的猜测"),
    "truth": ("True position", "真实位置"),
    "truth_own": ("GPS position in the photo's data", "照片数据中的 GPS 位置"),
    "global_answer": ("Answer of the first stage", "第一阶段的结果"),
    "circle50": ("Half of answers lie this close", "半数结果在此范围内"),
    "circle90": ("Nine in ten lie this close", "九成结果在此范围内"),
    "circles": (
        "Half of answers lie within {near}, nine in ten within {far}",
        "半数结果的误差在 {near}内，九成在 {far}内",
    ),
    "layer_rerank": ("Re-ranked", "重排后"),
    "layer_global": ("Global only", "仅全局"),
    "layer_moves": ("What re-ranking moved", "重排的变动"),
    "move": (
        "No. {rank} of the first stage → No. {rank} re-ranked",
        "第一阶段第 {rank} 名 → 重排后第 {rank} 名",
    ),
    "moves": (
        "Dashed: from the place the first stage gave a rank to the place that has it now",
        "虚线：从第一阶段某一名次的地点指向现居该名次的地点",
    ),
    "photos_of": ("Photos: {credit}", "参考照片：{credit}"),
    "covered": ("Where the photos of this city were taken", "这座城市参考照片的拍摄位置"),
    "zoom_in": ("Zoom in", "放大"),
    "zoom_out": ("Zoom out", "缩小"),
    "layers": ("Layers", "图层"),
    "close": ("Close", "关闭"),
    # the columns
    "ranking": ("Two stages, two rankings", "两个阶段，两种排序"),
    "ranking_note": (
        "Pick any picture to see which details match.",
        "点选任意图片，查看哪些细节吻合。",
    ),
    "global_only": ("1 · Global only", "1 · 仅全局"),
    "global_note": ("The whole picture as one fingerprint", "整张图片一个指纹"),
    "reranked": ("2 · Re-ranked", "2 · 重排后"),
    "reranked_note": ("By details found in both pictures", "按两图共有的细节"),
    "reranked_note_expected": (
        "By shared details, weighed by how unmistakable they are",
        "按两图共有的细节，并按独特程度加权",
    ),
    "foremost": (
        "First, narrowly, as pictures beside it match, too",
        "相差无几，因旁边的图片也吻合而居首",
    ),
    "reranked_off": (
        "Re-ranking is off. Switch it on under Options to compare.",
        "重排已关闭，可在“选项”中打开以作比较。",
    ),
    "moved": (
        "The two answers are {distance} apart.",
        "两个结果相距 {distance}。",
    ),
    "not_moved": ("Both stages chose the same place.", "两个阶段选中了同一地点。"),
    "similarity": ("similarity {value}", "相似度 {value}"),
    "matches": ("{count} matches", "{count} 处匹配"),
    "expected_matches": ("match score {count}", "匹配得分 {count}"),
    "up": ("up {count}", "上升 {count}"),
    "down": ("down {count}", "下降 {count}"),
    "same": ("unchanged", "不变"),
    # why
    "why": ("The evidence", "判断依据"),
    "match_image": ("Matched details: your photo left, {street} right", "匹配的细节"),
    "match_summary": (
        "{shown} of {total} matches drawn; {agreeing} of all agree on one geometry.",
        "显示 {total} 处匹配中的 {shown} 处；全部匹配中 {agreeing} 处符合同一几何关系。",
    ),
    "match_score": (
        "Here each counts as one; the ranking's score, {score}, weighs them by how unmistakable "
        "they are, on a coarser grid.",
        "此处每处匹配计为一；排序所用的得分 {score} 在较粗的网格上按独特程度对匹配加权。",
    ),
    "match_legend": (
        "Bold lines agree on one geometry; faint ones do not. Colour: similarity, low to high",
        "粗线符合同一几何关系，淡线不符合。颜色表示相似度，由低到高",
    ),
    "picked": ("No. {rank}: {street}", "第 {rank} 名：{street}"),
    "yours": ("Your photo", "你的照片"),
    "theirs": ("Photo: {credit}", "照片：{credit}"),
    "lines": ("Lines", "连线数量"),
    "min_similarity": ("Least similarity", "最低相似度"),
    "agreeing_only": ("Only what agrees on one geometry", "仅显示几何一致的匹配"),
    "save_picture": ("Save this picture", "保存此图"),
    "heat": ("What the model looks at", "模型关注的区域"),
    "heat_note": (
        "Bright: what the photo's fingerprint, by which the first stage searches, is made of most: "
        "by the plain network, and by the adapted one that answers. Each has a scale of its own.",
        "明亮处对照片指纹（第一阶段据此搜索）的贡献最大：先是原始网络，后是作出回答的适配后网络。"
        "两图各用各的色阶。",
    ),
    "heat_same": (
        "In this model the adapters make no difference to this photo.",
        "在此模型中，适配器对这张照片没有影响。",
    ),
    "heat_before": ("Before adaptation", "适配之前"),
    "heat_after": ("After adaptation", "适配之后"),
    "heat_scale": ("Share in the fingerprint, small to large", "在指纹中的份额，由小到大"),
    # the end of the page
    "time": ("Time: {total}", "用时：{total}"),
    "seconds": ("{number} s", "{number} 秒"),
    "milliseconds": ("{number} ms", "{number} 毫秒"),
    "stage_open": ("read", "读取"),
    "stage_extract": ("extract", "提取"),
    "stage_search": ("search", "搜索"),
    "stage_rerank": ("re-rank", "重排"),
    "stage_locate": ("locate", "定位"),
    "save": ("Save the answer", "保存结果"),
    "picture": ("Picture", "图片"),
    "link": ("Copy the link to this answer", "复制此结果的链接"),
    "copied": ("Link copied", "链接已复制"),
    "how": ("How it works", "工作原理"),
    "how_global": (
        "First stage. One network turns each picture into one fingerprint. The whole city is "
        "searched for the nearest fingerprints in about a millisecond.",
        "第一阶段：网络把每张图片变成一个指纹，在全城中寻找最接近的指纹，约需一毫秒。",
    ),
    "how_local": (
        "Second stage. The same network gives a grid of local details. Those that choose each "
        "other in both pictures speak for a place: counted one by one, or weighed by how "
        "unmistakable they are and by how alike they lie in both, as the model has it. The "
        "strongest case wins; of cases nearly as strong, the one whose neighbours match, too.",
        "第二阶段：同一网络给出局部细节的网格。两图中互相选中的细节支持该地点：依模型而定，"
        "或逐一计数，或按独特程度及其在两图中布局的相似程度加权。支持最强者胜出；"
        "相差无几时，周围图片也最吻合者胜出。",
    ),
    "svg_photo": ("photo", "照片"),
    "svg_network": ("DINOv2 + adapters", "DINOv2 + 适配器"),
    "svg_fingerprint": ("one fingerprint", "一个指纹"),
    "svg_city": ("city → top k", "全城 → 前 k 名"),
    "svg_details": ("grid of details", "细节网格"),
    "svg_mutual": ("mutual matches", "互相匹配"),
    "svg_answer": ("place", "地点"),
    "empty": ("Give it a street photo", "给它一张街景照片"),
    "empty_note": (
        "It is compared with {count} photos of {city}. It is sent to the computer that serves this "
        "page and nowhere else, and is deleted there within 70 minutes of your last use of it.",
        "照片将与{city}的 {count} 张照片比对。照片只发送到提供本页面的计算机，"
        "最后一次使用后 70 分钟内从那里删除。",
    ),
    "no_credit": ("author not stated", "作者未注明"),
    "credits": ("Credits", "致谢与许可"),
    # what went wrong
    "no_photo": ("Choose a photo first.", "请先选择一张照片。"),
    "failed": (
        "Something went wrong on this side; the log of the app says what. Please try again.",
        "程序内部出错，详情见应用日志。请重试。",
    ),
    "busy": (
        "Many people are asking right now and the waiting line is full. Your photo is still here: "
        "please try again in a few seconds.",
        "当前使用的人较多，等候队列已满。您的照片仍在此处，请过几秒再试。",
    ),
    "error_PhotoError": ("{detail}", "无法使用这张照片，请换一张。（{detail}）"),
    "error_OptionError": ("{detail}", "选项的值无效。（{detail}）"),
    "error_LocationError": ("{detail}", "坐标无效。（{detail}）"),
    "error_WeightsError": ("{detail}", "模型无法使用。（{detail}）"),
    "error_HubError": ("{detail}", "无法从 Hugging Face Hub 获取文件。（{detail}）"),
    "error_IndexFileError": ("{detail}", "城市索引缺失、损坏或与模型不符。（{detail}）"),
    "error_SelaVPRError": ("{detail}", "出错了。（{detail}）"),
    # what a visitor should know first
    "other_model": (
        "{asked} could not be fetched, so the bundled model {served} serves.",
        "无法获取 {asked}，现由自带模型 {served} 提供服务。",
    ),
    "other_city": (
        "{asked} could not be fetched, so the bundled city serves.",
        "无法获取 {asked}，现由自带城市提供服务。",
    ),
    "missing_city": (
        "{asked} could not be fetched, so this city is missing here for now.",
        "无法获取 {asked}，该城市暂时缺席。",
    ),
}


_DETAILS = tuple(
    (re.compile(english, re.DOTALL), chinese)
    for english, chinese in (
        (
            r"This photo has been deleted here meanwhile; please choose it again\.",
            "这张照片已从服务器删除，请重新选择。",
        ),
        (
            r"(.*) is not a photo this app can read; use .*",
            r"\1 不是可读取的照片，请使用 JPEG、PNG、WebP、HEIC 或 AVIF 格式。",
        ),
        (r"(.*) is larger than (\d+) megapixels; .*", r"\1 超过 \2 百万像素，请先缩小。"),
        (r"(.*) is cut off or damaged and cannot be read.*", r"\1 不完整或已损坏，无法读取。"),
        (r"(.*) is damaged and cannot be read\.", r"\1 已损坏，无法读取。"),
        (
            r"(.*) is an animation or has several pages; .*",
            r"\1 是动画或包含多页，请另存其中一幅。",
        ),
        (r"(.*) holds floating-point values; .*", r"\1 含浮点数值，请另存为 8 位或 16 位图片。"),
        (
            r"(.*) is (\d+) x (\d+) pixels; at least (\d+) on each side are needed\.",
            r"\1 只有 \2 x \3 像素，每边至少需要 \4 像素。",
        ),
        (
            r"(.*) is (\d+) x (\d+) pixels, a strip more than (\d+) times as long as wide; .*",
            r"\1 为 \2 x \3 像素，长边超过短边的 \4 倍，请截取较短的一段。",
        ),
        (r"There is no city (.*) here; there are (.*)\.", r"这里没有城市 \1，可选：\2。"),
        (r"There is no candidate \d+; there are (\d+)\.", r"没有这个候选，共有 \1 个。"),
        (r"Pick a candidate first\.", "请先点选一个候选。"),
        (
            r"This answer has been forgotten; press Locate again\.",
            "这个结果已不再保留，请重新点击“开始定位”。",
        ),
        (
            r"The model gives values that are not finite for this photo; .*",
            "模型对这张照片给出了无效数值，请换用其他模型或 float32 精度。",
        ),
    )
)
"""What the engine tells visitors, and the same in Chinese; tests hold both together."""


def plain(key: str, language: str, **values: object) -> str:
    """One text in one language; not escaped.

    Args:
        key: which text.
        language: a locale such as ``"zh-CN"``; what is not Chinese is English.
        **values: what the text's ``{names}`` stand for.
    """
    english, chinese = _TEXT[key]
    if not language.lower().startswith("zh"):
        return english.format(**values)
    return chinese.format(**_spaced(chinese, values))


def _spaced(template: str, values: Mapping[str, object]) -> dict[str, object]:
    """The values with a space wherever Latin letters or digits would touch a Chinese character."""

    def apart(mine: str, other: str) -> bool:
        return mine.isalnum() and not _is_chinese(mine) and _is_chinese(other)

    spaced = dict(values)
    for place in re.finditer(r"\{(\w+)\}", template):
        value = str(values.get(place[1], ""))
        before, after = template[: place.start()][-1:], template[place.end() :][:1]
        left = " " if value and before and apart(value[0], before) else ""
        right = " " if value and after and apart(value[-1], after) else ""
        if left or right:
            spaced[place[1]] = f"{left}{value}{right}"
    return spaced


def _is_chinese(sign: str) -> bool:
    return "\u4e00" <= sign <= "\u9fff"


def both(key: str, **values: object) -> str:
    """A text as HTML in both languages, of which the page shows one; values are escaped.

    Args:
        key: which text.
        **values: what its ``{names}`` stand for; a mapping holds one value for each language.
    """
    return by_language(
        {
            language: plain(
                key,
                language,
                **{n: v[language] if isinstance(v, Mapping) else v for n, v in values.items()},
            )
            for language in LANGUAGES
        }
    )


def by_language(texts: Mapping[str, str]) -> str:
    """Texts by language as HTML, of which the page shows one; they are escaped."""
    english, chinese = (html.escape(texts[language]) for language in LANGUAGES)
    if english == chinese:
        return english
    return f'<span class="sv-en">{english}</span><span class="sv-zh" lang="zh">{chinese}</span>'


def percent(probability: float) -> int:
    """In whole hundredths. Nothing is certain, so neither 0 nor 100."""
    return min(max(round(100 * probability), 1), 99)


def both_plain(key: str, **values: object) -> dict[str, str]:
    """A text by language, for scripts to choose from; not escaped."""
    return {language: plain(key, language, **values) for language in LANGUAGES}


def error(kinds: Sequence[str], detail: str) -> str:
    """An error as HTML in both languages.

    In Chinese those that a visitor can mend have sentences of their own; of the others it says what
    kind they are, with their English text.

    Args:
        kinds: names of its class and the classes above it; the first that is known counts.
        detail: its text, which is English.
    """
    if chinese := _chinese_detail(detail):
        return by_language({"en": detail, "zh": chinese})
    return both(next(key for kind in kinds if (key := f"error_{kind}") in _TEXT), detail=detail)


def distance(metres: float) -> dict[str, str]:
    """A distance in words, by language: metres to 1 km, then kilometres."""
    if metres < 999.5:
        return both_plain("metres", number=round(metres))
    return both_plain("kilometres", number=f"{metres / 1000:,.{1 if metres < 9950 else 0}f}")


def _chinese_detail(detail: str) -> str:
    """A sentence of the engine in Chinese; empty where there is none."""
    for english, chinese in _DETAILS:
        if found := english.fullmatch(detail):
            return found.expand(chinese)
    return ""


def duration(milliseconds: float) -> dict[str, str]:
    """A time in words, by language: milliseconds to 1 s, then seconds."""
    if milliseconds < 999.5:
        return both_plain("milliseconds", number=round(milliseconds))
    return both_plain("seconds", number=f"{milliseconds / 1000:.1f}")


def cell(words: str) -> str:
    """Words as a cell of a Markdown table: in one line, and without bars that would part it."""
    return " ".join(words.split()).replace("|", "\\|")


def gradio_table() -> dict[str, dict[str, str]]:
    """The table as ``gradio.I18n`` takes it."""
    english = {key: texts[0] for key, texts in _TEXT.items()}
    chinese = {key: texts[1] for key, texts in _TEXT.items()}
    # The browser says zh-CN or zh-TW, and Gradio looks for exactly that.
    return {"en": english, "zh": chinese, "zh-CN": chinese, "zh-TW": chinese}


CONTROLS = {
    "Upload file": "上传文件",
    "Click to upload or drop files": "点击选择或拖放文件",
    "Capture from camera": "用摄像头拍摄",
    "Paste from clipboard": "从剪贴板粘贴",
    "Remove Image": "移除图片",
    "grant webcam access": "允许使用摄像头",
    "capture photo": "拍照",
    "select input source": "选择摄像头",
    "select source": "选择来源",
    "Reset to default value": "恢复默认值",
    "number input": "数值",
    "range slider": "滑块",
    "Close": "关闭",
}
"""Names that Gradio gives its controls in English whatever the language, and what Chinese has."""

HIDE_OTHER_LANGUAGE = "html:not([lang^=zh]) .sv-zh{display:none}html[lang^=zh] .sv-en{display:none}"
"""The style rules that show one language."""
