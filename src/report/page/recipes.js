
// The least cost of a recipe at each size.
const SIZES = {
  bits: { title: "bits per weight", about: "Bits per weight, as llama-quantize prints them.", of: (curve) => curve.bits },
  bytes: { title: "MiB", about: "Size of the whole file.", of: (curve) => curve.bytes.map((b) => b / (1 << 20)) },
};

/** The cost at a size, on the line between two points; null outside of the curve. */
function costAt(x, sizes, costs) {
  if (x < sizes[0] || x > sizes[sizes.length - 1]) return null;
  const next = sizes.findIndex((size) => size >= x);
  if (sizes[next] === x || next === 0) return costs[next];
  const part = (x - sizes[next - 1]) / (sizes[next] - sizes[next - 1]);
  return costs[next - 1] + part * (costs[next] - costs[next - 1]);
}

function recipesSection() {
  const { recipes } = data;
  if (!recipes.length) return null;
  const out = section("recipes", "Recipes", "The least expected cost of a mix of types at each size, from recipe --curve. With measured sensitivities the cost is an expected KL divergence; without them only ratios of costs matter.");
  let unit = "bits";
  const place = figures(() => {
    const { title, about, of } = SIZES[unit];
    const x = [...new Set(recipes.flatMap(of))].sort((a, b) => a - b);
    const series = recipes.map((curve, i) => ({ label: curve.name, values: x.map((size) => costAt(size, of(curve), curve.cost)), color: i }));
    return [chart({ title: "Least cost at each size", about, x, xLabel: title, yLabel: "cost", series, logY: true, height: 320 })];
  });
  out.controls(menu("Size in", Object.entries(SIZES).map(([key, { title }]) => [key, title]), (key) => { unit = key; place.update(); }));
  out.append(place);
  return out;
}
