"""The page itself: controls, what they call, and what it is served with."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
import gradio.themes
from starlette.middleware import Middleware

from aliascope.errors import AliascopeError
from aliascope.explorer import drawing
from aliascope.explorer.session import MAX_BYTES, Explorer, Photo, read_photo
from aliascope.explorer.state import BORDERS, METHODS, UPLOADED, Shown, restored, sample_name
from aliascope.measure.shiftmap import RADIUS, shift_by

_FILES = files("aliascope.explorer")
_FONTS = (("system-ui", "sans-serif"), ("ui-monospace", "monospace"))
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'"
)
"""Which the browser keeps to: nothing from elsewhere. Gradio's own page needs the two unsafe."""


class Served:
    """Middleware that sends the policy with every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass everything on, with one header more."""

        async def with_policy(told: Any) -> None:
            if told["type"] == "http.response.start":
                header = (b"content-security-policy", _POLICY.encode())
                told = told | {"headers": [*told["headers"], header]}
            await send(told)

        await self.app(scope, receive, with_policy if scope["type"] == "http" else send)


class Page(gr.Blocks):
    """Blocks whose `launch` has the limits and the style of this page; its arguments go before."""

    def launch(self, *args: Any, **settings: Any) -> Any:
        """As Gradio's."""
        fonts, mono = ([gradio.themes.Font(name) for name in names] for names in _FONTS)
        theme = gradio.themes.Base(primary_hue="blue", font=fonts, font_mono=mono)
        defaults: dict[str, Any] = {
            "theme": theme.set(body_text_color_subdued="*neutral_600"),  # Gradio's is too pale
            "css": (_FILES / "page.css").read_text(encoding="utf-8"),
            "max_file_size": MAX_BYTES,
            "state_session_capacity": 64,
            "footer_links": [],
            "run_history": False,
            "ssr_mode": False,
            "share": False,
            "app_kwargs": {"middleware": [Middleware(Served)]},
        }
        return super().launch(*args, **(defaults | settings))


_ADDRESS = "query => { if (query) history.replaceState(null, '', query); }"
"""Keeps the link to what is shown in the browser's own bar."""


_PICKED = """element.addEventListener("click", (event) => {
  const square = event.target.closest("[data-at]");
  if (!square) return;
  const [rows, columns] = square.dataset.at.split(",").map(Number);
  trigger("click", { rows, columns });
});"""
"""Tells of a click on a map which shift it is of."""


@dataclass
class Reader:
    """What a page open in one browser shows. Changed in place: events that run see it change."""

    shown: Shown
    uploaded: Photo | None = None
    turn: int = 0
    """Counts what was chosen; a map of an earlier turn stops filling."""
    filling: int = -1
    """The turn whose map is being filled."""


