"""The page: upload a photo, see where, see why. The only home of gradio.

``build_demo`` lays out the page over loaded recognizers, ``launch`` runs it. What the page does is
in ``session``; here are components, events, and the way of errors to the visitor.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from selavpr import cards, theme
from selavpr.cards import Example
from selavpr.errors import OptionError, PhotoError, SelaVPRError
from selavpr.geo import Location
from selavpr.images import load_image
from selavpr.recognizer import Recognizer
from selavpr.session import Session, Site
from selavpr.text import both, gradio_table, plain

log = logging.getLogger(__name__)

MAX_UPLOAD = "30mb"
KEEP_SECONDS = 3600
"""Uploads and drawn pictures are deleted after this long, sessions forgotten."""

QUEUE = 40
"""Visitors that may wait; more are told to come back."""

VISITORS = 128
"""Visitors whose last answer is remembered, some 5 MB each; the oldest is forgotten first."""

TOP_K, MAX_TOP_K = 20, 100
LINES = 80

_MODEL = {"concurrency_limit": 1, "concurrency_id": "model"}  # the network is used one at a time
_QUIET = {"show_progress": "hidden", "api_visibility": "private"}

_t = gr.I18n(**gradio_table())


def build_demo(
    recognizers: Mapping[str, Recognizer],
    examples: Sequence[Example] = (),
    *,
    tiles: bool = True,
    note: str = "",
) -> gr.Blocks:
    """Lay out the page.

    Args:
        recognizers: by the name of their index; the first is chosen at the start.
        examples: photos to try at one click.
        tiles: let the map try OpenStreetMap's tiles.
        note: shown above everything, for example that another model than asked for serves.

    Returns:
        The page, not running yet.

    Raises:
        OptionError: there is no index to search.
    """
    site = Site(recognizers, tiles=tiles)
    first = next(iter(recognizers))
    manifests = [r.index.manifest for r in recognizers.values()]
    with gr.Blocks(
        title=plain("title", "en"), analytics_enabled=False, delete_cache=(600, KEEP_SECONDS)
    ) as demo:
        demo.served_folder = site.folder
        session, truth = gr.State(None, time_to_live=KEEP_SECONDS), gr.State(None)
        _html(cards.header(), js_on_load=theme.HEADER_CLICKS)
        if note:
            _html(cards.notice(note))
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=320, elem_id="sv-side"):
                photo = gr.Image(
                    type="filepath",
                    label=_t("photo"),
                    sources=["upload", "webcam", "clipboard"],
                    height=300,
                    elem_id="sv-photo",
                    buttons=[],
                )
                # Gradio would decode the upload itself; load_image bounds its pixels.
                photo.preprocess = _path_of
                city = gr.Dropdown(
                    [(m.title, name) for m, name in zip(manifests, recognizers, strict=True)],
                    value=first,
                    label=_t("city"),
                    info=_t("city_info"),
                )
                go = gr.Button(_t("locate"), variant="primary", elem_id="sv-locate")
                with gr.Accordion(_t("options"), open=False):
                    top_k = gr.Slider(1, MAX_TOP_K, TOP_K, step=1, label=_t("top_k"))
                    rerank = gr.Checkbox(True, label=_t("rerank"), info=_t("rerank_info"))
                shelf = _html(
                    cards.examples(examples),
                    js_on_load=theme.EXAMPLE_CLICKS,
                    visible=bool(examples),
                )
            with gr.Column(scale=3, min_width=320, elem_id="sv-result"):
                verdict = _html(cards.empty(manifests[0].title, manifests[0].count))
                with gr.Column(visible=False, elem_id="sv-more") as more:
                    map_view = _html()
                    columns = _html(js_on_load=theme.CARD_CLICKS)
                    _html(f"<h2>{both('why')}</h2>")
                    picture = _html()
                    with gr.Row():
                        lines = gr.Slider(1, 400, LINES, step=1, label=_t("lines"))
                        least = gr.Slider(0, 1, 0, step=0.01, label=_t("min_similarity"))
                    agreeing = gr.Checkbox(False, label=_t("agreeing_only"))
                    heat, timing, links = _html(), _html(), _html()
                with gr.Accordion(_t("how"), open=False):
                    _html(cards.how_it_works())
                _html(cards.credits(manifests))

        @_guarded
        def show(
            photo: str | None,
            city: str,
            top_k: float,
            rerank: bool,
            truth: Location | None,
            request: gr.Request,
            progress: gr.Progress = gr.Progress(),  # noqa: B008 - how gradio asks for it
        ) -> tuple[Any, ...]:
            language = _language(request)
            found = site.locate(
                _chosen(photo, language),
                city,
                int(top_k),
                rerank,
                truth=truth,
                progress=lambda stage, share: progress(share, desc=plain(f"now_{stage}", language)),
            )
            return (
                found,
                site.verdict(found),
                gr.Column(visible=True),
                site.map(found),
                site.columns(found),
                cards.timings(found.recognition.timings_ms),
                site.downloads(found),
            )

        @_guarded
        def first_pick(
            found: Session, lines: float, least: float, agreeing: bool
        ) -> tuple[Any, ...]:
            found = site.pick(found, 0)
            return found, site.matches(found, int(lines), least, agreeing)

        @_guarded
        def pick(
            found: Session, lines: float, least: float, agreeing: bool, event: gr.EventData
        ) -> tuple[Any, ...]:
            found = site.pick(found, int(event.number))
            return found, site.matches(found, int(lines), least, agreeing)

        @_guarded
        def redraw(found: Session | None, lines: float, least: float, agreeing: bool) -> Any:
            if found is None or found.matches is None:
                return gr.skip()
            return site.matches(found, int(lines), least, agreeing)

        drawn, controls = [session, picture], [lines, least, agreeing]

        def answer(start: Callable[..., Any]) -> None:
            # The answer first, its explanations after it.
            located = start(
                show,
                [photo, city, top_k, rerank, truth],
                [session, verdict, more, map_view, columns, timing, links],
                show_progress_on=[verdict],
                api_visibility="private",
                **_MODEL,
            )
            explained = located.success(first_pick, [session, *controls], drawn, **_QUIET, **_MODEL)
            located.success(None, [top_k, rerank], js=theme.SHOW_ANSWER, **_QUIET)
            explained.success(_guarded(site.heat), [session], [heat], **_QUIET, **_MODEL)

        answer(go.click)
        photo.upload(_checked, [photo], [photo], **_QUIET)
        photo.input(lambda: None, None, [truth], js=theme.FORGET_EXAMPLE, **_QUIET)
        copies = site.publish(examples)

        def choose(event: gr.EventData) -> tuple[Any, ...]:
            example = copies[int(event.number)]
            return str(example.photo), first, example.truth

        answer(shelf.click(choose, None, [photo, city, truth], **_QUIET).then)
        columns.click(
            pick,
            [session, *controls],
            drawn,
            show_progress_on=[picture],
            api_visibility="private",
            **_MODEL,
        )
        for control in controls:
            control.change(
                redraw, [session, *controls], [picture], trigger_mode="always_last", **_QUIET
            )
        demo.load(_settings, None, [top_k, rerank], **_QUIET).then(None, js=theme.REOPEN, **_QUIET)
        _add_api(site, photo, city, top_k, rerank)
    return demo


def launch(
    demo: gr.Blocks,
    host: str | None = None,
    port: int | None = None,
    *,
    share: bool = False,
    language: str | None = None,
) -> str:
    """Start serving the page, and return at once; ``demo.block_thread()`` waits for the end.

    Args:
        demo: what ``build_demo`` returned.
        host: address to listen on; this machine only when None.
        port: the first free one from 7860 when None.
        share: ask Gradio for a public address.
        language: ``"en"`` or ``"zh"``; the browser's when None.

    Returns:
        The local address.
    """
    demo.queue(max_size=QUEUE, default_concurrency_limit=4)
    _, address, _ = demo.launch(
        server_name=host,
        server_port=port,
        share=share,
        quiet=True,
        show_error=False,
        prevent_thread_lock=True,
        max_file_size=MAX_UPLOAD,
        state_session_capacity=VISITORS,
        allowed_paths=[str(demo.served_folder)],
        footer_links=["api"],
        ssr_mode=False,
        i18n=_t,
        theme=_theme(),
        css=theme.CSS,
        js=theme.START.replace("LANG", json.dumps(language)),
    )
    return str(address)


def _add_api(site: Site, *inputs: Any) -> None:
    """The endpoints for programs: the page's own inputs, plain data out."""

    @_guarded
    def locate(photo: str, city: str, top_k: float, rerank: bool) -> dict[str, Any]:
        """Find where a photo was taken."""
        return site.answer(site.locate(_chosen(photo), city, int(top_k), rerank))

    @_guarded
    def matches(photo: str, city: str, top_k: float, rerank: bool, rank: float) -> dict[str, Any]:
        """Match a photo's details with one of its candidates."""
        found = site.locate(_chosen(photo), city, int(top_k), rerank)
        return site.match_data(site.pick(found, int(rank) - 1))

    with gr.Row(visible=False):
        result, button = gr.JSON(label="result"), gr.Button()
        rank = gr.Number(1, precision=0, minimum=1, label="rank")
    button.click(
        locate,
        inputs,
        result,
        api_name="locate",
        api_description="Find where a photo was taken. Returns the verdict, the position in "
        "degrees with error radii in metres (null where the index is not calibrated), the "
        "position of the first stage alone, the candidates by rank with place_id, position, "
        "street, cosine similarity and number of matches, and milliseconds by stage.",
        **_MODEL,
    )
    button.click(
        matches,
        [*inputs, rank],
        result,
        api_name="matches",
        api_description="Match a photo's details with its candidate of a rank. Returns both "
        "photos' sizes and the matches, most similar first: query and candidate as [x, y] in "
        "pixels, cosine similarity, and whether the match fits the common geometry.",
        **_MODEL,
    )


