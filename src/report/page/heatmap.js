
// A heat map of layers and kinds of weights: a table that the arrow keys navigate.
const SKIPPED = ["layer", "tensor", "kind", "note"];

/** The files and the comparisons with the first, each with its statistics. */
function heatSources() {
  const statistic = (sheet) => sheet.keys.filter((k) => !SKIPPED.includes(k) && sheet.rows.some((row) => isNumber(row[sheet.keys.indexOf(k)])));
  const files = data.files.map((f) => ({ name: f.name, sheet: f.tensors, keys: statistic(f.tensors), start: "h_norm" }));
  const pairs = data.comparisons.map((c) => ({
    name: `${data.files[c.second].name} against ${data.files[c.first].name}`, sheet: c.tensors, keys: statistic(c.tensors), start: "jsd",
  }));
  return [...files, ...pairs].filter((s) => s.keys.length);
}

function heatmapSection(onChoose) {
  const sources = heatSources();
  if (!sources.length) return null;
  const out = section("heatmap", "Layers by kind", "One square per weight. Choose a statistic. Click a square, or press Enter on it, to see its channels below.");
  const state = { source: sources[0], key: sources[0].keys.includes("h_norm") ? "h_norm" : sources[0].keys[0] };
  const place = el("div");
  const readout = el("span", { class: "readout" });
  const legendPlace = el("span");
  const meaning = el("p", { class: "dim" });
  const label = (key) => {
    const { sheet } = state.source;
    return about[key]?.title ?? sheet.titles[sheet.keys.indexOf(key)];
  };
  const statisticMenu = () => menu("Statistic", state.source.keys.map((k) => [k, about[k] ? `${about[k].title} – ${about[k].about}` : label(k)]),
    (key) => { state.key = key; draw(); }, state.key);
  let choice = statisticMenu();
  const sourceMenu = sources.length > 1
    ? menu("Of", sources.map((s, i) => [i, s.name]), (i) => {
        state.source = sources[i];
        if (!state.source.keys.includes(state.key)) state.key = state.source.keys.includes(state.source.start) ? state.source.start : state.source.keys[0];
        const next = statisticMenu();
        choice.replaceWith(next);
        choice = next;
        draw();
      })
    : null;
  out.controls(sourceMenu, choice);
  out.append(place, el("div", { class: "below" }, legendPlace, el("span", { class: "scale" }, el("i", { class: "swatch heat-none", style: "width:.8rem;background:repeating-linear-gradient(135deg,var(--none) 0 3px,transparent 3px 6px);border:1px solid var(--line)" }), "no value"), readout));
  out.insertBefore(meaning, place);

  function draw() {
    const { sheet } = state.source;
    const at = (key) => sheet.keys.indexOf(key);
    const layers = [...new Set(sheet.rows.map((row) => row[at("layer")]))].sort(byLayer);
    const kinds = [...new Set(sheet.rows.map((row) => row[at("kind")]))].sort();
    const cells = new Map(sheet.rows.map((row) => [`${row[at("layer")]}\n${row[at("kind")]}`, row]));
    const value = (row) => row?.[at(state.key)];
    const scale = scaleOf(sheet.rows.map(value));
    const few = layers.length <= 16;
    const cell = (kind, layer) => {
      const row = cells.get(`${layer}\n${kind}`);
      const x = value(row);
      if (!row) return el("td", { class: "empty", "aria-label": "none" });
      const rgb = scale && isNumber(x) ? scale.rgb(x) : null;
      const words = `${row[at("tensor")]}: ${label(state.key)} ${short(x, 5)}`;
      const td = el("td", { tabindex: "-1", class: rgb ? null : "empty", style: rgb && `background:${css(rgb)};color:${ink(rgb)}`, "aria-label": words, title: words }, few ? short(x) : "");
      td.tensor = row[at("tensor")];
      return td;
    };
    const body = kinds.map((kind) => el("tr", {}, el("th", { scope: "row" }, kind), layers.map((layer) => cell(kind, layer))));
    const table = el("table", { class: few && "few", role: "grid", "aria-label": `${label(state.key)} of ${state.source.name}, kinds of weight by layer`, "aria-readonly": "true" },
      el("thead", {}, el("tr", {}, el("th", {}, ""), layers.map((layer) => el("th", { scope: "col", "aria-label": `layer ${layer}` }, few || thinned(layer, layers.length) ? layer : "")))),
      el("tbody", {}, body));
    walk(table);
    place.replaceChildren(el("div", { class: "heat" }, table));
    legendPlace.replaceChildren(scale ? legend(scale) : "No defined values.");
    readout.textContent = "";
    meaning.textContent = about[state.key] ? `${about[state.key].title}: ${about[state.key].about}.` : "";
    meaning.hidden = true;
  }

  function walk(table) {
    const rows = [...table.tBodies[0].rows].map((row) => [...row.cells].slice(1));
    if (rows[0]?.[0]) rows[0][0].tabIndex = 0;
    const show = (td) => { readout.textContent = td.getAttribute("aria-label"); };
    const focus = (td) => {
      table.querySelector("td[tabindex='0']")?.setAttribute("tabindex", "-1");
      td.tabIndex = 0;
      td.focus();
    };
    const choose = (td) => {
      if (!td.tensor) return;
      table.querySelector("[aria-selected]")?.removeAttribute("aria-selected");
      td.setAttribute("aria-selected", "true");
      onChoose(td.tensor);
    };
    const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    table.addEventListener("keydown", (e) => {
      const td = e.target.closest("td");
      if (!td) return;
      const y = td.parentNode.sectionRowIndex;
      const x = td.cellIndex - 1;
      const step = STEPS[e.key];
      const next = step ? rows[y + step[0]]?.[x + step[1]] : e.key === "Home" ? rows[y][0] : e.key === "End" ? rows[y].at(-1) : null;
      if (e.key === "Enter" || e.key === " ") choose(td);
      else if (next) focus(next);
      else if (!step) return;
      e.preventDefault();
    });
    table.addEventListener("focusin", (e) => e.target.closest("td") && show(e.target.closest("td")));
    table.addEventListener("mouseover", (e) => e.target.closest("td") && show(e.target.closest("td")));
    table.addEventListener("click", (e) => {
      const td = e.target.closest("td");
      if (td) { focus(td); choose(td); }
    });
  }
  draw();
  onTheme(draw);
  return out;
}

/** Sorts numbered layers first, then NextN layers, then weights outside the layers. */
function byLayer(a, b) {
  const rank = (l) => (l === "-" ? 2e9 : l.startsWith("mtp") ? 1e9 + Number(l.slice(3)) : Number(l));
  return rank(a) - rank(b);
}
const thinned = (layer, n) => layer === "-" || layer.startsWith("mtp") || Number(layer) % (n > 80 ? 10 : 5) === 0;
