
// How well the two halves of a text agree, over its tokens.
function convergenceSection() {
  const files = data.files.filter((f) => f.convergence);
  if (!files.length) return null;
  const out = section("convergence", "Convergence", "The even batches of the text compared with the odd ones. The estimates assume that batches are independent samples (--shuffle). docs/convergence.md has the formulas.");
  const of = (file) => {
    const name = files.length > 1 ? ` (${file.name})` : "";
    const x = file.convergence.map((p) => p.tokens);
    const axes = { x, xLabel: "tokens", logX: x.length > 1, logY: true };
    return [
      chart({ ...axes, title: `1 - cosine of the halves${name}`, about: "0.005 is a cosine of 0.995.", series: [
        { label: "weight with the lowest cosine", values: file.convergence.map((p) => 1 - p.cosine), color: 0 },
        { label: "median of the weights", values: file.convergence.map((p) => 1 - p.median_cosine), color: 1 },
      ] }),
      chart({ ...axes, title: `Relative standard error${name}`, about: "Largest of a weight.", percent: true, series: [
        { label: "relative standard error", values: file.convergence.map((p) => p.relative_error), color: 2 },
      ] }),
    ];
  };
  out.append(figures(() => files.flatMap(of)));
  return out;
}
