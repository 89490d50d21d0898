
// Curves over the layers: the statistics of every file, then lens files.
function layersSection() {
  const files = data.files.filter((f) => f.layers.rows.length);
  if (!files.length) return null;
  const labels = [...new Set(files.flatMap((f) => f.layers.rows.map((row) => row[0])))].sort(byLayer);
  const column = (file, key) => {
    const at = file.layers.keys.indexOf(key);
    const rows = new Map(file.layers.rows.map((row) => [row[0], row[at]]));
    return labels.map((l) => rows.get(l) ?? null);
  };
  const figure = (key, title, text, logY = false) => {
    const series = files.map((f, i) => ({ label: f.name, values: column(f, key), color: i }));
    return series.some((s) => s.values.some(isNumber)) ? chart({ title, about: text, x: labels, series, logY }) : null;
  };
  const out = section("layers", "Over the layers", "Sums over the weights of each layer, and comparisons of their inputs with the preceding layer.");
  out.append(figures(() => [
    figure("cossim", "Cosine similarity with the preceding layer", "Of the average inputs. 1: same direction."),
    figure("gain", "Gain", "Root mean square, divided by that of the preceding layer."),
    figure("sum_sq", "Energy", "Sum of the average squares of all columns.", true),
    figure("l2_dist", "Distance from the preceding layer", "Euclidean distance of the average inputs.", true),
    figure("balance", "Load balance of the experts", "Entropy of the rows over the experts: 1 is even. Smallest value of the layer's weights."),
  ]));
  const wrap = el("details", {}, el("summary", {}, "All statistics of the layers as a table"));
  wrap.addEventListener("toggle", () => {
    if (wrap.open && wrap.children.length === 1) {
      wrap.append(...files.map((f) => dataTable(f.layers, { caption: `Layers of ${f.name}` })));
    }
  });
  out.append(wrap);
  return out;
}

const withLens = (part) => data.files.filter((f) => f.lens?.[part]);
function unsupported(part, file) {
  const reason = file.lens[part].unsupported;
  return reason ? el("p", { class: "note" }, `${file.name}: ${reason}`) : null;
}

function sampled(file) {
  const p = file.lens.positions;
  const chunks = p.run_chunks > p.chunks ? `${p.chunks} of ${plural(p.run_chunks, "chunk")}` : plural(p.chunks, "chunk");
  return `${plural(p.sampled, "position")} of ${chunks} of ${p.chunk_size} tokens (seed ${p.seed}), ${file.lens.model.name || file.lens.model.architecture}`;
}

/** A curve per file over the layers of all files. `get` returns a number from the data of a layer. */
function together(files, title, about, layersOf, get, options = {}) {
  const of = files.map((f) => new Map(layersOf(f).map((l) => [String(l.layer), get(l)])));
  const x = [...new Set(of.flatMap((layers) => [...layers.keys()]))].sort((a, b) => (a === "emb" ? -1 : b === "emb" ? 1 : a - b));
  const series = files.map((f, i) => ({ label: f.name, values: of[i].size ? x.map((l) => of[i].get(l) ?? null) : [], color: i }));
  return chart({ title, about, x, series, ...options });
}

/** A section of a part of lens files: a menu of files, and the figures that `make` makes of the chosen one, or `all` of
 * all that have it measured. */
function lensSection(id, part, title, intro, make, all, controls = () => []) {
  const files = withLens(part);
  if (!files.length) return null;
  const several = files.filter((f) => !f.lens[part].unsupported);
  let file = files[0];
  const out = section(id, title, intro);
  const from = el("p", { class: "dim" });
  const place = figures(() => {
    from.textContent = file ? sampled(file) : several.map((f) => `${f.name}: ${sampled(f)}`).join("; ");
    if (!file) return all(several);
    const reason = unsupported(part, file);
    return reason ? [reason] : make(file.lens[part], file);
  });
  const names = files.map((f) => [data.files.indexOf(f), f.name]);
  if (several.length > 1) names.push(["all", "all together"]);
  const choose = (i) => { file = data.files[i] ?? null; place.update(); };
  out.controls(names.length > 1 ? menu("File", names, choose) : null, ...controls(() => place.update()));
  out.append(place, from);
  from.style.margin = ".8rem 0 0";
  return out;
}

