
// Coverage of the experts, and the distribution of energy over a weight's channels.
function expertsSection() {
  const files = data.files.filter((f) => f.experts.length);
  if (!files.length) return null;
  const out = section("experts", "Experts", "One dot per expert, one line per layer. Pale: an equal share of the rows; orange: less; blue: more; red: no rows.");
  const state = { file: files[0], map: 0, sorted: false };
  const canvas = el("canvas", { role: "img" });
  const ticks = el("div", { class: "ticks", "aria-hidden": "true" });
  const across = el("div", { class: "across", "aria-hidden": "true" });
  const readout = el("span", { class: "readout" });
  const tablePlace = el("div");
  const unseenPlace = el("div");
  let maps = null;
  const mapMenu = () => (state.file.experts.length > 1 ? menu("Weights", state.file.experts.map((m, i) => [i, m.kinds]), (i) => { state.map = i; draw(); }) : el("span"));
  out.controls(
    fileMenu("File", files, (i) => { state.file = data.files[i]; state.map = 0; const next = mapMenu(); maps.replaceWith(next); maps = next; draw(); }),
    (maps = mapMenu()),
    el("label", {}, el("input", { type: "checkbox", change: (e) => { state.sorted = e.target.checked; draw(); } }), "sort by count"),
  );
  out.append(el("div", { class: "map" }, ticks, canvas, across), el("div", { class: "below" },
    el("span", { class: "scale" }, "an eighth", el("i", { style: "background:linear-gradient(90deg,var(--neg),var(--mid),var(--high))", "aria-hidden": "true" }), "8 × an equal share"),
    el("span", { class: "scale" }, el("i", { class: "swatch", style: "width:.8rem;background:var(--bad)" }), "never seen"), readout), unseenPlace, tablePlace);

  const rows = () => state.file.experts[state.map].rows;
  const order = (counts) => {
    const experts = counts.map((_, i) => i);
    return state.sorted ? experts.sort((a, b) => counts[b] - counts[a] || a - b) : experts;
  };
  function draw() {
    const lines = rows();
    const width = Math.max(...lines.map((r) => r.counts.length));
    canvas.width = width;
    canvas.height = lines.length;
    canvas.style.height = `${Math.min(Math.max(lines.length * 9, 60), 600)}px`;
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, lines.length);
    const [mid, high, neg, bad] = ["mid", "high", "neg", "bad"].map(color);
    const never = mix(bad, bad, 0);
    lines.forEach(({ counts }, y) => {
      const share = counts.reduce((a, b) => a + b, 0) / counts.length;
      order(counts).forEach((expert, x) => {
        const t = share > 0 ? Math.log2(counts[expert] / share) / 3 : -1;
        const rgb = counts[expert] === 0 ? never : t < 0 ? mix(mid, neg, Math.min(1, -t)) : mix(mid, high, Math.min(1, t));
        image.data.set([...rgb, 255], 4 * (y * width + x));
      });
    });
    context.putImageData(image, 0, 0);
    const unseen = lines.reduce((n, r) => n + r.counts.filter((c) => c === 0).length, 0);
    canvas.setAttribute("aria-label", `Expert coverage of ${state.file.name}: ${lines.length} layers of ${width} experts, ${unseen} never seen. The table below has the numbers of each layer.`);
    // A label needs 13 pixels.
    const step = Math.max(1, Math.ceil((13 * lines.length) / parseFloat(canvas.style.height)));
    ticks.replaceChildren(...lines.map((r, y) => [r, y]).filter(([, y]) => y % step === 0).map(([r, y]) => el("span", { style: `top:${(100 * (y + 0.5)) / lines.length}%` }, r.layer)));
    across.replaceChildren(...(state.sorted ? ["most tokens", "fewest"] : ["expert 0", String(width - 1)]).map((t) => el("span", {}, t)));
    readout.textContent = "";
    unseenPlace.replaceChildren(...unseenByLayer(lines));
    tablePlace.replaceChildren(asTable(sheet, `Experts of ${state.file.name} by layer`));
  }
  function sheet() {
    const kinds = state.file.experts[state.map].kinds.split(", ");
    const { keys, rows: all } = state.file.tensors;
    const at = (k) => keys.indexOf(k);
    const wanted = ["layer", "experts", "unseen", "rare", "balance", "expert_rows_min", "expert_rows_max"];
    return {
      keys: wanted, titles: ["Layer", "Experts", "Unseen", "Rarely seen", "Balance", "Fewest rows", "Most rows"],
      rows: all.filter((row) => row[at("kind")] === kinds[0]).map((row) => wanted.map((k) => row[at(k)])),
    };
  }
  canvas.addEventListener("mousemove", (e) => {
    const box = canvas.getBoundingClientRect();
    const line = rows()[Math.floor(((e.clientY - box.top) / box.height) * canvas.height)];
    const x = Math.floor(((e.clientX - box.left) / box.width) * canvas.width);
    if (!line || x < 0 || x >= line.counts.length) return;
    const expert = order(line.counts)[x];
    const share = line.counts.reduce((a, b) => a + b, 0) / line.counts.length;
    readout.textContent = `layer ${line.layer}, expert ${expert}: ${plural(line.counts[expert], "row")}, ${short(line.counts[expert] / share)} × an equal share${(line.filled ?? []).includes(expert) ? ", filled" : ""}`;
  });
  draw();
  onTheme(draw);
  return out;
}

