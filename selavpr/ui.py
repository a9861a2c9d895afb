"""The page: upload a photo, see where, see why. The only home of gradio.

``build_demo`` lays out the page over loaded recognizers, ``launch`` runs it. What the page does is
in ``session``; here are components, events, and the way of errors to the visitor.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils, route_utils
from gradio.queueing import Queue
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from selavpr import cards, text, theme
from selavpr.cards import Example, Truth
from selavpr.errors import OptionError, PhotoError, SelaVPRError
from selavpr.exif import read_position
from selavpr.geo import Location
from selavpr.images import load_image
from selavpr.limits import BodyLimit, BoundedFetch, swept
from selavpr.recognizer import Recognizer
from selavpr.session import Session, Site
from selavpr.text import both, gradio_table, plain

log = logging.getLogger(__name__)

MAX_UPLOAD = 30 * 2**20
MAX_REQUEST = MAX_UPLOAD + 2**20
"""Bytes of a photo, and of a whole request; Gradio itself bounds only the files in it."""

KEEP_SECONDS = 3600
"""Uploads are deleted after this long, sessions forgotten."""

LOOK_SECONDS = 600
"""Between two looks at how old the uploads are; the page tells the sum of both, in minutes."""

ATTEMPTS = 3
"""To start serving, on a machine that is too busy to answer itself."""

QUEUE = 40
"""Photos that may wait; whoever comes with more is told to come back."""

VISITORS = 128
"""Visitors whose last answer is remembered, some 5 MB each; the oldest is forgotten first."""

TOP_K, MAX_TOP_K = 20, 100
LINES = 80

PER_VISITOR = 10
"""Requests of all kinds that may wait, for each photo that may."""

_ANSWER: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "answer"}
"""Photos are answered in the order they come. What is made of an answer stands in no such line:
``Site`` sees to it that the network is used one at a time, and the rest is made beside it."""

_QUIET = {"show_progress": "hidden", "api_visibility": "private"}

_t = gr.I18n(**gradio_table())


def build_demo(
    recognizers: Mapping[str, Recognizer],
    examples: Sequence[Example] = (),
    *,
    tiles: bool = True,
    notes: Sequence[Mapping[str, str]] = (),
) -> gr.Blocks:
    """Lay out the page.

    Args:
        recognizers: by the name of their index; the first is chosen at the start.
        examples: photos to try at one click.
        tiles: let the map try OpenStreetMap's tiles.
        notes: texts by language shown above everything, for example that another model than
            asked for serves.

    Returns:
        The page, not running yet.

    Raises:
        OptionError: there is no index to search.
    """
    site = Site(recognizers, tiles=tiles)
    first = next(iter(recognizers))
    deepest = _deepest(site)
    manifests = [r.index.manifest for r in recognizers.values()]
    with gr.Blocks(
        title=plain("title", "en"),
        analytics_enabled=False,
        delete_cache=(LOOK_SECONDS, KEEP_SECONDS),
    ) as demo:
        demo.site = site
        session, truth = gr.State(None, time_to_live=KEEP_SECONDS), gr.State(None)
        _html(cards.header(), js_on_load=theme.HEADER_CLICKS + theme.NAME_CONTROLS)
        for note in notes:
            _html(cards.notice(note))
        with gr.Row(equal_height=False, elem_id="sv-page"):
            with gr.Column(scale=1, min_width=320, elem_id="sv-side"):
                photo = _photo(
                    label=_t("photo"),
                    sources=["upload", "webcam", "clipboard"],
                    height=300,
                    placeholder=_t("photo_hint"),
                    elem_id="sv-photo",
                    buttons=[],
                )
                city = gr.Dropdown(
                    _labelled({name: r.index.manifest.title for name, r in recognizers.items()}),
                    value=first,
                    label=_t("city"),
                    info=_t("city_info"),
                )
                go = gr.Button(_t("locate"), variant="primary", elem_id="sv-locate")
                with gr.Accordion(_t("options"), open=False):
                    top_k = _slider(1, MAX_TOP_K, TOP_K, label=_t("top_k"), info=_t("top_k_info"))
                    rerank = gr.Checkbox(True, label=_t("rerank"), info=_t("rerank_info"))
                    depth = _slider(
                        1,
                        deepest,
                        recognizers[first].depth,
                        label=_t("depth"),
                        info=_t("depth_info"),
                    )
                    compare = gr.Checkbox(False, label=_t("compare"), info=_t("compare_info"))
                shelf = _html(
                    cards.examples(examples),
                    js_on_load=theme.EXAMPLE_CLICKS,
                    visible=bool(examples),
                )
            with gr.Column(scale=3, min_width=320, elem_id="sv-result"):
                verdict = _html(site.overview(first))
                with gr.Column(visible=False, elem_id="sv-more") as more:
                    map_view = _html()
                    columns = _html(js_on_load=theme.CARD_CLICKS)
            with gr.Column(visible=False, elem_id="sv-wide") as wide:
                _html(f"<h2>{both('why')}</h2>")
                picture = _html()
                with gr.Row():
                    lines = _slider(1, 400, LINES, label=_t("lines"), min_width=240)
                    least = _slider(0, 1, 0, step=0.01, label=_t("min_similarity"), min_width=240)
                agreeing = gr.Checkbox(False, label=_t("agreeing_only"))
                heat, timing, links = _html(), _html(), _html(js_on_load=theme.LINK_CLICKS)
            with gr.Column(elem_id="sv-end"):
                with gr.Accordion(_t("how")):
                    _html(cards.how_it_works())
                _html(cards.credits(manifests))

        @_guarded
        def show(
            photo: str | None,
            city: str,
            top_k: float,
            rerank: bool,
            depth: float,
            compare: bool,
            truth: Location | None,
            request: gr.Request,
            progress: gr.Progress = gr.Progress(),  # noqa: B008 - how gradio asks for it
        ) -> tuple[Any, ...]:
            language = _language(request)
            if not photo:
                raise gr.Error(both("no_photo"), title="", print_exception=False)
            found = site.locate(
                photo,
                city,
                int(top_k),
                rerank,
                int(depth),
                visitor=str(request.session_hash or ""),
                progress=lambda stage, share: progress(share, desc=plain(f"now_{stage}", language)),
            )
            # The verdict alone: the rest follows, and nothing of another photo stays beside it.
            return (
                found,
                site.verdict(found, _known(photo, truth, compare)),
                gr.Column(visible=True),
                gr.Column(visible=True),
                cards.waiting("map"),
                cards.waiting("columns"),
                "",
                "",
                cards.timings(found.recognition.timings_ms),
                # The page's address says which example it was, and those are of the first city.
                site.downloads(found, linked=truth is not None and city == first),
            )

        of_answer = functools.partial(_of_answer, site)

        @of_answer
        def draw_map(found: Session, compare: bool, truth: Location | None) -> str:
            return site.map(found, _known(found.path, truth, compare))

        @of_answer
        def first_pick(
            found: Session, lines: float, least: float, agreeing: bool
        ) -> tuple[Any, ...]:
            found = site.pick(found, 0)
            return found, site.matches(found, int(lines), least, agreeing)

        @of_answer
        def pick(
            found: Session, lines: float, least: float, agreeing: bool, event: gr.EventData
        ) -> tuple[Any, ...]:
            found = site.pick(found, int(event.number))
            return found, site.matches(found, int(lines), least, agreeing)

        @of_answer
        def redraw(found: Session, lines: float, least: float, agreeing: bool) -> Any:
            if found.matches is None:
                return gr.skip()
            return site.matches(found, int(lines), least, agreeing)

        drawn, controls = [session, picture], [lines, least, agreeing]
        settings = [top_k, rerank, depth]

        def answer(start: Callable[..., Any]) -> None:
            # The verdict first, then map and columns side by side, then what takes longest to make.
            rest = [map_view, columns, picture, heat]
            located = start(
                show,
                [photo, city, *settings, compare, truth],
                [session, verdict, more, wide, *rest, timing, links],
                show_progress_on=[verdict],
                api_visibility="private",
                **_ANSWER,
            )
            located.success(None, settings, js=theme.SHOW_ANSWER, **_QUIET)
            located.success(draw_map, [session, compare, truth], [map_view], **_QUIET)
            listed = located.success(of_answer(site.columns), [session], [columns], **_QUIET)
            explained = listed.success(first_pick, [session, *controls], drawn, **_QUIET)
            explained.success(of_answer(site.heat), [session], [heat], **_QUIET)
            explained.success(None, js=theme.REOPEN_PICK, **_QUIET)

        answer(go.click)
        city.input(
            # What probabilities were fitted to differs from city to city.
            lambda city, found: (
                gr.skip() if found else site.overview(city),
                recognizers[city].depth,
                # An answer may have been forgotten while it is still shown.
                *(gr.skip() if found else gr.Column(visible=False) for _ in range(2)),
            ),
            [city, session],
            [verdict, depth, more, wide],
            **_QUIET,
        )
        # One at a time: opened, a photo of a megabyte may take half a gigabyte.
        checked = photo.upload(
            _check, [photo], concurrency_limit=1, concurrency_id="check", **_QUIET
        )
        checked.failure(lambda: None, None, [photo], **_QUIET)
        photo.input(lambda: None, None, [truth], js=theme.FORGET_EXAMPLE, **_QUIET)
        gr.on([photo.input, city.input], None, js=theme.OUTDATE, **_QUIET)
        copies = site.publish(examples)

        def choose(city: str, depth: float, event: gr.EventData) -> tuple[Any, ...]:
            example = copies[int(event.number)]
            if city != first:
                depth = recognizers[first].depth
            return str(example.photo), first, depth, example.truth

        chosen = shelf.click(choose, [city, depth], [photo, city, depth, truth], **_QUIET)
        answer(chosen.then)
        columns.click(
            pick,
            [session, *controls],
            drawn,
            show_progress_on=[picture],
            api_visibility="private",
        )
        for control in controls:
            control.change(
                redraw, [session, *controls], [picture], trigger_mode="always_last", **_QUIET
            )

        def reopened(request: gr.Request) -> tuple[int, bool, int]:
            asked = request.query_params
            return (
                _number(asked.get("k"), TOP_K, MAX_TOP_K),
                asked.get("rerank") != "0",
                _number(asked.get("depth"), recognizers[first].depth, deepest),
            )

        demo.load(reopened, None, settings, **_QUIET).then(None, js=theme.REOPEN, **_QUIET)
        _add_api(site)
    demo.queue(max_size=QUEUE * PER_VISITOR, default_concurrency_limit=4)
    demo._queue.__class__ = _Line  # Gradio makes its own, and takes none
    return demo


def launch(
    demo: gr.Blocks,
    host: str | None = None,
    port: int | None = None,
    *,
    share: bool = False,
    language: str | None = None,
    mcp: bool = False,
    uploads: Path | None = None,
) -> str:
    """Start serving the page, and return at once; ``wait`` waits for the end.

    Args:
        demo: what ``build_demo`` returned.
        host: address to listen on; this machine only when None.
        port: the first free one from 7860 when None.
        share: ask Gradio for a public address.
        language: ``"en"`` or ``"zh"``; the browser's when None.
        mcp: offer the endpoints to language models, too, at ``/gradio_api/mcp/``.
        uploads: a folder of the page's own, see ``private_uploads``: whatever is in it is deleted
            in time. Without one only what Gradio knows of is, of a folder that it may share.

    Returns:
        The local address.

    Raises:
        OptionError: ``mcp`` without the packages it needs, or no such address or port to be had.
    """
    if mcp and importlib.util.find_spec("mcp") is None:
        raise OptionError(
            'The MCP server needs more packages: run `pip install "gradio[mcp]"`, or start '
            "without --mcp."
        )
    processing_utils.async_transport = BoundedFetch(
        MAX_UPLOAD, lambda why: gr.Error(why, title="", print_exception=False)
    )
    start = functools.partial(
        demo.launch,
        server_name=host,
        server_port=port,
        share=share,
        quiet=True,
        show_error=mcp,  # MCP tells errors only then; what is unsafe to tell is never raised
        prevent_thread_lock=True,
        max_file_size=MAX_UPLOAD,
        state_session_capacity=VISITORS,
        allowed_paths=[str(demo.site.folder)],
        footer_links=["api"],
        ssr_mode=False,
        i18n=_t,
        theme=_theme(),
        css=theme.CSS,
        head=theme.HEAD,
        js=theme.START.replace("LANG", json.dumps(language)).replace(
            "BUSY", json.dumps(both("busy"))
        ),
        mcp_server=mcp,
        app_kwargs={
            "routes": [Route("/health", _health(demo.site))],
            "middleware": [Middleware(BodyLimit, limit=MAX_REQUEST)],
            "lifespan": uploads and (lambda app: swept(uploads, LOOK_SECONDS, KEEP_SECONDS)),
        },
    )
    try:
        for attempt in range(ATTEMPTS):
            try:
                _, address, _ = start()
                if mcp:
                    _answer_in_json(demo.mcp_server_obj)
                break
            except ValueError as error:
                # Gradio asks itself for the page, and gives up if that takes three seconds.
                if "localhost" not in str(error):
                    raise
                demo.close(verbose=False)
                if attempt + 1 == ATTEMPTS:
                    raise OptionError(
                        "The page is served, but this machine does not reach it: except localhost "
                        "from the proxy (NO_PROXY=localhost,127.0.0.1), or try again when the "
                        "machine is less busy."
                    ) from error
    except (OSError, OverflowError) as error:  # the latter of ports beyond 65535
        raise OptionError(
            f"The page cannot be served at {host or 'this machine'}, port {port or 'any'}: another "
            "program may have that port, or the address is not this machine's. Choose another "
            "--port or --host."
        ) from error
    return str(address)


@contextmanager
def private_uploads() -> Iterator[Path]:
    """A folder where a page that is built within keeps what visitors send; it goes in the end.

    It lies in ``GRADIO_TEMP_DIR``, or else where temporary files do, and only its owner can read
    it: by itself Gradio keeps photos where every user of a machine can.

    Raises:
        OptionError: no such folder can be made.
    """
    parent = os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir()
    try:
        Path(parent).mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(
            prefix="selavpr-uploads-", dir=parent, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise OptionError(
            f"Photos cannot be kept in {parent}: {error.strerror}. Set GRADIO_TEMP_DIR to a folder "
            "that this user may write to."
        ) from error
    with made as folder:
        own = Path(folder).resolve()
        os.environ["GRADIO_TEMP_DIR"] = str(own)
        yield own


def wait(demo: gr.Blocks) -> None:
    """Serve until Ctrl-C, then delete what visitors have left and what was put there for them.

    Gradio does so itself, but only once the last connection has closed, and an open page keeps one.
    """
    try:
        demo.block_thread()
    finally:
        route_utils.delete_files_created_by_app(demo, None)
        shutil.rmtree(demo.site.folder, ignore_errors=True)


def _answer_in_json(server: Any) -> None:
    """Have MCP's tools answer in JSON; Gradio would send what Python prints of a dictionary."""
    wrapped = server.postprocess_output_data

    def in_json(answers: Sequence[Any], root_url: str) -> Any:
        return wrapped([json.dumps(answer, ensure_ascii=False) for answer in answers], root_url)

    server.postprocess_output_data = in_json