const spreadBands = (spreads) => [
  { lower: spreads.map((s) => s?.p5), upper: spreads.map((s) => s?.p95), names: ["5 %", "95 %"] },
  { lower: spreads.map((s) => s?.p25), upper: spreads.map((s) => s?.p75), names: ["25 %", "75 %"] },
];

const lensPoints = (lens) => [...(lens.embedding ? [{ layer: "emb", ...lens.embedding }] : []), ...lens.layers];

function lensFigures(lens) {
  const points = lensPoints(lens);
  const final = lens.base === "model" ? "" : ` Final is what ${lens.base} says.`;
  const x = points.map((p) => String(p.layer));
  return [
    chart({ title: "Divergence from the final prediction", about: "KL(final ‖ layer), nats: mean, median, and the ranges of the middle 50 % and 90 % of the positions." + final,
      x, yLabel: "nats", series: [
        { label: "median", values: points.map((p) => p.kl.p50), bands: spreadBands(points.map((p) => p.kl)) },
        { label: "mean", values: points.map((p) => p.kl.mean), dash: [5, 4] }] }),
    chart({ title: "KL reduction per layer", about: "Mean KL before the layer minus mean KL after it, nats; within the layer, of attention and feed-forward.", x, yLabel: "nats",
      series: [{ label: "reduction", values: points.map((p) => p.kl_reduction), bars: true },
        ...(points.some((p) => p.after_attention) ? [
          { label: "attention", values: points.map((p) => p.after_attention?.kl_reduction ?? null), color: 1 },
          { label: "feed-forward", values: points.map((p) => (p.after_attention ? p.after_attention.kl.mean - p.kl.mean : null)), color: 2 }] : [])] }),
    chart({ title: "Top-1 agreement", about: "Share of positions where layer and model have the same most likely token.", x, percent: true,
      series: [{ label: "top 1", values: points.map((p) => p.top1_agreement), color: 2 }] }),
    chart({ title: "Negative log-likelihood of the next token", about: "Mean of -ln p, nats.", x, yLabel: "nats",
      series: [{ label: "NLL", values: points.map((p) => p.target_nll), color: 3 }] }),
  ];
}

function lensTogether(files) {
  const points = (f) => lensPoints(f.lens.lens);
  return [
    together(files, "Divergence from the final prediction", "Mean KL(final ‖ layer), nats.", points, (p) => p.kl.mean, { yLabel: "nats" }),
    together(files, "KL reduction per layer", "Mean KL before the layer minus mean KL after it, nats.", points, (p) => p.kl_reduction, { yLabel: "nats" }),
    together(files, "Top-1 agreement", "Share of positions where layer and model have the same most likely token.", points, (p) => p.top1_agreement, { percent: true }),
    together(files, "Negative log-likelihood of the next token", "Mean of -ln p, nats.", points, (p) => p.target_nll, { yLabel: "nats" }),
  ];
}
const lensCurves = () => lensSection("lens", "lens", "Logit lens", "The prediction that the model's LM head makes from the residual stream after each layer.", lensFigures, lensTogether);

