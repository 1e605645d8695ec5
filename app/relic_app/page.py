"""The Gradio page: one HTML component that holds the stage, served at / beside the websocket.

Gradio serves and mounts the page; everything that moves is plain JavaScript in `static/`, because frames sent
through Gradio's own events reach the screen slower and cost the server several times the work.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fastapi import FastAPI

STATIC: Final = Path(__file__).parent / "static"
TITLE: Final = "RELIC: walk into a picture"

_HEAD: Final = """
<meta name="description" content="Walk into a picture and look around: an open interactive world model.">
<meta name="theme-color" content="#0b0c0f">
<meta name="color-scheme" content="dark">
<link rel="icon" href="ui/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="ui/style.css">
<link rel="stylesheet" href="ui/controls.css">
<script type="module" src="ui/client.js"></script>
"""


def mount_page(app: FastAPI) -> FastAPI:
    """Mount the page at / of `app`; routes that `app` has already go first.

    Nothing on the page is fetched from another server.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    with gr.Blocks(title=TITLE, fill_width=True, analytics_enabled=False) as page:
        gr.HTML(
            (STATIC / "page.html").read_text(encoding="utf-8"),
            elem_id="relic-root",
            apply_default_css=False,
            container=False,
            padding=False,
            js_on_load="",
        )
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        page,
        path="/",
        head=_HEAD,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        favicon_path=str(STATIC / "icon.svg"),
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        run_history=False,
    )
    return mounted
