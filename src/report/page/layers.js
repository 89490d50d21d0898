
// Curves over the layers: statistics of every file, then what lens files say.
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
  const out = section("layers", "Over the layers", "What the weights of a layer add up to, and how their inputs compare with those of the layer before.");
  out.append(figures(() => [
    figure("cossim", "Cosine similarity with the layer before", "Of the average inputs. 1: the same direction."),
    figure("gain", "Gain", "Root mean square over that of the layer before."),
    figure("sum_sq", "Energy", "Sum of all columns' average squares.", true),
    figure("l2_dist", "Distance from the layer before", "Euclidean, of the average inputs.", true),
    figure("balance", "Load balance of the experts", "Entropy of the tokens over the experts: 1 is even. The least of the layer's weights."),
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

/** A curve of each file, over the layers of all of them: `get` takes a number from what a layer of it says. */
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
    chart({ title: "Divergence from the final prediction", about: "KL(final ‖ layer), nats: mean, median, and where half and nine tenths of the positions lie." + final,
      x, yLabel: "nats", series: [
        { label: "median", values: points.map((p) => p.kl.p50), bands: spreadBands(points.map((p) => p.kl)) },
        { label: "mean", values: points.map((p) => p.kl.mean), dash: [5, 4] }] }),
    chart({ title: "What each layer takes off it", about: "Mean KL before the layer less after it, nats.", x, yLabel: "nats",
      series: [{ label: "reduction", values: points.map((p) => p.kl_reduction), bars: true }] }),
    chart({ title: "Agreement on the likeliest token", about: "Share of positions where layer and model name the same.", x, percent: true,
      series: [{ label: "top 1", values: points.map((p) => p.top1_agreement), color: 2 }] }),
    chart({ title: "Surprise at the token that follows", about: "Mean of -ln p of it, nats.", x, yLabel: "nats",
      series: [{ label: "NLL", values: points.map((p) => p.target_nll), color: 3 }] }),
  ];
}

function lensTogether(files) {
  const points = (f) => lensPoints(f.lens.lens);
  return [
    together(files, "Divergence from the final prediction", "Mean KL(final ‖ layer), nats.", points, (p) => p.kl.mean, { yLabel: "nats" }),
    together(files, "What each layer takes off it", "Mean KL before the layer less after it, nats.", points, (p) => p.kl_reduction, { yLabel: "nats" }),
    together(files, "Agreement on the likeliest token", "Share of positions where layer and final prediction name the same.", points, (p) => p.top1_agreement, { percent: true }),
    together(files, "Surprise at the token that follows", "Mean of -ln p of it, nats.", points, (p) => p.target_nll, { yLabel: "nats" }),
  ];
}
const lensCurves = () => lensSection("lens", "lens", "Logit lens", "The stream of each layer read by the model's own output, as if the layers above were not there.", lensFigures, lensTogether);

const PARTS = { attention: "attention", feed_forward: "feed-forward", shared_experts: "shared experts", routed_experts: "routed experts", other: "other" };
const MEASURES = { mean: "Mean", mean_abs: "Mean of absolute values", share: "Share" };
function prismSection() {
  let [kind, measure] = ["relative", "mean"];
  const make = (prism) => {
    const layers = [...new Set(prism.parts.map((p) => p.layer).filter((l) => l !== null))].sort((a, b) => a - b);
    const values = (part) => {
      const of = new Map(prism.parts.filter((p) => p.part === part).map((p) => [p.layer, p[kind][measure]]));
      return layers.map((l) => of.get(l) ?? null);
    };
    const series = Object.entries(PARTS).map(([part, label], i) => ({ label, values: values(part), color: i, dash: part.endsWith("_experts") ? [5, 4] : undefined }));
    const outside = prism.parts.filter((p) => p.layer === null);
    const sheet = {
      keys: ["part", "mean", "mean_abs", "share"], titles: ["Part", "Mean", "Mean of absolute values", "Share"],
      rows: outside.map((p) => [p.part.replaceAll("_", " "), p[kind].mean, p[kind].mean_abs, p[kind].share]),
    };
    return [
      chart({ title: `${MEASURES[measure]} of what is added to the ${kind === "raw" ? "logit" : "logit less the vocabulary's mean"}`, x: layers.map(String), series, percent: measure === "share", height: 300 }),
      el("figure", {}, el("figcaption", {}, el("h3", {}, "Outside the layers"),
        el("small", {}, `The parts add up to the model's own logits: the largest relative error is ${short(prism.sum_check.max_relative_error)}.`)),
        dataTable(sheet, { caption: "Parts outside the layers" })),
    ];
  };
  const all = (files) => ["attention", "feed_forward"].map((part) => together(files,
    `${MEASURES[measure]} of what ${PARTS[part]} adds`, kind === "raw" ? "To the logit." : "To the logit less the vocabulary's mean.",
    (f) => f.lens.prism.parts.filter((p) => p.part === part), (p) => p[kind][measure], { percent: measure === "share" }));
  return lensSection("prism", "prism", "Logit prism", "With the final norm's scale held, the logit of the token that follows is a sum: this is what each part adds to it.", make, all, (update) => [
    menu("Of", [["relative", "logit less the vocabulary's mean"], ["raw", "logit"]], (x) => { kind = x; update(); }),
    menu("Show", Object.entries(MEASURES), (x) => { measure = x; update(); }),
  ]);
}

function similarityFigures(similarity) {
  const { layers } = similarity;
  const x = layers.map((l) => String(l.layer));
  const part = (key, label) => ({ label, values: layers.map((l) => l[key]?.mean) });
  return [
    chart({ title: "Whole layers", about: "Mean, and where half and nine tenths of the tokens lie. 1: the layer left the token where it was.", x,
      series: [{ ...part("whole", "layer"), bands: spreadBands(layers.map((l) => l.whole)) }] }),
    chart({ title: "Parts of the layers", about: "Means around attention and feed-forward.", x,
      series: [{ ...part("attention", "attention"), color: 1 }, { ...part("feed_forward", "feed-forward"), color: 2 }] }),
  ];
}

function similarityTogether(files) {
  const layers = (f) => f.lens.similarity.layers;
  return [["whole", "Whole layers"], ["attention", "Attention"], ["feed_forward", "Feed-forward"]].map(([part, title]) =>
    together(files, title, "Mean cosine.", layers, (l) => l[part]?.mean ?? null));
}
const similaritySection = () => lensSection("similarity", "similarity", "Layer similarity", "Cosine of the residual stream before and after. 1 less the layer's mean is its block influence (ShortGPT).", similarityFigures, similarityTogether);
