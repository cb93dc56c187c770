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

// A crystal as CIF without symmetry: atoms exactly as they are shown.
function cifOf({ formula, matrix, species, frac }) {
  const [a, b, c] = matrix.map(Vec.norm);
  const angle = (p, q) => (Math.acos(Vec.dot(matrix[p], matrix[q]) / (Vec.norm(matrix[p]) * Vec.norm(matrix[q])))
    * 180) / Math.PI;
  const rows = species.map((name, i) => [
    name, `${name}${i + 1}`, ...frac.slice(3 * i, 3 * i + 3).map((x) => x.toFixed(6)), "1",
  ].join(" "));
  return [
    `data_${formula.replace(/[^\w()-]/g, "_")}`,
    "_symmetry_space_group_name_H-M 'P 1'",
    "_symmetry_Int_Tables_number 1",
    ...[["length_a", a], ["length_b", b], ["length_c", c], ["angle_alpha", angle(1, 2)],
      ["angle_beta", angle(0, 2)], ["angle_gamma", angle(0, 1)],
    ].map(([name, value]) => `_cell_${name} ${value.toFixed(6)}`),
    "loop_", "_symmetry_equiv_pos_as_xyz", "'x, y, z'",
    "loop_", "_atom_site_type_symbol", "_atom_site_label",
    "_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z", "_atom_site_occupancy",
    ...rows, "",
  ].join("\n");
}

// The clipboard's own interface is missing on pages of plain http from elsewhere.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

let shownCrystal = null;
async function copyShown() {
  await copyText(cifOf(shownCrystal));
  byId("copied").textContent = `CIF of ${shownCrystal.formula} copied`;
}

function describeNothing(title, reason) {
  shownCrystal = null;
  byId("copy-cif").disabled = true;
  byId("copied").textContent = "";
  byId("viewer-title").textContent = title;
  byId("viewer-group").textContent = reason;
  byId("viewer-legend").replaceChildren();
  byId("viewer-facts").replaceChildren();
  byId("viewer-next").hidden = true;
}

function describe(structure, elements) {
  shownCrystal = structure;
  byId("copy-cif").disabled = false;
  byId("copied").textContent = "";
  byId("viewer-title").replaceChildren(...formulaNodes(structure.formula));
  byId("viewer-group").textContent = `${structure.spacegroup} · ${structure.label}`;
  byId("crystal").setAttribute("aria-label", `Crystal structure of ${structure.formula}`);
  const counts = new Map();
  for (const name of structure.species) counts.set(name, (counts.get(name) || 0) + 1);
  byId("viewer-legend").replaceChildren(...[...counts].map(([name, count]) => {
    const chip = element("span");
    const dot = element("i");
    dot.style.background = css(elements[name].rgb);
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
    ...structure.facts,
  ];
  byId("viewer-steps").replaceChildren(
    ...structure.steps.map((step) => element("code", step)),
  );
  byId("viewer-next").hidden = !structure.steps.length;
  byId("viewer-facts").replaceChildren(
    ...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]),
  );
}

// Under a finger a drag should scroll the page, not draw a zoom box.
function hullOptions(layout) {
  const options = {
    responsive: true, displaylogo: false, displayModeBar: true, modeBarButtons: [["toImage"]],
  };
  if (layout.xaxis) options.modeBarButtons.push(["zoomIn2d", "zoomOut2d", "resetScale2d"]);
  // A triangle is as wide as the page: a tall frame would leave it in a void on a phone.
  if (layout.ternary && window.innerWidth < 600) layout.height = 540;
  if (window.matchMedia("(pointer: coarse)").matches) layout.dragmode = false;
  return options;
}

// The ring of the hull figure around the phase that is shown.
function ring(index) {
  const plot = byId("hull");
  const target = plot.data.findIndex((t) => t.meta && t.meta.selection);
  if (target < 0) return;
  const names = plot.data[target].meta.selection;
  let place = names.map(() => null);
  for (const trace of plot.data) {
    const i = trace.meta && trace.meta.phases ? trace.customdata.indexOf(index) : -1;
    if (i >= 0) place = names.map((name) => trace[name][i]);
  }
  Plotly.restyle(plot, Object.fromEntries(names.map((n, i) => [n, [[place[i]]]])), [target]);
}

function reveal() {
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  byId("viewer").scrollIntoView({ block: "nearest", behavior: still ? "instant" : "smooth" });
}

// Arrow keys go from phase to phase: by composition, and from the lowest up.
function walkable(plot, pick) {
  let here = null;
  plot.tabIndex = 0;
  plot.setAttribute("role", "group");
  plot.setAttribute("aria-label", "Convex hull: arrow keys go from phase to phase");
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!step || event.target !== plot) return;
    event.preventDefault();
    const all = plot.data.filter((trace) => trace.meta && trace.meta.phases)
      .flatMap((trace) => trace.customdata.map((index, i) => (
        { index, at: trace.x ? [trace.x[i], trace.y[i]] : [trace.a[i], trace.b[i]] }
      )));
    all.sort((p, q) => p.at[0] - q.at[0] || p.at[1] - q.at[1] || p.index - q.index);
    const place = all.findIndex((point) => point.index === here);
    here = all[(place + step + all.length) % all.length].index;
    pick(here);
  });
}

function pointsOf(plot) {
  return plot.data
    .filter((trace) => trace.meta && trace.meta.phases)
    .reduce((sum, trace) => sum + (trace.x || trace.a).length, 0);
}

// Of rows that come later, too.
function onRows(show) {
  document.addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-phase]");
    if (row) show(row);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    if (!event.target.matches("tr[data-phase]")) return;
    event.preventDefault();
    show(event.target);
  });
}

function onButtons(viewer) {
  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => viewer.reset(button.dataset.view || undefined));
  }
  byId("copy-cif").addEventListener("click", copyShown);
}

// A value of a cell as it sorts: numbers before texts, nothing last.
function sortKey(cell) {
  const text = cell.textContent.trim();
  const number = Number.parseFloat(text.replace("−", "-").replace(/\u202f/g, ""));
  return text === "–" ? [2, 0, ""] : Number.isNaN(number) ? [1, 0, text] : [0, number, text];
}

function makeSortable(table) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = element("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [sortKey(row.cells[column]), row]);
      const sign = falling ? -1 : 1;
      rows.sort(([a], [b]) => (a[0] === 2 || b[0] === 2 ? a[0] - b[0] : sign * (
        a[0] - b[0] || (a[0] ? a[2].localeCompare(b[2]) : a[1] - b[1])
      )));
      body.append(...rows.map(([, row]) => row));
    });
  });
}
