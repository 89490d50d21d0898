"""Draws predicted and measured KL divergences as SVG: one panel per way to predict, logarithmic axes, one mark per file."""

import math
from html import escape

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, GAP = 380, 340, 70, 40, 60, 90
COLOURS = {"preset": "#c2410c", "pure type": "#6b7280", "recipe": "#1d4ed8"}
TEXT = 'font-family="sans-serif" fill="#111"'


class Axis:
    """Maps the decades of positive values to pixels."""

    def __init__(self, values, first, last):
        low, high = math.log10(min(values)), math.log10(max(values))
        margin = max(0.05 * (high - low), 0.05)
        self.low, self.high, self.first, self.last = low - margin, high + margin, first, last

    def __call__(self, value):
        return self.first + (math.log10(value) - self.low) / (self.high - self.low) * (self.last - self.first)

    def ticks(self):
        """Returns 1 and 3 of each decade."""
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        values = [factor * 10.0**decade for decade in decades for factor in (1, 3)]
        return [value for value in values if self.low <= math.log10(value) <= self.high]


def mark(group, x, y):
    colour = COLOURS[group]
    if group == "recipe":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{colour}" fill-opacity="0.65"/>'
    if group == "preset":
        return f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7" fill="{colour}" fill-opacity="0.8"/>'
    return f'<path d="M{x:.1f},{y - 4.5:.1f} l4.5,8 h-9 z" fill="{colour}" fill-opacity="0.8"/>'


def panel(title, points, left):
    """Draws the points, (group, predicted, measured), and the line of all predictions that differ by the same factor as their median."""
    right, bottom = left + WIDTH, TOP + HEIGHT
    x, y = Axis([p for _, p, _ in points], left, right), Axis([m for _, _, m in points], bottom, TOP)
    lines = [f'<text x="{left}" y="{TOP - 14}" font-size="13" {TEXT}>{escape(title)}</text>']
    for value in x.ticks():
        lines.append(f'<path d="M{x(value):.1f},{TOP} V{bottom}" stroke="#e5e7eb"/>')
        lines.append(f'<text x="{x(value):.1f}" y="{bottom + 16}" font-size="10" text-anchor="middle" {TEXT}>{value:g}</text>')
    for value in y.ticks():
        lines.append(f'<path d="M{left},{y(value):.1f} H{right}" stroke="#e5e7eb"/>')
        lines.append(f'<text x="{left - 5}" y="{y(value) + 3.5:.1f}" font-size="10" text-anchor="end" {TEXT}>{value:g}</text>')
    lines.append(f'<rect x="{left}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#9ca3af"/>')
    factor = sorted(measured / predicted for _, predicted, measured in points)[len(points) // 2]
    low, high = max(10**x.low, 10**y.low / factor), min(10**x.high, 10**y.high / factor)
    if low < high:
        ends = f"M{x(low):.1f},{y(low * factor):.1f} L{x(high):.1f},{y(high * factor):.1f}"
        lines.append(f'<path d="{ends}" stroke="#9ca3af" stroke-dasharray="4 3"/>')
    lines += [mark(group, x(predicted), y(measured)) for group, predicted, measured in points]
    middle = (left + right) / 2
    lines.append(f'<text x="{middle}" y="{bottom + 36}" font-size="12" text-anchor="middle" {TEXT}>predicted cost</text>')
    return lines


def picture(panels):
    """Returns the SVG of panels: title to points."""
    width, height = LEFT + len(panels) * (WIDTH + GAP) - GAP + 20, TOP + HEIGHT + BOTTOM
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">']
    lines.append(f'<rect width="{width}" height="{height}" fill="#fff"/>')
    for number, (title, points) in enumerate(panels.items()):
        lines += panel(title, points, LEFT + number * (WIDTH + GAP))
    middle = TOP + HEIGHT / 2
    lines.append(f'<text x="16" y="{middle}" font-size="12" text-anchor="middle" {TEXT} transform="rotate(-90 16 {middle})">measured KL divergence</text>')
    found = {group for points in panels.values() for group, _, _ in points}
    for number, group in enumerate(group for group in COLOURS if group in found):
        left = LEFT + 90 * number
        lines += [mark(group, left, height - 10), f'<text x="{left + 10}" y="{height - 6}" font-size="12" {TEXT}>{group}</text>']
    return "\n".join([*lines, "</svg>", ""])
