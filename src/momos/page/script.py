"""The page's one script: Vega, Vega-Lite and Vega-Embed, and the lines that draw each chart.

The libraries are 0.9 MB of text, so the page holds them compressed. A browser that can't
decompress them (from before 2023) draws no charts: the static figures stay in their places.
"""

import base64
import functools
import gzip

import altair as alt
import vl_convert

# Shows the charts' places, which gives them their width, draws them, and only then hides the
# static figures that they stand for.
DRAW = """
const root = document.documentElement.classList;
root.add('charts');
const specs = [...document.querySelectorAll('script[type="application/vnd.vegalite+json"]')];
const drawn = specs.map((spec) => vegaEmbed(
  spec.previousElementSibling, JSON.parse(spec.textContent), {renderer: 'svg', actions: false}));
Promise.all(drawn).then(() => root.add('drawn'))
  .catch((error) => { root.remove('charts'); throw error; });
"""
# Decompresses the script and runs it. Base64 has no character that HTML would read as markup.
UNPACK = """
if ('DecompressionStream' in window) {
  const bytes = Uint8Array.from(atob('%s'), (one) => one.charCodeAt(0));
  const text = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  new Response(text).text().then((code) => {
    const script = document.createElement('script');
    script.textContent = code;
    document.body.append(script);
  });
}
"""


@functools.cache
def chart_script() -> str:
    """JavaScript to stand at the end of the page, the same text each time."""
    version = alt.SCHEMA_VERSION.removeprefix("v").rsplit(".", 1)[0]
    bundle = vl_convert.javascript_bundle(DRAW, vl_version=version)
    packed = gzip.compress(bundle.encode(), mtime=0)
    return UNPACK % base64.b64encode(packed).decode()
