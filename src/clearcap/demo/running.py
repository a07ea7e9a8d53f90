"""The page served: on this machine alone unless told otherwise, and with nothing fetched from or told to anyone."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
POLICY = (  # what the browser may load: this server's own files, and what the page makes itself
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'; form-action 'self'"
)
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}

CONTRASTS = {  # Gradio's own shades of these are too faint to read for some
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_300",
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_300",
    "block_label_text_color": "*neutral_700",
    "block_label_text_color_dark": "*neutral_200",
    "block_title_text_color": "*neutral_700",
    "block_title_text_color_dark": "*neutral_200",
    "input_placeholder_color": "*neutral_600",
    "input_placeholder_color_dark": "*neutral_300",
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_dark": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_hover_dark": "*primary_800",
    "color_accent": "*primary_700",
    "slider_color": "*primary_700",
    "slider_color_dark": "*primary_500",
}


class OwnFilesOnly:
    """ASGI middleware: every answer tells the browser to load nothing from elsewhere."""

    def __init__(self, app: Any) -> None:
        """Args:
        app: what answers.
        """
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        await self.app(scope, receive, with_policy)


def free_port(host: str) -> int:
    """A port that nobody listens at just now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as line:
        line.bind((host, 0))
        return int(line.getsockname()[1])


def serve_page(
    models: Sequence[str],
    examples: Sequence[Path] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    open_browser: bool = False,
    max_bytes: int = 20 * 2**20,
    queue: int = 32,
) -> None:
    """Serve the page until it is interrupted; its address is printed once it is there.

    Args:
        models: folders or hub names that it offers.
        examples: photos to try.
        host: address to listen at.
        port: to listen at; 0 takes a free one.
        open_browser: whether to show the page in this machine's browser.
        max_bytes: of one uploaded file.
        queue: requests that may wait; more are told to come back.

    Raises:
        InputError: a model cannot be loaded, or an example cannot be read.
    """
    os.environ.update(QUIET)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    import gradio as gr
    from starlette.middleware import Middleware

    from clearcap.demo.page import Models, build_page

    page = build_page(Models(models), examples)
    page.queue(max_size=queue)
    theme = gr.themes.Base(
        primary_hue="emerald",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(**CONTRASTS)
    _, address, _ = page.launch(
        server_name=host,
        server_port=port or free_port(host),
        inbrowser=open_browser,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=max_bytes,
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        theme=theme,
        css=(HERE / "page.css").read_text(),
        allowed_paths=[str(path) for path in examples],
        app_kwargs={"middleware": [Middleware(OwnFilesOnly)]},
    )
    print(address, flush=True)
    page.block_thread()