def _add_api(site: Site) -> None:
    """The endpoints for programs: inputs that are never seen, plain data out."""

    # Gradio hands these texts to language models; they describe the parameters by name.
    @_answering
    def locate(
        photo: str, city: str, top_k: float, rerank: bool, rerank_depth: int | None = None
    ) -> dict[str, Any]:
        """Find where a street photo was taken.

        Args:
            photo: address of the photo, http(s) or data.
            city: name of the index to search.
            top_k: candidates to return, 1 to 100.
            rerank: order them by matched details; without it the first stage alone decides.
            rerank_depth: candidates to re-rank; left out, as many as the city is calibrated for.
        """
        return site.answer(site.locate(_given(photo), city, int(top_k), rerank, rerank_depth))

    @_answering
    def matches(
        photo: str,
        city: str,
        top_k: float,
        rerank: bool,
        rerank_depth: int | None = None,
        rank: float | None = 1,
    ) -> dict[str, Any]:
        """Match a photo's details with one of its candidates.

        Args:
            photo: address of the photo, http(s) or data.
            city: name of the index to search.
            top_k: candidates to consider, 1 to 100.
            rerank: order them by matched details.
            rerank_depth: candidates to re-rank; left out, as many as the city is calibrated for.
            rank: of the candidate, 1 for the best.
        """
        found = site.locate(_given(photo), city, int(top_k), rerank, rerank_depth)
        rank = 1 if rank is None else rank
        count = len(found.recognition.candidates)
        if not 1 <= rank <= count:
            raise OptionError(f"rank must be 1 to {count}, not {rank:g}.")
        return site.match_data(site.pick(found, int(rank) - 1))

    # Not the page's own: the API's pages show labels, and cannot show them in two languages.
    with gr.Row(visible=False):
        photo = _photo(label="street photo")
        names = list(site.recognizers)
        inputs = [
            photo,
            gr.Dropdown(names, value=names[0], label="city: name of the index to search"),
            _slider(1, MAX_TOP_K, TOP_K, label="candidates to return", strict=True),
            gr.Checkbox(True, label="order by matched details"),
            gr.Number(
                None,
                precision=0,
                minimum=1,
                maximum=_deepest(site),
                label="candidates to re-rank; left out, as many as calibrated for",
            ),
        ]
        rank = gr.Number(1, precision=0, minimum=1, label="rank of the candidate, 1 for the best")
        result, button = gr.JSON(label="answer"), gr.Button()
    button.click(
        locate,
        inputs,
        result,
        api_name="locate",
        api_description="Find where a photo was taken. Returns the verdict, the position in "
        "degrees with error radii in metres (null where the index is not calibrated), the "
        "position of the first stage alone, the candidates by rank (most matches first, but for "
        "narrow leads) with place_id, position, street, cosine similarity and number of matches, "
        "and milliseconds by stage.",
        **_ANSWER,
    )
    button.click(
        matches,
        [*inputs, rank],
        result,
        api_name="matches",
        api_description="Match a photo's details with its candidate of a rank. Returns both "
        "photos' sizes and the matches, most similar first: query and candidate as [x, y] in "
        "pixels, cosine similarity, and whether the match fits the common geometry.",
        **_ANSWER,
    )


