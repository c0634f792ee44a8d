"""The minimal net of a broken law, as inline SVG: layers, frozen ones, cuts, what the message names.

What is drawn is plain data with numbers and short texts; all text is escaped.
"""

from html import escape
from typing import Any, Dict, Iterable, List, Mapping, Optional

BOX, GAP, TOP, LINE = 148, 34, 26, 15  # pixels
MOST_LAYERS, MOST_PARAMETERS = 12, 6


def network_of(values: Iterable[Any], marks: Mapping[str, str]) -> Optional[Dict[str, Any]]:
    """What to draw of an example's values: its net, with the masks and cuts among the values.

    marks: of the parameters that the broken assertion is about, by name: "moved" or "named".
    No import of what the values are: records are merged without torch.
    """
    values = list(values)
    nets = [getattr(value, "network", value) for value in values]
    net: Any = next((net for net in nets if hasattr(net, "parameters_by_layer")), None)
    if net is None:
        return None
    own = set(net.parameter_names())
    frozen, cuts = set(), ()
    for value in values:
        mask = getattr(value, "frozen", value)
        if isinstance(mask, tuple) and mask and own.issuperset(mask):
            frozen = set(mask)  # of several masks the last one is the one that broke
        cuts = getattr(getattr(value, "cuts", value), "positions", ()) or cuts
    layers = []
    for layer, names in zip(net.layers, net.parameters_by_layer()):
        layers.append(
            {
                "width": layer.width,
                "activation": layer.activation,
                "norm": layer.norm,
                "skip": layer.skip,
                "parameters": [
                    {
                        "name": name,
                        "frozen": name in frozen,
                        "mark": marks.get(name, ""),
                    }
                    for name in names
                ],
            }
        )
    return {"inputs": net.inputs, "layers": layers, "cuts": list(cuts)}


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(text)}</text>'


def _parameters(layer: Dict[str, Any]) -> List[Dict[str, Any]]:
    return [item for item in layer.get("parameters", ()) if isinstance(item, dict)][:MOST_PARAMETERS]


def _layer(x: float, index: int, layer: Dict[str, Any], height: float) -> List[str]:
    parameters = _parameters(layer)
    frozen = sum(bool(item.get("frozen")) for item in parameters)
    kind = "frozen" if parameters and frozen == len(parameters) else "part" if frozen else "free"
    parts = [f'<rect x="{x:g}" y="{TOP}" width="{BOX}" height="{height:g}" rx="6" class="{kind}"/>']
    does = [str(layer.get("activation", "")).replace("identity", "linear")]
    if layer.get("norm") not in (None, "none"):
        does.insert(0, f"{layer['norm']} norm")
    parts.append(_text(x + 8, TOP + 18, f"layer {index}: width {layer.get('width')}"[:24], "title"))
    parts.append(_text(x + 8, TOP + 34, ", ".join(does)[:24]))
    for place, item in enumerate(parameters):
        name = ".".join(str(item.get("name", "")).split(".")[-2:]).replace("linear.", "")
        state = "❄ " if item.get("frozen") else "• "
        mark = str(item.get("mark") or "")
        text = f"{state}{name}"[:14] + (f" ⚠ {mark}"[:8] if mark else "")
        parts.append(_text(x + 8, TOP + 54 + LINE * place, text, "named" if mark else ""))
    return parts


def _legend(layers: List[Dict[str, Any]], cuts: bool) -> str:
    """What the signs in the drawing mean: only those that are in it."""
    items = [item for layer in layers for item in _parameters(layer)]
    marks = {str(item.get("mark")) for item in items if item.get("mark")}
    signs = [
        ("❄ frozen", any(item.get("frozen") for item in items)),
        ("• trainable", any(not item.get("frozen") for item in items)),
        ("⚠ moved: see the message", "moved" in marks),
        ("⚠ named in the message", bool(marks - {"moved"})),
        ("┆ cut: no gradient passes", cuts),
    ]
    return ", ".join(text for text, shown in signs if shown)


def draw(network: Optional[Dict[str, Any]]) -> str:
    """SVG of a net and its legend; nothing where there is none or it is not a net's data."""
    if not network or not isinstance(network.get("layers"), list):
        return ""
    layers = [layer for layer in network["layers"] if isinstance(layer, dict)][:MOST_LAYERS]
    cuts = {cut for cut in network.get("cuts", ()) if isinstance(cut, int)}
    cuts &= set(range(len(layers) + 1))
    lines = max((len(_parameters(layer)) for layer in layers), default=0)
    box = 48 + LINE * max(lines, 1)
    skips = any(layer.get("skip") for layer in layers)
    height = TOP + box + (22 if skips else 8)
    width = 78 + len(layers) * (BOX + GAP) + 46
    middle = TOP + box / 2
    parts = [
        f'<svg class="net" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-label="the minimal net">'
    ]
    parts.append(_text(2, middle + 4, f"input {network.get('inputs', '?')}"[:10], "title"))
    for index, layer in enumerate(layers):
        x = 78 + index * (BOX + GAP)
        parts.append(f'<line x1="{x - GAP + 2}" y1="{middle}" x2="{x - 2}" y2="{middle}"/>')
        parts += _layer(x, index, layer, box)
        if isinstance(layer.get("skip"), int) and layer["skip"]:
            parts.append(_text(x + 8, height - 6, f"+ input of layer {index + 1 - layer['skip']}"))
    end = 78 + len(layers) * (BOX + GAP) - GAP
    parts.append(f'<line x1="{end + 2}" y1="{middle}" x2="{end + GAP - 2}" y2="{middle}"/>')
    parts.append(_text(end + GAP, middle + 4, "output", "title"))
    for position in sorted(cuts):
        at = 78 + position * (BOX + GAP) - GAP / 2
        parts.append(f'<line class="cut" x1="{at}" y1="{TOP - 8}" x2="{at}" y2="{TOP + box + 6}"/>')
        parts.append(_text(at - 9, TOP - 12, "cut", "named"))
    parts.append("</svg>")
    legend = _legend(layers, bool(cuts))
    return "".join(parts) + (f'<p class="legend">{escape(legend)}</p>' if legend else "")
