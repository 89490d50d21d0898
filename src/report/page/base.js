
// Small helpers: elements, numbers, colours, menus.
const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const about = Object.fromEntries(data.statistics.map((s) => [s.key, s]));
let lastId = 0;

/** Creates an element. Attributes named like an event handler become listeners. */
function el(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") e.addEventListener(name, value);
    else e.setAttribute(name, value === true ? "" : value);
  }
  e.append(...children.flat().filter((c) => c !== null && c !== undefined));
  return e;
}

const color = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
const isNumber = (x) => typeof x === "number" && Number.isFinite(x);

/** Formats a number in few characters. */
function short(x, digits = 3) {
  if (x === null || x === undefined) return "–";
  if (typeof x !== "number") return String(x);
  const size = Math.abs(x);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return x.toExponential(Math.min(digits - 1, 2)).replace(/\.?0*e\+?/, "e");
  if (Number.isInteger(x)) return String(x);
  return String(Number(x.toPrecision(size >= 1000 ? Math.max(digits, 5) : Math.max(digits, 3))));
}
/** Formats the ticks of an axis with as many digits as they need to differ. */
function ticksOf(values) {
  for (let digits = 3; digits < 9; digits++) {
    const texts = values.map((v) => (v === null ? "" : short(v, digits)));
    const shown = texts.filter((t) => t !== "");
    if (new Set(shown).size === shown.length) return texts;
  }
  return values.map((v) => (v === null ? "" : String(v)));
}
const full = (x) => (Number.isInteger(x) ? x.toLocaleString("en") : short(x, 5));
const plural = (n, one, many = `${one}s`) => `${full(n)} ${n === 1 ? one : many}`;

/** Creates a labelled menu. `options` are [value, text] pairs or {group, options}. */
function menu(label, options, onChange, chosen) {
  const option = ([value, text]) => el("option", { value, selected: String(value) === String(chosen) }, text);
  const items = options.map((o) => (o.group ? el("optgroup", { label: o.group }, o.options.map(option)) : option(o)));
  const select = el("select", { change: () => onChange(select.value) }, items);
  const out = el("label", {}, label, select);
  out.select = select;
  return out;
}
const fileMenu = (label, files, onChange) =>
  files.length > 1 ? menu(label, files.map((f) => [data.files.indexOf(f), f.name]), onChange) : null;

function section(id, title, intro, ...children) {
  const heading = `${id}-title`;
  const head = el("div", { class: "head" }, el("h2", { id: heading }, title));
  const out = el("section", { id, "aria-labelledby": heading }, head, intro ? el("p", { class: "dim" }, intro) : null, children);
  out.controls = (...controls) => head.append(...controls.filter(Boolean));
  return out;
}

// Colour scales.
function mix(from, to, t) {
  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const [a, b] = [rgb(from), rgb(to)];
  return a.map((x, i) => Math.round(x + (b[i] - x) * t));
}
const css = (rgb) => `rgb(${rgb.join(" ")})`;
/** Returns black or white, whichever is readable on a colour. */
function ink(rgb) {
  const linear = rgb.map((c) => ((c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.19 ? "#10151e" : "#ffffff";
}

/** Creates a colour scale from the smallest to the largest number, or around zero if there are both signs. It is
 * logarithmic if the numbers span more than two powers of ten. */
function scaleOf(values) {
  const sorted = values.filter(isNumber).sort((a, b) => a - b);
  if (!sorted.length) return null;
  const [least, most] = [sorted[0], sorted[sorted.length - 1]];
  if (least < 0 && most > 0) {
    const size = Math.max(-least, most);
    return {
      ends: [-size, size], kind: "about zero",
      rgb: (x) => (x < 0 ? mix(color("mid"), color("neg"), Math.min(1, -x / size)) : mix(color("mid"), color("high"), Math.min(1, x / size))),
      css: `linear-gradient(90deg, var(--neg), var(--mid), var(--high))`,
    };
  }
  const logs = least > 0 && most / least > 100;
  const f = logs ? Math.log : (x) => x;
  const [low, width] = [f(least), f(most) - f(least)];
  return {
    ends: [least, most], kind: logs ? "logarithmic" : "linear",
    rgb: (x) => mix(color("low"), color("high"), width > 0 ? (f(x) - low) / width : 0.5),
    css: `linear-gradient(90deg, var(--low), var(--high))`,
  };
}
function legend(scale) {
  return el("span", { class: "scale" }, short(scale.ends[0]), el("i", { style: `background:${scale.css}`, "aria-hidden": "true" }),
    short(scale.ends[1]), scale.kind === "logarithmic" ? " (logarithmic)" : "");
}

// Elements to draw again when the colours change.
const redraws = [];
function onTheme(draw) {
  redraws.push(draw);
}
function setTheme(dark) {
  root.dataset.theme = dark ? "dark" : "light";
  const button = document.getElementById("theme");
  button.textContent = dark ? "☀" : "☾";
  button.setAttribute("aria-pressed", String(dark));
  redraws.forEach((draw) => draw());
}
