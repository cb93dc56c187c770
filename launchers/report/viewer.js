"use strict";
// Draws a crystal on a plain 2D canvas: WebGL is missing in some browsers and in headless ones.

const Vec = {
  add: (a, b) => a.map((x, i) => x + b[i]),
  sub: (a, b) => a.map((x, i) => x - b[i]),
  scale: (a, s) => a.map((x) => x * s),
  dot: (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2],
  cross: (a, b) => [
    a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0],
  ],
  norm: (a) => Math.hypot(a[0], a[1], a[2]),
  unit: (a) => Vec.scale(a, 1 / (Vec.norm(a) || 1)),
  mix: (a, b, t) => a.map((x, i) => x + (b[i] - x) * t),
};

class CrystalViewer {
  constructor(canvas, elements) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.elements = elements;
    this.sprites = new Map();
    this.pointers = new Map();
    this.zoom = 1;
    this.scene = null;
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  show(structure) {
    this.scene = structure ? buildScene(structure, this.elements) : null;
    this.reset();
  }

  reset(along) {
    this.zoom = 1;
    if (this.scene) {
      this.rows = orientation(this.scene.matrix, along);
      // Fitted to this view and then kept: a size that changes under the hand is unpleasant.
      this.half = [0, 1].map((k) => Math.max(
        ...this.scene.atoms.map((a) => Math.abs(Vec.dot(this.rows[k], a.at)) + a.size),
        ...this.scene.labels.map((l) => Math.abs(Vec.dot(this.rows[k], l.at)) + 0.3),
      ));
    }
    this.draw();
  }

  rotate(dx, dy) {
    const turn = (i, j, angle) => {
      const [p, q] = [this.rows[i], this.rows[j]];
      const [c, s] = [Math.cos(angle), Math.sin(angle)];
      this.rows[i] = Vec.add(Vec.scale(p, c), Vec.scale(q, s));
      this.rows[j] = Vec.sub(Vec.scale(q, c), Vec.scale(p, s));
    };
    turn(0, 2, dx);
    turn(1, 2, -dy);
    this.draw();
  }

  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.magnify(Math.exp(-0.0015 * event.deltaY));
    }, { passive: false });
    canvas.addEventListener("dblclick", () => this.reset());
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before || !this.scene) return;
    const now = [event.clientX, event.clientY];
    if (this.pointers.size === 2) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
      const span = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
      this.magnify(span(now) / span(before));
    } else {
      this.rotate((now[0] - before[0]) * 0.009, (now[1] - before[1]) * 0.009);
    }
    this.pointers.set(event.pointerId, now);
  }

  key(event) {
    const steps = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
    if (this.scene && steps[event.key]) {
      this.rotate(...steps[event.key]);
      event.preventDefault();
    } else if (event.key === "+" || event.key === "-") {
      this.magnify(event.key === "+" ? 1.15 : 1 / 1.15);
    }
  }

  magnify(factor) {
    this.zoom = Math.min(12, Math.max(0.3, this.zoom * factor));
    this.draw();
  }

  draw() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.context.clearRect(0, 0, width, height);
    if (!this.scene || !width) return;
    const { radius } = this.scene;
    const distance = 5 * radius;
    const fit = Math.min(width / this.half[0], height / this.half[1]);
    const scale = Math.min(0.44 * fit, 70) * this.zoom;
    const project = (point) => {
      const [x, y, z] = this.rows.map((row) => Vec.dot(row, point));
      const grow = (scale * distance) / (distance - z);
      return { x: width / 2 + x * grow, y: height / 2 - y * grow, z, grow };
    };
    const fog = (z) => Math.min(0.55, Math.max(0, 0.32 * (1 - z / radius)));
    const items = this.items(project, fog);
    items.sort((p, q) => p.z - q.z);
    for (const item of items) item.paint();
  }

  items(project, fog) {
    const items = [];
    const { atoms, bonds, edges, labels } = this.scene;
    for (const { from, to, colour, width } of edges) {
      const [p, q] = [project(from), project(to)];
      items.push({ z: (p.z + q.z) / 2, paint: () => this.line(p, q, colour, width) });
    }
    for (const { from, to, element } of bonds) {
      const [p, q] = [project(from), project(to)];
      const z = (p.z + q.z) / 2;
      const colour = css(Vec.mix(Vec.scale(this.elements[element].rgb, 0.82), [255, 255, 255], fog(z)));
      items.push({ z, paint: () => this.line(p, q, colour, 0.16 * p.grow) });
    }
    for (const { at, element, size } of atoms) {
      const p = project(at);
      items.push({ z: p.z, paint: () => this.ball(p, element, size * p.grow, fog(p.z)) });
    }
    for (const { at, text, colour } of labels) {
      const p = project(at);
      items.push({ z: p.z, paint: () => this.label(p, text, colour) });
    }
    return items;
  }

  line(p, q, colour, width) {
    this.context.beginPath();
    this.context.moveTo(p.x, p.y);
    this.context.lineTo(q.x, q.y);
    this.context.lineWidth = width;
    this.context.lineCap = "round";
    this.context.strokeStyle = colour;
    this.context.stroke();
  }

  label(p, text, colour) {
    this.context.font = "italic 600 16px Georgia, 'DejaVu Serif', serif";
    this.context.textAlign = "center";
    this.context.textBaseline = "middle";
    this.context.lineWidth = 4;
    this.context.strokeStyle = "#ffffffd0";
    this.context.strokeText(text, p.x, p.y);
    this.context.fillStyle = colour;
    this.context.fillText(text, p.x, p.y);
  }

  ball(p, element, radius, fog) {
    const level = Math.round(fog * 12);
    const key = `${element}/${level}`;
    if (!this.sprites.has(key)) {
      this.sprites.set(key, sprite(this.elements[element].rgb, level / 12));
    }
    this.context.drawImage(this.sprites.get(key), p.x - radius, p.y - radius, 2 * radius, 2 * radius);
  }
}