def _health(site: Site) -> Callable[[Request], JSONResponse]:
    """Answers at once, whatever waits in the line: what a host asks to see whether this lives."""

    def health(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "cities": list(site.recognizers)})

    return health


def _guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Show the visitor, in both languages, what can be mended; log anything else and say so."""
    return _reporting(handler, _explained, both("failed"))


def _of_answer(site: Site, handler: Callable[..., Any]) -> Callable[..., Any]:
    """Guarded, for what begins with the visitor's ``Session``, which may have been forgotten.

    What is made of an answer when the next one is there already is not shown.
    """

    @functools.wraps(handler)
    def remembered(found: Session | None, *args: Any, **kwargs: Any) -> Any:
        if found is None:
            raise OptionError("This answer has been forgotten; press Locate again.")
        if site.is_past(found):
            return gr.skip()
        made = handler(found, *args, **kwargs)
        return gr.skip() if site.is_past(found) else made

    return _guarded(remembered)


def _answering(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The same for programs: plain English."""
    return _reporting(handler, str, plain("failed", "en"))


def _reporting(
    handler: Callable[..., Any], explain: Callable[[SelaVPRError], str], failed: str
) -> Callable[..., Any]:
    @functools.wraps(handler)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except SelaVPRError as error:
            raise gr.Error(explain(error), title="", print_exception=False) from error
        except gr.Error:
            raise
        except Exception as error:
            log.exception("A handler of the page failed")
            raise gr.Error(failed, print_exception=False) from error

    return guarded