const PARTS = { attention: "attention", feed_forward: "feed-forward", shared_experts: "shared experts", routed_experts: "routed experts", other: "other" };
const MEASURES = { mean: "Mean", mean_abs: "Mean of absolute values", share: "Share" };
function prismSection() {
  let [kind, measure, token] = ["relative", "mean", "next"];
  // Files of earlier versions have the next token only, and no whole layers.
  const chosen = (prism) => (token === "likeliest" ? prism.likeliest_token : null) ?? prism;
  const ofToken = (prism) => (chosen(prism) === prism ? "next token" : "model's likeliest token");
  const make = (whole) => {
    const prism = chosen(whole);
    const layers = [...new Set(prism.parts.map((p) => p.layer).filter((l) => l !== null))].sort((a, b) => a - b);
    const values = (part) => {
      const of = new Map(prism.parts.filter((p) => p.part === part).map((p) => [p.layer, p[kind][measure]]));
      return layers.map((l) => of.get(l) ?? null);
    };
    const series = Object.entries(PARTS).map(([part, label], i) => ({ label, values: values(part), color: i, dash: part.endsWith("_experts") ? [5, 4] : undefined }));
    if (prism.layers?.length) {
      const of = new Map(prism.layers.map((l) => [l.layer, l[kind][measure]]));
      series.unshift({ label: "whole layer", values: layers.map((l) => of.get(l) ?? null), color: series.length, bars: true });
    }
    const outside = prism.parts.filter((p) => p.layer === null);
    const sheet = {
      keys: ["part", "mean", "mean_abs", "share"], titles: ["Part", "Mean", "Mean of absolute values", "Share"],
      rows: outside.map((p) => [p.part.replaceAll("_", " "), p[kind].mean, p[kind].mean_abs, p[kind].share]),
    };
    return [
      chart({ title: `${MEASURES[measure]} of what is added to the ${kind === "raw" ? "logit" : "logit less the vocabulary's mean"} of the ${ofToken(whole)}`, x: layers.map(String), series, percent: measure === "share", height: 300 }),
      el("figure", {}, el("figcaption", {}, el("h3", {}, "Outside the layers"),
        el("small", {}, `The parts add up to the model's own logits: the largest relative error is ${short(prism.sum_check.max_relative_error)}.`)),
        dataTable(sheet, { caption: "Parts outside the layers" })),
    ];
  };
  const all = (files) => [["whole layers", (prism) => prism.layers ?? []],
    ...["attention", "feed_forward"].map((part) => [PARTS[part], (prism) => prism.parts.filter((p) => p.part === part)])].map(([label, of]) => together(files,
    `${MEASURES[measure]} of the contribution of ${label}`, kind === "raw" ? "To the logit." : "To the logit minus the vocabulary's mean.",
    (f) => of(chosen(f.lens.prism)), (p) => p[kind][measure], { percent: measure === "share" }));
  return lensSection("prism", "prism", "Logit prism", "With the scale of the final norm held fixed, the logit of a token is a sum over the parts of the model. These are the terms.", make, all, (update) => [
    menu("Token", [["next", "next token of the text"], ["likeliest", "model's likeliest"]], (x) => { token = x; update(); }),
    menu("Of", [["relative", "logit less the vocabulary's mean"], ["raw", "logit"]], (x) => { kind = x; update(); }),
    menu("Show", Object.entries(MEASURES), (x) => { measure = x; update(); }),
  ]);
}

function similarityFigures(similarity) {
  const { layers } = similarity;
  const x = layers.map((l) => String(l.layer));
  const part = (key, label) => ({ label, values: layers.map((l) => l[key]?.mean) });
  return [
    chart({ title: "Whole layers", about: "Mean, and the ranges of the middle 50 % and 90 % of the tokens. 1: the layer did not turn the stream.", x,
      series: [{ ...part("whole", "layer"), bands: spreadBands(layers.map((l) => l.whole)) }] }),
    chart({ title: "Parts of the layers", about: "Means around attention and feed-forward.", x,
      series: [{ ...part("attention", "attention"), color: 1 }, { ...part("feed_forward", "feed-forward"), color: 2 }] }),
    layers.some((l) => l.distance) && chart({ title: "Relative distance", about: "Mean of ‖after - before‖ / ‖before‖. 0: nothing was added to the stream.", x,
      series: [["whole", "layer"], ["attention", "attention"], ["feed_forward", "feed-forward"]].map(([key, label], color) =>
        ({ label, color, values: layers.map((l) => l.distance?.[key]?.mean ?? null) })) }),
  ].filter(Boolean);
}

function similarityTogether(files) {
  const layers = (f) => f.lens.similarity.layers;
  return [["whole", "Whole layers"], ["attention", "Attention"], ["feed_forward", "Feed-forward"]].map(([part, title]) =>
    together(files, title, "Mean cosine.", layers, (l) => l[part]?.mean ?? null));
}
const similaritySection = () => lensSection("similarity", "similarity", "Layer similarity", "Cosine of the residual stream before and after a layer. 1 minus the mean is the block influence (ShortGPT).", similarityFigures, similarityTogether);
