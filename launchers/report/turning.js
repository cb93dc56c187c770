// The hull of three elements as a body that one can turn, on a plain canvas as the crystals are.

const VIRIDIS = [[253, 231, 37], [94, 201, 98], [33, 145, 140], [59, 82, 139], [68, 1, 84]];

function colourOf(share) {
  const at = Math.min(0.9999, Math.max(0, share)) * (VIRIDIS.length - 1);
  return css(Vec.mix(VIRIDIS[Math.floor(at)], VIRIDIS[Math.floor(at) + 1], at % 1));
}

class TurningHull {
  constructor(canvas, data, select) {
    Object.assign(this, { canvas, select, elements: data.elements, top: data.top });
    this.context = canvas.getContext("2d");
    [this.turn, this.tilt, this.zoom, this.moved] = [0.35, 0.5, 1, 0];
    const energies = [...data.points.map((p) => p[4]), ...data.facets.flat().map((v) => v[3])];
    const low = Math.min(-0.05, ...energies);
    // What lies far above would make the hull itself flat.
    this.high = Math.min(Math.max(0.05, ...energies), -low);
    this.scale = 0.55 / (this.high - low);
    this.middle = ((this.high + low) / 2) * this.scale;
    this.points = data.points.filter((p) => p[4] <= this.high).map(([key, a, b, c, e, above, made]) => (
      { key, at: this.place(a, b, c, e), colour: colourOf(above / this.top), made }
    ));
    this.facets = data.facets.map((facet) => facet.map((vertex) => this.place(...vertex)));
    this.names = data.names.map(([name, ...vertex]) => ({ name, at: this.place(...vertex) }));
    this.corners = [0, 1, 2].map((i) => this.place(...[0, 1, 2].map((j) => Number(i === j)), 0));
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  // Corners of a triangle around the origin; energies point up.
  place(a, b, c, energy) {
    const [x, y] = [b + c / 2 - 0.5, (c * Math.sqrt(3)) / 2 - Math.sqrt(3) / 6];
    return [x, y, energy * this.scale - this.middle];
  }

  project([x, y, z]) {
    const [s, c] = [Math.sin(this.turn), Math.cos(this.turn)];
    const [u, v] = [c * x - s * y, s * x + c * y];
    const [st, ct] = [Math.sin(this.tilt), Math.cos(this.tilt)];
    const size = 0.8 * this.zoom * Math.min(this.canvas.clientWidth, 1.25 * this.canvas.clientHeight);
    return {
      x: this.canvas.clientWidth / 2 + u * size,
      y: this.canvas.clientHeight / 2 - (st * v + ct * z) * size,
      depth: ct * v - st * z,
    };
  }

  draw() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    [this.canvas.width, this.canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    const paint = this.context;
    paint.setTransform(ratio, 0, 0, ratio, 0, 0);
    paint.clearRect(0, 0, width, height);
    const line = (ends, colour, thick) => {
      const [p, q] = ends.map((end) => this.project(end));
      paint.beginPath();
      paint.moveTo(p.x, p.y);
      paint.lineTo(q.x, q.y);
      [paint.strokeStyle, paint.lineWidth] = [colour, thick];
      paint.stroke();
    };
    this.corners.forEach((corner, i) => line([corner, this.corners[(i + 1) % 3]], "#94a3b8", 1));
    for (const facet of this.facets) {
      const ends = facet.map((end) => this.project(end));
      paint.beginPath();
      ends.forEach(({ x, y }) => paint.lineTo(x, y));
      paint.closePath();
      [paint.fillStyle, paint.strokeStyle, paint.lineWidth] = ["#0f5f8c12", "#1e293b", 1.4];
      paint.fill();
      paint.stroke();
    }
    this.spots = this.points.map((p) => ({ ...p, ...this.project(p.at) }));
    for (const spot of [...this.spots].sort((p, q) => q.depth - p.depth)) this.mark(spot);
    [paint.fillStyle, paint.font] = ["#1e293b", "600 15px Inter, 'Segoe UI', sans-serif"];
    [paint.textAlign, paint.textBaseline] = ["center", "middle"];
    for (const { name, at } of this.names) {
      const { x, y } = this.project(at);
      paint.fillText(name, x, y + 16);
    }
    this.corners.forEach((corner, i) => {
      const { x, y } = this.project([1.1 * corner[0], 1.1 * corner[1], corner[2]]);
      paint.fillText(this.elements[i], x, y);
    });
  }

  mark({ key, x, y, colour, made }) {
    const paint = this.context;
    const size = made ? 5.5 : 4;
    paint.beginPath();
    if (made) {
      paint.moveTo(x, y - size);
      for (const [dx, dy] of [[size, 0], [0, size], [-size, 0]]) paint.lineTo(x + dx, y + dy);
      paint.closePath();
    } else {
      paint.arc(x, y, size, 0, 2 * Math.PI);
    }
    [paint.fillStyle, paint.strokeStyle] = [colour, key === this.chosen ? "#0ea5e9" : "#475569"];
    paint.lineWidth = key === this.chosen ? 3 : 0.7;
    paint.fill();
    paint.stroke();
  }

  choose(key) {
    this.chosen = key;
    this.draw();
  }

  rotate(dx, dy) {
    this.turn += dx;
    this.tilt = Math.min(Math.PI / 2, Math.max(-Math.PI / 2, this.tilt + dy));
    this.draw();
  }

  magnify(factor) {
    this.zoom = Math.min(8, Math.max(0.4, this.zoom * factor));
    this.draw();
  }

  listen() {
    const { canvas } = this;
    let last = null;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      [last, this.moved] = [event, 0];
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      const [dx, dy] = [event.clientX - last.clientX, event.clientY - last.clientY];
      this.moved += Math.abs(dx) + Math.abs(dy);
      this.rotate(dx * 0.008, dy * 0.008);
      last = event;
    });
    canvas.addEventListener("pointerup", (event) => {
      last = null;
      if (this.moved < 5) this.pick(event.offsetX, event.offsetY);
    });
    canvas.addEventListener("pointercancel", () => { last = null; });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.magnify(Math.exp(-0.0015 * event.deltaY));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
      if (steps[event.key]) {
        this.rotate(...steps[event.key]);
        event.preventDefault();
      } else if (event.key === "+" || event.key === "-") {
        this.magnify(event.key === "+" ? 1.15 : 1 / 1.15);
      }
    });
  }

  pick(x, y) {
    const near = this.spots
      .map((spot) => ({ spot, far: Math.hypot(spot.x - x, spot.y - y) }))
      .filter(({ far }) => far < 12)
      .sort((p, q) => p.far - q.far || p.spot.depth - q.spot.depth)[0];
    if (near) this.select(near.spot.key);
  }
}