def _explained(error: SelaVPRError) -> str:
    return text.error([kind.__name__ for kind in type(error).__mro__], str(error))


def _slider(low: float, high: float, value: float, *, strict: bool = False, **about: Any) -> Any:
    """A slider beside a number box, which people empty, and where they type what they like.

    Args:
        low: the least.
        high: the most.
        value: at the start, and where there is none.
        strict: refuse what is out of range, as programs need to know.
        **about: more of ``gr.Slider``'s; whole steps unless they say otherwise.
    """
    slider = gr.Slider(low, high, value, **{"step": 1, **about})
    check = slider.preprocess

    def preprocess(payload: float | None) -> float:
        if payload is None:
            return value
        return check(payload) if strict else min(max(payload, low), high)

    slider.preprocess = preprocess
    return slider


class _Line(Queue):  # type: ignore[misc]
    """Gradio's, in which photos that wait for their answer stand in nobody else's way.

    What is made of answers, by the visitors who have them, is many times as much and soon done.
    """

    async def push(self, body: Any, *rest: Any, **more: Any) -> Any:
        if body.fn_index is not None:
            asked = route_utils.get_fn(self.blocks, None, body).concurrency_id
            line = self.event_queue_per_concurrency_id.get(asked)
            if asked == _ANSWER["concurrency_id"] and line and len(line.queue) >= QUEUE:
                return False, "Too many photos wait.", "queue_full"
        return await super().push(body, *rest, **more)


