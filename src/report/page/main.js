
// The sections of the page, in order.
function summarySection() {
  const out = section("summary", "Summary");
  for (const file of data.files) {
    const { keys, rows } = file.tensors;
    const at = (k) => keys.indexOf(k);
    const sum = (k) => rows.reduce((n, row) => n + (row[at(k)] ?? 0), 0);
    const unseen = file.experts.flatMap((m) => m.rows).reduce((n, r) => n + r.counts.filter((c) => c === 0).length, 0);
    const experts = file.experts.flatMap((m) => m.rows).reduce((n, r) => n + r.counts.length, 0);
    const card = (term, value, bad) => el("div", { class: bad && "bad" }, el("dt", {}, term), el("dd", {}, value));
    const tokens = file.chunks * file.chunk_size;
    out.append(
      el("h3", {}, file.name, file.legacy ? " (legacy .dat)" : ""),
      el("p", { class: unseen > 0 || !rows.length ? "verdict bad" : "verdict" }, verdict(file, experts, unseen)),
      el("dl", { class: "cards" },
        card("Weights", full(rows.length)),
        card("Layers", full(file.layers.rows.length)),
        card("Columns", compact(sum("elements"))),
        file.chunks > 0 ? card("Chunks", `${full(file.chunks)}${file.chunk_size > 0 ? ` × ${full(file.chunk_size)}` : ""}`) : null,
        tokens > 0 ? card("Tokens", full(tokens)) : null,
        experts ? card("Unseen experts", `${full(unseen)} of ${full(experts)}`, unseen > 0) : null),
      el("p", { class: "dim" }, file.datasets.length ? `Calibrated on ${file.datasets.join(", ")}.` : "The file does not name its calibration text."),
    );
    if (file.notes.length) out.append(el("div", { class: "note", role: "note" }, el("ul", {}, file.notes.map((n) => el("li", {}, n)))));
  }
  return out;
}

/** Says in words what is to be done about a file, if anything. */
function verdict(file, experts, unseen) {
  const { keys, rows } = file.tensors;
  if (!rows.length) return "No weight of this file has data: llama-quantize would quantize as if there were no matrix.";
  const broken = rows.filter((row) => (row[keys.indexOf("not_finite")] ?? 0) > 0).length;
  const counts = file.experts.flatMap((m) => m.rows).flatMap((r) => r.counts);
  const words = [];
  const filled = file.experts.flatMap((m) => m.rows).reduce((n, r) => n + (r.filled ?? []).length, 0);
  if (unseen > 0) words.push(`${full(unseen)} of ${full(experts)} experts saw no token: too little text for them. llama-quantize treats all their channels alike, which costs most below 3 bits.`);
  else if (filled) words.push(`${full(filled)} of ${full(experts)} experts saw few tokens or none: their sums were filled.`);
  else if (experts) words.push(`Every expert saw a token; the rarest saw ${full(counts.reduce((a, b) => Math.min(a, b)))}.`);
  if (broken) words.push(`${plural(broken, "weight")} ${broken === 1 ? "has" : "have"} columns that are not finite.`);
  if (!words.length) words.push("Every weight of this file has data.");
  const last = file.convergence?.at(-1);
  if (last) words.push(`The halves of its text have a cosine of at least ${last.cosine.toFixed(4)} (${last.weight}).`);
  return `${words.join(" ")} To see whether the model has weights without data: llama-imatrix check MODEL ${file.name}`;
}
const compact = (n) => Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(n);

function comparisonSection() {
  if (!data.comparisons.length) return null;
  const out = section("comparison", "Comparison", "How differently two matrices weight the columns. A is the first file. JSD is the Jensen-Shannon divergence of the energies as distributions, in bits. Energy is B's sum divided by A's.");
  const place = el("div");
  const show = (i) => {
    const c = data.comparisons[i];
    const names = `${data.files[c.second].name} (B) against ${data.files[c.first].name} (A)`;
    const table = dataTable(c.tensors, { caption: `Weights of ${names}`, header: 1, sort: "jsd", filter: true, hide: ["kind"] });
    const at = (k) => c.layers.keys.indexOf(k);
    const rows = [...c.layers.rows].sort((a, b) => byLayer(a[0], b[0]));
    place.replaceChildren(el("h3", {}, names),
      figures(() => [
        chart({ title: "Divergence by layer", about: "Mean JSD of the layer's weights, in bits.", x: rows.map((r) => r[0]), series: [{ label: "JSD", values: rows.map((r) => r[at("jsd")]), bars: true }] }),
        chart({ title: "Cosine by layer", about: "Over all columns of the layer.", x: rows.map((r) => r[0]), series: [{ label: "cosine", values: rows.map((r) => r[at("cosine")]), color: 2 }] }),
      ]), el("div", { class: "head", style: "margin-top:1rem" }, el("h3", { style: "margin-right:auto" }, "Weights"), table.search), table);
  };
  out.controls(data.comparisons.length > 1 ? menu("B", data.comparisons.map((c, i) => [i, data.files[c.second].name]), show) : null);
  out.append(place);
  show(0);
  return out;
}

function tableSection() {
  const files = data.files.filter((f) => f.tensors.rows.length);
  if (!files.length) return null;
  const out = section("weights", "All weights", "Every statistic of every weight. Click a heading to sort; docs/stats.md has the formulas.");
  const place = el("div");
  let search = el("span");
  const show = (file) => {
    const empty = file.tensors.keys.filter((k, i) => file.tensors.rows.every((row) => row[i] === null || (k === "not_finite" && row[i] === 0)));
    const table = dataTable(file.tensors, { caption: `Weights of ${file.name}`, header: 1, filter: true, hide: ["kind", ...empty] });
    search.replaceWith(table.search);
    search = table.search;
    place.replaceChildren(table);
  };
  out.controls(fileMenu("File", files, (i) => show(data.files[i])), search);
  out.append(place);
  show(files[0]);
  return out;
}

const darkByDefault = matchMedia("(prefers-color-scheme: dark)");
// A page opened from a local file may have no storage.
const stored = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
root.dataset.theme = (stored ?? (darkByDefault.matches ? "dark" : "light"));

const channels = spectrumSection();
const sections = [
  summarySection(),
  heatmapSection((tensor) => channels.choose(tensor)),
  channels, expertsSection(), convergenceSection(), layersSection(), lensCurves(), prismSection(), similaritySection(), recipesSection(), comparisonSection(), tableSection(),
].filter(Boolean);
document.getElementById("content").append(...sections);
document.getElementById("nav").append(...sections.map((s) => el("a", { href: `#${s.id}` }, s.querySelector("h2").textContent)));
document.getElementById("footer").textContent = `Made by ${data.generator}.`;
setTheme(root.dataset.theme === "dark");
document.getElementById("theme").addEventListener("click", () => {
  const dark = root.dataset.theme !== "dark";
  try { localStorage.setItem("theme", dark ? "dark" : "light"); } catch { /* no storage: for this view only */ }
  setTheme(dark);
});
darkByDefault.addEventListener("change", (e) => stored ?? setTheme(e.matches));
