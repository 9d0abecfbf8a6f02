"""What browsers may do with our pages: load what is ours, and nothing else."""

import re
from base64 import b64encode
from hashlib import sha256

from plotly.offline import get_plotlyjs

_STYLE = re.compile(r"""createElement\("style"\)[^']{0,300}\.textContent='([^'\\]*)'""")


def _style_sources() -> str:
    """The style elements that plotly.js makes, by digest: an empty one, which it fills by script, and that of maps."""
    texts = ["", *_STYLE.findall(get_plotlyjs())]
    return " ".join(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in texts)


# for plotly.js, too: style attributes, and the images of its own making by which it saves a figure
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        f"style-src 'self' {_style_sources()}",
        "style-src-attr 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer the Origin of our own forms would be null
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer that does not say otherwise."""
