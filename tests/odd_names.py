"""File names as people and attackers write them."""

from __future__ import annotations

ODD = {
    "spaces": "a file  with spaces ",
    "quotes": 'it\'s "quoted"',
    "markup": "<script>alert(1)<script>&<b>&amp;",
    "colon": "nbd:host:10809",
    "json": 'json:{"driver":"raw"}',
    "comma": "a,b,,c=d",
    "braces": "{stem}-{0}-%s-%(x)d",
    "backslash": "a\\b\\n",
    "dollar": "$HOME `id` ; rm",
    "leading dash": "-o backing_file=x",
    "leading dot": ".hidden",
    "unicode": "Bild-äöü-日本語-🙂",
    "right to left": "a\u202eb",
    "hash": "#block123",
    "delete": "a\x7fb",
    "percent": "100%",
    "heredoc": "XML",
    "long": "x" * 250,
}
UNTELLABLE = ("\n", "\t", "\r", "\x01", "\x1b")
"""What is not itself any more where it has been in XML, or cannot be in it."""