function css(rgb) {
  return `rgb(${rgb.map((x) => Math.round(x)).join(",")})`;
}

// Shading a sphere costs a gradient; one picture per element and depth keeps rotation smooth.
function sprite(rgb, fog) {
  const canvas = document.createElement("canvas");
  const size = 160;
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d");
  const veil = (colour) => css(Vec.mix(colour, [255, 255, 255], fog));
  const gradient = context.createRadialGradient(
    size * 0.36, size * 0.32, size * 0.02, size * 0.46, size * 0.44, size * 0.56,
  );
  gradient.addColorStop(0, veil(Vec.mix(rgb, [255, 255, 255], 0.85)));
  gradient.addColorStop(0.28, veil(Vec.mix(rgb, [255, 255, 255], 0.25)));
  gradient.addColorStop(0.62, veil(rgb));
  gradient.addColorStop(1, veil(Vec.scale(rgb, 0.5)));
  context.beginPath();
  context.arc(size / 2, size / 2, size / 2 - 2, 0, 2 * Math.PI);
  context.fillStyle = gradient;
  context.fill();
  context.lineWidth = 2;
  context.strokeStyle = veil(Vec.scale(rgb, 0.42));
  context.stroke();
  return canvas;
}

// Rows are the screen's x, y and the direction towards the viewer, in crystal coordinates.
function orientation(matrix, along) {
  const vectors = { a: matrix[0], b: matrix[1], c: matrix[2] };
  const ups = { a: "c", b: "c", c: "b" };
  const towards = Vec.unit(along ? vectors[along] : Vec.cross(vectors.c, vectors.a));
  const up = vectors[along ? ups[along] : "c"];
  const y = Vec.unit(Vec.sub(up, Vec.scale(towards, Vec.dot(up, towards))));
  const rows = [Vec.cross(y, towards), y, towards];
  if (along) return rows;
  const turned = (p, q, angle) => [
    Vec.add(Vec.scale(p, Math.cos(angle)), Vec.scale(q, Math.sin(angle))),
    Vec.sub(Vec.scale(q, Math.cos(angle)), Vec.scale(p, Math.sin(angle))),
  ];
  // A small turn and tilt, so that the faces of the cell do not cover each other.
  [rows[0], rows[2]] = turned(rows[0], rows[2], 0.42);
  [rows[1], rows[2]] = turned(rows[1], rows[2], -0.3);
  return rows;
}

function buildScene(structure, elements) {
  const matrix = structure.matrix;
  const place = (f) => [0, 1, 2].map(
    (k) => f[0] * matrix[0][k] + f[1] * matrix[1][k] + f[2] * matrix[2][k],
  );
  const centre = place([0.5, 0.5, 0.5]);
  const at = (f) => Vec.sub(place(f), centre);
  const atoms = [];
  structure.species.forEach((element, i) => {
    for (const f of images(structure.frac.slice(3 * i, 3 * i + 3))) {
      atoms.push({ at: at(f), element, size: 0.28 + 0.32 * elements[element].radius });
    }
  });
  const edges = cellEdges(at);
  const labels = ["a", "b", "c"].map((text, k) => {
    const corner = [0, 1, 2].map((j) => (j === k ? 1 + 1.3 / Vec.norm(matrix[k]) : 0));
    return { at: at(corner), text, colour: AXIS_COLOURS[k] };
  });
  const reach = [...atoms.map((a) => Vec.norm(a.at) + a.size), ...labels.map((l) => Vec.norm(l.at))];
  return {
    matrix, atoms, edges, labels, bonds: findBonds(atoms, elements), radius: Math.max(...reach),
  };
}

const AXIS_COLOURS = ["#b91c1c", "#15803d", "#1d4ed8"];

// An atom on a face, an edge or a corner of the cell belongs to all cells that meet there.
function images(frac) {
  const near = 0.012;
  let list = [[]];
  for (const raw of frac) {
    const f = raw - Math.floor(raw);
    const values = f < near ? [f, f + 1] : f > 1 - near ? [f - 1, f] : [f];
    list = list.flatMap((head) => values.map((value) => [...head, value]));
  }
  return list;
}

// In short pieces, because a whole edge has no single depth to be sorted by.
function cellEdges(at) {
  const pieces = 12;
  const edges = [];
  for (let k = 0; k < 3; k++) {
    for (let corner = 0; corner < 4; corner++) {
      const others = [corner & 1, corner >> 1];
      const point = (t) => {
        const f = [...others];
        f.splice(k, 0, t);
        return at(f);
      };
      for (let i = 0; i < pieces; i++) {
        edges.push({
          from: point(i / pieces), to: point((i + 1) / pieces),
          colour: corner === 0 ? AXIS_COLOURS[k] : "#7c8a9a", width: corner === 0 ? 1.8 : 1.1,
        });
      }
    }
  }
  return edges;
}

function findBonds(atoms, elements) {
  const bonds = [];
  for (let i = 0; i < atoms.length; i++) {
    for (let j = 0; j < i; j++) {
      const [p, q] = [atoms[i], atoms[j]];
      const length = Vec.norm(Vec.sub(p.at, q.at));
      const limit = 1.17 * (elements[p.element].radius + elements[q.element].radius);
      if (length < 0.4 || length > limit) continue;
      const middle = Vec.mix(p.at, q.at, 0.5);
      bonds.push({ from: p.at, to: middle, element: p.element });
      bonds.push({ from: q.at, to: middle, element: q.element });
    }
  }
  return bonds;
}
