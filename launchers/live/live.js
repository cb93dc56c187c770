"use strict";
// Asks the server what is new, and puts it in place; everything else on the page stays.

const viewer = byId("crystal") && new CrystalViewer(byId("crystal"), {});
const LOOK = 3000;
let phases = [];
let chosen = null;

async function json(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function mark() {
  for (const row of document.querySelectorAll("tr[data-phase]")) {
    row.classList.toggle("selected", row.dataset.phase === chosen);
  }
}

async function select(key, show) {
  chosen = key;
  mark();
  try {
    const { crystal, elements } = await json(`/crystal?id=${encodeURIComponent(key)}`);
    if (chosen !== key) return;
    Object.assign(viewer.elements, elements);
    viewer.show(crystal);
    describe(crystal, elements);
  } catch (error) {
    viewer.show(null);
    describeNothing("Not there", error.message);
  }
  if (byId("hull").data) ring(phases.indexOf(key));
  if (show) reveal();
}

async function drawHull() {
  const plot = byId("hull");
  const { figure, caption, keys } = await json(`/hull${window.location.search}`);
  byId("hull-caption").textContent = caption;
  plot.hidden = !figure;
  if (!figure) return;
  phases = keys;
  const isNew = !plot.data;
  await Plotly.react(plot, figure.data, figure.layout, hullOptions(figure.layout));
  if (isNew) {
    walkable(plot, (index) => select(phases[index], false));
    plot.on("plotly_click", (event) => {
      const index = event.points[0].customdata;
      if (index !== undefined) select(phases[index], true);
    });
  }
  ring(phases.indexOf(chosen));
  window.hullPoints = pointsOf(plot);
}

async function look() {
  try {
    const now = await (await fetch(`/mark${window.location.search}`)).text();
    if (now !== document.body.dataset.mark) await renew();
  } catch {
    byId("state").textContent = "ccdcgan serve does not answer any more.";
  }
}

async function renew() {
  const answer = await fetch(window.location.href);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  // What was not there before, as after an error, takes a page of its own.
  if (!page.getElementById("phases") || !byId("phases")) {
    window.location.reload();
    return;
  }
  for (const old of document.querySelectorAll("[data-live]")) {
    const made = page.getElementById(old.id);
    if (made) old.replaceWith(document.adoptNode(made));
  }
  document.body.dataset.mark = page.body.dataset.mark;
  mark();
  await drawHull();
}

async function start() {
  if (viewer) {
    onRows((row) => select(row.dataset.phase, true));
    onButtons(viewer);
    const first = document.querySelector("tr[data-phase]");
    await drawHull();
    if (first) await select(first.dataset.phase, false);
  }
  window.liveReady = true;
  for (;;) {
    await new Promise((done) => { setTimeout(done, LOOK); });
    if (!document.hidden) await look();
  }
}

start();
