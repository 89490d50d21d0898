
// Charts by uPlot, each with a caption and a table of its numbers.
const palette = (i) => color(`c${i % 6}`);

/** A figure with a chart.
 *
 * `x` are numbers or labels of layers; `series` are {label, values, bars, dash, band}, a band being [lower, upper];
 * options: `title`, `about`, `xLabel`, `yLabel`, `logX`, `logY`, `height`. */
function chart({ title, about: text, x, xLabel = "layer", yLabel = "", series, logX = false, logY = false, height = 240, percent = false }) {
  const known = series.filter((s) => s.values.some(isNumber));
  const plot = el("div", { class: "plot", role: "img", "aria-label": `${title}. ${summarize(known, x, xLabel)}` });
  const labels = typeof x[0] === "string" ? x : null;
  const positions = labels ? labels.map((_, i) => i) : x;
  const clean = (v) => v.map((y) => (isNumber(y) && (!logY || y > 0) ? y : null));
  let chart = null;

  function draw() {
    chart?.destroy();
    const [dim, line] = [color("dim"), color("line")];
    const columns = [positions];
    const uSeries = [{ label: xLabel, value: (_, v) => (v === null ? "" : labels ? labels[v] : full(v)) }];
    const bands = [];
    known.forEach((s, i) => {
      const stroke = palette(s.color ?? i);
      for (const [depth, band] of (s.bands ?? []).entries()) {
        const at = columns.length;
        columns.push(clean(band.upper), clean(band.lower));
        const edge = (name) => ({ label: `${s.label} ${name}`, stroke: "transparent", width: 0, points: { show: false }, value: (_, v) => short(v) });
        uSeries.push(edge(band.names[1]), edge(band.names[0]));
        bands.push({ series: [at, at + 1], fill: `${stroke}${depth ? "38" : "20"}` });
      }
      columns.push(clean(s.values));
      const one = s.values.filter(isNumber).length === 1;
      uSeries.push({
        label: s.label, stroke, width: s.bars ? 0 : 2, dash: s.dash, spanGaps: false, fill: s.bars ? `${stroke}cc` : undefined,
        paths: s.bars ? uPlot.paths.bars({ size: [0.7, 40] }) : undefined, points: { show: one || (!s.bars && !logX && x.length < 24), size: 5, fill: stroke },
        value: (_, v) => (v === null ? "" : percent ? `${short(100 * v)} %` : short(v, 4)),
      });
    });
    // A logarithmic axis has labels at powers of ten only.
    const decades = (_, splits) => splits.map((v) => (v > 0 && Math.abs(Math.log10(v) % 1) < 1e-9 ? v : null));
    const lines = (log) => ({ stroke: line, width: 1, ...(log && { filter: decades }) });
    // An axis of labels shows the labels at its steps.
    const everyLabel = (_, axis, low, high, step) =>
      positions.filter((p) => p >= low && p <= high && (isNaN(labels[p]) || Number(labels[p]) % step === 0));
    const axis = { stroke: dim, ticks: { stroke: line, width: 1 }, font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", labelSize: 18 };
    const axisNumbers = (ticks) => (percent
      ? ticksOf(ticks.map((v) => (v === null ? null : 100 * v))).map((t) => (t === "" ? "" : `${t} %`))
      : ticksOf(ticks));
    // A bar begins at zero, since its length is its number. The outermost bars need space.
    const bars = known.some((s) => s.bars);
    const room = bars || positions.length === 1 ? [positions[0] - 0.6, positions[positions.length - 1] + 0.6] : undefined;
    const fromZero = (_, low, high) => [Math.min(0, low * 1.05), Math.max(0, high * 1.05)];
    chart = new uPlot({
      width: Math.max(plot.clientWidth, 200), height,
      scales: {
        x: { time: false, distr: logX ? 3 : 1, range: logX ? undefined : room },
        y: { distr: logY ? 3 : 1, range: bars ? fromZero : undefined },
      },
      axes: [
        { ...axis, grid: lines(logX), label: xLabel, size: 34, splits: labels ? everyLabel : undefined, values: (_, ticks) => ticks.map((v) => (v === null ? "" : labels ? labels[v] ?? "" : short(v))), incrs: labels ? [1, 2, 5, 10, 20, 50, 100] : undefined },
        { ...axis, grid: lines(logY), label: yLabel || undefined, size: 62, values: (_, ticks) => axisNumbers(ticks) },
      ],
      series: uSeries, bands, legend: { live: true },
      // Without a pointer on the chart, the entry of the x axis has no value to show.
      hooks: { setLegend: [(u) => { u.root.querySelector(".u-legend .u-series").hidden = u.cursor.idx === null || u.cursor.idx === undefined; }] },
      cursor: { drag: { x: false, y: false } },
    }, columns, plot);
    // The edges of bands are lines in uPlot, but do not belong in the legend.
    const rows = chart.root.querySelectorAll(".u-legend .u-series");
    uSeries.forEach((s, i) => { if (i === 0 || s.stroke === "transparent") rows[i].hidden = true; });
  }
  const listed = known.flatMap((s) => [
    s, ...(s.bands ?? []).flatMap((band) => [{ label: band.names[0], values: band.lower }, { label: band.names[1], values: band.upper }]),
  ]);
  const names = listed.map((s) => s.label);
  const sheet = () => ({
    keys: [xLabel, ...names], titles: [xLabel, ...names],
    rows: x.map((at, i) => [typeof at === "number" ? at : String(at), ...listed.map((s) => s.values[i] ?? null)]),
  });
  const figure = el("figure", {}, el("figcaption", {}, el("h3", {}, title), text ? el("small", {}, text) : null), plot,
    known.length ? asTable(sheet, title) : null);
  if (!known.length) {
    plot.replaceWith(el("p", { class: "dim" }, "No defined values."));
    return figure;
  }
  // Drawn when the element is on the page, and again when its width changes.
  let width = 0;
  new ResizeObserver(() => {
    if (plot.clientWidth === width || !plot.clientWidth) return;
    width = plot.clientWidth;
    if (chart) chart.setSize({ width, height });
    else draw();
  }).observe(plot);
  figure.redraw = () => chart && draw();
  figure.gone = () => chart?.destroy();
  return figure;
}

/** Describes a chart in words. */
function summarize(series, x, xLabel) {
  if (!series.length) return "No data.";
  return series.map((s) => {
    let [low, high] = [-1, -1];
    s.values.forEach((v, i) => {
      if (!isNumber(v)) return;
      if (low < 0 || v < s.values[low]) low = i;
      if (high < 0 || v > s.values[high]) high = i;
    });
    return `${s.label}: least ${short(s.values[low])} at ${xLabel} ${x[low]}, most ${short(s.values[high])} at ${xLabel} ${x[high]}`;
  }).join("; ") + ".";
}

/** An element whose figures `make` creates again after each choice. */
function figures(make) {
  const place = el("div", { class: "grid" });
  let made = [];
  place.update = () => {
    made.forEach((f) => f.gone?.());
    made = make().filter(Boolean);
    place.replaceChildren(...made);
    place.style.gridTemplateColumns = made.length === 1 ? "minmax(0, 1fr)" : "";
  };
  onTheme(() => made.forEach((f) => f.redraw?.()));
  place.update();
  return place;
}