def _guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Show the visitor what can be mended as it stands; log anything else and say so."""

    @functools.wraps(handler)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except SelaVPRError as error:
            raise gr.Error(str(error), title="", print_exception=False) from error
        except gr.Error:
            raise
        except Exception as error:
            log.exception("A handler of the page failed")
            raise gr.Error(plain("failed", "en"), print_exception=False) from error

    return guarded


def _html(value: str = "", **options: Any) -> Any:
    # Gradio's own rules for text would win over the page's colours and weights.
    return gr.HTML(value, apply_default_css=False, **options)


def _path_of(upload: Any) -> str | None:
    return None if upload is None else str(upload.path)


def _settings(request: gr.Request) -> tuple[int, bool]:
    """Candidates and re-ranking as the address asks for them, which anybody may have edited."""
    asked = request.query_params
    number = str(asked.get("k", TOP_K))
    top_k = int(number) if number.isascii() and number.isdigit() else TOP_K
    return min(max(top_k, 1), MAX_TOP_K), asked.get("rerank") != "0"


def _language(request: gr.Request) -> str:
    """What the visitor chose on the page, or else what the browser asks for."""
    return str(request.cookies.get("selavpr_lang") or request.headers.get("accept-language", "en"))


def _chosen(photo: str | None, language: str = "en") -> str:
    if not photo:
        raise OptionError(plain("no_photo", language))
    return photo


def _checked(photo: str | None) -> Any:
    """Say at once that an upload is unusable, and take it away."""
    try:
        if photo:
            load_image(photo)
    except PhotoError as error:
        gr.Warning(str(error), title="")
        return None
    return gr.skip()


def _theme() -> Any:
    look = gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        font=theme.FONTS,
        font_mono=theme.MONO,
        radius_size="lg",
    )
    return look.set(
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_dark="#0f766e",
        button_primary_background_fill_hover_dark="#0d9488",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        block_border_width="1px",
        block_shadow="none",
        block_info_text_color="#55616f",
        block_info_text_color_dark="#a3b0bd",
        block_title_text_color="#334155",
        block_title_text_color_dark="#e8edf2",
        body_text_color_subdued="#55616f",
        body_text_color_subdued_dark="#a3b0bd",
        slider_color="#0f766e",
        slider_color_dark="#2dd4bf",
    )
