"""The minimal net of a broken law, as inline SVG: layers, frozen ones, cuts, what the message names.

What is drawn is plain data with numbers and short texts; all text is escaped.
"""

from html import escape
from typing import Any, Dict, Iterable, List, Optional

BOX, GAP, TOP, HEIGHT = 132, 34, 26, 92


def network_of(values: Iterable[Any], seen: str) -> Optional[Dict[str, Any]]:
    """What to draw of an example's values: the first net or training run among them."""
    for value in values:
        net: Any = getattr(value, "network", value)
        if not hasattr(net, "parameters_by_layer"):  # no import: records are merged without torch
            continue
        frozen = set(getattr(value, "frozen", ()) or ())
        cuts = getattr(getattr(value, "cuts", None), "positions", ())
        layers = []
        for layer, names in zip(net.layers, net.parameters_by_layer()):
            layers.append(
                {
                    "width": layer.width,
                    "activation": layer.activation,
                    "norm": layer.norm,
                    "skip": layer.skip,
                    "parameters": [
                        {"name": name, "frozen": name in frozen, "named": name in seen}
                        for name in names
                    ],
                }
            )
        return {"inputs": net.inputs, "layers": layers, "cuts": list(cuts)}
    return None


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(text)}</text>'


def _layer(x: float, index: int, layer: Dict[str, Any]) -> List[str]:
    parameters = [item for item in layer.get("parameters", ()) if isinstance(item, dict)][:6]
    frozen = sum(bool(item.get("frozen")) for item in parameters)
    kind = "frozen" if parameters and frozen == len(parameters) else "part" if frozen else "free"
    height = HEIGHT + max(0, len(parameters) - 2) * 15
    parts = [f'<rect x="{x:g}" y="{TOP}" width="{BOX}" height="{height}" rx="6" class="{kind}"/>']
    norm = "" if layer.get("norm") in (None, "none") else f" {layer['norm']} norm"
    parts.append(_text(x + 8, TOP + 18, f"layer {index}: width {layer.get('width')}", "title"))
    parts.append(_text(x + 8, TOP + 34, f"{layer.get('activation', '')}{norm}"[:22]))
    for place, item in enumerate(parameters):
        name = str(item.get("name", "")).split(".", 2)[-1]
        mark = "❄ " if item.get("frozen") else "· "
        moved = " ⚠" if item.get("named") else ""
        kind = "named" if item.get("named") else ""
        parts.append(_text(x + 8, TOP + 54 + 15 * place, f"{mark}{name}{moved}"[:24], kind))
    return parts


def draw(network: Optional[Dict[str, Any]]) -> str:
    """SVG of a net, or nothing where there is none or it is not a net's data."""
    if not network or not isinstance(network.get("layers"), list):
        return ""
    layers = [layer for layer in network["layers"] if isinstance(layer, dict)][:12]
    cuts = {cut for cut in network.get("cuts", ()) if isinstance(cut, int)}
    most = max((len(layer.get("parameters", ())) for layer in layers), default=0)
    width = 70 + len(layers) * (BOX + GAP) + 10
    height = TOP + HEIGHT + max(0, min(most, 6) - 2) * 15 + 22
    middle = TOP + HEIGHT / 2
    parts = [
        f'<svg class="net" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-label="the minimal net">'
    ]
    parts.append(_text(4, middle + 4, f"input {network.get('inputs', '?')}", "title"))
    for index, layer in enumerate(layers):
        x = 70 + index * (BOX + GAP)
        parts.append(f'<line x1="{x - GAP + 2}" y1="{middle}" x2="{x - 2}" y2="{middle}"/>')
        parts += _layer(x, index, layer)
        if isinstance(layer.get("skip"), int) and layer["skip"]:
            parts.append(_text(x + 8, height - 8, f"+ input of layer {index + 1 - layer['skip']}"))
    for position in cuts.intersection(range(len(layers) + 1)):
        at = 70 + position * (BOX + GAP) - GAP / 2
        parts.append(f'<line class="cut" x1="{at}" y1="{TOP - 8}" x2="{at}" y2="{height - 18}"/>')
        parts.append(_text(at - 9, TOP - 12, "cut", "named"))
    return "".join([*parts, "</svg>"])