/** Lists the experts that saw no token, by layer. */
function unseenByLayer(lines) {
  const found = lines.map((r) => [r.layer, r.counts.flatMap((c, i) => (c === 0 ? [i] : []))]).filter(([, unseen]) => unseen.length);
  if (!found.length) return [];
  const items = found.map(([layer, unseen]) => el("li", {}, `layer ${layer}: ${unseen.length === 1 ? "expert" : "experts"} ${ranges(unseen)}`));
  const n = found.reduce((sum, [, unseen]) => sum + unseen.length, 0);
  return [el("details", { open: n <= 16 }, el("summary", {}, `${plural(n, "expert")} never seen`), el("ul", {}, items))];
}

/** Writes ascending numbers with runs as ranges: 3, 5–8. */
function ranges(numbers) {
  const out = [];
  for (const n of numbers) {
    const last = out[out.length - 1];
    if (last && last[1] === n - 1) last[1] = n;
    else out.push([n, n]);
  }
  return out.map(([from, to]) => (from === to ? `${from}` : to === from + 1 ? `${from}, ${to}` : `${from}–${to}`)).join(", ");
}

function spectrumSection() {
  const first = data.files.find((f) => f.tensors.rows.length);
  if (!first) return null;
  const out = section("channels", "Channels of a weight", "Channels sorted by energy. A steep start means that few channels have most of the energy, so an importance matrix matters most for this weight.");
  const names = [...new Set(data.files.flatMap((f) => f.tensors.rows.map((row) => row[1])))];
  const shown = names.includes("blk.0.ffn_down.weight") ? "blk.0.ffn_down.weight" : names[0];
  const state = { tensor: shown };
  const curves = (pick) => data.files.flatMap((f) => {
    const i = f.tensors.rows.findIndex((row) => row[1] === state.tensor);
    const curve = f.spectra.tensors[i];
    return curve?.energy.length ? [{ label: f.name, ranks: f.spectra.ranks[curve.columns], values: pick(curve) }] : [];
  });
  /** Values of all files at the union of their ranks. */
  const joined = (pick) => {
    const found = curves(pick);
    const x = [...new Set(found.flatMap((c) => c.ranks))].sort((a, b) => a - b);
    return { x, series: found.map((c) => {
      const at = new Map(c.ranks.map((r, i) => [r, c.values[i]]));
      return { label: c.label, values: x.map((r) => at.get(r) ?? null) };
    }) };
  };
  const place = figures(() => [
    chart({ title: `Energy of ${state.tensor}`, about: "Energy of the channel at each rank, relative to the mean channel. Both axes are logarithmic.", xLabel: "rank", logX: true, logY: true, height: 280,
      ...joined((c) => c.energy.map((v) => (v === null ? null : 10 ** v))) }),
    chart({ title: "Energy up to the rank", about: "Share of the total energy in the channels up to each rank.", xLabel: "rank", logX: true, percent: true, height: 280,
      ...joined((c) => c.cumulative) }),
  ]);
  const choice = menu("Weight", names.map((n) => [n, n]), (n) => { state.tensor = n; place.update(); }, shown);
  out.controls(choice);
  out.append(place);
  out.choose = (tensor) => {
    state.tensor = tensor;
    choice.select.value = tensor;
    place.update();
  };
  return out;
}
