const report = JSON.parse(document.getElementById("report-data").textContent);
const viewer = new CrystalViewer(document.getElementById("crystal"), report.elements);
const byId = (id) => document.getElementById(id);

// Text goes in as text nodes only: names of structures come from outside.
function element(tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function formulaNodes(formula) {
  return formula.split(/(\d+(?:\.\d+)?)/).filter(Boolean).map(
    (part, i) => (i && /^\d/.test(part) ? element("sub", part) : document.createTextNode(part)),
  );
}

function cellFacts(matrix) {
  const lengths = matrix.map(Vec.norm);
  const angle = (i, j) => (Math.acos(
    Math.max(-1, Math.min(1, Vec.dot(matrix[i], matrix[j]) / (lengths[i] * lengths[j]))),
  ) * 180) / Math.PI;
  const angles = [angle(1, 2), angle(0, 2), angle(0, 1)];
  const volume = Math.abs(Vec.dot(matrix[0], Vec.cross(matrix[1], matrix[2])));
  return [
    ["a, b, c", `${lengths.map((x) => x.toFixed(3)).join(", ")} Å`],
    ["α, β, γ", angles.map((x) => `${x.toFixed(1)}°`).join(", ")],
    ["volume", `${volume.toFixed(2)} Å³`],
  ];
}

function describe(structure) {
  byId("viewer-title").replaceChildren(...formulaNodes(structure.formula));
  byId("viewer-group").textContent = `${structure.spacegroup} · ${structure.label}`;
  byId("crystal").setAttribute("aria-label", `Crystal structure of ${structure.formula}`);
  const counts = new Map();
  for (const name of structure.species) counts.set(name, (counts.get(name) || 0) + 1);
  byId("viewer-legend").replaceChildren(...[...counts].map(([name, count]) => {
    const chip = element("span");
    const dot = element("i");
    dot.style.background = css(report.elements[name].rgb);
    chip.append(dot, `${name} × ${count}`);
    return chip;
  }));
  const facts = [
    ...cellFacts(structure.matrix),
    ["atoms in cell", String(structure.species.length)],
    ["formation energy", structure.formation],
    ["above hull", structure.hull],
    ["second opinion", structure.second],
    ["origin", structure.origin],
    ["file", structure.file],
  ];
  byId("viewer-facts").replaceChildren(
    ...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]),
  );
}

function ring(key) {
  const plot = byId("hull");
  const target = plot.data.findIndex((t) => t.meta && t.meta.selection);
  if (target < 0) return;
  const names = plot.data[target].meta.selection;
  let place = names.map(() => null);
  for (const trace of plot.data) {
    const i = trace.meta && trace.meta.phases ? trace.customdata.indexOf(Number(key)) : -1;
    if (i >= 0) place = names.map((name) => trace[name][i]);
  }
  Plotly.restyle(plot, Object.fromEntries(names.map((n, i) => [n, [[place[i]]]])), [target]);
}

function select(key, reveal) {
  const structure = report.structures[key];
  viewer.show(structure || null);
  for (const row of document.querySelectorAll("tr[data-phase]")) {
    row.classList.toggle("selected", row.dataset.phase === String(key));
  }
  if (structure) {
    describe(structure);
  } else {
    byId("viewer-title").textContent = "Not in this file";
    byId("viewer-group").textContent =
      "Of a large run only the best structures are embedded; see the run's database.";
    byId("viewer-legend").replaceChildren();
    byId("viewer-facts").replaceChildren();
  }
  ring(key);
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  const behavior = still ? "instant" : "smooth";
  if (reveal) byId("viewer").scrollIntoView({ block: "nearest", behavior });
}

for (const row of document.querySelectorAll("tr[data-phase]")) {
  row.addEventListener("click", () => select(row.dataset.phase, true));
  row.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    select(row.dataset.phase, true);
  });
}
for (const button of document.querySelectorAll("[data-view]")) {
  button.addEventListener("click", () => viewer.reset(button.dataset.view || undefined));
}

// Buttons are named one by one: the default ones include a link to a web service.
const plain = { responsive: true, displaylogo: false, displayModeBar: false };
const zoomable = {
  responsive: true,
  displaylogo: false,
  displayModeBar: true,
  modeBarButtons: [["toImage"]],
};
const hullLayout = report.figures.hull.layout;
if (hullLayout.xaxis) {
  zoomable.modeBarButtons.push(["zoomIn2d", "zoomOut2d", "resetScale2d"]);
}
// A triangle is as wide as the page: a tall frame would leave it in a void on a phone.
if (hullLayout.ternary && window.innerWidth < 600) hullLayout.height = 540;
// Under a finger a drag should scroll the page, not draw a zoom box.
if (window.matchMedia("(pointer: coarse)").matches) hullLayout.dragmode = false;
const drawn = Object.entries(report.figures).map(
  ([id, figure]) => Plotly.newPlot(byId(id), figure.data, figure.layout, id === "hull" ? zoomable : plain),
);
Promise.all(drawn).then(() => {
  const plot = byId("hull");
  plot.on("plotly_click", (event) => {
    const key = event.points[0].customdata;
    if (key !== undefined) select(key, true);
  });
  if (report.start !== null) select(report.start, false);
  window.hullPoints = plot.data
    .filter((trace) => trace.meta && trace.meta.phases)
    .reduce((sum, trace) => sum + (trace.x || trace.a).length, 0);
  window.reportReady = true;
});