class Answers:
    """What the controls call: each changes what is shown, and draws it."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer

    def restored(self, reader: Reader, request: gr.Request) -> list[Any]:
        """A page that is opened, by a link or without one."""
        shown, complaints = restored(dict(request.query_params), self.explorer.offer)
        controls = [shown.a, shown.b, shown.sample, shown.columns, shown.rows, shown.border]
        return [*self._turned(reader, shown, complaints), *controls]

    def dropped(self, reader: Reader, file: str) -> list[Any]:
        """A photograph; it is read, and its copy deleted."""
        path = Path(file)
        try:
            reader.uploaded = read_photo(path)
        except AliascopeError as error:
            return [*_wrong(error), None, gr.skip()]
        finally:
            path.unlink(missing_ok=True)
        return [*self._turned(reader, replace(reader.shown, sample=UPLOADED)), None, None]

    def chosen(self, field: str) -> Callable[[Reader, str], list[Any]]:
        """One of the choices that decide what is computed."""

        def handle(reader: Reader, value: str) -> list[Any]:
            before = reader.shown
            drawn = self._turned(reader, replace(before, **{field: value}))
            if drawn[1] == gr.skip():
                reader.shown = before
            return drawn

        return handle

    def moved(self, field: str) -> Callable[[Reader, float | int], list[Any]]:
        """One of the two shifts."""

        def handle(reader: Reader, value: float | int) -> list[Any]:
            reader.shown = replace(reader.shown, **{field: _step(value)})
            return self._drawn(reader)

        return handle

    def picked(self, reader: Reader, square: gr.EventData) -> list[Any]:
        """Both shifts, by a click on a map; the sliders follow."""
        rows, columns = _step(square.rows), _step(square.columns)
        reader.shown = replace(reader.shown, rows=rows, columns=columns)
        return [*self._drawn(reader), columns, rows]

    def layers(self, reader: Reader) -> str:
        """The spectra."""
        try:
            return drawing.layers(
                reader.shown, self.explorer.pairs(reader.shown.specs, self._photo(reader))
            )
        except AliascopeError as error:
            return drawing.message([str(error)], wrong=True)

    def filling(self, reader: Reader) -> Iterator[list[Any]]:
        """The maps, some shifts at a time, for as long as nothing else is chosen."""
        if reader.filling == reader.turn:
            return
        turn = reader.filling = reader.turn
        photo, shown = self._photo(reader), reader.shown
        try:
            for _ in self.explorer.maps(shown.specs, photo, shown.border):
                shown = reader.shown  # the shift may have changed
                if reader.turn != turn:
                    return
                yield [*self._mapped(shown, photo), gr.skip()]
            yield [*self._mapped(shown, photo), self._linked(shown, photo)]
        except AliascopeError as error:
            yield [drawing.message([str(error)], wrong=True), "", gr.skip()]

    def _turned(self, reader: Reader, shown: Shown, notes: Sequence[str] = ()) -> list[Any]:
        reader.turn += 1  # first, so that no map of an earlier turn is drawn as of this one
        reader.shown = shown
        return self._drawn(reader, notes)

    def _drawn(self, reader: Reader, notes: Sequence[str] = ()) -> list[Any]:
        """All that is fast, or what is wrong and the rest as it was."""
        shown, explorer = reader.shown, self.explorer
        shift = shift_by(shown.rows, shown.columns)
        try:
            photo = self._photo(reader)
            picture = explorer.picture(shown.a, photo, shift, shown.border)
            guesses = [explorer.guesses(spec, photo, shift, shown.border) for spec in shown.specs]
            return [
                drawing.message(notes) if notes else "",
                drawing.answer(shown, sample_name(photo.name), picture, guesses),
                *self._mapped(shown, photo),
                self._linked(shown, photo),
                shown.query,
            ]
        except AliascopeError as error:
            return _wrong(error)

    def _photo(self, reader: Reader) -> Photo:
        if reader.shown.sample == UPLOADED and reader.uploaded:
            return reader.uploaded
        return self.explorer.photo(reader.shown.sample)

    def _mapped(self, shown: Shown, photo: Photo) -> list[str]:
        explorer = self.explorer
        models = [explorer.model(spec) for spec in shown.specs]
        frames = explorer.filled(shown.specs, photo, shown.border)
        radius = explorer.radius(shown.specs, shown.border)
        return [
            drawing.maps(shown, models, frames, radius),
            drawing.confidence(shown, models, frames),
        ]

    def _linked(self, shown: Shown, photo: Photo) -> str:
        return drawing.links(shown, self.explorer.record(shown, photo))


def page(explorer: Explorer) -> Page:
    """The page for an explorer's models."""
    offer, first, answers = explorer.offer, explorer.offer.first, Answers(explorer)
    with Page(
        title="aliascope", fill_width=True, analytics_enabled=False, delete_cache=(3600, 3600)
    ) as blocks:
        reader = gr.State(Reader(first), time_to_live=3600)
        query = gr.Textbox(visible="hidden", elem_id="query")
        _text(
            "<h1>aliascope</h1><p>What two networks say of a photograph when it moves by a few "
            "pixels, and where their layers alias.</p>"
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                file = gr.File(label="Drop a photograph", height=160, elem_id="drop")
                names = [(sample_name(sample), sample) for sample in offer.samples]
                sample = gr.Radio(names, value=first.sample, label="or take one of these")
            with gr.Column(scale=3, min_width=280, elem_id="top"):
                notes, answer = _html("notes"), _html("answer")
                with gr.Row():
                    dx = _slider("Shift to the right, in the network's pixels", "dx")
                    dy = _slider("Shift down, in the network's pixels", "dy")
                border = gr.Radio(
                    [(f"{name}: {what}", name) for name, what in BORDERS.items()],
                    value=first.border,
                    label="Border",
                )
        with gr.Row():
            a = gr.Radio(list(offer.models), value=first.a, label="Model A", scale=1)
            repaired = [(f"A repaired: {method}", f"@{method}") for method in METHODS]
            b = gr.Radio(
                [*((spec, spec) for spec in offer.models), *repaired],
                value=first.b,
                label="Model B (repairs are made here and now, without training)",
                scale=3,
            )
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                _text(
                    "<h2>Predictions at every shift</h2><p>A click on a square shifts the "
                    "photograph by it.</p>"
                )
                maps = _html("maps", _PICKED)
            with gr.Column(scale=1, min_width=280):
                _text("<h2>Confidence along both axes</h2>")
                curves = _html("curves")
        _text(
            "<h2>Layers that downsample</h2><p>Of the photograph without a shift. Spectra: mean "
            "power of all channels, logarithmic, zero frequency in the middle, before and after "
            "the sampling; what lies outside of the box is folded into it.</p>"
        )
        layers = _html("layers")
        links = _html("links")
        png = gr.Button("Save as PNG", size="sm", elem_id="png")

        drawn = [notes, answer, maps, curves, links, query]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        fast: dict[str, Any] = quiet | {"concurrency_limit": 4, "concurrency_id": "fast"}
        slow: dict[str, Any] = quiet | {"concurrency_limit": 2}
        controls = [a, b, sample, dx, dy, border]
        events = [
            blocks.load(answers.restored, reader, [*drawn, *controls], **fast),
            file.upload(answers.dropped, [reader, file], [*drawn, file, sample], **fast),
            *(
                control.input(answers.chosen(field), [reader, control], drawn, **fast)
                for control, field in ((a, "a"), (b, "b"), (sample, "sample"), (border, "border"))
            ),
        ]
        for event in events:
            event.then(None, query, None, js=_ADDRESS, **quiet)
            event.then(answers.layers, reader, layers, concurrency_id="layers", **slow).then(
                answers.filling, reader, [maps, curves, links], concurrency_id="filling", **slow
            )
        for slider, field in ((dx, "columns"), (dy, "rows")):
            slider.input(
                answers.moved(field), [reader, slider], drawn, trigger_mode="always_last", **fast
            ).then(None, query, None, js=_ADDRESS, **quiet)
        maps.click(answers.picked, reader, [*drawn, dx, dy], **fast).then(
            None, query, None, js=_ADDRESS, **quiet
        )
        png.click(None, None, None, js=(_FILES / "png.js").read_text(encoding="utf-8"))
    return blocks


def _step(value: float | int) -> int:
    return max(-RADIUS, min(RADIUS, int(value)))


def _wrong(error: AliascopeError) -> list[Any]:
    return [drawing.message([str(error)], wrong=True), *[gr.skip()] * 5]


def _html(name: str, js: str | None = None) -> Any:
    return gr.HTML("", elem_id=name, elem_classes="scope", apply_default_css=False, js_on_load=js)


def _text(html: str) -> Any:
    return gr.HTML(html, elem_classes="scope", apply_default_css=False)


def _slider(label: str, name: str) -> gr.Slider:
    return gr.Slider(-RADIUS, RADIUS, 0, step=1, label=label, elem_id=name)
