const report = JSON.parse(byId("report-data").textContent);
const viewer = new CrystalViewer(byId("crystal"), report.elements);
const turning = report.turning
  && new TurningHull(byId("turning"), report.turning, (key) => select(key, true));

function select(key, show) {
  const structure = report.structures[key];
  viewer.show(structure || null);
  for (const row of document.querySelectorAll("tr[data-phase]")) {
    row.classList.toggle("selected", row.dataset.phase === String(key));
  }
  if (structure) {
    describe(structure, report.elements);
  } else {
    describeNothing("Not in this file",
      "Of a large run only the best structures are embedded; see the run's database.");
  }
  ring(Number(key));
  if (turning) turning.choose(Number(key));
  if (show) reveal();
}

onRows((row) => select(row.dataset.phase, true));
onButtons(viewer);
document.querySelectorAll(".sortable table").forEach(makeSortable);

// Buttons are named one by one: the default ones include a link to a web service.
const plain = { responsive: true, displaylogo: false, displayModeBar: false };
const drawn = Object.entries(report.figures).map(([id, figure]) => Plotly.newPlot(
  byId(id), figure.data, figure.layout, id === "hull" ? hullOptions(figure.layout) : plain,
));
Promise.all(drawn).then(() => {
  for (const id of ["hull", "latent"]) {
    if (byId(id)) {
      byId(id).on("plotly_click", (event) => {
        const key = event.points[0].customdata;
        if (key !== undefined) select(key, true);
      });
    }
  }
  walkable(byId("hull"), (key) => select(key, false));
  if (report.start !== null) select(report.start, false);
  window.hullPoints = pointsOf(byId("hull"));
  window.reportReady = true;
});