def _html(value: str = "", **options: Any) -> Any:
    # Gradio's own rules for text would win over the page's colours and weights.
    return gr.HTML(value, apply_default_css=False, **options)


def _photo(**options: Any) -> Any:
    """A box for a photo, read as the file's path.

    Gradio would decode the upload and write it anew; ``load_image`` bounds its pixels. No listener
    may answer with an update of the box, ``gr.skip`` included: Gradio would make the visitor a new
    one, and that decodes.
    """
    photo = gr.Image(type="filepath", **options)
    photo.preprocess = _path_of
    return photo


def _path_of(upload: Any) -> str | None:
    return None if upload is None else str(upload.path)


def _labelled(titles: Mapping[str, str]) -> list[tuple[str, str]]:
    """What the list of cities says of each, and its name: cities of one title by their names."""
    seen = Counter(titles.values())
    return [
        (f"{title} ({name})" if seen[title] > 1 else title, name) for name, title in titles.items()
    ]


def _number(digits: str | None, default: int, most: int) -> int:
    """A number of the page's address, which anybody may have edited."""
    if digits is None or not digits.isascii() or not digits.isdigit():
        return default
    return min(max(int(digits[:9]), 1), most)


def _deepest(site: Site) -> int:
    """Most candidates that may be re-ranked: what a city is calibrated for is always among them."""
    return max(MAX_TOP_K, *(recognizer.depth for recognizer in site.recognizers.values()))


def _language(request: gr.Request) -> str:
    """What the visitor chose on the page, or else what the browser asks for."""
    return str(request.cookies.get("selavpr_lang") or request.headers.get("accept-language", "en"))


def _known(photo: str, truth: Location | None, compare: bool) -> Truth | None:
    """What an answer is compared with; only once it is made may the photo's data be looked at."""
    if truth is not None:
        return Truth(truth)
    return Truth(read_position(photo), own=True) if compare else None


def _given(photo: str | None) -> str:
    if not photo:
        raise OptionError(plain("no_photo", "en"))
    return photo


def _check(photo: str | None) -> None:
    """Say at once that an upload is unusable; whoever listens to the failure takes it away."""
    try:
        if photo:
            load_image(photo)
    except PhotoError as error:
        gr.Warning(_explained(error), title="")
        raise gr.Error(visible=False, print_exception=False) from error


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
        checkbox_border_radius="5px",
        checkbox_border_color="#64748b",
        checkbox_border_color_dark="#94a3b8",
        slider_color="#0f766e",
        slider_color_dark="#2dd4bf",
    )
